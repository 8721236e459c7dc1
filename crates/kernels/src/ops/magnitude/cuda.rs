//! Launches of `cuda.cu`. Outputs and their gradients are of type `float`; `shape` is rows and width, all else is `[width]` in
//! f32.

use crate::gpu::{Arg, Float, Launch, Region};
use crate::ops::elementwise::cuda::{over_columns, over_units};

/// A matrix of `shape`.
fn matrix(float: Float, region: Region, (rows, width): (u32, u32)) -> Region {
    region.floats(float, u64::from(rows) * u64::from(width))
}

fn row(region: Region, width: u32) -> Arg {
    Arg::In(region.words(width.into()))
}

/// [`super::factors`] on a device: `[squares, products, b_t]`, of which `products` are of type `float`; `shape` is rank and
/// width.
pub fn factors(
    float: Float,
    magnitudes: Region,
    [squares, products, b_t]: [Region; 3],
    shape: (u32, u32),
    scale: f32,
    factors: Region,
) -> Launch {
    let (rank, width) = shape;
    let args = vec![
        row(magnitudes, width),
        row(squares, width),
        Arg::In(matrix(float, products, shape)),
        Arg::In(matrix(Float::F32, b_t, shape)),
        Arg::U32(rank),
        Arg::U32(width),
        Arg::F32(scale),
        Arg::Out(factors.words(width.into())),
    ];
    Launch::over_items(format!("magnitude_factors<{}>", float.name()), width.into(), args)
}

/// [`super::apply`] on a device.
pub fn apply(float: Float, y: Region, shape: (u32, u32), factors: Region, bias: Option<Region>) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::Update(matrix(float, y, shape)),
        Arg::U32(rows),
        Arg::U32(width),
        row(factors, width),
        bias.map_or(Arg::Null, |bias| row(bias, width)),
    ];
    over_units(format!("magnitude_apply<{}>", float.name()), shape, args)
}

/// [`super::gradient`] on a device: `[d_y, y]`, then magnitudes and bias.
pub fn gradient(
    float: Float,
    [d_y, y]: [Region; 2],
    shape: (u32, u32),
    (magnitudes, bias): (Region, Option<Region>),
    d_magnitudes: Region,
) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::In(matrix(float, d_y, shape)),
        Arg::In(matrix(float, y, shape)),
        Arg::U32(rows),
        Arg::U32(width),
        row(magnitudes, width),
        bias.map_or(Arg::Null, |bias| row(bias, width)),
        Arg::Update(d_magnitudes.words(width.into())),
    ];
    over_columns(format!("magnitude_gradient<{}>", float.name()), width, args)
}
