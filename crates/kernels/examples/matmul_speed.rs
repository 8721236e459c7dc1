//! How close the CPU product comes to the multiply-add ceiling, per shape, direction and format.
//!
//! Weights are taken in turn from more of them than the caches hold, as the layers of a model are.
//!
//! `cargo run --release -p lorafit-kernels --example matmul_speed [THREADS [FORMAT|nf4 [bf16|int8]]]`

use std::time::Instant;

use lorafit_kernels::ops::matmul::{Product, Right, Term, View, cpu_fma_peak, run};
use lorafit_kernels::quant::{Format, Quantization, four_bit::Code};
use lorafit_kernels::{ComputeDtype, Device, FrozenWeight, SharedBytes, Tensor, Weight};

/// Bytes of the weights of a shape together: more than the last cache of most machines.
const WEIGHT_BYTES: usize = 128 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    let only = arguments.next();
    let dtype = match arguments.next().as_deref() {
        None | Some("f32") => ComputeDtype::F32,
        Some("bf16") => ComputeDtype::Bf16,
        Some("int8") => ComputeDtype::Int8,
        Some(other) => panic!("computed in f32, bf16 or int8, not {other}"),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("thread pool");
    pool.install(|| {
        let peak = cpu_fma_peak(dtype);
        println!("multiply-add peak {:.0} GFLOP/s on {} threads", peak / 1e9, rayon::current_num_threads());
        let shapes = [
            (512, 576, 576),
            (512, 192, 576),
            (512, 1536, 576),
            (512, 576, 1536),
            (512, 2048, 2048),
            (512, 5632, 2048),
            (512, 2048, 5632),
            (256, 49152, 576),
        ];
        let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
        for (m, n, k) in shapes {
            for format in Format::ALL.into_iter().filter(|f| k % f.block_len() == 0) {
                let bytes = n * k / format.block_len() * format.block_bytes();
                let weight = || {
                    let bytes = SharedBytes::from_vec(vec![0x3cu8; bytes]);
                    FrozenWeight::new(n, k, format, bytes).expect("shape fits").into()
                };
                if wanted(&format.to_string()) {
                    measure(m, &format.to_string(), &weight, dtype, peak);
                }
            }
            let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
            let weight = || {
                let ramp = |range: std::ops::Range<usize>, out: &mut [f32]| {
                    for (value, i) in out.iter_mut().zip(range) {
                        *value = (i % 97) as f32 - 48.0;
                    }
                };
                FrozenWeight::quantized(n, k, nf4, ramp).expect("finite").into()
            };
            if wanted("nf4") {
                measure(m, "nf4", &weight, dtype, peak);
            }
        }
    });
}

/// Seconds of the fastest of several runs.
fn best(mut body: impl FnMut()) -> f64 {
    body();
    (0..40)
        .map(|_| {
            let start = Instant::now();
            body();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Times products of `m` rows with weights that `weight` makes, and prints them as shares of `peak`.
fn measure(m: usize, format: &str, weight: &dyn Fn() -> Weight, dtype: ComputeDtype, peak: f64) {
    let first = weight();
    let (n, k) = (first.rows(), first.cols());
    let mut weights: Vec<Weight> =
        std::iter::repeat_with(weight).take(WEIGHT_BYTES.div_ceil(first.stored_bytes())).collect();
    weights.iter_mut().for_each(|weight| weight.set_compute_dtype(dtype));
    let mut turn = weights.iter().cycle();
    let x = Tensor::from_slice(Device::Cpu, &vec![0.5; m * k]);
    let d_y = Tensor::from_slice(Device::Cpu, &vec![0.5; m * n]);
    let (mut y, mut d_x) = (Tensor::zeros(Device::Cpu, m * n), Tensor::zeros(Device::Cpu, m * k));
    let flops = 2.0 * (m * n * k) as f64;
    let forward = best(|| {
        let weight = turn.next().expect("endless");
        let term = Term { left: View::rows(&x, k), right: Right::WeightTransposed(weight), k };
        run(&mut [Product::new(m, n, term, &mut y)]);
    });
    let backward = best(|| {
        let weight = turn.next().expect("endless");
        let term = Term { left: View::rows(&d_y, n), right: Right::Weight(weight), k: n };
        run(&mut [Product::new(m, k, term, &mut d_x)]);
    });
    println!(
        "{m:>4} tokens, weight {n:>5} x {k:>4} {format:>5}: forward {:5.1} % of peak, backward {:5.1} %",
        100.0 * flops / forward / peak,
        100.0 * flops / backward / peak
    );
}
