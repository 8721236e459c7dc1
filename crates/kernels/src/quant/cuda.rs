//! Launches of `cuda.cu`: rows of a stored matrix into a dense tile, eight values a thread. The rows are those of ids (an
//! embedding), or neighbours (the operand of a product).

use super::Format;
use crate::gpu::launch::UNIT;
use crate::gpu::{Arg, Float, Launch, Region};
use crate::weight::RowOrder;

/// Which rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Neighbours from a first one on.
    From(u32),
    /// Of u32 ids in device memory; every one is below the number of rows.
    Ids(Region),
}

/// A tile of a matrix: which rows, how they are stored, and the tile's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The rows.
    pub rows: Rows,
    /// How they are found in the stored matrix.
    pub order: RowOrder,
    /// Number of rows.
    pub count: u32,
    /// Values of a row, all of which are decoded.
    pub cols: u32,
}

impl Tile {
    /// A launch of `kernel`, whose arguments begin with `stored`.
    fn launch(self, kernel: String, float: Float, mut stored: Vec<Arg>, out: Region) -> Launch {
        let (ids, first) = match self.rows {
            Rows::From(first) => (Arg::Null, first),
            Rows::Ids(ids) => (Arg::In(ids.words(self.count.into())), 0),
        };
        let head_dim = match self.order {
            RowOrder::Stored => 0,
            RowOrder::RotaryPairs { head_dim } => u32::try_from(head_dim).expect("a head has fewer rows"),
        };
        let values = u64::from(self.count) * u64::from(self.cols);
        stored.extend([ids, Arg::U32(first), Arg::U32(head_dim), Arg::U32(self.count), Arg::U32(self.cols)]);
        stored.push(Arg::Out(out.floats(float, values)));
        Launch::over_items(kernel, u64::from(self.count) * u64::from(self.cols.div_ceil(UNIT)), stored)
    }
}

/// A matrix of rows of whole blocks; `data` are its bytes.
pub fn decode_blocks(format: Format, float: Float, data: Region, tile: Tile, out: Region) -> Launch {
    let to = float.name();
    let kernel = match format {
        Format::F32 => format!("decode_floats<float, {to}>"),
        Format::F16 => format!("decode_floats<half_bits, {to}>"),
        Format::BF16 => format!("decode_floats<bf16, {to}>"),
        Format::Q4_0
        | Format::Q4_1
        | Format::Q5_0
        | Format::Q5_1
        | Format::Q8_0
        | Format::Q4K
        | Format::Q5K
        | Format::Q6K => format!("decode_blocks<{}, {to}>", format.name()),
    };
    tile.launch(kernel, float, vec![Arg::In(data)], out)
}

/// A matrix of signed bytes with row scales.
pub fn decode_int8(float: Float, codes: Region, absmax: Region, tile: Tile, out: Region) -> Launch {
    tile.launch(format!("decode_int8<{}>", float.name()), float, vec![Arg::In(codes), Arg::In(absmax)], out)
}

/// The scales of 4-bit blocks in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales {
    /// f32, one a block.
    Plain(Region),
    /// Double quantisation.
    Double {
        /// One byte a block.
        codes: Region,
        /// 256 f32.
        map: Region,
        /// f32, one for 256 blocks.
        nested: Region,
        /// Added to each.
        offset: f32,
    },
}

/// A matrix in NF4 or FP4 in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FourBitRegions {
    /// Two values a byte.
    pub codes: Region,
    /// What the codes stand for: 16 f32.
    pub table: Region,
    /// The scales of the blocks.
    pub scales: Scales,
    /// Values of a block, a power of two.
    pub block_len: u32,
}

/// A matrix in NF4 or FP4.
pub fn decode_four_bit(float: Float, data: FourBitRegions, tile: Tile, out: Region) -> Launch {
    let FourBitRegions { codes, table, scales, block_len } = data;
    assert!(block_len.is_power_of_two(), "a block of {block_len} values");
    let mut stored = vec![Arg::In(codes), Arg::In(table.words(16))];
    let kernel = match scales {
        Scales::Plain(absmax) => {
            stored.push(Arg::In(absmax));
            "decode_four_bit_plain"
        }
        Scales::Double { codes, map, nested, offset } => {
            stored.extend([Arg::In(codes), Arg::In(map.words(256)), Arg::In(nested), Arg::F32(offset)]);
            "decode_four_bit_double"
        }
    };
    stored.push(Arg::U32(block_len.trailing_zeros()));
    tile.launch(format!("{kernel}<{}>", float.name()), float, stored, out)
}
