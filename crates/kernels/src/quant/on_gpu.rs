//! Frozen matrices in the memory of a device.

use super::cuda::{FewRows, FourBitRegions, Scales, Stored, Tile};
use super::four_bit::{Absmax, FourBit};
use super::int8::Int8;
use super::{Format, cuda::Rows};
use crate::bytes::SharedBytes;
use crate::gpu::{Buffer, Float, Gpu, Region, count};
use crate::weight::RowOrder;

/// A stored matrix, as [`crate::FrozenWeight`] has it on the host.
#[derive(Debug)]
pub(crate) enum OnGpu {
    Blocks { format: Format, data: Buffer },
    FourBit { codes: Buffer, table: Buffer, scales: GpuScales, block_len: u32 },
    Int8 { codes: Buffer, absmax: Buffer },
}

/// The scales of 4-bit blocks.
#[derive(Debug)]
pub(crate) enum GpuScales {
    Plain(Buffer),
    Double { codes: Buffer, map: Buffer, nested: Buffer, offset: f32 },
}

/// The format in which a device that computes with `float` holds a matrix of floats: none is wider than what is computed
/// with, so that it is rounded once and not in every product.
pub(crate) fn held_format(format: Format, float: Float) -> Format {
    match (format, float) {
        (Format::F32 | Format::F16, Float::Bf16) => Format::BF16,
        _ => format,
    }
}

impl OnGpu {
    /// A matrix of whole blocks, and the order its rows are in then: a matrix that is held in another format than it was
    /// stored in is sorted on the way.
    pub(crate) fn blocks(
        gpu: Gpu,
        (rows, cols): (usize, usize),
        format: Format,
        order: RowOrder,
        data: &SharedBytes,
    ) -> (Self, RowOrder) {
        let stored = gpu.buffer_of(data.as_slice());
        let held = held_format(format, gpu.float());
        let data = if held == format {
            return (OnGpu::Blocks { format, data: stored }, order);
        } else {
            gpu.buffer((rows * cols * held.block_bytes()) as u64)
        };
        let tile = Tile::of_rows(Rows::From(0), order, count(rows), count(cols));
        gpu.run(&Stored::Blocks(format, stored.region()).decode(gpu.float(), tile, data.region()));
        (OnGpu::Blocks { format: held, data }, RowOrder::Stored)
    }

    pub(crate) fn four_bit(gpu: Gpu, data: &FourBit) -> Self {
        let bytes = |bytes: &SharedBytes| gpu.buffer_of(bytes.as_slice());
        let scales = match &data.absmax {
            Absmax::Plain(scales) => GpuScales::Plain(bytes(scales)),
            Absmax::Double { codes, map, nested, offset } => GpuScales::Double {
                codes: bytes(codes),
                map: gpu.buffer_of_floats(&map[..]),
                nested: bytes(nested),
                offset: *offset,
            },
        };
        let table = gpu.buffer_of_floats(data.code.table());
        OnGpu::FourBit { codes: bytes(&data.codes), table, scales, block_len: count(data.block_len) }
    }

    pub(crate) fn int8(gpu: Gpu, data: &Int8) -> Self {
        OnGpu::Int8 {
            codes: gpu.buffer_of(data.codes.as_slice()),
            absmax: gpu.buffer_of(data.absmax.as_slice()),
        }
    }

    /// Bytes as stored, without tables.
    pub(crate) fn stored_bytes(&self) -> usize {
        let bytes = |buffer: &Buffer| buffer.region().bytes as usize;
        match self {
            OnGpu::Blocks { data, .. } => bytes(data),
            OnGpu::FourBit { codes, scales: GpuScales::Plain(scales), .. } => bytes(codes) + bytes(scales),
            OnGpu::FourBit { codes, scales: GpuScales::Double { codes: scales, nested, .. }, .. } => {
                bytes(codes) + bytes(scales) + bytes(nested) + 4
            }
            OnGpu::Int8 { codes, absmax } => bytes(codes) + bytes(absmax),
        }
    }

    /// All values, if they are of type `float` and nothing has to be decoded.
    pub(crate) fn values(&self, float: Float) -> Option<Region> {
        match (self, float) {
            (OnGpu::Blocks { format: Format::F32, data }, Float::F32)
            | (OnGpu::Blocks { format: Format::BF16, data }, Float::Bf16) => Some(data.region()),
            (OnGpu::Blocks { .. } | OnGpu::FourBit { .. } | OnGpu::Int8 { .. }, _) => None,
        }
    }

    /// Decodes a tile to `out`.
    pub(crate) fn decode(&self, gpu: Gpu, tile: Tile, float: Float, out: Region) {
        gpu.run(&self.stored().decode(float, tile, out));
    }

    /// Multiplies few rows with the matrix.
    pub(crate) fn multiply(&self, gpu: Gpu, float: Float, few: FewRows) {
        gpu.run(&self.stored().multiply(float, few));
    }

    fn stored(&self) -> Stored {
        match self {
            OnGpu::Blocks { format, data } => Stored::Blocks(*format, data.region()),
            OnGpu::FourBit { codes, table, scales, block_len } => {
                let scales = match scales {
                    GpuScales::Plain(absmax) => Scales::Plain(absmax.region()),
                    GpuScales::Double { codes, map, nested, offset } => Scales::Double {
                        codes: codes.region(),
                        map: map.region(),
                        nested: nested.region(),
                        offset: *offset,
                    },
                };
                let (codes, table, block_len) = (codes.region(), table.region(), *block_len);
                Stored::FourBit(FourBitRegions { codes, table, scales, block_len })
            }
            OnGpu::Int8 { codes, absmax } => Stored::Int8 { codes: codes.region(), absmax: absmax.region() },
        }
    }
}
