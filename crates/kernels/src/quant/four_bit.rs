//! NF4 and FP4 as bitsandbytes stores them (QLoRA, Dettmers et al. 2023, section 3).
//!
//! The values of a matrix in row-major order are cut into blocks (64 by default), which need not end where rows do.
//! A block has one scale, its largest magnitude: `x = code[q] * absmax`. Two values share a byte, the first in its
//! high half. With double quantisation the absmax are stored in 8 bits over nested blocks of 256,
//! `absmax = map[q] * nested_absmax + offset`, which makes 4.127 bits a weight instead of 4.5.

use std::ops::Range;
use std::sync::Arc;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{dynamic_map, nibbles};
use crate::bytes::SharedBytes;

/// The sixteen values of a 4-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Quantiles of a normal distribution.
    Nf4,
    /// Sign, two bits of exponent, one of fraction.
    Fp4,
}

#[rustfmt::skip]
const NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// Code 8 is the negative zero in the decoder of bitsandbytes, though its table says zero.
#[rustfmt::skip]
const FP4: [f32; 16] = [
    0.0, 0.005_208_333_5, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25,
    -0.0, -0.005_208_333_5, -0.666_666_7, -1.0, -0.333_333_34, -0.5, -0.166_666_67, -0.25,
];

impl Code {
    /// Value of each code.
    pub fn table(self) -> &'static [f32; 16] {
        match self {
            Code::Nf4 => &NF4,
            Code::Fp4 => &FP4,
        }
    }

    /// The name files and users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Code::Nf4 => "nf4",
            Code::Fp4 => "fp4",
        }
    }
}

/// Nested block of double quantisation, in absmax values.
pub const NESTED_LEN: usize = 256;

/// The scales of the blocks.
#[derive(Clone, Debug)]
pub enum Absmax {
    /// Little-endian f32, one a block.
    Plain(SharedBytes),
    /// Quantised once more.
    Double {
        /// One byte a block.
        codes: SharedBytes,
        /// Value of each byte.
        map: Arc<[f32; 256]>,
        /// Little-endian f32, one for 256 blocks.
        nested: SharedBytes,
        /// Added to each scale: their mean.
        offset: f32,
    },
}

/// Values in a 4-bit code with block scales.
#[derive(Clone, Debug)]
pub struct FourBit {
    /// The code.
    pub code: Code,
    /// Values of a block, even.
    pub block_len: usize,
    /// Two values a byte.
    pub codes: SharedBytes,
    /// Scales.
    pub absmax: Absmax,
}

impl FourBit {
    /// Bytes for `values` values: codes, and all that scales need.
    pub fn bytes(values: usize, block_len: usize, double: bool) -> usize {
        let blocks = values.div_ceil(block_len);
        let scales = if double { blocks + 4 * blocks.div_ceil(NESTED_LEN) + 4 } else { 4 * blocks };
        values.div_ceil(2) + scales
    }

    /// Bytes as stored, without the code tables, which all matrices share.
    pub fn stored_bytes(&self) -> usize {
        self.codes.len()
            + match &self.absmax {
                Absmax::Plain(scales) => scales.len(),
                Absmax::Double { codes, nested, .. } => codes.len() + nested.len() + 4,
            }
    }

    /// What is wrong with the lengths for `values` values, if anything.
    pub fn check(&self, values: usize) -> Result<(), String> {
        let wrong = |what: &str, expected: usize, found: usize| {
            if expected == found {
                Ok(())
            } else {
                Err(format!("{what}: {expected} bytes expected, {found} found"))
            }
        };
        if !(2..=4096).contains(&self.block_len) || !self.block_len.is_power_of_two() {
            return Err(format!("a block size of {} is not a power of two from 2 to 4096", self.block_len));
        }
        let blocks = values.div_ceil(self.block_len);
        wrong("codes", values.div_ceil(2), self.codes.len())?;
        match &self.absmax {
            Absmax::Plain(scales) => wrong("absmax", 4 * blocks, scales.len()),
            Absmax::Double { codes, nested, .. } => {
                wrong("absmax", blocks, codes.len())?;
                wrong("nested_absmax", 4 * blocks.div_ceil(NESTED_LEN), nested.len())
            }
        }
    }

    /// The scale of each block.
    #[inline(always)]
    pub(crate) fn scales(&self) -> impl Fn(usize) -> f32 {
        let double = match &self.absmax {
            Absmax::Plain(_) => None,
            Absmax::Double { codes, map, offset, .. } => Some((codes.as_slice(), &**map, *offset)),
        };
        let floats = match &self.absmax {
            Absmax::Plain(floats) | Absmax::Double { nested: floats, .. } => {
                floats.as_slice().as_chunks::<4>().0
            }
        };
        move |block| match double {
            None => f32::from_le_bytes(floats[block]),
            Some((codes, map, offset)) => {
                map[usize::from(codes[block])] * f32::from_le_bytes(floats[block / NESTED_LEN]) + offset
            }
        }
    }

    /// Decodes values `range`, counted in row-major order.
    pub fn decode(&self, range: Range<usize>, out: &mut [f32]) {
        debug_assert_eq!(range.len(), out.len());
        let codes = self.codes.as_slice();
        let table = self.code.table();
        let scale = self.scales();
        let block_of = |value: usize| value >> self.block_len.trailing_zeros();
        let single = |i: usize| {
            let byte = codes[i / 2];
            let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            table[usize::from(code)] * scale(block_of(i))
        };
        let (mut at, mut out) = (range.start, out);
        if at < range.end && !at.is_multiple_of(2) {
            out[0] = single(at);
            (at, out) = (at + 1, &mut out[1..]);
        }
        if at < range.end && !range.end.is_multiple_of(2) {
            let last = out.len() - 1;
            out[last] = single(range.end - 1);
            out = &mut out[..last];
        }
        // The rest of a block that was begun before, then whole blocks from one to the next.
        let begun = (at.next_multiple_of(self.block_len) - at).min(out.len());
        let (head, body) = out.split_at_mut(begun);
        let bytes = |at: usize, len: usize| &codes[at / 2..(at + len) / 2];
        if !head.is_empty() {
            let scale = scale(block_of(at));
            nibbles::decode_blocks(table, bytes(at, begun), self.block_len, |_| scale, head);
        }
        if !body.is_empty() {
            let first = block_of(at + begun);
            let codes = bytes(at + begun, body.len());
            nibbles::decode_blocks(table, codes, self.block_len, |b| scale(first + b), body);
        }
    }

    /// Encodes `values` values: `source(range, out)` gives those of a range, on any thread, in any order.
    ///
    /// Bit-equal to bitsandbytes 0.50 on the CPU with one thread.
    pub fn encode(
        code: Code,
        block_len: usize,
        double: bool,
        values: usize,
        source: &(impl Fn(Range<usize>, &mut [f32]) + Sync),
    ) -> FourBit {
        const BLOCKS: usize = 64;
        assert!(block_len.is_power_of_two() && block_len >= 2, "blocks of {block_len}");
        let rounding = Rounding::new(code.table());
        let mut codes = vec![0u8; values.div_ceil(2)];
        let mut absmax = vec![0.0f32; values.div_ceil(block_len)];
        let piece = block_len * BLOCKS;
        codes.par_chunks_mut(piece / 2).zip(absmax.par_chunks_mut(BLOCKS)).enumerate().for_each_init(
            || vec![0.0f32; piece],
            |buffer, (i, (codes, absmax))| {
                let range = i * piece..values.min((i + 1) * piece);
                let buffer = &mut buffer[..range.len()];
                source(range, buffer);
                encode_piece(&rounding, block_len, buffer, codes, absmax);
            },
        );
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let absmax = match double {
            false => Absmax::Plain(SharedBytes::from_vec(bytes(&absmax))),
            true => {
                let offset = sum(&absmax) / absmax.len().max(1) as f32;
                let map = dynamic_map::signed();
                let mut codes = Vec::with_capacity(absmax.len());
                let mut nested = Vec::new();
                for block in absmax.chunks_mut(NESTED_LEN) {
                    block.iter_mut().for_each(|v| *v -= offset);
                    let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    nested.push(largest);
                    // Scales that are all equal have code 0: it decodes to 0 times `map[0]`, plus the offset.
                    let code = |v: &f32| match largest > 0.0 {
                        true => dynamic_map::nearest(map, v * (1.0 / largest)),
                        false => 0,
                    };
                    codes.extend(block.iter().map(code));
                }
                Absmax::Double {
                    codes: SharedBytes::from_vec(codes),
                    map: Arc::new(*map),
                    nested: SharedBytes::from_vec(bytes(&nested)),
                    offset,
                }
            }
        };
        FourBit { code, block_len, codes: SharedBytes::from_vec(codes), absmax }
    }
}

/// The sum of `values` in f32, in the order of PyTorch on one thread: rows of four vectors of eight lanes are added up
/// in a cascade of four levels, then vectors, the values that fill no vector, and lanes.
fn sum(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROW: usize = 4 * LANES;
    let add = |to: &mut [f32; ROW], from: &[f32; ROW]| to.iter_mut().zip(from).for_each(|(to, v)| *to += v);
    let (rows, rest) = values.as_chunks::<ROW>();
    // A level holds the sum of so many rows, as a power of two, before it is passed on.
    let power = (rows.len().max(1).next_power_of_two().ilog2() / 4).max(4);
    let (step, mask) = (1usize << power, (1usize << power) - 1);
    let mut levels = [[0.0f32; ROW]; 4];
    let (whole, last) = rows.split_at(rows.len() / step * step);
    for (block, rows) in whole.chunks_exact(step).enumerate() {
        rows.iter().for_each(|row| add(&mut levels[0], row));
        let done = (block + 1) * step;
        for j in 1..4 {
            let below = std::mem::replace(&mut levels[j - 1], [0.0; ROW]);
            add(&mut levels[j], &below);
            if done & (mask << (j as u32 * power)) != 0 {
                break;
            }
        }
    }
    last.iter().for_each(|row| add(&mut levels[0], row));
    let [mut total, upper @ ..] = levels;
    upper.iter().for_each(|level| add(&mut total, level));

    let (vectors, tail) = rest.as_chunks::<LANES>();
    let (mut lanes, others) = (<[f32; LANES]>::default(), &total[LANES..]);
    lanes.copy_from_slice(&total[..LANES]);
    for vector in vectors.iter().chain(others.as_chunks::<LANES>().0) {
        lanes.iter_mut().zip(vector).for_each(|(lane, v)| *lane += v);
    }
    tail.iter().chain(&lanes).fold(0.0, |sum, v| sum + v)
}

/// How values between -1 and 1 are rounded to a code.
struct Rounding {
    /// Halfway between neighbouring values of the table, ascending.
    bounds: [f32; 15],
    /// The codes in the order of their values.
    order: [u8; 16],
}

impl Rounding {
    fn new(table: &[f32; 16]) -> Self {
        let mut order: [u8; 16] = std::array::from_fn(|i| i as u8);
        // FP4 has zero twice, in the order of the codes.
        order.sort_by(|&a, &b| table[usize::from(a)].partial_cmp(&table[usize::from(b)]).expect("finite"));
        let value = |i: usize| table[usize::from(order[i])];
        Rounding { bounds: std::array::from_fn(|i| (value(i) + value(i + 1)) / 2.0), order }
    }
}

/// bitsandbytes keeps its division away from zero by this.
const SMALLEST: f32 = 1e-38;

/// Scales the blocks of `values` in place, and writes their codes and scales.
fn encode_piece(
    rounding: &Rounding,
    block_len: usize,
    values: &mut [f32],
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    for (block, absmax) in values.chunks_mut(block_len).zip(absmax) {
        let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if block.len() == block_len {
            let inverse = 1.0 / largest.max(SMALLEST);
            block.iter_mut().for_each(|v| *v = (*v * inverse).clamp(-1.0, 1.0));
            *absmax = largest;
        } else {
            // bitsandbytes divides in a last block that is not full.
            *absmax = largest.max(SMALLEST);
            block.iter_mut().for_each(|v| *v = (*v / *absmax).clamp(-1.0, 1.0));
        }
    }
    for (values, codes) in values.chunks(PIECE).zip(codes.chunks_mut(PIECE / 2)) {
        let mut piece = [0.0; PIECE];
        piece[..values.len()].copy_from_slice(values);
        let places = places(&rounding.bounds, &piece);
        let code = |i: usize| rounding.order[usize::from(places[i])];
        for (i, byte) in codes.iter_mut().enumerate() {
            *byte = code(2 * i) << 4 | code(2 * i + 1);
        }
    }
}

/// Values whose codes are found together.
const PIECE: usize = 64;

/// The number of bounds below each value.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn places(bounds: &[f32; 15], values: &[f32; PIECE]) -> [u8; PIECE] {
    let mut counts = [0i32; PIECE];
    for bound in bounds {
        for (count, value) in counts.iter_mut().zip(values) {
            *count += i32::from(value > bound);
        }
    }
    counts.map(|count| count as u8)
}
