//! Launches of `cuda.cu`, elementwise.

use super::Mask;
use crate::gpu::{Arg, Float, Launch, Region};

fn launch(kernel: &str, float: Float, from: Region, mask: Mask, len: u64, to: Arg) -> Launch {
    let from = Arg::In(from.floats(float, len));
    let args = vec![from, Arg::F32(mask.p), Arg::U64(mask.seed), Arg::U64(len), to];
    Launch::over_values(format!("{kernel}<{}>", float.name()), len, args)
}

/// [`super::forward`] on a device.
pub fn forward(float: Float, x: Region, mask: Mask, len: u64, y: Region) -> Launch {
    launch("dropout_forward", float, x, mask, len, Arg::Out(y.floats(float, len)))
}

/// [`super::backward`] on a device.
pub fn backward(float: Float, d_y: Region, mask: Mask, len: u64, d_x: Region) -> Launch {
    launch("dropout_backward", float, d_y, mask, len, Arg::Update(d_x.floats(float, len)))
}
