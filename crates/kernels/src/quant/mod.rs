//! Storage formats of frozen weights: layout, decoding, encoding and source, one family of formats a file.
//!
//! A [`Format`] keeps the scale of a block beside its values (or needs none). [`four_bit`] and [`int8`] keep
//! scales in tensors of their own.

use std::fmt;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use self::blocks::encode_blocks;
pub(crate) use self::float::f16_to_f32;

mod blocks;
pub mod cuda;
pub mod dynamic_map;
#[cfg(test)]
mod encode_tests;
mod float;
pub mod four_bit;
pub mod int8;
mod k_quants;
mod nibbles;
pub(crate) mod on_gpu;
mod q4;
mod q5;
mod q8_0;
#[cfg(target_arch = "x86_64")]
pub(crate) mod registers;
#[cfg(test)]
mod tests;

/// A storage format of weight values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    /// The longest block of any format, in values.
    pub const MAX_BLOCK_LEN: usize = 256;

    /// All formats.
    pub const ALL: [Format; 11] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
    ];

    /// Values in a block; a row holds whole blocks.
    #[inline(always)]
    pub fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0 | Format::Q4_1 => q4::LEN,
            Format::Q5_0 | Format::Q5_1 => q5::LEN,
            Format::Q8_0 => q8_0::LEN,
            Format::Q4K | Format::Q5K | Format::Q6K => k_quants::LEN,
        }
    }

    /// Bytes of a stored block.
    #[inline(always)]
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 => q4::BYTES_0,
            Format::Q4_1 => q4::BYTES_1,
            Format::Q5_0 => q5::BYTES_0,
            Format::Q5_1 => q5::BYTES_1,
            Format::Q8_0 => q8_0::BYTES,
            Format::Q4K => k_quants::Q4_BYTES,
            Format::Q5K => k_quants::Q5_BYTES,
            Format::Q6K => k_quants::Q6_BYTES,
        }
    }

    /// Decodes whole blocks: `src` holds `dst.len() / block_len` of them. Every instruction set gives the same bits, since
    /// a value takes the same roundings on each.
    pub fn decode(self, src: &[u8], dst: &mut [f32]) {
        decode(self, src, dst);
    }

    /// Encodes whole blocks: `src` holds `dst.len() / block_bytes` of them. Blocks do not depend on each other, and every
    /// instruction set gives the same bits.
    ///
    /// F16 and BF16 round to the nearest value, the even one of two. Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 are the bytes of
    /// llama.cpp (`quantize_row_*_ref`). Q4_K, Q5_K and Q6_K are sought for the least sum of squared errors, all values
    /// counting alike; it is smaller than that of llama.cpp, which weights large values more.
    ///
    /// Scales are f16. Values so small that theirs rounds to zero decode to zero, with the codes of llama.cpp in its
    /// formats. A zero may change its sign.
    ///
    /// # Errors
    /// A value that is not finite, but for F32, F16 and BF16, which have it; a finite one that F16 or BF16 would make
    /// infinite; a block whose scale or minimum no f16 holds (llama.cpp makes it infinite, which decodes to NaN): a
    /// magnitude below 65,504 never needs one. Then the blocks in `dst` from that of the value on are unspecified.
    ///
    /// # Panics
    /// If `src` does not hold the whole blocks that `dst` has room for: an error of the caller, not of the data.
    pub fn encode(self, src: &[f32], dst: &mut [u8]) -> Result<(), UnencodableValue> {
        let (blocks, rest) = (src.len() / self.block_len(), src.len() % self.block_len());
        assert!(
            rest == 0 && blocks * self.block_bytes() == dst.len(),
            "{} values of {self} for {} bytes",
            src.len(),
            dst.len()
        );
        encode(self, src, dst).map_err(|at| UnencodableValue { at, value: src[at], format: self })
    }

    /// The name files and users know the format by.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q4K => "Q4_K",
            Format::Q5K => "Q5_K",
            Format::Q6K => "Q6_K",
        }
    }
}

/// Bytes that come from memory together.
pub(crate) const LINE_BYTES: usize = 64;

/// Asks for what lies some way behind `bytes`, which is decoded soon where rows are read in turn. Decoders take memory in bursts, for
/// which processors do not look far enough ahead by themselves. Nothing happens where there is no such instruction.
#[inline(always)]
fn ask_ahead(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const BYTES: usize = 4096;
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(BYTES).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Instruction sets that decoders are compiled for: what the processor has at least.
const PLAIN: u8 = 0;
/// AVX2, FMA and F16C.
const AVX2: u8 = 1;
/// AVX-512 (F, BW, DQ, VL), and those.
const AVX512: u8 = 2;

/// See [`Format::decode`]. All formats in one function, so that each is compiled once an instruction set and not in every
/// product that reads it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma+f16c", "x86_64+avx2+fma+f16c"))]
fn decode(format: Format, src: &[u8], dst: &mut [f32]) {
    const SET: u8 = match (target_cfg_f!(target_feature = "avx512f"), target_cfg_f!(target_feature = "f16c"))
    {
        (true, _) => AVX512,
        (false, true) => AVX2,
        (false, false) => PLAIN,
    };
    // SAFETY: this is compiled for the set, and chosen where the processor has it.
    unsafe { decode_here::<SET>(format, src, dst) };
}

/// For the instruction set `SET` of the caller.
///
/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn decode_here<const SET: u8>(format: Format, src: &[u8], dst: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if SET == AVX512 {
        // SAFETY: the instruction set is there, by the caller.
        return unsafe { decode_in_registers::<registers::Avx512>(format, src, dst) };
    } else if SET == AVX2 {
        // SAFETY: as above.
        return unsafe { decode_in_registers::<registers::Avx2>(format, src, dst) };
    }
    match format {
        Format::F32 => float::decode_f32(src, dst),
        Format::F16 => float::decode_f16(src, dst),
        Format::BF16 => float::decode_bf16(src, dst),
        Format::Q4_0 => q4::decode_0(src, dst),
        Format::Q4_1 => q4::decode_1(src, dst),
        Format::Q5_0 => q5::decode_0(src, dst),
        Format::Q5_1 => q5::decode_1(src, dst),
        Format::Q8_0 => q8_0::decode(src, dst),
        Format::Q4K => k_quants::decode_q4(src, dst),
        Format::Q5K => k_quants::decode_q5(src, dst),
        Format::Q6K => k_quants::decode_q6(src, dst),
    }
}

/// As [`decode_here`], by way of the registers of `R`.
///
/// # Safety
/// The processor has the instruction set.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn decode_in_registers<R: registers::Registers>(format: Format, src: &[u8], dst: &mut [f32]) {
    use registers::{decode, formats};
    // SAFETY: by the caller.
    unsafe {
        match format {
            Format::F32 => float::decode_f32(src, dst),
            Format::F16 => {
                // The last line need not be whole.
                let (lines, rest) = src.split_at(src.len() / LINE_BYTES * LINE_BYTES);
                let (of_lines, of_rest) = dst.split_at_mut(lines.len() / 2);
                decode::<R, formats::F16>(lines, of_lines);
                float::decode_f16(rest, of_rest);
            }
            Format::BF16 => float::decode_bf16(src, dst),
            Format::Q4_0 => decode::<R, formats::Q4_0>(src, dst),
            Format::Q4_1 => decode::<R, formats::Q4_1>(src, dst),
            Format::Q5_0 => decode::<R, formats::Q5_0>(src, dst),
            Format::Q5_1 => decode::<R, formats::Q5_1>(src, dst),
            Format::Q8_0 => decode::<R, formats::Q8_0>(src, dst),
            Format::Q4K => decode::<R, formats::Q4K>(src, dst),
            Format::Q5K => decode::<R, formats::Q5K>(src, dst),
            Format::Q6K => decode::<R, formats::Q6K>(src, dst),
        }
    }
}

/// See [`Format::encode`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma+f16c", "x86_64+avx2+fma+f16c"))]
fn encode(format: Format, src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    encode_here(format, src, dst)
}

/// For the instruction set of the caller.
#[inline(always)]
fn encode_here(format: Format, src: &[f32], dst: &mut [u8]) -> Result<(), usize> {
    match format {
        Format::F32 => float::encode_f32(src, dst),
        Format::F16 => float::encode_f16(src, dst),
        Format::BF16 => float::encode_bf16(src, dst),
        Format::Q4_0 => encode_blocks!(src, dst, q4::encode_0),
        Format::Q4_1 => encode_blocks!(src, dst, q4::encode_1),
        Format::Q5_0 => encode_blocks!(src, dst, q5::encode_0),
        Format::Q5_1 => encode_blocks!(src, dst, q5::encode_1),
        Format::Q8_0 => encode_blocks!(src, dst, q8_0::encode),
        Format::Q4K => encode_blocks!(src, dst, k_quants::encode_q4),
        Format::Q5K => encode_blocks!(src, dst, k_quants::encode_q5),
        Format::Q6K => encode_blocks!(src, dst, k_quants::encode_q6),
    }
}

/// A value that a format cannot store.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("value {at} is {value:?}, which {format} cannot store")]
pub struct UnencodableValue {
    /// Its place among the values that were to be encoded.
    pub at: usize,
    /// NaN, infinite, or too large.
    pub value: f32,
    /// What it was to be encoded in.
    pub format: Format,
}

impl UnencodableValue {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.value.is_finite() {
            true => "it is beyond what a 16-bit float scales: write F32",
            false => "the weights are damaged, or training diverged: take those of an earlier checkpoint",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a base model is quantised on loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// NF4 or FP4.
    FourBit {
        /// The code.
        code: four_bit::Code,
        /// Values of a block: a power of two from 32 to 4096.
        block_len: usize,
        /// Quantise the scales too.
        double: bool,
    },
    /// Signed bytes, one scale a row.
    Int8,
}

impl Quantization {
    /// Bytes of a matrix.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            Quantization::FourBit { block_len, double, .. } => {
                four_bit::FourBit::bytes(rows * cols, block_len, double)
            }
            Quantization::Int8 => int8::Int8::bytes(rows, cols),
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quantization::FourBit { code, double, .. } => {
                write!(f, "{}{}", code.name(), if *double { "+dq" } else { "" })
            }
            Quantization::Int8 => f.write_str("int8"),
        }
    }
}
