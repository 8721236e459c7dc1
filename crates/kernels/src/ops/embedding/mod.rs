//! Token embedding: `y[t] = weight[ids[t]]`, rows of a matrix, decoded where it is stored. Backward, where the matrix is
//! trained: `d_weight[ids[t]] += d_y[t]`, in the order of the tokens, so that equal ids add up alike in every run.
//!
//! Learned positions (GPT-2, Radford et al. 2019) are rows of a second matrix, whose ids are positions: [`add`] adds them, and
//! the same backward gives their gradient.

use crate::gpu::count;
use crate::ops::elementwise;
use crate::quant::cuda::{Rows, Tile};
use crate::tensor::{Device, Tensor};
use crate::weight::{RowOrder, Weight};

mod cpu;

/// Writes row `ids[t]` of `weight` (`[vocab, width]`) to row `t` of `y` (`[ids.len(), width]`).
///
/// # Panics
/// When an id is not below the number of rows; callers check ids against the vocabulary first.
pub fn forward(weight: &Weight, ids: &[u32], y: &mut Tensor) {
    match y.device() {
        Device::Cpu => cpu::forward(weight.host(), ids, y.cpu_mut()),
        Device::Cuda(gpu) => {
            let largest = ids.iter().max().map_or(0, |id| *id as usize);
            assert!(largest < weight.rows(), "token id {largest} outside the vocabulary");
            let rows = gpu.buffer_of_words(ids);
            let (rows, width) = (Rows::Ids(rows.region()), count(weight.cols()));
            let tile = Tile::of_rows(rows, RowOrder::Stored, count(ids.len()), width);
            weight.gpu().decode(gpu, tile, y.float(), y.region());
        }
    }
}

/// Adds row `ids[t]` of `weight` to row `t` of `y`. Overwrites `scratch`, which has room for as many rows as there are ids.
///
/// # Panics
/// As [`forward`].
pub fn add(weight: &Weight, ids: &[u32], scratch: &mut Tensor, y: &mut Tensor) {
    forward(weight, ids, scratch);
    elementwise::add(scratch, ids.len() * weight.cols(), y);
}

/// Adds row `t` of `d_y` (`[ids.len(), width]`) to row `ids[t]` of `d_weight` (`[vocab, width]`).
///
/// # Panics
/// As [`forward`].
pub fn backward(d_y: &Tensor, ids: &[u32], width: usize, d_weight: &mut Tensor) {
    elementwise::scatter_add_rows(d_y, ids, width, d_weight);
}
