//! Decoding has the bits of the CPU: the same products and sums in f32, rounded once.

use half::f16;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::embedding;
use lorafit_kernels::ops::matmul::{self, Product, Right, Term, View};
use lorafit_kernels::quant::cuda::{FEW_ROWS, FewRows, FourBitRegions, Rows, Scales, Stored, Tile};
use lorafit_kernels::quant::four_bit::{Absmax, Code, FourBit};
use lorafit_kernels::quant::int8::Int8;
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::random::mix;
use lorafit_kernels::{FrozenWeight, RowOrder, SharedBytes, Weight};

use crate::machine::Machine;
use crate::{FLOATS, assert_close, rounded, tensor, tolerance, values};

/// Decodes rows of `weight`, which is `stored`, as neighbours, by ids and in the order of rotary pairs, and multiplies with it.
#[track_caller]
fn check(machine: &mut Machine, weight: FrozenWeight, what: &str, stored: Stored) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let orders = [RowOrder::Stored, RowOrder::RotaryPairs { head_dim: rows / 2 }];
    for (order, count) in orders.into_iter().zip([1, FEW_ROWS]) {
        check_few_rows(machine, weight.clone().with_row_order(order), order, count, what, stored);
    }
    let neighbours: Vec<u32> = (1..rows as u32).collect();
    let ids = vec![rows as u32 - 1, 0, 2, 2];
    for order in orders {
        let weight = Weight::from(weight.clone().with_row_order(order));
        for (wanted, by_id) in [(&neighbours, false), (&ids, true)] {
            let len = wanted.len() * cols;
            let mut expected = tensor(&vec![0.0; len]);
            embedding::forward(&weight, wanted, &mut expected);
            let rows = if by_id { Rows::Ids(machine.put_u32(wanted)) } else { Rows::From(1) };
            let whole = Tile::of_rows(rows, order, wanted.len() as u32, cols as u32);
            let expected = expected.to_vec(len);
            // All columns; some that begin and end within blocks; those of a last tile.
            for part in [0..cols, 8..cols.clamp(9, 24), cols.next_multiple_of(8) - 8..cols] {
                if part.end > cols {
                    continue;
                }
                let tile = Tile { first_col: part.start as u32, cols: part.len() as u32, ..whole };
                let expected: Vec<f32> =
                    expected.chunks_exact(cols).flat_map(|row| &row[part.clone()]).copied().collect();
                for float in FLOATS {
                    let out = machine.put_floats(float, &vec![9.0; expected.len()]);
                    machine.run(&stored.decode(float, tile, out));
                    let found = machine.get_floats(float, out);
                    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let expected = rounded(float, *expected);
                        let place = format!("{what} {order:?} {float:?} {part:?}: value {i}");
                        assert_eq!(found.to_bits(), expected.to_bits(), "{place}");
                    }
                }
            }
        }
    }
}

/// Products of `count` rows, into rows that lie apart: nothing before, added to what is there, and to something else.
#[track_caller]
fn check_few_rows(
    machine: &mut Machine,
    weight: FrozenWeight,
    order: RowOrder,
    count: usize,
    what: &str,
    stored: Stored,
) {
    let (rows, cols, gap) = (weight.rows(), weight.cols(), 3);
    let weight = Weight::from(weight);
    for float in FLOATS {
        if float == Float::Bf16 && matches!(stored, Stored::Blocks(Format::F16, _)) {
            // What computes in bf16 holds such a matrix in bf16.
            continue;
        }
        let (x, before) = (values(float, 31, count * cols), values(float, 32, count * (rows + gap)));
        let mut products = tensor(&vec![0.0; count * rows]);
        let (input, right) = (tensor(&x), Right::WeightTransposed(&weight));
        let term = Term { left: View::rows(&input, cols), right, k: cols };
        matmul::run(&mut [Product::new(count, rows, term, &mut products)]);
        let (products, stride) = (products.to_vec(count * rows), rows + gap);
        let span = float.bytes(((count - 1) * stride + rows) as u64);
        let x = machine.put_floats(float, &x);
        for (adds, other) in [(false, false), (true, false), (true, true)] {
            let y = machine.put_floats(float, &before).first(span);
            let apart = machine.put_floats(float, &before).first(span);
            let base = adds.then_some(if other { apart } else { y });
            let (shape, scale) = ((rows as u32, cols as u32), 0.5);
            let (x, y_rows, count) = ((x, cols as u32), (y, stride as u32), count as u32);
            let few = FewRows { order, shape, x, count, base, scale, y: y_rows };
            machine.run(&stored.multiply(float, few));
            let found = machine.get_floats(float, y);
            let expected: Vec<f32> = (0..found.len())
                .map(|i| match (i / stride, i % stride) {
                    (row, col) if col < rows => {
                        let sum = scale * products[row * rows + col];
                        if adds { before[i] + sum } else { sum }
                    }
                    _ => before[i],
                })
                .collect();
            // Sums in another order.
            let tolerance = 2.0 * tolerance(float);
            assert_close(&found, &expected, tolerance, &format!("{what} {order:?} {float:?} {count} rows"));
        }
    }
}

/// Bytes of blocks that are anything, with halves that are moderate numbers.
fn block_bytes(format: Format, blocks: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..blocks * format.block_bytes()).map(|i| mix(i as u64) as u8).collect();
    let halves: &[usize] = match format {
        Format::F32 | Format::F16 | Format::BF16 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
    };
    for (b, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
        for at in halves {
            let scale = f16::from_f32((mix((b + at) as u64 + 77) % 2000) as f32 / 1000.0 - 1.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn rows_of_blocks_decode_to_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for format in Format::ALL {
        let widths = match format.block_len() {
            1 => vec![1, 13, 64],
            len => vec![len, 3 * len],
        };
        for cols in widths {
            let rows = 8;
            let bytes = match format {
                Format::F32 | Format::F16 | Format::BF16 => {
                    let halves = values(Float::F32, 1, rows * cols);
                    match format {
                        Format::F32 => halves.iter().flat_map(|v| v.to_le_bytes()).collect(),
                        Format::F16 => halves.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                        _ => halves.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                    }
                }
                _ => block_bytes(format, rows * cols / format.block_len()),
            };
            let data = machine.put(&bytes);
            let weight =
                FrozenWeight::new(rows, cols, format, SharedBytes::from_vec(bytes)).expect("whole blocks");
            check(&mut machine, weight, &format!("{format} {cols}"), Stored::Blocks(format, data));
        }
    }
}

#[test]
fn four_bit_codes_decode_to_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for (code, block_len, double, cols) in [
        (Code::Nf4, 64, true, 96),
        (Code::Nf4, 64, false, 64),
        (Code::Fp4, 32, false, 13),
        (Code::Fp4, 128, true, 40),
        (Code::Nf4, 32, true, 1),
        (Code::Nf4, 64, true, 2056),
    ] {
        let rows = 10;
        let source = values(Float::F32, 2, rows * cols);
        let fill = |range: std::ops::Range<usize>, out: &mut [f32]| out.copy_from_slice(&source[range]);
        let quantization = Quantization::FourBit { code, block_len, double };
        let weight = FrozenWeight::quantized(rows, cols, quantization, fill).expect("finite");
        let FourBit { codes, absmax, .. } = weight.four_bit().expect("4-bit").clone();
        let codes = machine.put(codes.as_slice());
        let table = machine.put_floats(Float::F32, code.table());
        let scales = match &absmax {
            Absmax::Plain(scales) => Scales::Plain(machine.put(scales.as_slice())),
            Absmax::Double { codes, map, nested, offset } => Scales::Double {
                codes: machine.put(codes.as_slice()),
                map: machine.put_floats(Float::F32, &map[..]),
                nested: machine.put(nested.as_slice()),
                offset: *offset,
            },
        };
        let what = format!("{code:?} blocks of {block_len}, {cols} columns, double {double}");
        let data = FourBitRegions { codes, table, scales, block_len: block_len as u32 };
        check(&mut machine, weight, &what, Stored::FourBit(data));
    }
}

#[test]
fn signed_bytes_decode_to_the_bits_of_the_cpu() {
    let Some(mut machine) = Machine::new() else { return };
    for cols in [1, 8, 77] {
        let source = values(Float::F32, 3, 8 * cols);
        let fill = |range: std::ops::Range<usize>, out: &mut [f32]| out.copy_from_slice(&source[range]);
        let weight = FrozenWeight::quantized(8, cols, Quantization::Int8, fill).expect("finite");
        let Int8 { codes, absmax } = weight.int8().expect("int8").clone();
        let (codes, absmax) = (machine.put(codes.as_slice()), machine.put(absmax.as_slice()));
        check(&mut machine, weight, &format!("{cols} columns"), Stored::Int8 { codes, absmax });
    }
}
