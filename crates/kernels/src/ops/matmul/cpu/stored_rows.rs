//! Rows of the right operand that are read as they are stored, block by block, and decoded in registers. To write decoded
//! values and read them again would take longer than memory takes to give the stored ones. Every tile of left rows decodes them
//! anew, so that this is for few left rows.
//!
//! Values take the roundings of their decoders, and sums their order ([`super::few`]), so the bits are those of decoded rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::RightCpu;
use super::few::{MOST_TILE_LEFT, Numbers, Out, RIGHT_ROWS, Row, RowGroups, dot_all, most_left};
use super::simd::{Cache, Simd, prefetch};
use crate::quant::four_bit::FourBit;
use crate::quant::int8::Int8;
use crate::quant::registers::{BEHIND_SCALES, Reader, Registers, formats};
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
        let groups = Groups::of(cols);
        for i in 0..groups.count() {
            let n = groups.rows(i);
            // SAFETY: by the caller; every right row has whole blocks of `k` values, see `StoredRows::of`.
            unsafe {
                match rows.storage {
                    StoredAs::Blocks(format) => {
                        dot_blocks::<S>(to, first, left, (rows, format), n, k.len(), scales);
                    }
                    StoredAs::FourBit(data) => {
                        let block_bits = data.block_len.trailing_zeros();
                        let (table, ahead) = (data.code.table().as_ptr(), rows.row_bytes);
                        let common = FourBitRows { block_bits, table, ahead };
                        let rows = four_bit_rows((rows, data), n, k, scales);
                        let right = std::array::from_fn(|i| &raw const rows[i]);
                        dot_all::<S, FourBitCodes>(to, first, left, (&right, common), n, k.len());
                    }
                    StoredAs::Int8(data) => {
                        let apart = int8_scales((rows, data), n, scales);
                        let right = (&starts(rows, n), apart);
                        dot_all::<S, SignedBytes>(to, first, left, right, n, k.len());
                    }
                }
            }
        }
    }
}

/// How rows are read together. Those of a group lie far apart, so that each is the next of its own part of memory: that is what processors
/// read ahead by themselves. The last few rows follow each other.
///
/// They are counted: over a chain of two iterators the compiler made loops that took a third longer.
struct Groups {
    rows: Range<usize>,
    /// Groups of rows that lie apart, and from one row of them to the next.
    apart: usize,
}

impl Groups {
    /// Rows an odd number apart share as few sets of the first-level cache as neighbours do.
    fn of(rows: Range<usize>) -> Self {
        let apart = match rows.len() / RIGHT_ROWS {
            0 => 0,
            step => (step - 1) | 1,
        };
        Groups { rows, apart }
    }

    fn count(&self) -> usize {
        self.apart + (self.rows.len() - RIGHT_ROWS * self.apart).div_ceil(RIGHT_ROWS)
    }

    /// The rows of group `i`.
    #[inline(always)]
    fn rows(&self, i: usize) -> Numbers {
        let Groups { rows, apart } = self;
        let behind = rows.start + RIGHT_ROWS * apart;
        match i.checked_sub(*apart) {
            None => Numbers { first: rows.start + i, step: *apart, end: behind },
            Some(i) => Numbers::of(behind + i * RIGHT_ROWS..rows.end.min(behind + (i + 1) * RIGHT_ROWS)),
        }
    }
}

/// The number of row `i` of `n`, or the last in the place of those that are not there.
#[inline(always)]
fn row_at(n: Numbers, i: usize) -> usize {
    (n.first + i * n.step).min(n.end - 1)
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
    n: Numbers,
    k: usize,
    scales: &mut [f32],
) {
    macro_rules! dot {
        ($reader:ty) => {{
            let right = starts(rows, n);
            let apart = block_scales::<S, $reader>(rows, &right, k, scales);
            dot_all::<S, Blocks<$reader>>(to, first, left, (&right, apart), n, k);
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

/// Where rows `n` begin over a block of the sum.
#[inline(always)]
fn starts(stored: &StoredRowsOf<'_>, n: Numbers) -> [*const u8; RIGHT_ROWS] {
    std::array::from_fn(|i| stored.row(row_at(n, i)).as_ptr())
}

/// What rows have apart from their codes.
#[derive(Clone, Copy)]
struct Apart {
    /// Their decoded scales: those of a block of all rows lie together, row by row.
    scales: *const f32,
    /// From a row to that which is stored behind it, which is read in its place next.
    ahead: usize,
}

impl Apart {
    /// The first of `each` scales of block `block` of a row.
    #[inline(always)]
    unsafe fn of(row: Row<u8, Apart>, block: usize, each: usize) -> *const f32 {
        // SAFETY: by the caller.
        unsafe { row.apart.scales.add((block * RIGHT_ROWS + row.number) * each) }
    }
}

/// The scales of `k` values of rows that begin at `rows`, decoded to `scales`.
///
/// # Safety
/// The processor has `R`, and the rows have the blocks.
#[inline(always)]
unsafe fn block_scales<R: Registers, F: Reader<R>>(
    stored: &StoredRowsOf<'_>,
    rows: &[*const u8; RIGHT_ROWS],
    k: usize,
    scales: &mut [f32],
) -> Apart {
    let blocks = k / F::LEN;
    let scales = scales[..blocks * RIGHT_ROWS * F::SCALES + BEHIND_SCALES].as_mut_ptr();
    // SAFETY: by the caller.
    unsafe { F::scales(rows, blocks, scales) };
    Apart { scales, ahead: stored.row_bytes }
}

/// Blocks that `F` reads, a group of their values at a time.
struct Blocks<F>(PhantomData<F>);

impl<S: Simd + Registers<V = <S as Simd>::V>, F: Reader<S>> RowGroups<S> for Blocks<F> {
    type Bits = u8;
    type Apart = Apart;
    type Shared = F::Shared;
    const VALUES: usize = F::GROUP;
    /// Values of 16 bits share nothing, and take one instruction.
    const IS_DECODED: bool = size_of::<F::Shared>() > 0;

    #[inline(always)]
    unsafe fn shared(row: Row<u8, Apart>, at: usize) -> F::Shared {
        let (block, group) = (at / F::LEN, at % F::LEN / F::GROUP);
        // SAFETY: by the caller.
        unsafe {
            const { assert!(VALUES_TOGETHER.is_multiple_of(F::LEN) || F::LEN.is_multiple_of(VALUES_TOGETHER)) };
            ask_ahead(row.bits, at * F::BYTES / F::LEN + row.apart.ahead, F::BYTES * F::GROUP / F::LEN);
            F::shared(row.bits.add(block * F::BYTES), Apart::of(row, block, F::SCALES), group)
        }
    }

    #[inline(always)]
    unsafe fn values(row: Row<u8, Apart>, at: usize, shared: F::Shared, part: usize) -> <S as Simd>::V {
        let (block, group) = (at / F::LEN, at % F::LEN / F::GROUP);
        // SAFETY: by the caller.
        unsafe {
            let scales = Apart::of(row, block, F::SCALES);
            F::values(row.bits.add(block * F::BYTES), scales, group, shared, part)
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

/// A row of four-bit codes, and its scales.
#[derive(Clone, Copy)]
struct FourBitRow {
    codes: *const u8,
    scales: *const f32,
}

/// What rows of four-bit codes have in common.
#[derive(Clone, Copy)]
struct FourBitRows {
    /// Values of a scale, as a power of two.
    block_bits: u32,
    /// The values of the sixteen codes.
    table: *const f32,
    /// As in [`Apart`].
    ahead: usize,
}

/// Rows `n` over `k`, with their scales decoded to `scales`.
#[inline(always)]
fn four_bit_rows(
    (stored, data): (&StoredRowsOf<'_>, &FourBit),
    n: Numbers,
    k: &Range<usize>,
    scales: &mut [f32],
) -> [FourBitRow; RIGHT_ROWS] {
    let (scale, blocks) = (data.scales(), k.len() / data.block_len);
    let mut rows = [FourBitRow { codes: std::ptr::null(), scales: std::ptr::null() }; RIGHT_ROWS];
    for (i, (to, scales)) in rows.iter_mut().zip(scales.chunks_exact_mut(blocks)).enumerate() {
        let row = row_at(n, i);
        let first = (stored.place(row) * stored.width + k.start) / data.block_len;
        scales.iter_mut().enumerate().for_each(|(block, to)| *to = scale(first + block));
        *to = FourBitRow { codes: stored.row(row).as_ptr(), scales: scales.as_ptr() };
    }
    rows
}

/// What rows `n` of signed bytes have apart from them: the largest magnitude of each, in `scales`.
#[inline(always)]
fn int8_scales((stored, data): (&StoredRowsOf<'_>, &Int8), n: Numbers, scales: &mut [f32]) -> Apart {
    for (i, to) in scales[..RIGHT_ROWS].iter_mut().enumerate() {
        *to = data.absmax_of(stored.place(row_at(n, i)));
    }
    Apart { scales: scales.as_ptr(), ahead: stored.row_bytes }
}

/// bitsandbytes' codes of four bits.
struct FourBitCodes;

impl<S: Simd + Registers<V = <S as Simd>::V>> RowGroups<S> for FourBitCodes {
    type Bits = FourBitRow;
    type Apart = FourBitRows;
    /// The values of all codes.
    type Shared = S::Table;
    const VALUES: usize = CODES_TOGETHER;
    const IS_DECODED: bool = true;

    #[inline(always)]
    unsafe fn shared(row: Row<FourBitRow, FourBitRows>, at: usize) -> S::Table {
        let FourBitRows { block_bits, table, ahead } = row.apart;
        // SAFETY: by the caller.
        unsafe {
            let FourBitRow { codes, scales } = *row.bits;
            ask_ahead(codes, at / 2 + ahead, CODES_TOGETHER / 2);
            S::table(table, <S as Registers>::splat(scales.add(at >> block_bits)))
        }
    }

    #[inline(always)]
    unsafe fn values(
        row: Row<FourBitRow, FourBitRows>,
        at: usize,
        table: S::Table,
        part: usize,
    ) -> <S as Simd>::V {
        // SAFETY: by the caller; two codes are in a byte.
        unsafe {
            let codes = (*row.bits).codes.add((at + part * <S as Registers>::LANES) / 2);
            S::of_table(S::codes_of_pairs(codes), table)
        }
    }
}

/// bitsandbytes' signed bytes.
struct SignedBytes;

impl<S: Simd + Registers<V = <S as Simd>::V>> RowGroups<S> for SignedBytes {
    type Bits = u8;
    type Apart = Apart;
    /// The largest magnitude of the row.
    type Shared = <S as Simd>::V;
    const VALUES: usize = CODES_TOGETHER;
    const IS_DECODED: bool = true;

    #[inline(always)]
    unsafe fn shared(row: Row<u8, Apart>, at: usize) -> <S as Simd>::V {
        // SAFETY: by the caller.
        unsafe {
            ask_ahead(row.bits, at + row.apart.ahead, CODES_TOGETHER);
            <S as Registers>::splat(Apart::of(row, 0, 1))
        }
    }

    #[inline(always)]
    unsafe fn values(row: Row<u8, Apart>, at: usize, absmax: <S as Simd>::V, part: usize) -> <S as Simd>::V {
        // SAFETY: by the caller.
        unsafe {
            let codes = row.bits.add(at + part * <S as Registers>::LANES);
            S::mul(S::mul(S::floats(S::signed_bytes(codes)), absmax), <S as Registers>::splat(&Int8::STEP))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_group() {
        for rows in (0..140).flat_map(|len| [0, 5, 512].map(|start| start..start + len)) {
            let groups = Groups::of(rows.clone());
            let numbers = (0..groups.count()).map(|i| groups.rows(i)).flat_map(|n| {
                assert!(n.first < n.end, "a group without rows: {rows:?}");
                (0..RIGHT_ROWS).map(move |i| n.first + i * n.step).filter(move |number| *number < n.end)
            });
            let mut numbers: Vec<usize> = numbers.collect();
            numbers.sort_unstable();
            assert_eq!(numbers, rows.collect::<Vec<_>>());
        }
    }

    #[test]
    fn rows_of_a_group_are_an_odd_number_apart() {
        for len in RIGHT_ROWS..600 {
            let Groups { apart, .. } = Groups::of(0..len);
            assert!(
                apart % 2 == 1 && RIGHT_ROWS * apart <= len && len < RIGHT_ROWS * (apart + 2),
                "{len} rows: {apart}"
            );
        }
    }
}
