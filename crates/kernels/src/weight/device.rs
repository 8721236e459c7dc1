//! A frozen matrix in the memory of a device, which decodes it there.

use std::ops::Range;

use super::frozen::{FrozenWeight, RowOrder, Storage};
use crate::gpu::{Float, Gpu, Region, count};
use crate::quant::cuda::{FewRows, Rows, Tile};
use crate::quant::on_gpu::OnGpu;
use crate::tensor::{Device, Tensor};

/// A `[rows, cols]` matrix in the memory of a GPU. The host has no values of it but those it asks for.
#[derive(Debug)]
pub struct DeviceWeight {
    gpu: Gpu,
    rows: usize,
    cols: usize,
    row_order: RowOrder,
    data: OnGpu,
}

impl DeviceWeight {
    /// A copy of `weight`. Of mapped bytes no page is held afterwards.
    pub(super) fn copied(weight: &FrozenWeight, gpu: Gpu) -> Self {
        let (rows, cols, row_order) = (weight.rows(), weight.cols(), weight.row_order);
        let (data, row_order) = match &weight.storage {
            Storage::Blocks { format, data } => {
                let all = weight.bytes_of_all_rows(data);
                let moved = OnGpu::blocks(gpu, (rows, cols), *format, row_order, &all);
                data.release();
                moved
            }
            Storage::FourBit(data) => (OnGpu::four_bit(gpu, data), row_order),
            Storage::Int8(data) => (OnGpu::int8(gpu, data), row_order),
        };
        DeviceWeight { gpu, rows, cols, row_order, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes as stored there, without tables.
    pub fn stored_bytes(&self) -> usize {
        self.data.stored_bytes()
    }

    /// All values, if they are of type `float` and nothing has to be decoded.
    pub(super) fn region(&self, float: Float) -> Option<Region> {
        match self.row_order {
            RowOrder::Stored => self.data.values(float),
            RowOrder::RotaryPairs { .. } => None,
        }
    }

    /// Decodes a tile to `out`; the order of its rows is the matrix's.
    pub(super) fn decode(&self, tile: Tile, float: Float, out: Region) {
        self.data.decode(self.gpu, Tile { order: self.row_order, ..tile }, float, out);
    }

    /// Multiplies few rows with the matrix.
    pub(super) fn multiply(&self, float: Float, few: FewRows) {
        let shape = (count(self.rows), count(self.cols));
        self.data.multiply(self.gpu, float, FewRows { order: self.row_order, shape, ..few });
    }

    /// The values of the rows `rows` in f32, where they are.
    pub(super) fn values(&self, rows: Range<usize>) -> Tensor {
        let values = Tensor::zeros(Device::Cuda(self.gpu), rows.len() * self.cols);
        let from = Rows::From(count(rows.start));
        let tile = Tile::of_rows(from, self.row_order, count(rows.len()), count(self.cols));
        self.decode(tile, Float::F32, values.region());
        values
    }

    /// Copies the values `range`, counted in row-major checkpoint order, to `out` on the host.
    pub fn read(&self, range: Range<usize>, out: &mut [f32]) {
        debug_assert_eq!(range.len(), out.len());
        if range.is_empty() {
            return;
        }
        let rows = range.start / self.cols..range.end.div_ceil(self.cols);
        self.values(rows.clone()).read(range.start - rows.start * self.cols, out);
    }
}
