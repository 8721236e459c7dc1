//! Launches of `cuda.cu`: a warp a row. Weight, bias, their gradients and the statistics are f32; `x`, `y` and their gradients
//! are of type `float`. `shape` is rows and width.

use crate::gpu::{Arg, Float, Launch, Region};
use crate::ops::elementwise::cuda::over_columns;

/// A matrix of `shape`.
fn matrix(float: Float, region: Region, (rows, width): (u32, u32)) -> Region {
    region.floats(float, u64::from(rows) * u64::from(width))
}

/// Two values a row.
fn of_rows(statistics: Region, rows: u32) -> Region {
    statistics.words(2 * u64::from(rows))
}

/// Weight and bias, which may be missing.
fn affine((weight, bias): (Region, Option<Region>), width: u32) -> [Arg; 2] {
    let row = |region: Region| Arg::In(region.words(width.into()));
    [row(weight), bias.map_or(Arg::Null, row)]
}

/// [`super::forward`] on a device.
pub fn forward(
    float: Float,
    x: Region,
    affine_of: (Region, Option<Region>),
    eps: f32,
    shape: (u32, u32),
    y: Region,
    statistics: Region,
) -> Launch {
    let (rows, width) = shape;
    let [weight, bias] = affine(affine_of, width);
    let args = vec![
        Arg::In(matrix(float, x, shape)),
        weight,
        bias,
        Arg::F32(eps),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Out(matrix(float, y, shape)),
        Arg::Out(of_rows(statistics, rows)),
    ];
    Launch::over_rows(format!("layer_norm_forward<{}>", float.name()), rows, args)
}

/// [`super::recompute`] on a device.
pub fn recompute(
    float: Float,
    x: Region,
    affine_of: (Region, Option<Region>),
    statistics: Region,
    shape: (u32, u32),
    y: Region,
) -> Launch {
    let (rows, width) = shape;
    let [weight, bias] = affine(affine_of, width);
    let args = vec![
        Arg::In(matrix(float, x, shape)),
        weight,
        bias,
        Arg::In(of_rows(statistics, rows)),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Out(matrix(float, y, shape)),
    ];
    Launch::over_rows(format!("layer_norm_recompute<{}>", float.name()), rows, args)
}

/// [`super::backward`] on a device.
pub fn backward(
    float: Float,
    d_y: Region,
    x: Region,
    weight: Region,
    statistics: Region,
    shape: (u32, u32),
    d_x: Region,
) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::In(matrix(float, d_y, shape)),
        Arg::In(matrix(float, x, shape)),
        Arg::In(weight.words(width.into())),
        Arg::In(of_rows(statistics, rows)),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Update(matrix(float, d_x, shape)),
    ];
    Launch::over_rows(format!("layer_norm_backward<{}>", float.name()), rows, args)
}

/// [`super::backward_weight`] on a device.
pub fn backward_weight(
    float: Float,
    d_y: Region,
    x: Region,
    statistics: Region,
    shape: (u32, u32),
    d_weight: Region,
) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::In(matrix(float, d_y, shape)),
        Arg::In(matrix(float, x, shape)),
        Arg::In(of_rows(statistics, rows)),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Update(d_weight.words(width.into())),
    ];
    over_columns(format!("layer_norm_backward_weight<{}>", float.name()), width, args)
}
