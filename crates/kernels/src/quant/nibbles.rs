//! Tables of sixteen values looked up by the halves of bytes: the inner loop of 4-bit decoding.

#[cfg(target_arch = "x86_64")]
use super::registers::{Avx2, Avx512};

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
        if Avx512::is_available() {
            // SAFETY: the processor has the set.
            return unsafe { x86::decode_avx512(table, codes, block_len, scale, out) };
        }
        if Avx2::is_available() {
            // SAFETY: the processor has the set.
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
    use super::pairs;
    use crate::quant::ask_ahead;
    use crate::quant::registers::{Avx2, Avx512, Registers};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn decode_avx512(
        table: &[f32; 16],
        codes: &[u8],
        block_len: usize,
        scale: impl Fn(usize) -> f32,
        out: &mut [f32],
    ) {
        // SAFETY: the processor has the set, by the caller.
        unsafe { decode::<Avx512>(table, codes, block_len, scale, out) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn decode_avx2(
        table: &[f32; 16],
        codes: &[u8],
        block_len: usize,
        scale: impl Fn(usize) -> f32,
        out: &mut [f32],
    ) {
        // SAFETY: the processor has the set, by the caller.
        unsafe { decode::<Avx2>(table, codes, block_len, scale, out) }
    }

    #[inline(always)]
    unsafe fn decode<R: Registers>(
        table: &[f32; 16],
        codes: &[u8],
        block_len: usize,
        scale: impl Fn(usize) -> f32,
        out: &mut [f32],
    ) {
        for (b, (codes, out)) in codes.chunks(block_len / 2).zip(out.chunks_mut(block_len)).enumerate() {
            let scale = scale(b);
            ask_ahead(codes);
            let registers = codes.len() / (R::LANES / 2);
            // SAFETY: the instruction set is there, by the caller; whole registers of codes and values are.
            unsafe {
                let values = R::table(table.as_ptr(), R::splat(&scale));
                for i in 0..registers {
                    let codes = R::codes_of_pairs(codes.as_ptr().add(i * R::LANES / 2));
                    R::store(out.as_mut_ptr().add(i * R::LANES), R::of_table(codes, values));
                }
            }
            let whole = registers * R::LANES;
            pairs(table, &codes[whole / 2..], scale, &mut out[whole..]);
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
                if Avx512::is_available() {
                    // SAFETY: the processor has the feature.
                    unsafe { decode_avx512(&table, &codes, block_len, scale, &mut found) };
                    assert_eq!(found, expected, "AVX-512, blocks of {block_len}");
                }
                found.fill(0.0);
                if Avx2::is_available() {
                    // SAFETY: the processor has the feature.
                    unsafe { decode_avx2(&table, &codes, block_len, scale, &mut found) };
                    assert_eq!(found, expected, "AVX2, blocks of {block_len}");
                }
            }
        }
    }
}
