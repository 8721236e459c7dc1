//! Launches of `cuda.cu`: rows of a stored matrix, or some columns of them, into a dense tile, eight values a thread. The rows are
//! those of ids (an embedding), or neighbours (the operand of a product). Or a product of few rows with a stored matrix, a warp a row of it.

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

/// A tile of a matrix: which rows, how they are stored, and which of their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The rows.
    pub rows: Rows,
    /// How they are found in the stored matrix.
    pub order: RowOrder,
    /// Number of rows.
    pub count: u32,
    /// Values of a stored row.
    pub width: u32,
    /// The first value of a row that is decoded, a multiple of [`UNIT`].
    pub first_col: u32,
    /// Values of a row that are decoded.
    pub cols: u32,
}

/// The most rows of [`FewRows`].
pub const FEW_ROWS: usize = 8;

/// A product `y = base + scale x . w^T` of few rows with a stored matrix `w`, `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FewRows {
    /// How the rows of `w` are found.
    pub order: RowOrder,
    /// Its shape.
    pub shape: (u32, u32),
    /// `[count, cols]`, with so many values from row to row.
    pub x: (Region, u32),
    /// Rows of `x`, at most [`FEW_ROWS`].
    pub count: u32,
    /// The summand `base`, laid out as `y`; it may be `y` itself.
    pub base: Option<Region>,
    /// What the product is multiplied by.
    pub scale: f32,
    /// `[count, rows]`, with so many values from row to row.
    pub y: (Region, u32),
}

impl FewRows {
    /// A launch of `kernel`, whose arguments begin with `stored`.
    ///
    /// # Panics
    /// When there are more rows.
    fn launch(self, kernel: String, mut stored: Vec<Arg>) -> Launch {
        let FewRows { order, shape: (rows, cols), x, count, base, scale, y } = self;
        assert!(count as usize <= FEW_ROWS, "{count} rows are not few");
        let adds = base == Some(y.0);
        stored.extend([Arg::U32(head_dim(order)), Arg::U32(rows), Arg::U32(cols)]);
        stored.extend([Arg::In(x.0), Arg::U32(x.1), Arg::U32(count)]);
        stored.push(base.filter(|_| !adds).map_or(Arg::Null, Arg::In));
        stored.push(Arg::F32(scale));
        stored.extend([
            if adds { Arg::Update(y.0) } else { Arg::Out(y.0) },
            Arg::U32(y.1),
            Arg::U32(adds.into()),
        ]);
        Launch::over_rows(kernel, rows, stored)
    }
}

/// `head_dim` of kernels: 0 for rows as they are stored.
fn head_dim(order: RowOrder) -> u32 {
    match order {
        RowOrder::Stored => 0,
        RowOrder::RotaryPairs { head_dim } => u32::try_from(head_dim).expect("a head has fewer rows"),
    }
}

impl Tile {
    /// Whole rows of `width` values.
    pub fn of_rows(rows: Rows, order: RowOrder, count: u32, width: u32) -> Self {
        Tile { rows, order, count, width, first_col: 0, cols: width }
    }

    /// A launch of `kernel`, whose arguments begin with `stored`.
    ///
    /// # Panics
    /// When columns begin within a unit, or are not there.
    fn launch(self, kernel: String, float: Float, mut stored: Vec<Arg>, out: Region) -> Launch {
        let Tile { width, first_col, cols, .. } = self;
        let is_there =
            first_col.is_multiple_of(UNIT) && u64::from(first_col) + u64::from(cols) <= u64::from(width);
        assert!(is_there, "{cols} columns from {first_col} on of rows of {width}");
        let (ids, first) = match self.rows {
            Rows::From(first) => (Arg::Null, first),
            Rows::Ids(ids) => (Arg::In(ids.words(self.count.into())), 0),
        };
        let head_dim = head_dim(self.order);
        let values = u64::from(self.count) * u64::from(cols);
        stored.extend([ids, Arg::U32(first), Arg::U32(head_dim), Arg::U32(self.count)]);
        stored.extend([width, first_col, cols].map(Arg::U32));
        stored.push(Arg::Out(out.floats(float, values)));
        Launch::over_items(kernel, u64::from(self.count) * u64::from(cols.div_ceil(UNIT)), stored)
    }
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

/// A stored matrix in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// Rows of whole blocks, by their bytes.
    Blocks(Format, Region),
    /// NF4 or FP4.
    FourBit(FourBitRegions),
    /// Signed bytes with row scales.
    Int8 {
        /// The bytes.
        codes: Region,
        /// f32, one a row.
        absmax: Region,
    },
}

impl Stored {
    /// Decodes the rows of a tile to `out`.
    pub fn decode(self, float: Float, tile: Tile, out: Region) -> Launch {
        let (kernel, stored) = self.kernel("decode", float);
        tile.launch(kernel, float, stored, out)
    }

    /// Multiplies few rows of type `float` with the matrix.
    pub fn multiply(self, float: Float, few: FewRows) -> Launch {
        let (kernel, stored) = self.kernel("multiply", float);
        few.launch(kernel, stored)
    }

    /// The kernel that does `what`, and the arguments that it begins with.
    fn kernel(self, what: &str, float: Float) -> (String, Vec<Arg>) {
        let to = float.name();
        match self {
            Stored::Blocks(format, data) => {
                let kernel = match format {
                    Format::F32 => format!("floats<float, {to}>"),
                    Format::F16 => format!("floats<half_bits, {to}>"),
                    Format::BF16 => format!("floats<bf16, {to}>"),
                    Format::Q4_0
                    | Format::Q4_1
                    | Format::Q5_0
                    | Format::Q5_1
                    | Format::Q8_0
                    | Format::Q4K
                    | Format::Q5K
                    | Format::Q6K => format!("blocks<{}, {to}>", format.name()),
                };
                (format!("{what}_{kernel}"), vec![Arg::In(data)])
            }
            Stored::Int8 { codes, absmax } => {
                (format!("{what}_int8<{to}>"), vec![Arg::In(codes), Arg::In(absmax)])
            }
            Stored::FourBit(FourBitRegions { codes, table, scales, block_len }) => {
                assert!(block_len.is_power_of_two(), "a block of {block_len} values");
                let mut stored = vec![Arg::In(codes), Arg::In(table.words(16))];
                let kernel = match scales {
                    Scales::Plain(absmax) => {
                        stored.push(Arg::In(absmax));
                        "four_bit_plain"
                    }
                    Scales::Double { codes, map, nested, offset } => {
                        let map = Arg::In(map.words(256));
                        stored.extend([Arg::In(codes), map, Arg::In(nested), Arg::F32(offset)]);
                        "four_bit_double"
                    }
                };
                stored.push(Arg::U32(block_len.trailing_zeros()));
                (format!("{what}_{kernel}<{to}>"), stored)
            }
        }
    }
}
