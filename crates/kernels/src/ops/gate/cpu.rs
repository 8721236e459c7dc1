//! Elementwise, in parallel blocks.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use super::Activation;
use crate::ops::math::{normal_distribution, sigmoid};
use crate::ops::parallel::{Shared, for_row_blocks};

/// `sqrt(2 / pi)`.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

/// `(act(x), act'(x))`. `1 + tanh(u)` is twice `sigmoid(2 u)`, which keeps small values of negative arguments exact.
#[inline(always)]
fn gelu_tanh<const FUSED: bool>(x: f32) -> (f32, f32) {
    let s = sigmoid::<FUSED>(2.0 * GELU_SCALE * x * (1.0 + GELU_CUBE * x * x));
    let inner_slope = 2.0 * GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
    (x * s, s + x * s * (1.0 - s) * inner_slope)
}

/// As [`gelu_tanh`].
#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> (f32, f32) {
    let (below, density) = normal_distribution::<FUSED>(x);
    (x * below, below + x * density)
}

/// As [`gelu_tanh`]. What is not a number stays so.
#[inline(always)]
fn relu2(x: f32) -> (f32, f32) {
    let positive = if x < 0.0 { 0.0 } else { x };
    (positive * positive, 2.0 * positive)
}

#[inline(always)]
fn each(gate: &[f32], up: &[f32], y: &mut [f32], act: impl Fn(f32) -> f32) {
    for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = act(gate) * up;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn block_forward(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match activation {
        Activation::Silu => each(gate, up, y, |x| x * sigmoid::<FUSED>(x)),
        Activation::GeluTanh => each(gate, up, y, |x| gelu_tanh::<FUSED>(x).0),
        Activation::Gelu => each(gate, up, y, |x| gelu::<FUSED>(x).0),
        Activation::Relu2 => each(gate, up, y, |x| relu2(x).0),
    }
}

/// `slopes(d_y, gate, up)` are `d_gate` and `d_up`.
#[inline(always)]
fn each_backward(
    d_y: &[f32],
    gate: &mut [f32],
    up: &mut [f32],
    slopes: impl Fn(f32, f32, f32) -> (f32, f32),
) {
    for ((d_y, gate), up) in d_y.iter().zip(gate).zip(up) {
        (*gate, *up) = slopes(*d_y, *gate, *up);
    }
}

/// `d_gate = d_y up act'(gate)`, `d_up = d_y act(gate)`.
#[inline(always)]
fn gated(d_y: f32, up: f32, (value, slope): (f32, f32)) -> (f32, f32) {
    (d_y * up * slope, d_y * value)
}

/// Of `Silu` with `s = sigmoid(gate)`: `d_gate = d_y up s (1 + gate (1 - s))`, `d_up = d_y gate s`.
#[inline(always)]
fn silu_gated<const FUSED: bool>(d_y: f32, gate: f32, up: f32) -> (f32, f32) {
    let s = sigmoid::<FUSED>(gate);
    (d_y * up * s * (1.0 + gate * (1.0 - s)), d_y * gate * s)
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn block_backward(activation: Activation, d_y: &[f32], gate: &mut [f32], up: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match activation {
        Activation::Silu => each_backward(d_y, gate, up, silu_gated::<FUSED>),
        Activation::GeluTanh => each_backward(d_y, gate, up, |d, g, u| gated(d, u, gelu_tanh::<FUSED>(g))),
        Activation::Gelu => each_backward(d_y, gate, up, |d, g, u| gated(d, u, gelu::<FUSED>(g))),
        Activation::Relu2 => each_backward(d_y, gate, up, |d, g, u| gated(d, u, relu2(g))),
    }
}

#[inline(always)]
fn each_plain(x: &[f32], y: &mut [f32], act: impl Fn(f32) -> f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = act(*x);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn plain_block_forward(activation: Activation, x: &[f32], y: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match activation {
        Activation::Silu => each_plain(x, y, |x| x * sigmoid::<FUSED>(x)),
        Activation::GeluTanh => each_plain(x, y, |x| gelu_tanh::<FUSED>(x).0),
        Activation::Gelu => each_plain(x, y, |x| gelu::<FUSED>(x).0),
        Activation::Relu2 => each_plain(x, y, |x| relu2(x).0),
    }
}

/// `slope(d_y, x)` is `d_x`.
#[inline(always)]
fn each_plain_backward(d_y: &[f32], x: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
    for (d_y, x) in d_y.iter().zip(x) {
        *x = slope(*d_y, *x);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn plain_block_backward(activation: Activation, d_y: &[f32], x: &mut [f32]) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match activation {
        Activation::Silu => each_plain_backward(d_y, x, |d, x| silu_gated::<FUSED>(d, x, 1.0).0),
        Activation::GeluTanh => each_plain_backward(d_y, x, |d, x| d * gelu_tanh::<FUSED>(x).1),
        Activation::Gelu => each_plain_backward(d_y, x, |d, x| d * gelu::<FUSED>(x).1),
        Activation::Relu2 => each_plain_backward(d_y, x, |d, x| d * relu2(x).1),
    }
}

pub(super) fn forward(activation: Activation, gate: &[f32], up: &[f32], len: usize, y: &mut [f32]) {
    let y = Shared::new(&mut y[..len]);
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        block_forward(activation, &gate[at.clone()], &up[at.clone()], unsafe { y.part(at) });
    });
}

pub(super) fn backward_in_place(
    activation: Activation,
    d_y: &mut [f32],
    gate: &mut [f32],
    up: &mut [f32],
    len: usize,
    output_again: bool,
) {
    let [d_y, gate, up] = [d_y, gate, up].map(|values| Shared::new(&mut values[..len]));
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        let (d_y, gate, up) = unsafe { (d_y.part(at.clone()), gate.part(at.clone()), up.part(at)) };
        let mut output = vec![0.0; if output_again { d_y.len() } else { 0 }];
        if output_again {
            block_forward(activation, gate, up, &mut output);
        }
        block_backward(activation, d_y, gate, up);
        d_y[..output.len()].copy_from_slice(&output);
    });
}

pub(super) fn plain_forward(activation: Activation, x: &[f32], len: usize, y: &mut [f32]) {
    let y = Shared::new(&mut y[..len]);
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        plain_block_forward(activation, &x[at.clone()], unsafe { y.part(at) });
    });
}

pub(super) fn plain_backward_in_place(
    activation: Activation,
    d_y: &mut [f32],
    x: &mut [f32],
    len: usize,
    output_again: bool,
) {
    let [d_y, x] = [d_y, x].map(|values| Shared::new(&mut values[..len]));
    for_row_blocks(len, 1, |at| {
        // SAFETY: blocks are disjoint.
        let (d_y, x) = unsafe { (d_y.part(at.clone()), x.part(at)) };
        let mut output = vec![0.0; if output_again { d_y.len() } else { 0 }];
        if output_again {
            plain_block_forward(activation, x, &mut output);
        }
        plain_block_backward(activation, d_y, x);
        d_y[..output.len()].copy_from_slice(&output);
    });
}
