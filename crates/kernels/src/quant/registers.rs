//! Stored values read into the registers of an instruction set, for products that multiply them there and for decoders.
//!
//! Values take the roundings of the plain decoders, so that their bits are the same, but for those of what is not a number.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{LINE_BYTES, ask_ahead};

/// The formats that are read so.
pub(crate) mod formats {
    use crate::quant::float::Float16;
    pub(crate) use crate::quant::k_quants::{Q4K, Q5K, Q6K};
    pub(crate) use crate::quant::q4::{Q4_0, Q4_1};
    pub(crate) use crate::quant::q5::{Q5_0, Q5_1};
    pub(crate) use crate::quant::q8_0::Q8_0;

    pub(crate) type F16 = Float16<false>;
    pub(crate) type BF16 = Float16<true>;
}

/// An instruction set with registers of `LANES` values. Every method is `unsafe`: the processor must have it, and pointers must be
/// valid for what is read from them.
pub(crate) trait Registers: Copy {
    /// A register of values.
    type V: Copy;
    /// A register of 32-bit integers.
    type I: Copy;
    /// What gives `d * (q - 8)` for codes `q` of four bits.
    type Centred: Copy;
    /// What gives `d * q + m` for codes `q` of four bits.
    type Affine: Copy;
    /// What gives any value for each code of four bits.
    type Table: Copy;
    /// Values in a register.
    const LANES: usize;

    unsafe fn splat(from: *const f32) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `code * d + m`, with the bits of a product that is rounded before the sum: `code` has up to 5 bits and `d` up to 17 (11 of an f16, 6
    /// of a scale of K-quants), so that the product is exact.
    #[inline(always)]
    unsafe fn scaled(code: Self::I, d: Self::V, m: Self::V) -> Self::V {
        // SAFETY: by the caller.
        unsafe { Self::mul_add(Self::floats(code), d, m) }
    }
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Values of IEEE binary16.
    unsafe fn f16(from: *const u8) -> Self::V;
    /// Values of bfloat16.
    unsafe fn bf16(from: *const u8) -> Self::V;
    /// Two values of IEEE binary16, each in all lanes.
    unsafe fn two_f16(from: *const u8) -> [Self::V; 2];

    /// One integer in all lanes.
    unsafe fn integer(value: i32) -> Self::I;
    /// A byte a lane.
    unsafe fn bytes(from: *const u8) -> Self::I;
    /// A signed byte a lane.
    unsafe fn signed_bytes(from: *const u8) -> Self::I;
    /// Register `part` of 32 bytes.
    unsafe fn part_of_bytes(bytes: __m256i, part: usize) -> Self::I;
    /// Register `part` of 32 signed bytes.
    unsafe fn part_of_signed_bytes(bytes: __m256i, part: usize) -> Self::I;
    /// The upper halves of [`Registers::bytes`].
    unsafe fn upper_halves(bytes: Self::I) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    /// `a | value` in the lanes whose bit is set, the first lane's the lowest; the bits of all lanes are there.
    unsafe fn or_where(a: Self::I, bits: *const u8, value: i32) -> Self::I;
    unsafe fn floats(a: Self::I) -> Self::V;
    /// Codes of four bits from half as many bytes as lanes, in the low bits of the lanes: the first is the upper half of the first
    /// byte.
    unsafe fn codes_of_pairs(from: *const u8) -> Self::I;

    /// `d` has the same value in all lanes.
    unsafe fn centred(d: Self::V) -> Self::Centred;
    /// Of `q`, the low four bits count.
    unsafe fn of_centred(q: Self::I, values: Self::Centred) -> Self::V;
    /// `d` has the same value in all lanes, and so has `m`.
    unsafe fn affine(d: Self::V, m: Self::V) -> Self::Affine;
    /// Of `q`, the low four bits count.
    unsafe fn of_affine(q: Self::I, values: Self::Affine) -> Self::V;
    /// Sixteen values, each times `scale`, which is the same in all lanes.
    unsafe fn table(values: *const f32, scale: Self::V) -> Self::Table;
    /// Of `q`, the low four bits count.
    unsafe fn of_table(q: Self::I, values: Self::Table) -> Self::V;
}

/// The shift count 4, hidden from the compiler. If it knew the count, it would shift bytes before it widens them: in two instructions,
/// and with both results widened.
#[inline(always)]
fn hidden_four() -> i32 {
    let mut four = 4;
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {four:e} */", four = inout(reg) four, options(pure, nomem, nostack, preserves_flags)) };
    // It has to know that the instruction takes the count.
    four & 31
}

/// Half `part` of 32 bytes.
#[inline(always)]
unsafe fn half(bytes: __m256i, part: usize) -> __m128i {
    // SAFETY: AVX2 is there, by the caller.
    unsafe { if part == 0 { _mm256_castsi256_si128(bytes) } else { _mm256_extracti128_si256::<1>(bytes) } }
}

/// Quarter `part` of 32 bytes, in the lower half of the result.
#[inline(always)]
unsafe fn quarter(bytes: __m256i, part: usize) -> __m128i {
    // SAFETY: AVX2 is there, by the caller.
    unsafe {
        let half = half(bytes, part / 2);
        if part.is_multiple_of(2) { half } else { _mm_srli_si128::<8>(half) }
    }
}

/// Thirty-two bytes.
///
/// # Safety
/// The processor has AVX2, and the bytes are there.
#[inline(always)]
pub(crate) unsafe fn load_32(bytes: *const u8) -> __m256i {
    // SAFETY: by the caller.
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// The four bits of each byte from bit `from` on, which is 0 or 4.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(crate) unsafe fn four_bits(bytes: __m256i, from: usize) -> __m256i {
    // SAFETY: by the caller.
    unsafe { _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(from as i32)), _mm256_set1_epi8(15)) }
}

/// How values of a format are read: block by block, and each in groups.
///
/// # Safety
/// All methods need the instruction set of `R`. `block` is a whole block and `scales` has what [`Reader::scales`] wrote for it;
/// `group` is below `LEN / GROUP`, and `part` below `GROUP / LANES`.
pub(crate) trait Reader<R: Registers> {
    /// Values of a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Scales and minima of a block that are decoded before its values.
    const SCALES: usize = 0;
    /// Whether [`Reader::shared_in_place`] needs no decoded scales.
    const IN_PLACE: bool = Self::SCALES == 0;
    /// Values of a group: a part of a block that is read together.
    const GROUP: usize = Self::LEN;
    /// What the values of a group have in common.
    type Shared: Copy;

    /// Decodes the scales of `blocks` blocks of each of some rows: those of block `b` of row `i` to place `(b * ROWS + i) * SCALES`. Behind
    /// them there is room for [`BEHIND_SCALES`] values. Blocks begin with their scales in binary16, unless their format says otherwise.
    #[inline(always)]
    unsafe fn scales<const ROWS: usize>(rows: &[*const u8; ROWS], blocks: usize, to: *mut f32)
    where
        Self: Sized,
    {
        // SAFETY: by the caller.
        unsafe { leading_f16::<R, Self, ROWS>(rows, blocks, to) };
    }

    /// What the values of group `group` share.
    unsafe fn shared(block: *const u8, scales: *const f32, group: usize) -> Self::Shared;

    /// As [`Reader::shared`], from scales in the block itself where [`Reader::IN_PLACE`] says so: faster where values are not multiplied
    /// but written.
    #[inline(always)]
    unsafe fn shared_in_place(block: *const u8, scales: *const f32, group: usize) -> Self::Shared {
        // SAFETY: by the caller.
        unsafe { Self::shared(block, scales, group) }
    }

    /// Register `part` of group `group` of a block.
    unsafe fn values(
        block: *const u8,
        scales: *const f32,
        group: usize,
        shared: Self::Shared,
        part: usize,
    ) -> R::V;
}

/// AVX2 with FMA and F16C: 16 registers of 8 values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// AVX-512 (F, BW, DQ, VL): 32 registers of 16 values. Codes of four bits are looked up in a register, which holds their sixteen
/// values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Avx2 {
    /// Whether this processor has the set.
    pub(crate) fn is_available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }
}

impl Avx512 {
    /// Whether this processor has the set, and AVX2 with it.
    pub(crate) fn is_available() -> bool {
        Avx2::is_available()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }
}

impl Registers for Avx2 {
    type V = __m256;
    type I = __m256i;
    type Centred = __m256;
    type Affine = (__m256, __m256);
    type Table = (__m256, __m256);
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m256 {
        // SAFETY: by the caller, as in all of these.
        unsafe { _mm256_broadcast_ss(&*from) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn f16(from: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn bf16(from: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn two_f16(from: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm256_cvtph_ps(_mm_set1_epi32(from.cast::<i32>().read_unaligned()));
            [_mm256_moveldup_ps(both), _mm256_movehdup_ps(both)]
        }
    }
    #[inline(always)]
    unsafe fn integer(value: i32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn part_of_bytes(bytes: __m256i, part: usize) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepu8_epi32(quarter(bytes, part)) }
    }
    #[inline(always)]
    unsafe fn part_of_signed_bytes(bytes: __m256i, part: usize) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi32(quarter(bytes, part)) }
    }
    #[inline(always)]
    unsafe fn upper_halves(bytes: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srlv_epi32(bytes, _mm256_set1_epi32(hidden_four())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn or_where(a: __m256i, bits: *const u8, value: i32) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let of_lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let bits = Self::and(Self::integer(i32::from(*bits)), of_lanes);
            _mm256_or_si256(a, Self::and(_mm256_cmpeq_epi32(bits, of_lanes), Self::integer(value)))
        }
    }
    #[inline(always)]
    unsafe fn floats(a: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn codes_of_pairs(from: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let word = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            _mm256_srlv_epi32(word, _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24))
        }
    }
    #[inline(always)]
    unsafe fn centred(d: __m256) -> __m256 {
        d
    }
    #[inline(always)]
    unsafe fn of_centred(q: __m256i, d: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let code = Self::and(q, Self::integer(15));
            Self::mul(Self::floats(Self::sub(code, Self::integer(8))), d)
        }
    }
    #[inline(always)]
    unsafe fn affine(d: __m256, m: __m256) -> (__m256, __m256) {
        (d, m)
    }
    #[inline(always)]
    unsafe fn of_affine(q: __m256i, (d, m): (__m256, __m256)) -> __m256 {
        // SAFETY: as above.
        unsafe { Self::scaled(Self::and(q, Self::integer(15)), d, m) }
    }
    #[inline(always)]
    unsafe fn table(values: *const f32, scale: __m256) -> (__m256, __m256) {
        // SAFETY: as above.
        unsafe {
            let eight = |from| Self::mul(_mm256_loadu_ps(from), scale);
            (eight(values), eight(values.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn of_table(q: __m256i, (low, high): (__m256, __m256)) -> __m256 {
        // SAFETY: as above.
        unsafe {
            // Bit 3 of a code chooses the half of the table: it becomes the sign that `blendv` reads.
            let choose = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(q));
            let of = |half| _mm256_permutevar8x32_ps(half, q);
            _mm256_blendv_ps(of(low), of(high), choose)
        }
    }
}

/// The codes 0 to 15 as values.
///
/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn codes() -> __m512 {
    // SAFETY: by the caller; no memory is touched.
    unsafe {
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
    }
}

impl Registers for Avx512 {
    type V = __m512;
    type I = __m512i;
    type Centred = __m512;
    type Affine = __m512;
    type Table = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m512 {
        // SAFETY: by the caller, as in all of these.
        unsafe { _mm512_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn f16(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn bf16(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn two_f16(from: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm512_cvtph_ps(_mm256_set1_epi32(from.cast::<i32>().read_unaligned()));
            [_mm512_moveldup_ps(both), _mm512_movehdup_ps(both)]
        }
    }
    #[inline(always)]
    unsafe fn integer(value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn part_of_bytes(bytes: __m256i, part: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepu8_epi32(half(bytes, part)) }
    }
    #[inline(always)]
    unsafe fn part_of_signed_bytes(bytes: __m256i, part: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi8_epi32(half(bytes, part)) }
    }
    #[inline(always)]
    unsafe fn upper_halves(bytes: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srlv_epi32(bytes, _mm512_set1_epi32(hidden_four())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn or_where(a: __m512i, bits: *const u8, value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_mask_or_epi32(a, bits.cast::<u16>().read_unaligned(), a, Self::integer(value)) }
    }
    #[inline(always)]
    unsafe fn floats(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn codes_of_pairs(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            // Each byte goes to two lanes, of which the first is shifted.
            let bytes = _mm512_set1_epi64(from.cast::<i64>().read_unaligned());
            let of_lanes = _mm512_set_epi64(
                0x0000_0007_0000_0007,
                0x0000_0006_0000_0006,
                0x0000_0005_0000_0005,
                0x0000_0004_0000_0004,
                0x0000_0003_0000_0003,
                0x0000_0002_0000_0002,
                0x0000_0001_0000_0001,
                0,
            );
            _mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, of_lanes), _mm512_set1_epi64(4))
        }
    }
    #[inline(always)]
    unsafe fn centred(d: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { Self::mul(_mm512_sub_ps(codes(), _mm512_set1_ps(8.0)), d) }
    }
    #[inline(always)]
    unsafe fn of_centred(q: __m512i, values: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_ps(q, values) }
    }
    #[inline(always)]
    unsafe fn affine(d: __m512, m: __m512) -> __m512 {
        // The product is exact, as in `scaled`.
        // SAFETY: as above.
        unsafe { Self::mul_add(codes(), d, m) }
    }
    #[inline(always)]
    unsafe fn of_affine(q: __m512i, values: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_ps(q, values) }
    }
    #[inline(always)]
    unsafe fn table(values: *const f32, scale: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { Self::mul(_mm512_loadu_ps(values), scale) }
    }
    #[inline(always)]
    unsafe fn of_table(q: __m512i, values: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_ps(q, values) }
    }
}

/// Values that may be written behind decoded scales: as many as the largest register has.
pub(crate) const BEHIND_SCALES: usize = 16;

/// [`Reader::scales`] of blocks that begin with their scales, as binary16: many are converted at once, which takes a small part of an
/// instruction each.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn leading_f16<R: Registers, F: Reader<R>, const ROWS: usize>(
    rows: &[*const u8; ROWS],
    blocks: usize,
    to: *mut f32,
) {
    const { assert!(F::SCALES <= 2 && R::LANES <= BEHIND_SCALES) };
    let values = (blocks * ROWS * F::SCALES).next_multiple_of(R::LANES);
    // SAFETY: by the caller. Bits lie in the upper half of the room for values, so that none is overwritten before it is converted.
    unsafe {
        let bits = to.cast::<u16>().add(values);
        for block in 0..blocks {
            for (i, row) in rows.iter().enumerate() {
                let (from, to) = (row.add(block * F::BYTES), bits.add((block * ROWS + i) * F::SCALES));
                // Volatile, since the compiler would put registers together from these, which takes much longer.
                match F::SCALES {
                    0 => {}
                    1 => to.write_volatile(from.cast::<u16>().read_unaligned()),
                    _ => to.cast::<u32>().write_volatile(from.cast::<u32>().read_unaligned()),
                }
            }
        }
        for at in (0..values).step_by(R::LANES) {
            R::store(to.add(at), R::f16(bits.add(at).cast()));
        }
    }
}

/// Decodes whole blocks.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn decode<R: Registers, F: Reader<R>>(src: &[u8], dst: &mut [f32]) {
    /// Blocks whose scales are decoded together: a processor waits where it reads what it has just written.
    const TOGETHER: usize = 8;
    const MOST_SCALES: usize = 16;
    let mut scales = [0.0f32; TOGETHER * MOST_SCALES + BEHIND_SCALES];
    for (blocks, out) in src.chunks(TOGETHER * F::BYTES).zip(dst.chunks_mut(TOGETHER * F::LEN)) {
        if !F::IN_PLACE {
            // SAFETY: by the caller; blocks are whole.
            unsafe { F::scales(&[blocks.as_ptr()], blocks.len() / F::BYTES, scales.as_mut_ptr()) };
        }
        for (b, (block, out)) in blocks.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::LEN)).enumerate() {
            for line in 0..F::BYTES.div_ceil(LINE_BYTES) {
                ask_ahead(&block[line * LINE_BYTES..]);
            }
            let (block, scales) = (block.as_ptr(), scales[b * F::SCALES..].as_ptr());
            for group in 0..F::LEN / F::GROUP {
                // SAFETY: by the caller; the block is whole, and there is room for all its values.
                unsafe {
                    let shared = F::shared_in_place(block, scales, group);
                    for part in 0..F::GROUP / R::LANES {
                        let to = out.as_mut_ptr().add(group * F::GROUP + part * R::LANES);
                        R::store(to, F::values(block, scales, group, shared, part));
                    }
                }
            }
        }
    }
}
