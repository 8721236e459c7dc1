//! How close products of a few rows, as in generation, come to the speed of memory, per storage format.
//!
//! Weights are taken in turn from more of them than most caches hold, as the layers of a model are. Memory is measured by a loop
//! that only adds up as many bytes, on the same threads.
//!
//! `cargo run --release -p lorafit-kernels --example few_rows_speed [THREADS [FORMAT|nf4|nf4dq|fp4|int8 [ROWS]]]`

use std::time::Instant;

use lorafit_kernels::ops::matmul::{Product, Right, Term, View, run};
use lorafit_kernels::quant::{Format, Quantization, four_bit::Code};
use lorafit_kernels::{Device, FrozenWeight, SharedBytes, Tensor, Weight};
use rayon::prelude::*;

/// Bytes of the weights together.
const WEIGHT_BYTES: usize = 128 << 20;
/// Outputs and inputs of a weight: those of the gates of a small model, and of a layer of one with a billion parameters.
const SHAPES: [(usize, usize); 2] = [(1536, 768), (2048, 2048)];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    let only = arguments.next();
    let rows = arguments.next().map(|rows| rows.parse().expect("a number of rows"));
    let rows = rows.map_or_else(|| vec![1, 2, 4, 8, 16, 17], |rows: usize| vec![rows]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("thread pool");
    pool.install(|| {
        let memory = memory_speed();
        println!("memory {:.1} GB/s on {} threads", memory / 1e9, rayon::current_num_threads());
        for shape in SHAPES {
            measure_all(shape, only.as_deref(), &rows, memory);
        }
    });
}

/// Times the formats, or one of them, in weights of a shape.
fn measure_all((n, k): (usize, usize), only: Option<&str>, rows: &[usize], memory: f64) {
    println!("weights {n} x {k}");
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    for format in Format::ALL {
        if wanted(format.name()) {
            let bytes = vec![0x3cu8; n * k / format.block_len() * format.block_bytes()];
            let weight = || {
                let bytes = SharedBytes::from_vec(bytes.clone());
                FrozenWeight::new(n, k, format, bytes).expect("shape fits").into()
            };
            measure(format.name(), (n, k), &weight, rows, memory);
        }
    }
    let four_bit = |code, double| Quantization::FourBit { code, block_len: 64, double };
    let quantized = [
        ("nf4", four_bit(Code::Nf4, false)),
        ("nf4dq", four_bit(Code::Nf4, true)),
        ("fp4", four_bit(Code::Fp4, false)),
        ("int8", Quantization::Int8),
    ];
    for (name, quantization) in quantized.into_iter().filter(|(name, _)| wanted(name)) {
        let ramp = |range: std::ops::Range<usize>, out: &mut [f32]| {
            for (value, i) in out.iter_mut().zip(range) {
                *value = (i % 97) as f32 - 48.0;
            }
        };
        let weight = || FrozenWeight::quantized(n, k, quantization, ramp).expect("finite").into();
        measure(name, (n, k), &weight, rows, memory);
    }
}

/// Seconds of the fastest of several runs.
fn best(mut body: impl FnMut()) -> f64 {
    let timed = |_| {
        let start = Instant::now();
        body();
        start.elapsed().as_secs_f64()
    };
    (0..12).map(timed).fold(f64::INFINITY, f64::min)
}

/// Bytes a second that all threads read, each from eight places in turn, which keeps more of them on their way.
fn memory_speed() -> f64 {
    const PLACES: usize = 8;
    let words = vec![1u64; WEIGHT_BYTES / 8];
    let sum = |piece: &[u64]| {
        let len = piece.len() / PLACES;
        let places: [&[u64]; PLACES] = std::array::from_fn(|place| &piece[place * len..(place + 1) * len]);
        let mut sums = [0; 8];
        for at in (0..len).step_by(sums.len()) {
            for place in places {
                sums.iter_mut().zip(&place[at..at + 8]).for_each(|(sum, word)| *sum += word);
            }
        }
        sums.iter().sum::<u64>()
    };
    let read = || words.par_chunks(1 << 16).map(sum).sum::<u64>();
    WEIGHT_BYTES as f64 / best(|| assert_eq!(std::hint::black_box(read()), words.len() as u64))
}

/// Times products of some rows with weights that `weight` makes, one after the other.
fn measure(name: &str, (n, k): (usize, usize), weight: &dyn Fn() -> Weight, rows: &[usize], memory: f64) {
    let each = weight().stored_bytes();
    let weights: Vec<Weight> = std::iter::repeat_with(weight).take(WEIGHT_BYTES.div_ceil(each)).collect();
    let bytes = (weights.len() * each) as f64;
    let mut one = 0.0;
    for &m in rows {
        let x = Tensor::from_slice(Device::Cpu, &vec![0.5; m * k]);
        let mut y = Tensor::zeros(Device::Cpu, m * n);
        let seconds = best(|| {
            for weight in &weights {
                let term = Term { left: View::rows(&x, k), right: Right::WeightTransposed(weight), k };
                run(&mut [Product::new(m, n, term, &mut y)]);
            }
        });
        if m == 1 {
            one = seconds;
        }
        println!(
            "{name:>5}, {m:>2} rows: {:5.1} GB/s, {:5.1} % of memory, {:4.1} times one row's rows a second",
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / memory,
            m as f64 * one / seconds
        );
    }
}
