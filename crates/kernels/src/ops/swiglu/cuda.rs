//! Launches of `cuda.cu`, elementwise.

use crate::cuda::{Arg, Float, Launch, Region};

/// [`super::forward`] on a device.
pub fn forward(float: Float, gate: Region, up: Region, len: u64, y: Region) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(gate)), Arg::In(part(up)), Arg::U64(len), Arg::Out(part(y))];
    Launch::over_values(format!("swiglu_forward<{}>", float.name()), len, args)
}

/// [`super::backward_in_place`] on a device.
pub fn backward_in_place(float: Float, d_y: Region, gate: Region, up: Region, len: u64) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(d_y)), Arg::Out(part(gate)), Arg::Out(part(up)), Arg::U64(len)];
    Launch::over_values(format!("swiglu_backward<{}>", float.name()), len, args)
}
