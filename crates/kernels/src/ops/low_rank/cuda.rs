//! Launches of `cuda.cu`: both gradients of a low-rank term that need no input, from one read of the gradient of its output.

use crate::gpu::launch::{THREADS, UNIT};
use crate::gpu::{Arg, Float, Launch, Region, count};

/// The sizes of [`gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientShape {
    /// Rows of the output.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Columns of `U`.
    pub rank: usize,
}

/// Ranks that kernels are compiled for, which take those up to theirs. Of larger ones the parts are more than what is read again.
const RANKS: [usize; 2] = [16, 32];

/// Threads of a block, the columns that it has, and the rows of a tile.
const GRADIENT_THREADS: u32 = 128;
const COLS: usize = 256;
const ROWS: usize = 64;

/// Blocks that a launch has about, whatever the device, so that results have the same bits on every one.
const BLOCKS: usize = 264;

/// Rows of a part, at least: each part writes its product.
const LEAST_PART_ROWS: usize = 256;

/// With fewer rows the parts' memory is not worth the time.
const LEAST_ROWS: usize = 1024;

impl GradientShape {
    /// Whether there is a kernel for this type and these sizes that is faster than two products: rows of all operands are whole units,
    /// and parts are written and read faster than the gradient of the output is read again.
    pub fn is_known(self, float: Float) -> bool {
        let GradientShape { rows, width, rank } = self;
        let units = [width, rank].iter().all(|len| len.is_multiple_of(UNIT as usize));
        let (parts, again) =
            (Float::F32.bytes(2 * self.workspace_values() as u64), float.bytes((rows * width) as u64));
        let is_small = 5 * parts <= 4 * again;
        let ranks = UNIT as usize..=RANKS[RANKS.len() - 1];
        float == Float::Bf16 && units && ranks.contains(&rank) && rows >= LEAST_ROWS && is_small
    }

    fn strips(self) -> usize {
        self.width.div_ceil(COLS)
    }

    /// The most parts that rows are cut into.
    fn most_parts(self) -> usize {
        (BLOCKS / self.strips()).clamp(1, self.rows.div_ceil(LEAST_PART_ROWS))
    }

    fn part_rows(self) -> usize {
        self.rows.div_ceil(self.most_parts()).next_multiple_of(ROWS)
    }

    fn parts(self) -> usize {
        self.rows.div_ceil(self.part_rows())
    }

    /// Values of the parts of `dU`.
    fn d_u_values(self) -> u64 {
        (self.strips() * self.rows * self.rank) as u64
    }

    /// Values of all parts, in f32, of so many rows or fewer.
    pub fn workspace_values(self) -> usize {
        self.strips() * self.rows * self.rank + self.most_parts() * self.rank * self.width
    }
}

/// The operands of [`gradients`] in bf16 but for `d_b_t`, which is f32. `u` and `d_u` have `stride` values from row to row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientOperands {
    /// `[rows, width]`.
    pub d_y: Region,
    /// `[rows, rank]`.
    pub u: Region,
    /// `[rank, width]`.
    pub b_t: Region,
    /// `[rows, rank]`.
    pub d_u: Region,
    /// Values from one row of `u` and `d_u` to the next.
    pub stride: usize,
    /// `[rank, width]`.
    pub d_b_t: Region,
}

impl GradientOperands {
    /// Whether rows of all begin at multiples of 16 bytes.
    pub fn are_aligned(self) -> bool {
        let GradientOperands { d_y, u, b_t, d_u, stride, d_b_t } = self;
        let regions = [d_y, u, b_t, d_u, d_b_t].iter().all(|region| region.offset.is_multiple_of(16));
        regions && stride.is_multiple_of(UNIT as usize)
    }
}

/// `d_u = scale d_y b_t^T` and `d_b_t += u^T d_y`, of a shape that [`is known`](GradientShape::is_known) and operands that
/// [`are aligned`](GradientOperands::are_aligned). `workspace` has [`GradientShape::workspace_values`].
pub fn gradients(
    operands: GradientOperands,
    shape: GradientShape,
    scale: f32,
    workspace: Region,
) -> [Launch; 2] {
    let GradientOperands { d_y, u, b_t, d_u, stride, d_b_t } = operands;
    let GradientShape { rows, width, rank } = shape;
    let (strips, parts) = (shape.strips(), shape.parts());
    let of_rank = Float::Bf16.bytes(((rows - 1) * stride + rank) as u64);
    let factor = (rank * width) as u64;
    let d_u_parts = workspace.words(shape.d_u_values());
    let d_b_parts = workspace.part(d_u_parts.bytes, Float::F32.bytes(parts as u64 * factor));
    let args = vec![
        Arg::In(d_y.floats(Float::Bf16, (rows * width) as u64)),
        Arg::U32(count(rows)),
        Arg::U32(count(width)),
        Arg::In(u.first(of_rank)),
        Arg::U32(count(stride)),
        Arg::In(b_t.floats(Float::Bf16, factor)),
        Arg::U32(count(rank)),
        Arg::U32(count(shape.part_rows())),
        Arg::Out(d_u_parts),
        Arg::Out(d_b_parts),
    ];
    let of_kernel = RANKS.into_iter().find(|most| rank <= *most).expect("a rank that a kernel takes");
    let entry = format!("low_rank_gradients<{of_kernel}>");
    let products = Launch {
        grid: [count(strips), count(parts), 1],
        shared_bytes: shared_bytes(of_kernel),
        ..Launch::new(entry, strips as u64, GRADIENT_THREADS, args)
    };
    let args = vec![
        Arg::In(d_u_parts),
        Arg::U32(count(strips)),
        Arg::U32(count(rows)),
        Arg::U32(count(rank)),
        Arg::F32(scale),
        Arg::Out(d_u.first(of_rank)),
        Arg::U32(count(stride)),
        Arg::In(d_b_parts),
        Arg::U32(count(parts)),
        Arg::U32(count(width)),
        Arg::Update(d_b_t.words(factor)),
    ];
    let units = (rows * rank) as u64 + factor;
    let sums =
        Launch::new("sum_low_rank_gradients", units.div_ceil(u64::from(THREADS * UNIT)), THREADS, args);
    [products, sums]
}

/// Shared memory of a block of the kernel for ranks up to `rank`: two tiles with their rows of `U`, and the factor. A row is an odd
/// number of units.
fn shared_bytes(rank: usize) -> u32 {
    let (row, of_rank) = (COLS / 8 + 1, rank / 8 + 1);
    count(16 * (2 * ROWS * (row + of_rank) + rank * row))
}
