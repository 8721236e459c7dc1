//! Token embedding: rows of a stored matrix, decoded. Frozen: there is no backward here.

use crate::tensor::{Device, Tensor};
use crate::weight::Weight;

mod cpu;

/// Writes row `ids[t]` of `weight` (`[vocab, width]`) to row `t` of `y` (`[ids.len(), width]`).
///
/// # Panics
/// When an id is not below the number of rows; callers check ids against the vocabulary first.
pub fn forward(weight: &Weight, ids: &[u32], y: &mut Tensor) {
    match y.device() {
        Device::Cpu => cpu::forward(weight, ids, y.cpu_mut()),
    }
}
