//! Tables of sixteen values looked up by the halves of bytes: the inner loop of 4-bit decoding.

/// `out[2 i] = table[codes[i] >> 4] * scale` and `out[2 i + 1] = table[codes[i] & 15] * scale`, block after block:
/// `scale(b)` belongs to block `b`, which is `block_len` values long (even, as is the length of `out`).
///
/// The product is rounded once, so every instruction set gives the same bits.
#[inline]
pub(super) fn decode_blocks(
    table: &[f32; 16],
    codes: &[u8],
    block_len: usize,
    scale: impl Fn(usize) -> f32,
    out: &mut [f32],
) {
    debug_assert!(block_len.is_multiple_of(2) && out.len() == 2 * codes.len());
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::decode_avx512(table, codes, block_len, scale, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::decode_avx2(table, codes, block_len, scale, out) };
        }
    }
    decode_portable(table, codes, block_len, scale, out);
}

fn decode_portable(
    table: &[f32; 16],
    codes: &[u8],
    block_len: usize,
    scale: impl Fn(usize) -> f32,
    out: &mut [f32],
) {
    for (b, (codes, out)) in codes.chunks(block_len / 2).zip(out.chunks_mut(block_len)).enumerate() {
        pairs(table, codes, scale(b), out);
    }
}

/// The bytes of one block, one after the other.
#[inline(always)]
fn pairs(table: &[f32; 16], codes: &[u8], scale: f32, out: &mut [f32]) {
    for (code, out) in codes.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = [table[usize::from(code >> 4)] * scale, table[usize::from(code & 15)] * scale];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::pairs;
    use crate::quant::{ask_ahead, lookup};

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn decode_avx512(
        table: &[f32; 16],
        codes: &[u8],
        block_len: usize,
        scale: impl Fn(usize) -> f32,
        out: &mut [f32],
    ) {
        // SAFETY: eight bytes are read and sixteen values written only where the slices have them.
        unsafe {
            let values = _mm512_loadu_ps(table.as_ptr());
            for (b, (codes, out)) in codes.chunks(block_len / 2).zip(out.chunks_mut(block_len)).enumerate() {
                let scale = scale(b);
                let scaled = _mm512_mul_ps(values, _mm512_set1_ps(scale));
                ask_ahead(codes);
                let (whole, rest) = codes.as_chunks::<8>();
                for (i, bytes) in whole.iter().enumerate() {
                    // Only the low four bits of an index count.
                    let found = _mm512_permutexvar_ps(lookup::codes_of_pairs(bytes.as_ptr()), scaled);
                    _mm512_storeu_ps(out.as_mut_ptr().add(16 * i), found);
                }
                pairs(table, rest, scale, &mut out[16 * whole.len()..]);
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn decode_avx2(
        table: &[f32; 16],
        codes: &[u8],
        block_len: usize,
        scale: impl Fn(usize) -> f32,
        out: &mut [f32],
    ) {
        // SAFETY: four bytes are read and eight values written only where the slices have them.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8)));
            let halves = _mm256_setr_epi32(4, 0, 4, 0, 4, 0, 4, 0);
            for (b, (codes, out)) in codes.chunks(block_len / 2).zip(out.chunks_mut(block_len)).enumerate() {
                let scale = scale(b);
                let factor = _mm256_set1_ps(scale);
                let (whole, rest) = codes.as_chunks::<4>();
                for (i, bytes) in whole.iter().enumerate() {
                    let wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*bytes)));
                    let twice = _mm256_or_si256(wide, _mm256_slli_epi64::<32>(wide));
                    let index = _mm256_srlv_epi32(twice, halves);
                    // Bit 3 of the index chooses the half of the table: it becomes the sign that `blendv` reads.
                    let choose = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                    let found = _mm256_blendv_ps(
                        _mm256_permutevar8x32_ps(low, index),
                        _mm256_permutevar8x32_ps(high, index),
                        choose,
                    );
                    _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), _mm256_mul_ps(found, factor));
                }
                pairs(table, rest, scale, &mut out[8 * whole.len()..]);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::decode_portable;
        use super::*;

        /// Every byte, in blocks that leave a rest for the scalar loop, against that loop, for the instruction sets that
        /// this processor has.
        #[test]
        fn vector_lookups_give_the_bits_of_the_plain_loop() {
            let table: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) / 9.1);
            let codes: Vec<u8> = (0..=255).chain(0..=254).collect();
            let scale = |b: usize| 0.37 + b as f32;
            for block_len in [6, 32, 64, 100] {
                let mut expected = vec![0.0; 2 * codes.len()];
                decode_portable(&table, &codes, block_len, scale, &mut expected);
                let mut found = vec![0.0; expected.len()];
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has the feature.
                    unsafe { decode_avx512(&table, &codes, block_len, scale, &mut found) };
                    assert_eq!(found, expected, "AVX-512, blocks of {block_len}");
                }
                found.fill(0.0);
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature.
                    unsafe { decode_avx2(&table, &codes, block_len, scale, &mut found) };
                    assert_eq!(found, expected, "AVX2, blocks of {block_len}");
                }
            }
        }
    }
}
