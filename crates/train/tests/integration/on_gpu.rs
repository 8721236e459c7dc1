//! The self-check of whole steps, on a device whose kernels the CPU runs (`kernels/tests/cuda_shim`).

use crate::driver::check;
use lorafit_kernels::gpu::Float;
use lorafit_train::check_steps;

#[test]
fn steps_equal_the_processor_in_f32() {
    check(Float::F32, 12, |device, tell| check_steps(device, tell));
}

#[test]
fn steps_follow_the_processor_in_bf16() {
    check(Float::Bf16, 9, |device, tell| check_steps(device, tell));
}
