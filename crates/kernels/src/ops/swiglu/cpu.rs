//! Elementwise, in parallel blocks.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use crate::ops::math::sigmoid;
use crate::ops::parallel::{Shared, for_row_blocks};

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn block_forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * sigmoid::<FUSED>(gate) * up;
    }
}

/// `d_gate = d_y up s (1 + gate (1 - s))`, `d_up = d_y gate s`, `s = sigmoid(gate)`.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn block_backward(d_y: &[f32], gate: &mut [f32], up: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for ((d_y, gate), up) in d_y.iter().zip(gate).zip(up) {
        let s = sigmoid::<FUSED>(*gate);
        let (d_gate, d_up) = (d_y * *up * s * (1.0 + *gate * (1.0 - s)), d_y * *gate * s);
        (*gate, *up) = (d_gate, d_up);
    }
}

pub(super) fn forward(gate: &[f32], up: &[f32], len: usize, y: &mut [f32]) {
    let y = Shared::new(&mut y[..len]);
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        block_forward(&gate[at.clone()], &up[at.clone()], unsafe { y.part(at) });
    });
}

pub(super) fn backward_in_place(d_y: &[f32], gate: &mut [f32], up: &mut [f32], len: usize) {
    let (gate, up) = (Shared::new(&mut gate[..len]), Shared::new(&mut up[..len]));
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        let (gate, up) = unsafe { (gate.part(at.clone()), up.part(at.clone())) };
        block_backward(&d_y[at], gate, up);
    });
}
