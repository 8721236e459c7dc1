//! Launches of `cuda.cu`. Angles are f32; a thread turns eight neighbouring pairs of a head.

use super::{Pairs, Rotation, Turn};
use crate::gpu::launch::UNIT;
use crate::gpu::{Arg, Float, Launch, Region, count};

/// [`super::Angles::set`] on a device: `cos` and `sin` `[tokens, half]`, times `factor`.
pub fn angles(
    positions: Region,
    frequencies: Region,
    (tokens, half): (u32, u32),
    factor: f32,
    cos: Region,
    sin: Region,
) -> Launch {
    let pairs = u64::from(tokens) * u64::from(half);
    let args = vec![
        Arg::In(positions.words(tokens.into())),
        Arg::In(frequencies.words(half.into())),
        Arg::U32(tokens),
        Arg::U32(half),
        Arg::F32(factor),
        Arg::Out(cos.words(pairs)),
        Arg::Out(sin.words(pairs)),
    ];
    Launch::over_items("rope_angles", pairs, args)
}

/// Turns `rows` rows of `heads` heads in place.
pub fn turn(
    float: Float,
    x: Region,
    (cos, sin): (Region, Region),
    turn: Turn,
    (rows, heads): (u32, u32),
    rotation: Rotation,
) -> Launch {
    let (half, head_dim) = (count(rotation.frequencies), count(rotation.head_dim));
    let all_heads = u64::from(rows) * u64::from(heads);
    let angles = u64::from(rows) * u64::from(half);
    let args = vec![
        Arg::Update(x.floats(float, all_heads * u64::from(head_dim))),
        Arg::In(cos.words(angles)),
        Arg::In(sin.words(angles)),
        Arg::F32(turn.sign()),
        Arg::U32(rows),
        Arg::U32(heads),
        Arg::U32(half),
        Arg::U32(head_dim),
    ];
    let (kernel, units) = match rotation.pairs {
        Pairs::Halves => ("rope_turn", half.div_ceil(UNIT)),
        Pairs::Neighbours => ("rope_turn_neighbours", (2 * half).div_ceil(UNIT)),
    };
    Launch::over_items(format!("{kernel}<{}>", float.name()), all_heads * u64::from(units), args)
}
