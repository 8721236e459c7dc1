//! Every CUDA kernel, compiled as C++ and run on the CPU with sanitizers, against the CPU version of its op.

mod attention;
mod devices;
mod driver;
mod faults;
mod machine;
mod ops;
mod quant;
mod rows;

use half::bf16;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::random::uniform;
use lorafit_kernels::{Device, Tensor};

const FLOATS: [Float; 2] = [Float::F32, Float::Bf16];

/// Values around zero, bell-shaped, that `float` holds exactly.
fn values(float: Float, seed: u64, len: usize) -> Vec<f32> {
    let value = |i: u64| (0..4).map(|j| uniform(seed, 4 * i + j)).sum::<f32>() * 1.7 - 3.4;
    (0..len as u64).map(|i| rounded(float, value(i))).collect()
}

/// `value` as `float` holds it.
fn rounded(float: Float, value: f32) -> f32 {
    match float {
        Float::F32 => value,
        Float::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(Device::Cpu, values)
}

/// What an op may differ by that computes in f32 and rounds its result once, relative to the largest value: sums in
/// another order and a few ulp of `exp` or `rsqrt` in f32; half an ulp of bf16, 2^-8, besides.
fn tolerance(float: Float) -> f32 {
    match float {
        Float::F32 => 3e-6,
        Float::Bf16 => 1.0 / 256.0 + 3e-6,
    }
}

/// Every value within `tolerance` of the expected one, relative to the largest expected value.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f - e).abs() / scale;
        assert!(error <= tolerance, "{what}: value {i} is {f}, expected {e}: {error:.2e} of the largest");
    }
}
