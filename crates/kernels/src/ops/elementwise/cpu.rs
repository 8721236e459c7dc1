//! Changes of precision and caps, written so that the compiler vectorises them.

use half::bf16;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use crate::ops::math::{rounded_to_bf16, tanh};

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn narrow(x: &[f32], y: &mut [bf16]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = bf16::from_bits((rounded_to_bf16(*x).to_bits() >> 16) as u16);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn widen(x: &[bf16], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = f32::from_bits(u32::from(x.to_bits()) << 16);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn round_to_bf16(x: &mut [f32]) {
    for x in x {
        *x = rounded_to_bf16(*x);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn softcap(x: &mut [f32], cap: f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for x in x {
        *x = cap * tanh::<FUSED>(*x / cap);
    }
}
