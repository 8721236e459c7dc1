//! Storage formats of frozen weights: one file each, with layout, decoding and source.

use std::fmt;

mod float;

/// A storage format of weight values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
}

impl Format {
    /// The longest block of any format, in values.
    pub const MAX_BLOCK_LEN: usize = 256;

    /// Values in a block; a row holds whole blocks.
    #[inline(always)]
    pub fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
        }
    }

    /// Bytes of a stored block.
    #[inline(always)]
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
        }
    }

    /// Decodes whole blocks: `src` holds `dst.len() / block_len` of them.
    #[inline(always)]
    pub fn decode(self, src: &[u8], dst: &mut [f32]) {
        match self {
            Format::F32 => float::decode_f32(src, dst),
            Format::F16 => float::decode_f16(src, dst),
            Format::BF16 => float::decode_bf16(src, dst),
        }
    }

    /// The name files and users know the format by.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
