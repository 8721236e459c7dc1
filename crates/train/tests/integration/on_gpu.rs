//! The self-check of whole steps, on a device whose kernels the CPU runs (`kernels/tests/cuda_shim`).

use crate::driver::check;
use lorafit_kernels::gpu::Float;
use lorafit_train::step_checks;

#[test]
fn steps_equal_the_processor_in_f32() {
    check(Float::F32, 12, step_checks);
}

#[test]
fn steps_follow_the_processor_in_bf16() {
    check(Float::Bf16, 9, step_checks);
}
