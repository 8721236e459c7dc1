//! Launches of `cuda.cu`: a warp a row. `weight`, its gradient and `rstd` are f32; `x`, `y` and their gradients are of type
//! `float`.

use crate::gpu::{Arg, Float, Launch, Region};
use crate::ops::elementwise::cuda::over_columns;

/// [`super::forward`] on a device.
pub fn forward(
    float: Float,
    x: Region,
    weight: Region,
    eps: f32,
    shape: (u32, u32),
    y: Region,
    rstd: Region,
) -> Launch {
    let (rows, width) = shape;
    let values = u64::from(rows) * u64::from(width);
    let args = vec![
        Arg::In(x.floats(float, values)),
        Arg::In(weight.words(width.into())),
        Arg::F32(eps),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Out(y.floats(float, values)),
        Arg::Out(rstd.words(rows.into())),
    ];
    Launch::over_rows(format!("rms_norm_forward<{}>", float.name()), rows, args)
}

/// [`super::recompute`] on a device.
pub fn recompute(
    float: Float,
    x: Region,
    weight: Region,
    rstd: Region,
    shape: (u32, u32),
    y: Region,
) -> Launch {
    let (rows, width) = shape;
    let values = u64::from(rows) * u64::from(width);
    let args = vec![
        Arg::In(x.floats(float, values)),
        Arg::In(weight.words(width.into())),
        Arg::In(rstd.words(rows.into())),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Out(y.floats(float, values)),
    ];
    Launch::over_rows(format!("rms_norm_recompute<{}>", float.name()), rows, args)
}

/// [`super::backward`] on a device, or with `y` [`super::backward_and_output`].
pub fn backward(
    float: Float,
    d_y: Region,
    x: Region,
    weight: Region,
    rstd: Region,
    shape: (u32, u32),
    d_x: Region,
    y: Option<Region>,
) -> Launch {
    let (rows, width) = shape;
    let values = u64::from(rows) * u64::from(width);
    let args = vec![
        Arg::In(d_y.floats(float, values)),
        Arg::In(x.floats(float, values)),
        Arg::In(weight.words(width.into())),
        Arg::In(rstd.words(rows.into())),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Update(d_x.floats(float, values)),
        y.map_or(Arg::Null, |y| Arg::Out(y.floats(float, values))),
    ];
    Launch::over_rows(format!("rms_norm_backward<{}>", float.name()), rows, args)
}

/// [`super::backward_weight`] on a device.
pub fn backward_weight(
    float: Float,
    d_y: Region,
    x: Region,
    rstd: Region,
    shape: (u32, u32),
    d_weight: Region,
) -> Launch {
    let (rows, width) = shape;
    let values = u64::from(rows) * u64::from(width);
    let args = vec![
        Arg::In(d_y.floats(float, values)),
        Arg::In(x.floats(float, values)),
        Arg::In(rstd.words(rows.into())),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Update(d_weight.words(width.into())),
    ];
    over_columns(format!("rms_norm_backward_weight<{}>", float.name()), width, args)
}
