//! The master copy of a matrix that is trained: f32 values on the device that computes.

use std::ops::Range;

use rayon::prelude::*;

use super::device::DeviceWeight;
use super::frozen::FrozenWeight;
use crate::tensor::{Device, Tensor};

/// A `[rows, cols]` matrix of f32 values in checkpoint order, which an optimizer may write.
#[derive(Debug)]
pub struct TrainedWeight {
    rows: usize,
    cols: usize,
    pub(super) values: Tensor,
}

impl TrainedWeight {
    /// Zeros on `device`.
    pub(super) fn zeros(device: Device, rows: usize, cols: usize) -> Self {
        TrainedWeight { rows, cols, values: Tensor::zeros(device, rows * cols) }
    }

    /// The values of `frozen`, on `device`. Of mapped bytes no page is held afterwards.
    pub(super) fn of_frozen(frozen: &FrozenWeight, device: Device) -> Self {
        const CHUNK: usize = 1 << 20;
        let len = frozen.rows() * frozen.cols();
        let mut values = Tensor::zeros(device, len);
        let mut chunk = vec![0.0; CHUNK.min(len)];
        for start in (0..len).step_by(CHUNK) {
            let range = start..(start + CHUNK).min(len);
            let chunk = &mut chunk[..range.len()];
            let piece = (chunk.len() / rayon::current_num_threads()).max(1 << 14);
            chunk.par_chunks_mut(piece).enumerate().for_each(|(i, out)| {
                let first = start + i * piece;
                frozen.decode_range(first..first + out.len(), out);
            });
            values.write(start, chunk);
        }
        frozen.release();
        TrainedWeight { rows: frozen.rows(), cols: frozen.cols(), values }
    }

    /// The values of `frozen`, where they are.
    pub(super) fn of_device(frozen: &DeviceWeight) -> Self {
        TrainedWeight { rows: frozen.rows(), cols: frozen.cols(), values: frozen.values(0..frozen.rows()) }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Copies the values `range`, counted in row-major order, to `out` on the host.
    pub fn read(&self, range: Range<usize>, out: &mut [f32]) {
        debug_assert_eq!(range.len(), out.len());
        self.values.read(range.start, out);
    }
}
