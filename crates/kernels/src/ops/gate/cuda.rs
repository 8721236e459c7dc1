//! Launches of `cuda.cu`, elementwise.

use super::Activation;
use crate::gpu::{Arg, Float, Launch, Region};

fn entry(kernel: &str, float: Float, activation: Activation) -> String {
    let activation = match activation {
        Activation::Silu => "Silu",
        Activation::GeluTanh => "GeluTanh",
        Activation::Gelu => "Gelu",
        Activation::Relu2 => "Relu2",
    };
    format!("{kernel}<{}, {activation}>", float.name())
}

/// [`super::forward`] on a device.
pub fn forward(
    float: Float,
    activation: Activation,
    gate: Region,
    up: Region,
    len: u64,
    y: Region,
) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(gate)), Arg::In(part(up)), Arg::U64(len), Arg::Out(part(y))];
    Launch::over_values(entry("gate_forward", float, activation), len, args)
}

/// [`super::backward_in_place`] on a device.
pub fn backward_in_place(
    float: Float,
    activation: Activation,
    d_y: Region,
    gate: Region,
    up: Region,
    len: u64,
    output_again: bool,
) -> Launch {
    let part = |region: Region| Arg::Update(region.floats(float, len));
    let args = vec![part(d_y), part(gate), part(up), Arg::U64(len), Arg::U32(output_again.into())];
    Launch::over_values(entry("gate_backward", float, activation), len, args)
}

/// [`super::plain_forward`] on a device.
pub fn plain_forward(float: Float, activation: Activation, x: Region, len: u64, y: Region) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(x)), Arg::U64(len), Arg::Out(part(y))];
    Launch::over_values(entry("activation_forward", float, activation), len, args)
}

/// [`super::plain_backward_in_place`] on a device.
pub fn plain_backward_in_place(
    float: Float,
    activation: Activation,
    d_y: Region,
    x: Region,
    len: u64,
    output_again: bool,
) -> Launch {
    let part = |region: Region| Arg::Update(region.floats(float, len));
    let args = vec![part(d_y), part(x), Arg::U64(len), Arg::U32(output_again.into())];
    Launch::over_values(entry("activation_backward", float, activation), len, args)
}
