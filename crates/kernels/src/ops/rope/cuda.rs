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

/// Turns `rows` rows of the heads of queries and keys in place; where there are no heads of one its region is empty.
pub fn turn(
    float: Float,
    x: [Region; 2],
    (cos, sin): (Region, Region),
    turn: Turn,
    (rows, heads): (usize, [usize; 2]),
    rotation: Rotation,
) -> Launch {
    let (half, head_dim) = (count(rotation.frequencies), count(rotation.head_dim));
    let all_heads = (rows * heads.iter().sum::<usize>()) as u64;
    let angles = rows as u64 * u64::from(half);
    let [q, k] = [0, 1].map(|i| match heads[i] {
        0 => Arg::Null,
        heads => Arg::Update(x[i].floats(float, (rows * heads) as u64 * u64::from(head_dim))),
    });
    let args = vec![
        q,
        k,
        Arg::In(cos.words(angles)),
        Arg::In(sin.words(angles)),
        Arg::F32(turn.sign()),
        Arg::U32(count(rows)),
        Arg::U32(count(heads[0])),
        Arg::U32(count(heads[1])),
        Arg::U32(half),
        Arg::U32(head_dim),
    ];
    let (kernel, units) = match rotation.pairs {
        Pairs::Halves => ("rope_turn", half.div_ceil(UNIT)),
        Pairs::Neighbours => ("rope_turn_neighbours", (2 * half).div_ceil(UNIT)),
    };
    Launch::over_items(format!("{kernel}<{}>", float.name()), all_heads * u64::from(units), args)
}
