//! Launches of `cuda.cu`. Copies and fills are the driver's own.

use std::ops::Range;

use crate::cuda::launch::{THREADS, UNIT};
use crate::cuda::{Arg, Float, Launch, Region};

/// [`super::add`] on a device.
pub fn add(float: Float, x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(float, len)), Arg::U64(len), Arg::Out(y.floats(float, len))];
    Launch::over_values(format!("add<{}>", float.name()), len, args)
}

/// [`super::narrow`] on a device.
pub fn narrow(x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(Float::F32, len)), Arg::U64(len), Arg::Out(y.floats(Float::Bf16, len))];
    Launch::over_values("convert<float, bf16>", len, args)
}

/// [`super::widen`] on a device.
pub fn widen(x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(Float::Bf16, len)), Arg::U64(len), Arg::Out(y.floats(Float::F32, len))];
    Launch::over_values("convert<bf16, float>", len, args)
}

/// [`super::scale_columns`] on a device.
pub fn scale_columns(float: Float, x: Region, rows: u32, width: u32, cols: Range<u32>, scale: f32) -> Launch {
    assert!(cols.start <= cols.end && cols.end <= width, "columns outside the matrix");
    let count = cols.end - cols.start;
    let args = vec![
        Arg::Out(x.floats(float, u64::from(rows) * u64::from(width))),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::U32(cols.start),
        Arg::U32(count),
        Arg::F32(scale),
    ];
    Launch::over_items(format!("scale_columns<{}>", float.name()), u64::from(rows) * u64::from(count), args)
}

/// [`super::gather_rows`] on a device: `count` rows, a block each.
pub fn gather_rows(float: Float, x: Region, rows: Region, count: u32, width: u32, y: Region) -> Launch {
    let args = vec![
        Arg::In(x),
        Arg::In(rows.words(count.into())),
        Arg::U32(width),
        Arg::Out(y.floats(float, u64::from(count) * u64::from(width))),
    ];
    Launch::new(format!("gather_rows<{}>", float.name()), count.into(), THREADS, args)
}

/// [`super::scatter_add_rows`] on a device: `count` rows, a block each.
pub fn scatter_add_rows(float: Float, x: Region, rows: Region, count: u32, width: u32, y: Region) -> Launch {
    let args = vec![
        Arg::In(x.floats(float, u64::from(count) * u64::from(width))),
        Arg::In(rows.words(count.into())),
        Arg::U32(count),
        Arg::U32(width),
        Arg::Out(y),
    ];
    Launch::new(format!("scatter_add_rows<{}>", float.name()), count.into(), THREADS, args)
}

/// The most partial sums of [`sum_squares`]: they depend on the length alone, so that the sum has the same bits on every
/// device.
pub const MAX_PARTIAL_SUMS: u64 = 1024;

/// [`super::sum_squares`] of f32 values on a device, in two launches; `partial` holds [`MAX_PARTIAL_SUMS`] f64, `total` one.
pub fn sum_squares(x: Region, len: u64, partial: Region, total: Region) -> [Launch; 2] {
    let one_each = len.div_ceil(u64::from(THREADS * UNIT));
    let blocks = one_each.min(MAX_PARTIAL_SUMS);
    let partial = partial.first(8 * blocks);
    let first = vec![Arg::In(x.words(len)), Arg::U64(len), Arg::Out(partial)];
    let second = vec![Arg::In(partial), Arg::U32(blocks as u32), Arg::Out(total.first(8))];
    [Launch::new("sum_squares", blocks, THREADS, first), Launch::new("sum_partials", 1, THREADS, second)]
}
