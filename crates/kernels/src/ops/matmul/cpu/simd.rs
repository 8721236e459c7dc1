//! The vector instructions the CPU product needs, one type per instruction set.

use std::ops::Range;

use super::RightCpu;
use super::few::Out;
use super::tile::{Args, Columns, ask_ahead, tile};
use crate::quant::f16_to_f32;

/// Lanes of the widest register.
const MAX_LANES: usize = 16;

/// A vector instruction set. Every method is `unsafe`: the processor must have it, and pointers must be
/// valid for the lanes they name.
///
/// Operands consist of *elements* of 32 bits, an f32 value or a pair of bf16 values that follow each other in the sum;
/// sums are f32.
pub(super) trait Simd: Copy {
    /// A register of `LANES` elements or sums.
    type V: Copy;
    /// Elements in a register.
    const LANES: usize;
    /// Registers across a tile; a full panel is `LANES * VECTORS` columns wide.
    const VECTORS: usize = 2;
    /// Rows of the largest tile: as many accumulators as the registers hold.
    const ROWS: usize;

    unsafe fn load(from: *const f32) -> Self::V;
    /// Values of bf16, in the order of bytes of a file.
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        let mut values = [0.0; MAX_LANES];
        for (lane, value) in values.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: a register's worth of values, by the caller.
            *value = f32::from_bits(u32::from(u16::from_le(unsafe { *from.add(lane) })) << 16);
        }
        // SAFETY: the processor has the set, by the caller; there are as many values as lanes.
        unsafe { Self::load(values.as_ptr()) }
    }
    /// Values of IEEE binary16, likewise.
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::V {
        let mut values = [0.0; MAX_LANES];
        for (lane, value) in values.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: a register's worth of values, by the caller.
            *value = f16_to_f32(unsafe { *from.add(lane) }.to_ne_bytes());
        }
        // SAFETY: the processor has the set, by the caller; there are as many values as lanes.
        unsafe { Self::load(values.as_ptr()) }
    }
    unsafe fn splat(from: *const f32) -> Self::V;
    unsafe fn zero() -> Self::V;
    /// `a * b + c`, where the product of two pairs is the sum of their two products.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);

    /// The sum of the lanes of each register, which for all of them is taken in the same order.
    #[inline(always)]
    unsafe fn sums(registers: [Self::V; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        for (sum, register) in sums.iter_mut().zip(registers) {
            let mut lanes = [0.0f32; MAX_LANES];
            // SAFETY: there is room for a register; the processor has the set, by the caller.
            unsafe { Self::store(lanes.as_mut_ptr(), register) };
            let mut half = Self::LANES / 2;
            while half > 0 {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
                half /= 2;
            }
            *sum = lanes[0];
        }
        sums
    }

    /// Transposes a `LANES x LANES` block: `to[j * to_stride + i] = from[i * from_stride + j]`.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: the caller gives a whole block on both sides.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }

    /// Multiplies few left rows with columns `cols` of the right operand over `k`, for output rows from `first` on, if this
    /// set reads that operand as it is stored. Tells whether it does. `scratch` is working memory.
    ///
    /// # Safety
    /// The processor has the set, the output has the rows and columns, no other thread touches them, and every left row has
    /// as many values as `k`.
    #[inline(always)]
    unsafe fn dot_stored(
        _to: &Out,
        _first: usize,
        _left: &[*const f32],
        _right: RightCpu<'_>,
        _cols: Range<usize>,
        _k: &Range<usize>,
        _scratch: &mut [f32],
    ) -> bool {
        false
    }

    /// Makes the processor ready for tiles of `rows` rows, until what it gives is dropped. No other may be alive on this
    /// thread.
    #[inline(always)]
    unsafe fn ready(_rows: usize) -> impl Sized {}

    /// Runs the tile of `rows` rows and `columns`, for which the processor is ready; see [`tile`].
    unsafe fn tile(rows: usize, columns: Columns, args: &Args);
}

/// An instruction set whose elements are pairs of bf16 values, the first in the lower half. Values are rounded to
/// nearest, halfway cases to even.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only x86-64 has such instruction sets here")
)]
pub(super) trait Pairs: Simd {
    /// Pairs that a tile multiplies at once: a sum is filled up with zeros to a multiple of them.
    const STEP: usize = 1;

    /// Rounds `2 * LANES` values that follow each other: `LANES` pairs.
    unsafe fn pair_neighbours(from: *const f32, to: *mut f32);
    /// Rounds `LANES` values of two rows: pair `j` is `(first[j], second[j])`.
    unsafe fn pair_rows(first: *const f32, second: *const f32, to: *mut f32);
    /// As [`Pairs::pair_rows`], of values that are bf16 already, in their bits.
    unsafe fn pair_rows_of_bf16(first: *const u16, second: *const u16, to: *mut f32);
}

/// A cache that a line is asked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// For what is read at once.
    First,
    /// For what is read after some thousands of cycles.
    Second,
}

/// Asks for a cache line, to come into `cache`. Nothing happens where the processor has no such instruction.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, cache: Cache) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match cache {
            Cache::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            Cache::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, cache);
}

/// Compiles functions with the features of an instruction set, which are listed here alone.
macro_rules! compiled_for {
    (baseline { $($function:item)* }) => { $($function)* };
    (avx2 { $($function:item)* }) => {
        $(#[target_feature(enable = "avx2,fma,f16c")] $function)*
    };
    (avx512 { $($function:item)* }) => {
        $(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")] $function)*
    };
    (avx_vnni { $($function:item)* }) => {
        $(#[target_feature(enable = "avxvnni,avx2,fma,f16c")] $function)*
    };
    (avx512_vnni { $($function:item)* }) => {
        $(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")] $function)*
    };
    (avx512_bf16 { $($function:item)* }) => {
        $(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")] $function)*
    };
    (neon_dot { $($function:item)* }) => {
        $(#[target_feature(enable = "neon,dotprod")] $function)*
    };
}
pub(super) use compiled_for;

/// Implements [`Simd::tile`] for a type by a table over the row counts. Every tile is a function of its own, so that it is
/// compiled once, wherever it is called from.
macro_rules! tile_table {
    ($simd:ident, $features:ident, $($rows:literal)*) => {
        unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
            const VECTORS: usize = $simd::VECTORS;
            compiled_for!($features {
                unsafe fn panel<const R: usize, const V: usize>(args: &Args) {
                    // SAFETY: the features are enabled here; pointers are valid for the tile, by the caller.
                    unsafe { tile::<$simd, R, V>(args, |_| {}) }
                }
                unsafe fn in_place<const R: usize>(args: &Args, ahead: usize) {
                    // SAFETY: the features are enabled here; pointers are valid for the tile, by the caller.
                    unsafe { tile::<$simd, R, VECTORS>(args, |right| ask_ahead::<$simd, VECTORS>(right, ahead)) }
                }
            });
            // SAFETY: the processor has the features and pointers are valid for `rows` rows and `columns`, by the caller.
            unsafe {
                match (rows, columns) {
                    $(($rows, Columns::Narrow) => panel::<$rows, 1>(args),
                      ($rows, Columns::Full) => panel::<$rows, VECTORS>(args),
                      ($rows, Columns::InPlace { ahead }) => in_place::<$rows>(args, ahead),)*
                    _ => unreachable!("a tile has 1 to {} rows", $simd::ROWS),
                }
            }
        }
    };
}

/// Implements [`Bytes::tile_of_bytes`] as [`tile_table`] implements [`Simd::tile`]: six rows at a time, whose f32 sums stay in
/// registers beside those of the integers where there are 32.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! tile_of_bytes_table {
    ($simd:ident, $features:ident) => {
        tile_of_bytes_table! { $simd, $features, 1 2 3 4 5 6 }
    };
    ($simd:ident, $features:ident, $($rows:literal)*) => {
        unsafe fn tile_of_bytes(rows: usize, columns: Columns, args: &Args) {
            const VECTORS: usize = $simd::VECTORS;
            const AT_ONCE: usize = [$($rows),*].len();
            compiled_for!($features {
                unsafe fn panel<const R: usize, const V: usize>(args: &Args) {
                    // SAFETY: the features are enabled here; pointers are valid for the tile, by the caller.
                    unsafe { int8::tile::<$simd, R, V>(args) }
                }
            });
            // SAFETY: the processor has the features and pointers are valid for `rows` rows and `columns`, by the caller.
            unsafe {
                match (rows, columns) {
                    $(($rows, Columns::Narrow) => panel::<$rows, 1>(args),
                      ($rows, Columns::Full) => panel::<$rows, VECTORS>(args),)*
                    (rows, Columns::Narrow | Columns::Full) if rows > AT_ONCE => {
                        Self::tile_of_bytes(AT_ONCE, columns, args);
                        let (left, out) = (AT_ONCE * args.left_stride, AT_ONCE * args.out_stride);
                        let others = Args { left: args.left.add(left), out: args.out.add(out), ..*args };
                        Self::tile_of_bytes(rows - AT_ONCE, columns, &others);
                    }
                    _ => unreachable!("a packed tile has 1 to {} rows", $simd::ROWS),
                }
            }
        }
    };
}

/// No vector instructions known: plain Rust that the compiler may vectorise.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: four values, by the caller.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; 4] {
        // SAFETY: one value, by the caller.
        [unsafe { *from }; 4]
    }
    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 4]) {
        // SAFETY: four values, by the caller.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    tile_table!(Portable, baseline, 1 2 3 4);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::super::amx;
    use super::super::int8::{self, Bytes, Dots};
    use super::super::stored_rows::StoredRows;
    use super::{Args, Columns, Out, Pairs, Range, RightCpu, Simd, ask_ahead, tile};
    use std::arch::x86_64::*;

    use crate::quant::registers;
    pub(in super::super) use crate::quant::registers::{Avx2, Avx512};

    /// [`Simd::dot_stored`] of a set that reads rows as they are stored.
    macro_rules! reads_stored_rows {
        () => {
            #[inline(always)]
            unsafe fn dot_stored(
                to: &Out,
                first: usize,
                left: &[*const f32],
                right: RightCpu<'_>,
                cols: Range<usize>,
                k: &Range<usize>,
                scratch: &mut [f32],
            ) -> bool {
                let Some(rows) = StoredRows::of::<Self>(right, left.len(), k) else { return false };
                // SAFETY: what the caller grants is what is asked.
                unsafe { rows.dot::<Self>(to, first, left, cols, scratch) };
                true
            }
        };
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const ROWS: usize = 6;

        reads_stored_rows!();

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: AVX is there, and `from` has eight values, by the caller.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u16) -> __m256 {
            // SAFETY: by the caller.
            unsafe { <Self as registers::Registers>::bf16(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> __m256 {
            // SAFETY: by the caller.
            unsafe { <Self as registers::Registers>::f16(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            // SAFETY: AVX is there, and `from` has a value, by the caller.
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: AVX is there, by the caller; no memory is touched.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: FMA is there, by the caller; no memory is touched.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: AVX is there, by the caller; no memory is touched.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: AVX is there, and `to` has room for eight values, by the caller.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: AVX is there, and both sides have eight rows of eight values a stride apart, by the caller.
            unsafe {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm256_loadu_ps(from.add(i * from_stride));
                }
                // Pairs of rows interleaved, then pairs of pairs, then the 128-bit halves exchanged.
                let mut s = [_mm256_setzero_ps(); 8];
                for i in 0..2 {
                    let (a, b) = (
                        _mm256_unpacklo_ps(r[4 * i], r[4 * i + 1]),
                        _mm256_unpackhi_ps(r[4 * i], r[4 * i + 1]),
                    );
                    let (c, d) = (
                        _mm256_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]),
                        _mm256_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]),
                    );
                    s[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                    s[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(a, c);
                    s[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                    s[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(b, d);
                }
                for j in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(s[j], s[4 + j]);
                    let high = _mm256_permute2f128_ps::<0x31>(s[j], s[4 + j]);
                    _mm256_storeu_ps(to.add(j * to_stride), low);
                    _mm256_storeu_ps(to.add((4 + j) * to_stride), high);
                }
            }
        }
        #[inline(always)]
        unsafe fn sums(registers: [__m256; 4]) -> [f32; 4] {
            let [a, b, c, d] = registers;
            // SAFETY: AVX is there, by the caller; what is written has four values.
            unsafe {
                let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                // Each half of the register has one sum of every operand.
                let all = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
                let sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), sums);
                out
            }
        }
        tile_table!(Avx2, avx2, 1 2 3 4 5 6);
    }

    /// With AVX-VNNI beside it.
    impl Dots for Avx2 {
        type I = __m256i;

        #[inline(always)]
        unsafe fn load_bytes(from: *const f32) -> __m256i {
            // SAFETY: AVX is there, and `from` has eight elements, by the caller.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_bytes(from: *const f32) -> __m256i {
            // SAFETY: AVX2 is there, and `from` has an element, by the caller.
            unsafe { _mm256_set1_epi32(*from.cast()) }
        }
        #[inline(always)]
        unsafe fn dot(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
            // SAFETY: AVX-VNNI is there, by the caller; no memory is touched.
            unsafe { _mm256_dpbusd_avx_epi32(sums, unsigned, signed) }
        }
        #[inline(always)]
        unsafe fn to_f32(sums: __m256i) -> __m256 {
            // SAFETY: AVX is there, by the caller; no memory is touched.
            unsafe { _mm256_cvtepi32_ps(sums) }
        }
    }

    impl Bytes for Avx2 {
        const OFFSET: u8 = 128;
        tile_of_bytes_table!(Avx2, avx_vnni);
    }

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const ROWS: usize = 12;

        reads_stored_rows!();

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: AVX-512F is there, and `from` has sixteen values, by the caller.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u16) -> __m512 {
            // SAFETY: by the caller.
            unsafe { <Self as registers::Registers>::bf16(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> __m512 {
            // SAFETY: by the caller.
            unsafe { <Self as registers::Registers>::f16(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            // SAFETY: AVX-512F is there, and `from` has a value, by the caller.
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: AVX-512F is there, by the caller; no memory is touched.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: AVX-512F is there, by the caller; no memory is touched.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: AVX-512F is there, by the caller; no memory is touched.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: AVX-512F is there, and `to` has room for sixteen values, by the caller.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: AVX-512F is there, and both sides have sixteen rows of sixteen values a stride apart, by the caller.
            unsafe {
                let mut r = [_mm512_setzero_ps(); 16];
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm512_loadu_ps(from.add(i * from_stride));
                }
                // Within each 128-bit lane l: s[4 i + j] holds rows 4i..4i+4 of column 4 l + j.
                let mut s = [_mm512_setzero_ps(); 16];
                for i in 0..4 {
                    let (a, b) = (
                        _mm512_unpacklo_ps(r[4 * i], r[4 * i + 1]),
                        _mm512_unpackhi_ps(r[4 * i], r[4 * i + 1]),
                    );
                    let (c, d) = (
                        _mm512_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]),
                        _mm512_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]),
                    );
                    s[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                    s[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(a, c);
                    s[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                    s[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(b, d);
                }
                for j in 0..4 {
                    // Lanes of four registers exchanged: out column 4 l + j gathers lane l of each.
                    let (a, b) = (
                        _mm512_shuffle_f32x4::<0x44>(s[j], s[4 + j]),
                        _mm512_shuffle_f32x4::<0xEE>(s[j], s[4 + j]),
                    );
                    let (c, d) = (
                        _mm512_shuffle_f32x4::<0x44>(s[8 + j], s[12 + j]),
                        _mm512_shuffle_f32x4::<0xEE>(s[8 + j], s[12 + j]),
                    );
                    _mm512_storeu_ps(to.add(j * to_stride), _mm512_shuffle_f32x4::<0x88>(a, c));
                    _mm512_storeu_ps(to.add((4 + j) * to_stride), _mm512_shuffle_f32x4::<0xDD>(a, c));
                    _mm512_storeu_ps(to.add((8 + j) * to_stride), _mm512_shuffle_f32x4::<0x88>(b, d));
                    _mm512_storeu_ps(to.add((12 + j) * to_stride), _mm512_shuffle_f32x4::<0xDD>(b, d));
                }
            }
        }
        #[inline(always)]
        unsafe fn sums(registers: [__m512; 4]) -> [f32; 4] {
            let [a, b, c, d] = registers;
            // SAFETY: AVX-512F is there, by the caller; what is written has four values.
            unsafe {
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                // Each quarter of the register has one sum of every operand.
                let all = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xEE>(ab, cd));
                let halves = _mm512_add_ps(all, _mm512_shuffle_f32x4::<0x4E>(all, all));
                let low = _mm512_castps512_ps256(halves);
                let sums = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps::<1>(low));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), sums);
                out
            }
        }
        tile_table!(Avx512, avx512, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// With AVX512-VNNI beside it.
    impl Dots for Avx512 {
        type I = __m512i;

        #[inline(always)]
        unsafe fn load_bytes(from: *const f32) -> __m512i {
            // SAFETY: AVX-512F is there, and `from` has sixteen elements, by the caller.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_bytes(from: *const f32) -> __m512i {
            // SAFETY: AVX-512F is there, and `from` has an element, by the caller.
            unsafe { _mm512_set1_epi32(*from.cast()) }
        }
        #[inline(always)]
        unsafe fn dot(sums: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            // SAFETY: AVX512-VNNI is there, by the caller; no memory is touched.
            unsafe { _mm512_dpbusd_epi32(sums, unsigned, signed) }
        }
        #[inline(always)]
        unsafe fn to_f32(sums: __m512i) -> __m512 {
            // SAFETY: AVX-512F is there, by the caller; no memory is touched.
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
    }

    impl Bytes for Avx512 {
        const OFFSET: u8 = 128;
        tile_of_bytes_table!(Avx512, avx512_vnni);
    }

    /// What an instruction set that has AVX-512 takes from it as it is: how registers are filled, added, stored and
    /// transposed.
    macro_rules! registers_of_avx512 {
        () => {
            type V = __m512;
            const LANES: usize = Avx512::LANES;

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                // SAFETY: what the caller grants is what `Avx512::load` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::load(from) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const f32) -> __m512 {
                // SAFETY: what the caller grants is what `Avx512::splat` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::splat(from) }
            }
            #[inline(always)]
            unsafe fn zero() -> __m512 {
                // SAFETY: what the caller grants is what `Avx512::zero` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::zero() }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                // SAFETY: what the caller grants is what `Avx512::add` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::add(a, b) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut f32, v: __m512) {
                // SAFETY: what the caller grants is what `Avx512::store` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::store(to, v) }
            }
            #[inline(always)]
            unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
                // SAFETY: what the caller grants is what `Avx512::transpose` asks: the features of this set hold AVX-512F.
                unsafe { Avx512::transpose(from, from_stride, to, to_stride) }
            }
        };
    }

    /// AVX-512 with its bf16 instructions: registers of 16 pairs, two multiply-adds a lane.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512Bf16;

    impl Simd for Avx512Bf16 {
        registers_of_avx512!();
        const ROWS: usize = Avx512::ROWS;

        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: AVX-512-BF16 is there, by the caller; both types are 512 bits, of which any are valid.
            unsafe {
                let pairs = |v| std::mem::transmute::<__m512, __m512bh>(v);
                _mm512_dpbf16_ps(c, pairs(a), pairs(b))
            }
        }
        tile_table!(Avx512Bf16, avx512_bf16, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    impl Pairs for Avx512Bf16 {
        #[inline(always)]
        unsafe fn pair_neighbours(from: *const f32, to: *mut f32) {
            // SAFETY: AVX-512F and -BF16 are there, `from` has 32 values and `to` room for sixteen pairs, by the caller; both types
            // of the transmutation are 512 bits, of which any are valid.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                let pairs = _mm512_cvtne2ps_pbh(high, low);
                _mm512_storeu_ps(to, std::mem::transmute::<__m512bh, __m512>(pairs));
            }
        }
        #[inline(always)]
        unsafe fn pair_rows(first: *const f32, second: *const f32, to: *mut f32) {
            // SAFETY: AVX-512F and -BF16 are there, both rows have sixteen values and `to` room for sixteen pairs, by the caller;
            // both types of the transmutation are 256 bits, of which any are valid.
            unsafe {
                let widened = |row| {
                    let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(row));
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
                };
                let pairs = _mm512_or_si512(widened(first), _mm512_slli_epi32::<16>(widened(second)));
                _mm512_storeu_ps(to, _mm512_castsi512_ps(pairs));
            }
        }
        #[inline(always)]
        unsafe fn pair_rows_of_bf16(first: *const u16, second: *const u16, to: *mut f32) {
            // SAFETY: AVX-512F is there, both rows have sixteen values and `to` room for sixteen pairs, by the caller.
            unsafe {
                let widened = |row: *const u16| _mm512_cvtepu16_epi32(_mm256_loadu_si256(row.cast()));
                let pairs = _mm512_or_si512(widened(first), _mm512_slli_epi32::<16>(widened(second)));
                _mm512_storeu_ps(to, _mm512_castsi512_ps(pairs));
            }
        }
    }

    /// AVX-512 with its bf16 instructions and AMX: tiles of 16 rows of 16 pairs or of 64 bytes, whose product is one instruction.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Amx;

    impl Simd for Amx {
        registers_of_avx512!();
        const ROWS: usize = amx::ROWS;

        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: what the caller grants is what `Avx512Bf16::fma` asks: the features of this set hold AVX-512-BF16.
            unsafe { Avx512Bf16::fma(a, b, c) }
        }
        #[inline(always)]
        unsafe fn ready(rows: usize) -> impl Sized {
            // SAFETY: AMX is there, by the caller.
            unsafe { amx::Ready::for_rows(rows) }
        }
        #[inline(always)]
        unsafe fn tile(rows: usize, columns: Columns, args: &Args) {
            // SAFETY: AMX is there and ready for these rows, and pointers are valid for the tile, by the caller.
            unsafe { amx::tile(rows, columns, args) }
        }
    }

    impl Bytes for Amx {
        const OFFSET: u8 = 0;

        #[inline(always)]
        unsafe fn tile_of_bytes(rows: usize, columns: Columns, args: &Args) {
            // SAFETY: AMX is there and ready for these rows, and pointers are valid for the tile, by the caller.
            unsafe { amx::tile_of_bytes(rows, columns, args) }
        }
    }

    impl Pairs for Amx {
        const STEP: usize = amx::STEP;

        #[inline(always)]
        unsafe fn pair_neighbours(from: *const f32, to: *mut f32) {
            // SAFETY: what the caller grants is what `Avx512Bf16::pair_neighbours` asks: the features of this set hold its.
            unsafe { Avx512Bf16::pair_neighbours(from, to) }
        }
        #[inline(always)]
        unsafe fn pair_rows(first: *const f32, second: *const f32, to: *mut f32) {
            // SAFETY: what the caller grants is what `Avx512Bf16::pair_rows` asks: the features of this set hold its.
            unsafe { Avx512Bf16::pair_rows(first, second, to) }
        }
        #[inline(always)]
        unsafe fn pair_rows_of_bf16(first: *const u16, second: *const u16, to: *mut f32) {
            // SAFETY: as above.
            unsafe { Avx512Bf16::pair_rows_of_bf16(first, second, to) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use super::super::int8::{self, Bytes, Dots};
    use super::{Args, Columns, Simd, ask_ahead, tile};
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// NEON: 32 registers of 4 values.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon;

    impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;
        const ROWS: usize = 12;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; `from` has four values, by the caller.
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u16) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; `from` has four values, by the caller.
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from))) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; `from` has a value, by the caller.
            unsafe { vld1q_dup_f32(from) }
        }
        #[inline(always)]
        unsafe fn zero() -> float32x4_t {
            // SAFETY: NEON is part of aarch64; no memory is touched.
            unsafe { vdupq_n_f32(0.0) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; no memory is touched.
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; no memory is touched.
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            // SAFETY: NEON is part of aarch64; `to` has room for four values, by the caller.
            unsafe { vst1q_f32(to, v) }
        }
        tile_table!(Neon, baseline, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// With dot products (FEAT_DotProd).
    impl Dots for Neon {
        type I = int32x4_t;

        #[inline(always)]
        unsafe fn load_bytes(from: *const f32) -> int32x4_t {
            // SAFETY: NEON is part of aarch64; `from` has four elements, by the caller.
            unsafe { vld1q_s32(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_bytes(from: *const f32) -> int32x4_t {
            // SAFETY: NEON is part of aarch64; `from` has an element, by the caller.
            unsafe { vld1q_dup_s32(from.cast()) }
        }
        #[inline(always)]
        unsafe fn dot(mut sums: int32x4_t, left: int32x4_t, right: int32x4_t) -> int32x4_t {
            // The function for this instruction (`vdotq_s32`) is not stable in Rust.
            // SAFETY: dot products are there, by the caller; no memory is touched.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    "sdot {sums:v}.4s, {left:v}.16b, {right:v}.16b",
                    sums = inout(vreg) sums,
                    left = in(vreg) left,
                    right = in(vreg) right,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sums
        }
        #[inline(always)]
        unsafe fn to_f32(sums: int32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; no memory is touched.
            unsafe { vcvtq_f32_s32(sums) }
        }
    }

    impl Bytes for Neon {
        const OFFSET: u8 = 0;
        tile_of_bytes_table!(Neon, neon_dot);
    }
}
