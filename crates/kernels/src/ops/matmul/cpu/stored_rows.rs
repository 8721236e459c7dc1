//! Rows of the right operand that are read as they are stored, block by block, and decoded in registers. To write decoded
//! values and read them again would take longer than memory takes to give the stored ones. Every tile of left rows decodes them
//! anew, so that this is for few left rows.
//!
//! Values take the roundings of their decoders, and sums their order ([`super::few`]), so the bits are those of decoded rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::RightCpu;
use super::few::{MOST_TILE_LEFT, Out, RIGHT_ROWS, RowGroups, dot_all, most_left};
use super::simd::{Cache, Simd, prefetch};
use crate::quant::four_bit::FourBit;
use crate::quant::int8::Int8;
use crate::quant::registers::{Reader, Registers, formats};
use crate::quant::{Format, LINE_BYTES};
use crate::weight::{StoredAs, StoredRowsOf};

/// f16 and bf16 have no blocks: so many of their values are read together.
const VALUES_TOGETHER: usize = 32;
/// Codes that lie apart from their scales and are read together.
const CODES_TOGETHER: usize = 64;

/// A block of the sum of a right operand whose columns are stored rows.
pub(super) struct StoredRows<'a> {
    rows: StoredRowsOf<'a>,
    k: Range<usize>,
}

impl<'a> StoredRows<'a> {
    /// None where left rows are so many that values are better decoded once, where the format is not decoded here, and where `k` or a
    /// row cuts a block.
    pub(super) fn of<S: Simd>(right: RightCpu<'a>, left_rows: usize, k: &Range<usize>) -> Option<Self> {
        let RightCpu::WeightTransposed(weight) = right else { return None };
        let rows = weight.frozen()?.stored_rows_of(k)?;
        // A second tile would decode codes again, which takes longer than writing their values once and reading them.
        let of_one_tile = const { most_left::<S>(true) };
        let (together, most_rows) = match rows.storage {
            StoredAs::Blocks(Format::F32) => return None,
            // Widening a value takes no longer than reading it.
            StoredAs::Blocks(Format::F16 | Format::BF16) => (VALUES_TOGETHER, MOST_TILE_LEFT),
            StoredAs::Blocks(_) => (VALUES_TOGETHER, of_one_tile),
            // Codes that are read together have one scale.
            StoredAs::FourBit(data) if data.block_len < CODES_TOGETHER => return None,
            StoredAs::FourBit(data) => (data.block_len, of_one_tile),
            StoredAs::Int8(_) => (CODES_TOGETHER, of_one_tile),
        };
        let cut = [rows.width, k.start, k.end].iter().any(|at| !at.is_multiple_of(together));
        (left_rows <= most_rows && !cut).then(|| StoredRows { rows, k: k.clone() })
    }

    /// Multiplies all left rows with the rows, for output columns `cols` of rows from `first` on. `scales` is working memory.
    ///
    /// # Safety
    /// The processor has `S`, the output has the rows and columns, no other thread touches them, and every left row has as many
    /// values as the block of the sum.
    #[inline(always)]
    pub(super) unsafe fn dot<S: Simd + Registers<V = <S as Simd>::V>>(
        &self,
        to: &Out,
        first: usize,
        left: &[*const f32],
        cols: Range<usize>,
        scales: &mut [f32],
    ) {
        let StoredRows { rows, k } = self;
        for start in cols.clone().step_by(RIGHT_ROWS) {
            let n = start..(start + RIGHT_ROWS).min(cols.end);
            // SAFETY: by the caller; every right row has whole blocks of `k` values, see `StoredRows::of`.
            unsafe {
                match rows.storage {
                    StoredAs::Blocks(format) => {
                        dot_blocks::<S>(to, first, left, (rows, format), n, k.len(), scales);
                    }
                    StoredAs::FourBit(data) => {
                        let codes = four_bit_rows((rows, data), &n, k, scales);
                        let right = std::array::from_fn(|i| &raw const codes[i]);
                        dot_all::<S, FourBitCodes>(to, first, left, &right, n, k.len());
                    }
                    StoredAs::Int8(data) => {
                        let codes = int8_rows((rows, data), &n);
                        let right = std::array::from_fn(|i| &raw const codes[i]);
                        dot_all::<S, SignedBytes>(to, first, left, &right, n, k.len());
                    }
                }
            }
        }
    }
}

/// Row `i` of rows `n`, or the last in the place of those that are not.
fn row_at(n: &Range<usize>, i: usize) -> usize {
    (n.start + i).min(n.end - 1)
}

/// As [`StoredRows::dot`], of some rows of blocks.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dot_blocks<S: Simd + Registers<V = <S as Simd>::V>>(
    to: &Out,
    first: usize,
    left: &[*const f32],
    (rows, format): (&StoredRowsOf<'_>, Format),
    n: Range<usize>,
    k: usize,
    scales: &mut [f32],
) {
    macro_rules! dot {
        ($reader:ty) => {{
            let rows = rows_of_blocks::<S, $reader>(rows, &n, scales);
            let right = std::array::from_fn(|i| &raw const rows[i]);
            dot_all::<S, Blocks<$reader>>(to, first, left, &right, n, k);
        }};
    }
    // SAFETY: by the caller.
    unsafe {
        match format {
            Format::F32 => unreachable!("values of f32 need no decoding"),
            Format::F16 => dot!(formats::F16),
            Format::BF16 => dot!(formats::BF16),
            Format::Q4_0 => dot!(formats::Q4_0),
            Format::Q4_1 => dot!(formats::Q4_1),
            Format::Q5_0 => dot!(formats::Q5_0),
            Format::Q5_1 => dot!(formats::Q5_1),
            Format::Q8_0 => dot!(formats::Q8_0),
            Format::Q4K => dot!(formats::Q4K),
            Format::Q5K => dot!(formats::Q5K),
            Format::Q6K => dot!(formats::Q6K),
        }
    }
}

/// A row of blocks over a block of the sum.
#[derive(Clone, Copy)]
struct Row {
    blocks: *const u8,
    /// Room for the scales of the block that is being read.
    scales: *mut f32,
    /// From the blocks to those of the row that is stored [`RIGHT_ROWS`] later.
    ahead: usize,
}

/// Rows `n`; `scales` is working memory of theirs.
#[inline(always)]
fn rows_of_blocks<R: Registers, F: Reader<R>>(
    stored: &StoredRowsOf<'_>,
    n: &Range<usize>,
    scales: &mut [f32],
) -> [Row; RIGHT_ROWS] {
    let scales = scales[..RIGHT_ROWS * F::SCALES].as_mut_ptr();
    let ahead = RIGHT_ROWS * stored.row_bytes;
    let mut rows = [Row { blocks: std::ptr::null(), scales, ahead }; RIGHT_ROWS];
    for (i, row) in rows.iter_mut().enumerate() {
        row.blocks = stored.row(row_at(n, i)).as_ptr();
        row.scales = scales.wrapping_add(i * F::SCALES);
    }
    rows
}

/// Blocks that `F` reads, a group of their values at a time.
struct Blocks<F>(PhantomData<F>);

impl<S: Simd + Registers<V = <S as Simd>::V>, F: Reader<S>> RowGroups<S> for Blocks<F> {
    type Bits = Row;
    type Shared = F::Shared;
    const VALUES: usize = F::GROUP;
    /// Values of 16 bits share nothing, and take one instruction.
    const IS_DECODED: bool = size_of::<F::Shared>() > 0;

    #[inline(always)]
    unsafe fn shared(row: *const Row, at: usize) -> F::Shared {
        let (block, group) = (at / F::LEN, at % F::LEN / F::GROUP);
        // SAFETY: by the caller.
        unsafe {
            const { assert!(VALUES_TOGETHER.is_multiple_of(F::LEN) || F::LEN.is_multiple_of(VALUES_TOGETHER)) };
            let row = &*row;
            ask_ahead(row.blocks, at * F::BYTES / F::LEN + row.ahead, F::BYTES * F::GROUP / F::LEN);
            let blocks = row.blocks.add(block * F::BYTES);
            if F::SCALES > 0 && group == 0 {
                let scales = std::slice::from_raw_parts_mut(row.scales, F::SCALES);
                F::scales(std::slice::from_raw_parts(blocks, F::BYTES), scales);
            }
            F::shared(blocks, row.scales, group)
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const Row, at: usize, shared: F::Shared, part: usize) -> <S as Simd>::V {
        let (block, group) = (at / F::LEN, at % F::LEN / F::GROUP);
        // SAFETY: by the caller.
        unsafe {
            let row = &*row;
            F::values(row.blocks.add(block * F::BYTES), row.scales, group, shared, part)
        }
    }
}

/// Asks for `bytes` bytes that lie `at` bytes behind `from`.
#[inline(always)]
fn ask_ahead(from: *const u8, at: usize, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE_BYTES) {
        prefetch(from.wrapping_add(at + line * LINE_BYTES), Cache::First);
    }
}

/// A row of four-bit codes, and its scales, over a block of the sum.
#[derive(Clone, Copy)]
struct FourBitRow {
    codes: *const u8,
    scales: *const f32,
    /// Values of a scale, as a power of two.
    block_bits: u32,
    /// The values of the sixteen codes.
    table: *const f32,
    /// From the codes to those of the row that is stored [`RIGHT_ROWS`] later.
    ahead: usize,
}

/// Rows `n` over `k`, with their scales decoded to `scales`.
#[inline(always)]
fn four_bit_rows(
    (stored, data): (&StoredRowsOf<'_>, &FourBit),
    n: &Range<usize>,
    k: &Range<usize>,
    scales: &mut [f32],
) -> [FourBitRow; RIGHT_ROWS] {
    let (scale, blocks) = (data.scales(), k.len() / data.block_len);
    let mut rows = [FourBitRow {
        codes: std::ptr::null(),
        scales: std::ptr::null(),
        block_bits: data.block_len.trailing_zeros(),
        table: data.code.table().as_ptr(),
        ahead: RIGHT_ROWS * stored.row_bytes,
    }; RIGHT_ROWS];
    for (i, (to, scales)) in rows.iter_mut().zip(scales.chunks_exact_mut(blocks)).enumerate() {
        let row = row_at(n, i);
        let first = (stored.place(row) * stored.width + k.start) / data.block_len;
        scales.iter_mut().enumerate().for_each(|(block, to)| *to = scale(first + block));
        (to.codes, to.scales) = (stored.row(row).as_ptr(), scales.as_ptr());
    }
    rows
}

/// A row of signed bytes over a block of the sum.
#[derive(Clone, Copy)]
struct Int8Row {
    codes: *const u8,
    absmax: f32,
    /// As in [`FourBitRow`].
    ahead: usize,
}

/// Rows `n`.
#[inline(always)]
fn int8_rows((stored, data): (&StoredRowsOf<'_>, &Int8), n: &Range<usize>) -> [Int8Row; RIGHT_ROWS] {
    let ahead = RIGHT_ROWS * stored.row_bytes;
    let mut rows = [Int8Row { codes: std::ptr::null(), absmax: 0.0, ahead }; RIGHT_ROWS];
    for (i, to) in rows.iter_mut().enumerate() {
        let row = row_at(n, i);
        (to.codes, to.absmax) = (stored.row(row).as_ptr(), data.absmax_of(stored.place(row)));
    }
    rows
}

/// bitsandbytes' codes of four bits.
struct FourBitCodes;

impl<S: Simd + Registers<V = <S as Simd>::V>> RowGroups<S> for FourBitCodes {
    type Bits = FourBitRow;
    /// The values of all codes.
    type Shared = S::Table;
    const VALUES: usize = CODES_TOGETHER;
    const IS_DECODED: bool = true;

    #[inline(always)]
    unsafe fn shared(row: *const FourBitRow, at: usize) -> S::Table {
        // SAFETY: by the caller.
        unsafe {
            let row = &*row;
            ask_ahead(row.codes, at / 2 + row.ahead, CODES_TOGETHER / 2);
            S::table(row.table, <S as Registers>::splat(row.scales.add(at >> row.block_bits)))
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const FourBitRow, at: usize, table: S::Table, part: usize) -> <S as Simd>::V {
        // SAFETY: by the caller; two codes are in a byte.
        unsafe {
            let codes = (*row).codes.add((at + part * <S as Registers>::LANES) / 2);
            S::of_table(S::codes_of_pairs(codes), table)
        }
    }
}

/// bitsandbytes' signed bytes.
struct SignedBytes;

impl<S: Simd + Registers<V = <S as Simd>::V>> RowGroups<S> for SignedBytes {
    type Bits = Int8Row;
    /// The largest magnitude of the row.
    type Shared = <S as Simd>::V;
    const VALUES: usize = CODES_TOGETHER;
    const IS_DECODED: bool = true;

    #[inline(always)]
    unsafe fn shared(row: *const Int8Row, at: usize) -> <S as Simd>::V {
        // SAFETY: by the caller.
        unsafe {
            let row = &*row;
            ask_ahead(row.codes, at + row.ahead, CODES_TOGETHER);
            <S as Registers>::splat(&row.absmax)
        }
    }

    #[inline(always)]
    unsafe fn values(row: *const Int8Row, at: usize, absmax: <S as Simd>::V, part: usize) -> <S as Simd>::V {
        // SAFETY: by the caller.
        unsafe {
            let codes = (*row).codes.add(at + part * <S as Registers>::LANES);
            S::mul(S::mul(S::floats(S::signed_bytes(codes)), absmax), <S as Registers>::splat(&Int8::STEP))
        }
    }
}
