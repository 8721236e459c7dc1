//! How fast a device is: bare work as the ceiling, and the ops of training beside it. All data is random: zeros toggle no
//! wires, and a GPU that stays cool is an eighth faster than it will be.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use crate::gpu::Gpu;
use crate::ops::attention::{self, Heads, Scores, Segments};
use crate::ops::gate::{self, Activation};
use crate::ops::matmul::{self, Product, Right, Term, View};
use crate::ops::{elementwise, rms_norm};
use crate::quant::Quantization;
use crate::quant::four_bit::Code;
use crate::random;
use crate::tensor::{Device, Tensor};
use crate::weight::{FrozenWeight, Weight};

/// What an op is measured by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes that are read and written.
    Bytes(f64),
}

/// The time of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// The op and its shape.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// The mean time of a run.
    pub seconds: f64,
}

impl Speed {
    /// FLOP/s or bytes/s.
    pub fn rate(&self) -> f64 {
        match self.work {
            Work::Flops(amount) | Work::Bytes(amount) => amount / self.seconds,
        }
    }
}

/// Tokens of a measured batch, and the shape of a layer of Llama-2-7B.
const TOKENS: usize = 4096;
const HIDDEN: usize = 4096;
const INNER: usize = 11008;
const HEADS: Heads = Heads { query: 32, key_value: 32, dim: 128 };

/// Times ops of the shape of Llama-2-7B, the ceilings first: a product that nothing is decoded for, and a copy. Each is told
/// when it is known.
pub fn measure(gpu: Gpu, mut on_speed: impl FnMut(Speed)) {
    let device = Device::Cuda(gpu);
    let value_bytes = gpu.float().bytes(1) as f64;
    let activation = |seed: u64, width: usize| random_activations(device, seed, TOKENS * width);
    let (x, mut y) = (activation(1, HIDDEN), activation(2, HIDDEN));
    let [mut of_gate, mut up, mut inner] = [3, 4, 5].map(|seed| activation(seed, INNER));
    let mut time = |name: &str, work, run: &mut dyn FnMut()| {
        on_speed(Speed { name: name.to_owned(), work, seconds: seconds(gpu, run) });
    };

    let product = Work::Flops(2.0 * (TOKENS * HIDDEN * INNER) as f64);
    let dense = weight(device, None);
    time("product, 4096 x 11008 x 4096, nothing to decode", product, &mut || forward(&x, &dense, &mut inner));
    let bytes = |values: usize, times: f64| Work::Bytes(times * value_bytes * values as f64);
    let (wide, narrow) = (TOKENS * INNER, TOKENS * HIDDEN);
    time("copy on the device", bytes(wide, 2.0), &mut || elementwise::copy(&of_gate, wide, &mut up));

    let nf4 = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
    for (name, quantization) in [("product with nf4+dq", nf4), ("product with int8", Quantization::Int8)] {
        let stored = weight(device, Some(quantization));
        time(name, product, &mut || forward(&x, &stored, &mut inner));
    }
    let of_norm: Vec<f32> = (0..HIDDEN as u64).map(|i| random::uniform(6, i)).collect();
    let norm = Tensor::from_slice(device, &of_norm);
    let mut rstd = Tensor::zeros(device, TOKENS);
    time("rms_norm", bytes(narrow, 2.0), &mut || {
        rms_norm::forward(&x, &norm, 1e-5, TOKENS, &mut y, &mut rstd);
    });
    time("swiglu", bytes(wide, 3.0), &mut || {
        gate::forward(Activation::Silu, &of_gate, &up, wide, &mut inner)
    });
    time("swiglu backward", bytes(wide, 6.0), &mut || {
        gate::backward_in_place(Activation::Silu, &mut inner, &mut of_gate, &mut up, wide, true);
    });

    let (segments, of_scores) = (Segments::single(TOKENS), Scores::of(HEADS));
    let [k, v, d_out] = [7, 8, 9].map(|seed| activation(seed, HIDDEN));
    let mut lse = Tensor::zeros(device, TOKENS * HEADS.query);
    // Half of each product is behind the diagonal.
    let scores = (TOKENS * TOKENS * HIDDEN) as f64;
    time("attention, 4096 tokens, causal", Work::Flops(2.0 * scores), &mut || {
        attention::forward(&x, &k, &v, &segments, HEADS, of_scores, &mut y, &mut lse);
    });
    let mut workspace =
        Tensor::zeros(device, attention::backward_workspace(device.placement(), TOKENS, HEADS));
    let [mut d_q, mut d_k, mut d_v] = [0; 3].map(|_| Tensor::activation(device, TOKENS * HIDDEN));
    time("attention backward", Work::Flops(5.0 * scores), &mut || {
        let saved = attention::Saved { q: &x, k: &k, v: &v, out: &y, lse: &lse };
        let gradients = attention::Gradients { q: &mut d_q, k: &mut d_k, v: &mut d_v, turned: None };
        attention::backward(&d_out, saved, &segments, HEADS, of_scores, gradients, &mut workspace);
    });
}

/// The rate of a large product of square matrices, of the device's type of activations, in FLOP/s: the ceiling that products
/// are measured against.
pub fn product_peak(gpu: Gpu) -> f64 {
    const SIZE: usize = 8192;
    let device = Device::Cuda(gpu);
    let [left, right, mut out] = [1, 2, 3].map(|seed| random_activations(device, seed, SIZE * SIZE));
    let of_one = seconds(gpu, &mut || {
        let right = Right::View(View::rows(&right, SIZE).t());
        let term = Term { left: View::rows(&left, SIZE), right, k: SIZE };
        matmul::run(&mut [Product::new(SIZE, SIZE, term, &mut out)]);
    });
    2.0 * (SIZE as f64).powi(3) / of_one
}

/// Activations between -1 and 1.
fn random_activations(device: Device, seed: u64, len: usize) -> Tensor {
    // As many as are drawn at a time.
    const PIECE: usize = 1 << 22;
    let mut tensor = Tensor::activation(device, len);
    for start in (0..len).step_by(PIECE) {
        let piece = start..len.min(start + PIECE);
        let values: Vec<f32> =
            piece.into_par_iter().map(|i| 2.0 * random::uniform(seed, i as u64) - 1.0).collect();
        tensor.write(start, &values);
    }
    tensor
}

/// An up-projection, quantised or of the device's type.
fn weight(device: Device, quantization: Option<Quantization>) -> Weight {
    let values = |range: Range<usize>, out: &mut [f32]| {
        range.zip(out).for_each(|(i, out)| *out = 0.06 * random::uniform(10, i as u64) - 0.03);
    };
    let frozen = match quantization {
        Some(quantization) => {
            FrozenWeight::quantized(INNER, HIDDEN, quantization, values).expect("finite values")
        }
        None => {
            let mut row = vec![0.0; INNER * HIDDEN];
            values(0..row.len(), &mut row);
            FrozenWeight::from_f32(INNER, HIDDEN, &row)
        }
    };
    Weight::on(device, frozen)
}

fn forward(x: &Tensor, weight: &Weight, y: &mut Tensor) {
    let term = Term { left: View::rows(x, HIDDEN), right: Right::WeightTransposed(weight), k: HIDDEN };
    matmul::run(&mut [Product::new(TOKENS, INNER, term, y)]);
}

/// The mean time of a run, of as many as take some tenths of a second, after one that is not counted.
fn seconds(gpu: Gpu, run: &mut dyn FnMut()) -> f64 {
    const ENOUGH: f64 = 0.2;
    const MOST: u32 = 200;
    run();
    gpu.wait();
    let started = Instant::now();
    run();
    gpu.wait();
    let one = started.elapsed().as_secs_f64();
    let runs = ((ENOUGH / one.max(1e-6)) as u32).clamp(1, MOST);
    let started = Instant::now();
    (0..runs).for_each(|_| run());
    gpu.wait();
    started.elapsed().as_secs_f64() / f64::from(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda;
    use crate::gpu::Float;

    /// On a device that computes nothing: the calls keep its rules, and what is counted is what is multiplied.
    #[test]
    fn what_is_timed_is_what_is_counted() {
        let recorder = cuda::recorder(8 << 30);
        let gpu = Gpu::over(recorder.clone(), Float::Bf16);
        let x = Tensor::activation(Device::Cuda(gpu), TOKENS * HIDDEN);
        let mut y = Tensor::activation(Device::Cuda(gpu), TOKENS * INNER);
        let dense = weight(Device::Cuda(gpu), None);
        recorder.take_counts();
        forward(&x, &dense, &mut y);
        let counts = recorder.take_counts();
        assert_eq!(counts.product_flops as f64, 2.0 * (TOKENS * HIDDEN * INNER) as f64);
        assert!(counts.launches.is_empty(), "nothing is decoded");
    }
}
