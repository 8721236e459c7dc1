//! Launches of `cuda.cu`, elementwise but for [`backward_product`].

use super::Activation;
use crate::gpu::{Arg, Float, Launch, Region, count};
use crate::ops::elementwise::cuda::add_parts;

fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "Silu",
        Activation::GeluTanh => "GeluTanh",
        Activation::Gelu => "Gelu",
        Activation::Relu2 => "Relu2",
    }
}

fn entry(kernel: &str, float: Float, activation: Activation) -> String {
    format!("{kernel}<{}, {}>", float.name(), name(activation))
}

/// [`super::forward`] on a device.
pub fn forward(
    float: Float,
    activation: Activation,
    gate: Region,
    up: Region,
    len: u64,
    y: Region,
) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(gate)), Arg::In(part(up)), Arg::U64(len), Arg::Out(part(y))];
    Launch::over_values(entry("gate_forward", float, activation), len, args)
}

/// [`super::backward_in_place`] on a device.
pub fn backward_in_place(
    float: Float,
    activation: Activation,
    d_y: Region,
    gate: Region,
    up: Region,
    len: u64,
    output_again: bool,
) -> Launch {
    let part = |region: Region| Arg::Update(region.floats(float, len));
    let args = vec![part(d_y), part(gate), part(up), Arg::U64(len), Arg::U32(output_again.into())];
    Launch::over_values(entry("gate_backward", float, activation), len, args)
}

/// [`super::plain_forward`] on a device.
pub fn plain_forward(float: Float, activation: Activation, x: Region, len: u64, y: Region) -> Launch {
    let part = |region: Region| region.floats(float, len);
    let args = vec![Arg::In(part(x)), Arg::U64(len), Arg::Out(part(y))];
    Launch::over_values(entry("activation_forward", float, activation), len, args)
}

/// [`super::plain_backward_in_place`] on a device.
pub fn plain_backward_in_place(
    float: Float,
    activation: Activation,
    d_y: Region,
    x: Region,
    len: u64,
    output_again: bool,
) -> Launch {
    let part = |region: Region| Arg::Update(region.floats(float, len));
    let args = vec![part(d_y), part(x), Arg::U64(len), Arg::U32(output_again.into())];
    Launch::over_values(entry("activation_backward", float, activation), len, args)
}

/// The sizes of [`backward_product`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductShape {
    /// Rows of the gate.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Rows of the product.
    pub rank: usize,
}

/// Ranks that kernels are compiled for, which take those up to theirs: sums of more do not fit registers.
const RANKS: [usize; 3] = [16, 32, 64];

/// Threads of a block, and the columns that it has.
const PRODUCT_THREADS: u32 = 128;
const PRODUCT_COLS: usize = 256;

/// Rows that a warp of the product goes down at a time.
const PRODUCT_ROWS: usize = 16;

/// Rows of a part, at least: where there are few, their products would take more memory than what is multiplied.
const LEAST_PART_ROWS: usize = 64;

impl ProductShape {
    /// Whether there is a kernel for this type and these sizes: rows of all operands begin at multiples of 16 bytes.
    pub fn is_known(self, float: Float) -> bool {
        let ProductShape { width, rank, .. } = self;
        let whole = width.is_multiple_of(8) && rank.is_multiple_of(8);
        float == Float::Bf16 && whole && (8..=RANKS[RANKS.len() - 1]).contains(&rank)
    }

    /// Rows of a part: by the number of rows alone, so that results have the same bits on every device. More parts occupy more
    /// of it, and are more to write.
    fn part_rows(self) -> usize {
        let parts = (self.rows / 1024).clamp(4, 16);
        self.rows.div_ceil(parts).next_multiple_of(PRODUCT_ROWS).max(LEAST_PART_ROWS)
    }

    fn parts(self) -> usize {
        self.rows.div_ceil(self.part_rows())
    }

    /// Bytes of the products of all parts.
    pub fn workspace_bytes(self) -> u64 {
        Float::F32.bytes((self.parts() * self.rank * self.width) as u64)
    }
}

/// [`super::backward_and_product`] on a device, of a shape that [`is known`](ProductShape::is_known), all in bf16 but for
/// `product`. `workspace` has [`ProductShape::workspace_bytes`].
pub fn backward_product(
    activation: Activation,
    [d_y, gate, up, left]: [Region; 4],
    shape: ProductShape,
    workspace: Region,
    product: Region,
) -> [Launch; 2] {
    let ProductShape { rows, width, rank } = shape;
    let len = (rows * width) as u64;
    let part = |region: Region| region.floats(Float::Bf16, len);
    let workspace = workspace.first(shape.workspace_bytes());
    let args = vec![
        Arg::In(part(d_y)),
        Arg::Update(part(gate)),
        Arg::Update(part(up)),
        Arg::In(left.floats(Float::Bf16, (rows * rank) as u64)),
        Arg::U32(count(rows)),
        Arg::U32(count(width)),
        Arg::U32(count(rank)),
        Arg::U32(count(shape.part_rows())),
        Arg::Out(workspace),
    ];
    let of_kernel = RANKS.into_iter().find(|most| rank <= *most).expect("a rank that a kernel takes");
    let entry = format!("gate_backward_product<{}, {of_kernel}>", name(activation));
    let columns = Launch::new(entry, width.div_ceil(PRODUCT_COLS) as u64, PRODUCT_THREADS, args);
    let parts = count(shape.parts());
    let grid = [columns.grid[0], parts, 1];
    [Launch { grid, ..columns }, add_parts(workspace, parts, (rank * width) as u64, product)]
}
