//! Launches of `cuda.cu`: a block of 512 threads a row of logits. Losses are f32; targets are records of row, id (u32) and
//! weight (f32), sorted by row.

use super::{Objective, Target};
use crate::gpu::{Arg, Float, Launch, Region};

const THREADS: u32 = 512;

/// The bytes of targets as the kernels read them.
pub fn target_bytes(targets: &[Target]) -> Vec<u8> {
    let record = |t: &Target| [t.row.to_le_bytes(), t.id.to_le_bytes(), t.weight.to_le_bytes()].concat();
    targets.iter().flat_map(record).collect()
}

/// [`super::loss`] on a device, of `rows` rows and `count` targets.
pub fn loss(
    float: Float,
    logits: Region,
    (rows, vocab): (u32, u32),
    targets: Region,
    count: u32,
    losses: Region,
) -> Launch {
    let args = vec![
        Arg::In(logits.floats(float, u64::from(rows) * u64::from(vocab))),
        Arg::U32(vocab),
        Arg::In(targets.words(3 * u64::from(count))),
        Arg::U32(count),
        Arg::Out(losses.words(count.into())),
    ];
    Launch::new(format!("cross_entropy_loss<{}>", float.name()), rows.into(), THREADS, args)
}

/// [`super::loss_and_gradient`] on a device.
pub fn loss_and_gradient(
    float: Float,
    logits: Region,
    (rows, vocab): (u32, u32),
    targets: Region,
    count: u32,
    objective: Objective,
    losses: Region,
) -> Launch {
    let args = vec![
        Arg::Update(logits.floats(float, u64::from(rows) * u64::from(vocab))),
        Arg::U32(vocab),
        Arg::In(targets.words(3 * u64::from(count))),
        Arg::U32(count),
        Arg::F32(objective.scale),
        Arg::F32(objective.smoothing),
        Arg::Out(losses.words(count.into())),
    ];
    Launch::new(format!("cross_entropy_gradient<{}>", float.name()), rows.into(), THREADS, args)
}
