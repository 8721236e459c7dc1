//! Launches of `cuda.cu`. Angles are f32; a thread turns eight neighbouring pairs of a head.

use super::Turn;
use crate::cuda::launch::UNIT;
use crate::cuda::{Arg, Float, Launch, Region};

/// [`super::Angles::set`] on a device: `cos` and `sin` `[tokens, half]`.
pub fn angles(
    positions: Region,
    frequencies: Region,
    tokens: u32,
    half: u32,
    cos: Region,
    sin: Region,
) -> Launch {
    let pairs = u64::from(tokens) * u64::from(half);
    let args = vec![
        Arg::In(positions.words(tokens.into())),
        Arg::In(frequencies.words(half.into())),
        Arg::U32(tokens),
        Arg::U32(half),
        Arg::Out(cos.words(pairs)),
        Arg::Out(sin.words(pairs)),
    ];
    Launch::over_items("rope_angles", pairs, args)
}

/// Turns `rows` rows of `heads` heads of `2 * half` values in place.
pub fn turn(
    float: Float,
    x: Region,
    (cos, sin): (Region, Region),
    turn: Turn,
    (rows, heads, half): (u32, u32, u32),
) -> Launch {
    let all_heads = u64::from(rows) * u64::from(heads);
    let angles = u64::from(rows) * u64::from(half);
    let args = vec![
        Arg::Out(x.floats(float, all_heads * 2 * u64::from(half))),
        Arg::In(cos.words(angles)),
        Arg::In(sin.words(angles)),
        Arg::F32(turn.sign()),
        Arg::U32(rows),
        Arg::U32(heads),
        Arg::U32(half),
    ];
    Launch::over_items(
        format!("rope_turn<{}>", float.name()),
        all_heads * u64::from(half.div_ceil(UNIT)),
        args,
    )
}
