//! Launches of `cuda.cu`, a unit of a row a thread.

use crate::gpu::{Arg, Float, Launch, Region};
use crate::ops::elementwise::cuda::over_units;

/// [`super::add`] on a device. `shape` is rows and width; bounds are f32.
pub fn add(float: Float, x: Region, shape: (u32, u32), bounds: Region, seed: u64) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::Update(x.floats(float, u64::from(rows) * u64::from(width))),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::In(bounds.words(rows.into())),
        Arg::U64(seed),
    ];
    over_units(format!("add_noise<{}>", float.name()), shape, args)
}
