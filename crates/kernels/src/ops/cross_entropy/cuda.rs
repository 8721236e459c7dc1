//! Launches of `cuda.cu`: a block of 512 threads a row of logits. Losses are f32; targets are records of row, id (u32) and
//! weight (f32), sorted by row, behind a list of where those of each row begin.

use super::{Objective, Target};
use crate::gpu::{Arg, Float, Launch, Region, count};

const THREADS: u32 = 512;

/// Targets as the kernels read them: where those of each of `rows` rows begin, and where the last end, then the records.
pub fn target_bytes(targets: &[Target], rows: usize) -> Vec<u8> {
    let starts = (0..=count(rows)).map(|row| count(targets.partition_point(|target| target.row < row)));
    let record = |t: &Target| [t.row.to_le_bytes(), t.id.to_le_bytes(), t.weight.to_le_bytes()].concat();
    starts.flat_map(u32::to_le_bytes).chain(targets.iter().flat_map(record)).collect()
}

/// The two lists of [`target_bytes`].
fn lists(targets: Region, rows: u32, count: u32) -> [Arg; 2] {
    let starts = 4 * (u64::from(rows) + 1);
    [Arg::In(targets.first(starts)), Arg::In(targets.part(starts, 12 * u64::from(count)))]
}

/// [`super::loss`] on a device, of `rows` rows and `count` targets, as [`target_bytes`] gives them.
pub fn loss(
    float: Float,
    logits: Region,
    (rows, vocab): (u32, u32),
    targets: Region,
    count: u32,
    losses: Region,
) -> Launch {
    let [starts, records] = lists(targets, rows, count);
    let args = vec![
        Arg::In(logits.floats(float, u64::from(rows) * u64::from(vocab))),
        Arg::U32(vocab),
        starts,
        records,
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
    let [starts, records] = lists(targets, rows, count);
    let args = vec![
        Arg::Update(logits.floats(float, u64::from(rows) * u64::from(vocab))),
        Arg::U32(vocab),
        starts,
        records,
        Arg::F32(objective.scale),
        Arg::F32(objective.smoothing),
        Arg::Out(losses.words(count.into())),
    ];
    Launch::new(format!("cross_entropy_gradient<{}>", float.name()), rows.into(), THREADS, args)
}
