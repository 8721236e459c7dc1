//! LLM.int8() storage (Dettmers et al. 2022): signed bytes with one scale a row, `x = q * absmax / 127`.
//! Codes and scales are those of bitsandbytes 0.50. Outlier columns of the input are not kept apart, as its product does:
//! arithmetic here is f32 whatever the storage.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::ask_ahead;
use crate::bytes::SharedBytes;

/// Codes that come from memory together.
const PIECE: usize = 64;

/// `out = codes * absmax / 127`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn decode_row(codes: &[u8], absmax: f32, out: &mut [f32]) {
    for (codes, out) in codes.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
        ask_ahead(codes);
        for (code, out) in codes.iter().zip(out) {
            *out = f32::from(*code as i8) * absmax * Int8::STEP;
        }
    }
}

/// A matrix of signed bytes with one scale a row.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// One byte a value, row-major.
    pub codes: SharedBytes,
    /// Little-endian f32, the largest magnitude of each row (`SCB` in bitsandbytes files).
    pub absmax: SharedBytes,
}

impl Int8 {
    /// 1 / 127 as bitsandbytes writes it.
    pub(crate) const STEP: f32 = 7.874_016e-3;

    /// Bytes of a matrix.
    pub fn bytes(rows: usize, cols: usize) -> usize {
        rows * cols + 4 * rows
    }

    /// Bytes as stored.
    pub fn stored_bytes(&self) -> usize {
        self.codes.len() + self.absmax.len()
    }

    /// Decodes columns `cols` of row `row`; `width` is the length of a row.
    pub fn decode(&self, width: usize, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let codes = &self.codes.as_slice()[row * width + cols.start..row * width + cols.end];
        decode_row(codes, self.absmax_of(row), out);
    }

    /// The largest magnitude of a row. Files may hold it at any address.
    #[inline(always)]
    pub(crate) fn absmax_of(&self, row: usize) -> f32 {
        f32::from_le_bytes(self.absmax.as_slice()[4 * row..4 * row + 4].try_into().expect("four bytes"))
    }

    /// Encodes a matrix: `source(range, out)` gives the values of a range in row-major order.
    pub fn encode(rows: usize, cols: usize, source: &(impl Fn(Range<usize>, &mut [f32]) + Sync)) -> Int8 {
        let mut codes = vec![0u8; rows * cols];
        let mut absmax = vec![[0u8; 4]; rows];
        codes.par_chunks_mut(cols.max(1)).zip(absmax.par_iter_mut()).enumerate().for_each_init(
            || vec![0.0f32; cols],
            |values, (row, (codes, absmax))| {
                source(row * cols..(row + 1) * cols, values);
                // bitsandbytes rounds to f16 first.
                values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
                let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                *absmax = largest.to_le_bytes();
                // A row of zeros has no scale: its codes are zero (the product below is NaN, which casts to 0).
                let factor = 1.0 / largest * 127.0;
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = (*value * factor).round_ties_even() as i8 as u8;
                }
            },
        );
        Int8 { codes: SharedBytes::from_vec(codes), absmax: SharedBytes::from_vec(absmax.concat()) }
    }
}
