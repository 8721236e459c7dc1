use super::cpu::{RightCpu, Strided, TermCpu, testing};
use super::*;
use crate::bytes::SharedBytes;
use crate::quant::four_bit::Code;
use crate::quant::{Format, Quantization};
use crate::tensor::Half;
use crate::testing::{Random, assert_close};
use crate::weight::{FrozenWeight, RowOrder};

/// Sums of up to 1,200 products of values near 1 in f32: the error grows with sqrt(k) * 2^-24.
const TOLERANCE: f64 = 5e-6;

fn rows(values: &[f32], cols: usize) -> Strided<'_> {
    Strided { values, row_stride: cols, col_stride: 1 }
}

fn transposed(values: &[f32], rows: usize) -> Strided<'_> {
    Strided { values, row_stride: 1, col_stride: rows }
}

/// Holds the products of `terms` on every instruction set to those of `exact` in f64: alone, added to `start`, with `bias`, and
/// with both.
fn assert_products(
    [m, n, k]: [usize; 3],
    terms: &[TermCpu<'_>],
    exact: &[TermCpu<'_>],
    start: &[f32],
    bias: &[f32],
) {
    for (accumulate, bias) in [(false, None), (true, None), (false, Some(bias)), (true, Some(bias))] {
        let begin = if accumulate { start.to_vec() } else { vec![0.0; m * n] };
        let expected = reference::product(m, n, exact, bias, &begin);
        for (isa, found) in testing::on_every_isa(m, n, terms, bias, accumulate, start, 3) {
            assert_close(&found, &expected, TOLERANCE, &format!("{isa} {m}x{n}x{k}"));
        }
    }
}

#[test]
fn every_instruction_set_equals_the_reference_on_awkward_shapes() {
    let mut random = Random::new(1);
    for (m, n, k) in [
        (1, 1, 1),
        (1, 70, 33),
        (3, 130, 600),
        (5, 7, 9),
        (9, 96, 150),
        (12, 32, 512),
        (13, 33, 513),
        (16, 37, 1543),
        (17, 40, 1543),
        (24, 64, 1100),
        (24, 1024, 70),
        (29, 100, 1100),
        (50, 16, 64),
    ] {
        let x = random.normal(m * k);
        let w = frozen(n, k, &random.normal(n * k));
        let v = frozen(k, n, &random.normal(n * k));
        let y = random.normal(n * k);
        let (u, b) = (random.normal(m * 5), random.normal(n * 5));
        let bias = random.normal(n);
        let start = random.normal(m * n);
        let lora = TermCpu { left: rows(&u, 5), right: RightCpu::Strided(transposed(&b, 5)), k: 5 };
        let cases = [
            vec![TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(w.host()), k }, lora],
            vec![TermCpu { left: rows(&x, k), right: RightCpu::Weight(v.host()), k }],
            vec![TermCpu { left: transposed(&x, m), right: RightCpu::Weight(v.host()), k }, lora],
            // A weight gradient, `dY^T X`.
            vec![TermCpu { left: transposed(&x, m), right: RightCpu::Strided(rows(&y, n)), k }],
        ];
        for terms in &cases {
            assert_products([m, n, k], terms, terms, &start, &bias);
        }
    }
}

fn bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect()
}

/// A weight of these values.
fn frozen(rows: usize, cols: usize, values: &[f32]) -> Weight {
    FrozenWeight::from_f32(rows, cols, values).into()
}

/// The same weight, to be multiplied as bf16.
fn computed_in_bf16(mut weight: Weight) -> Weight {
    weight.set_compute_dtype(ComputeDtype::Bf16);
    weight
}

#[test]
fn bf16_products_are_those_of_rounded_operands_on_every_instruction_set() {
    let mut random = Random::new(4);
    for (m, n, k) in [
        (17, 7, 9),
        (24, 32, 512),
        (25, 33, 513),
        (18, 48, 31),
        (17, 300, 1),
        (29, 600, 1100),
        (32, 64, 800),
        (50, 16, 64),
        (79, 100, 66),
    ] {
        let (x, values) = (random.normal(m * k), random.normal(n * k));
        let (u, b) = (random.normal(m * 5), random.normal(n * 5));
        let (start, bias) = (random.normal(m * n), random.normal(n));
        // The adapter's term stays f32.
        let lora = TermCpu { left: rows(&u, 5), right: RightCpu::Strided(transposed(&b, 5)), k: 5 };
        let (rounded_x, rounded) = (bf16(&x), bf16(&values));
        let stored: Vec<u8> = rounded.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        // From f32, which is read where it lies, and from a format that is decoded.
        let weight = |rows, cols| {
            let decoded = FrozenWeight::new(rows, cols, Format::BF16, SharedBytes::from_vec(stored.clone()));
            [frozen(rows, cols, &values), decoded.expect("a weight").into()].map(computed_in_bf16)
        };
        let exact = |rows, cols| frozen(rows, cols, &rounded);
        for (forward, backward) in weight(n, k).iter().zip(&weight(k, n)) {
            let (exact_forward, exact_backward) = (exact(n, k), exact(k, n));
            let cases = [
                (
                    rows(&x, k),
                    rows(&rounded_x, k),
                    RightCpu::WeightTransposed(forward.host()),
                    RightCpu::WeightTransposed(exact_forward.host()),
                ),
                (
                    rows(&x, k),
                    rows(&rounded_x, k),
                    RightCpu::Weight(backward.host()),
                    RightCpu::Weight(exact_backward.host()),
                ),
                (
                    transposed(&x, m),
                    transposed(&rounded_x, m),
                    RightCpu::Weight(backward.host()),
                    RightCpu::Weight(exact_backward.host()),
                ),
            ];
            for (left, rounded_left, right, exact_right) in cases {
                let exact = [TermCpu { left: rounded_left, right: exact_right, k }, lora];
                let terms = [TermCpu { left, right, k }, lora];
                assert_products([m, n, k], &terms, &exact, &start, &bias);
            }
        }
    }
}

/// The same weight, to be multiplied as int8.
fn computed_in_int8(mut weight: Weight) -> Weight {
    weight.set_compute_dtype(ComputeDtype::Int8);
    weight
}

/// Values of `lines` of `len`, which lie `stride` apart and whose values lie `step` apart, rounded to 8 bits: 64 of a line share a
/// scale.
fn int8(values: &[f32], (lines, stride): (usize, usize), (len, step): (usize, usize)) -> Vec<f32> {
    let mut rounded = values.to_vec();
    for line in 0..lines {
        let places: Vec<usize> = (0..len).map(|i| line * stride + i * step).collect();
        for block in places.chunks(64) {
            let largest = block.iter().map(|&place| values[place].abs()).fold(0.0, f32::max);
            for &place in block.iter().filter(|_| largest > 0.0) {
                rounded[place] = (values[place] * (127.0 / largest)).round_ties_even() * (largest / 127.0);
            }
        }
    }
    rounded
}

#[test]
fn int8_products_are_those_of_rounded_operands_on_every_instruction_set() {
    let mut random = Random::new(7);
    for (m, n, k) in [
        (17, 7, 9),
        (24, 32, 512),
        (25, 33, 513),
        (18, 48, 31),
        (17, 300, 1),
        (29, 600, 1100),
        (32, 64, 800),
        (50, 16, 64),
        (79, 100, 130),
        (19, 290, 1667),
        // The longest blocks of the sum, which have the most elements.
        (17, 64, 768),
        (20, 300, 760),
        (33, 40, 720),
        (18, 256, 1536),
    ] {
        let (mut x, mut values) = (random.normal(m * k), random.normal(n * k));
        // Blocks of zeros, of values near the smallest there are, and of very different ones.
        x[..k.min(200)].fill(0.0);
        x.iter_mut().skip(k * (m - 1)).for_each(|value| *value *= 1e-33);
        values.iter_mut().step_by(17).for_each(|value| *value *= 1e3);
        let (u, b) = (random.normal(m * 5), random.normal(n * 5));
        let (start, bias) = (random.normal(m * n), random.normal(n));
        // The adapter's term stays f32.
        let lora = TermCpu { left: rows(&u, 5), right: RightCpu::Strided(transposed(&b, 5)), k: 5 };
        let [forward, backward] = [frozen(n, k, &values), frozen(k, n, &values)].map(computed_in_int8);
        let exact_forward = frozen(n, k, &int8(&values, (n, k), (k, 1)));
        let exact_backward = frozen(k, n, &int8(&values, (n, 1), (k, n)));
        let (along, across) = (int8(&x, (m, k), (k, 1)), int8(&x, (m, 1), (k, m)));
        let (forward, exact_forward) =
            (RightCpu::WeightTransposed(forward.host()), RightCpu::WeightTransposed(exact_forward.host()));
        let (backward, exact_backward) =
            (RightCpu::Weight(backward.host()), RightCpu::Weight(exact_backward.host()));
        for (left, rounded_left, right, exact_right) in [
            (rows(&x, k), rows(&along, k), forward, exact_forward),
            (rows(&x, k), rows(&along, k), backward, exact_backward),
            (transposed(&x, m), transposed(&across, m), backward, exact_backward),
        ] {
            let exact = [TermCpu { left: rounded_left, right: exact_right, k }, lora];
            let terms = [TermCpu { left, right, k }, lora];
            assert_products([m, n, k], &terms, &exact, &start, &bias);
        }
    }
}

/// Tiles of AMX and registers multiply the same codes, and add their sums in the same order.
#[test]
fn int8_products_have_the_same_bits_in_tiles_and_in_registers() {
    let mut random = Random::new(9);
    for (m, n, k) in [(17, 1, 1), (17, 33, 65), (31, 16, 64), (32, 32, 128), (47, 48, 768), (100, 300, 1667)]
    {
        let (mut x, mut values) = (random.normal(m * k), random.normal(n * k));
        // A row and a column of zeros.
        x[..k].fill(0.0);
        values[..k].fill(0.0);
        let [forward, backward] = [frozen(n, k, &values), frozen(k, n, &values)].map(computed_in_int8);
        let forward = RightCpu::WeightTransposed(forward.host());
        let backward = RightCpu::Weight(backward.host());
        let start = random.normal(m * n);
        for (left, right) in [(rows(&x, k), forward), (rows(&x, k), backward), (transposed(&x, m), backward)]
        {
            for accumulate in [false, true] {
                let terms = [TermCpu { left, right, k }];
                let found = testing::on_every_isa(m, n, &terms, None, accumulate, &start, 2);
                let of = |name: &str| found.iter().find(|(isa, _)| isa == name).map(|(_, values)| values);
                let (Some(registers), Some(tiles)) = (of("Avx512Vnni"), of("Amx")) else {
                    return println!("skipped: this processor has no AMX");
                };
                let same = registers.iter().zip(tiles).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{m}x{n}x{k}, accumulate {accumulate}");
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_hidden_by_rounding_to_8_bits() {
    let mut random = Random::new(8);
    let (m, n, k) = (20, 40, 300);
    let weight = computed_in_int8(frozen(n, k, &random.normal(n * k)));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = random.normal(m * k);
        x[3 * k + 140] = bad;
        let terms = [TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(weight.host()), k }];
        for (isa, found) in testing::on_every_isa(m, n, &terms, None, false, &vec![0.0; m * n], 1) {
            for (row, found) in found.chunks(n).enumerate() {
                assert!(found.iter().all(|value| value.is_finite() == (row != 3)), "{isa}, {bad}, row {row}");
            }
        }
    }
}

#[test]
fn every_storage_format_is_multiplied_in_bf16_as_its_values_are() {
    let mut random = Random::new(6);
    let (m, n, k) = (37, 256, 768);
    let x = random.normal(m * k);
    let rounded_x = bf16(&x);
    let formats = Format::ALL.map(|format| {
        let stored = |rows, cols, values: &[f32]| {
            let mut bytes = vec![0; values.len() / format.block_len() * format.block_bytes()];
            format.encode(values, &mut bytes).expect("finite");
            FrozenWeight::new(rows, cols, format, SharedBytes::from_vec(bytes)).expect("whole blocks")
        };
        (format.to_string(), stored(n, k, &random.normal(n * k)), stored(k, n, &random.normal(n * k)))
    });
    let quantizations = [
        Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true },
        Quantization::FourBit { code: Code::Fp4, block_len: 128, double: false },
        Quantization::Int8,
    ]
    .map(|quantization| {
        let values = FrozenWeight::from_f32(n, k, &random.normal(n * k));
        let across = FrozenWeight::from_f32(k, n, &random.normal(n * k));
        let quantize = |weight: &FrozenWeight| weight.quantize(quantization).expect("finite");
        (quantization.to_string(), quantize(&values), quantize(&across))
    });
    for (name, forward, backward) in formats.into_iter().chain(quantizations) {
        let exact = [frozen(n, k, &bf16(&forward.to_vec())), frozen(k, n, &bf16(&backward.to_vec()))];
        let [forward, backward] = [forward, backward].map(|weight| computed_in_bf16(weight.into()));
        for (right, exact) in [
            (RightCpu::WeightTransposed(forward.host()), RightCpu::WeightTransposed(exact[0].host())),
            (RightCpu::Weight(backward.host()), RightCpu::Weight(exact[1].host())),
        ] {
            let exact = [TermCpu { left: rows(&rounded_x, k), right: exact, k }];
            let expected = reference::product(m, n, &exact, None, &vec![0.0; m * n]);
            let terms = [TermCpu { left: rows(&x, k), right, k }];
            for (isa, found) in testing::on_every_isa(m, n, &terms, None, false, &vec![0.0; m * n], 2) {
                assert_close(&found, &expected, TOLERANCE, &format!("{isa} {name}"));
            }
        }
    }
}

#[test]
fn what_a_product_leaves_in_working_memory_does_not_reach_the_next() {
    let mut random = Random::new(7);
    // One sum fills working memory with what is not a number, the other is filled up with zeros where that lay.
    let product = |m: usize, n: usize, k: usize, x: &[f32], w: &[f32]| {
        let [forward, backward] = [frozen(n, k, w), frozen(k, n, w)].map(computed_in_bf16);
        let rights = [RightCpu::WeightTransposed(forward.host()), RightCpu::Weight(backward.host())];
        let lefts = [rows(x, k), transposed(x, m)];
        let terms = rights.into_iter().flat_map(|right| lefts.map(|left| [TermCpu { left, right, k }]));
        let out = vec![0.0; m * n];
        terms.flat_map(|term| testing::on_every_isa(m, n, &term, None, false, &out, 1)).collect::<Vec<_>>()
    };
    let (m, n, k) = (70, 70, 800);
    let full = product(m, n, k, &vec![f32::NAN; m * k], &vec![f32::NAN; n * k]);
    assert!(full.iter().all(|(_, values)| values.iter().all(|value| value.is_nan())));
    let (m, n, k) = (39, 41, 67);
    for (isa, values) in product(m, n, k, &random.normal(m * k), &random.normal(n * k)) {
        assert!(values.iter().all(|value| value.is_finite()), "{isa}");
    }
}

#[test]
fn a_few_rows_are_multiplied_as_f32() {
    let mut random = Random::new(5);
    let (m, n, k) = (FEW_ROWS, 40, 600);
    let (x, values) = (random.normal(m * k), random.normal(n * k));
    let product = |weight: &Weight| {
        let terms = [TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(weight.host()), k }];
        testing::on_every_isa(m, n, &terms, None, false, &vec![0.0; m * n], 2)
    };
    let weight = frozen(n, k, &values);
    let in_f32 = product(&weight);
    assert_eq!(product(&computed_in_bf16(weight)), in_f32);
}

/// They are copied to where the values of a row follow each other.
#[test]
fn a_few_rows_may_lie_in_columns() {
    let mut random = Random::new(15);
    for (n, k) in [(20, 512), (12, 96)] {
        for (name, weight, values) in in_every_format(n, k, &mut random) {
            for m in [1, 3, 8, FEW_ROWS] {
                let x = random.normal(k * m);
                let product = |right| {
                    let terms = [TermCpu { left: transposed(&x, m), right, k }];
                    let expected = reference::product(m, n, &terms, None, &vec![0.0; m * n]);
                    (testing::on_every_isa(m, n, &terms, None, false, &vec![9.0; m * n], 2), expected)
                };
                let (stored, expected) = product(RightCpu::WeightTransposed(weight.host()));
                assert_eq!(product(RightCpu::Strided(transposed(&values, k))).0, stored, "{name}, {m} rows");
                for (isa, found) in stored {
                    assert_close(&found, &expected, TOLERANCE, &format!("{name} on {isa}, {m}x{n}x{k}"));
                }
            }
        }
    }
}

/// Weights in every storage format, `[n, k]` with rows in another order where they are fours, and their values.
fn in_every_format(n: usize, k: usize, random: &mut Random) -> Vec<(String, Weight, Vec<f32>)> {
    let values = random.normal(n * k);
    let order = if n.is_multiple_of(4) { RowOrder::RotaryPairs { head_dim: 4 } } else { RowOrder::Stored };
    let blocks =
        Format::ALL.into_iter().filter(|format| k.is_multiple_of(format.block_len())).map(|format| {
            let mut bytes = vec![0; n * k / format.block_len() * format.block_bytes()];
            format.encode(&values, &mut bytes).expect("finite");
            let weight =
                FrozenWeight::new(n, k, format, SharedBytes::from_vec(bytes)).expect("the shape fits");
            (format.to_string(), weight.with_row_order(order))
        });
    let four_bit = |code, block_len, double| Quantization::FourBit { code, block_len, double };
    let quantized = [
        four_bit(Code::Nf4, 64, false),
        four_bit(Code::Nf4, 64, true),
        four_bit(Code::Fp4, 64, false),
        // Blocks that are smaller than what is read together, and such as the cut of a sum or a row goes through.
        four_bit(Code::Nf4, 32, false),
        four_bit(Code::Nf4, 512, false),
        Quantization::Int8,
    ];
    let quantized = quantized.into_iter().map(|quantization| {
        let weight = FrozenWeight::from_f32(n, k, &values).quantize(quantization).expect("finite");
        (quantization.to_string(), weight.with_row_order(order))
    });
    let with_values = |(name, weight): (String, FrozenWeight)| {
        let values = weight.to_vec();
        (name, weight.into(), values)
    };
    blocks.chain(quantized).map(with_values).collect()
}

/// The reference on decoded values, for few rows and more than a few: awkward sums, and some that are cut into blocks. Few rows have
/// the bits of a product with the decoded values, wherever they are decoded.
#[test]
fn every_storage_format_is_multiplied_by_any_number_of_rows() {
    let mut random = Random::new(6);
    for (n, k) in [(20, 1280), (4, 4352), (20, 96), (13, 256), (19, 64), (4, 33), (12, 7)] {
        for (name, weight, values) in in_every_format(n, k, &mut random) {
            for m in (1..=FEW_ROWS + 1).chain([24]) {
                let x = random.normal(m * k);
                let of_weight =
                    [TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(weight.host()), k }];
                let of_values = RightCpu::Strided(transposed(&values, k));
                let of_values = [TermCpu { left: rows(&x, k), right: of_values, k }];
                let expected = reference::product(m, n, &of_values, None, &vec![0.0; m * n]);
                let on_every_isa =
                    |terms| testing::on_every_isa(m, n, terms, None, false, &vec![9.0; m * n], 2);
                if m <= FEW_ROWS {
                    let (stored, decoded) = (on_every_isa(&of_weight), on_every_isa(&of_values));
                    assert_eq!(stored, decoded, "{name}, {m}x{n}x{k}");
                }
                for (isa, found) in on_every_isa(&of_weight) {
                    assert_close(&found, &expected, TOLERANCE, &format!("{name} on {isa}, {m}x{n}x{k}"));
                }
            }
        }
    }
}

/// So an answer does not depend on how many are generated beside it.
#[test]
fn a_row_has_the_same_bits_whatever_is_computed_beside_it() {
    let mut random = Random::new(7);
    let (n, k, rank) = (70, 1543, 5);
    let weight = frozen(n, k, &random.normal(n * k));
    let (x, u, b) = (random.normal(FEW_ROWS * k), random.normal(FEW_ROWS * rank), random.normal(n * rank));
    let product = |first: usize, m: usize| {
        let right = RightCpu::WeightTransposed(weight.host());
        let terms = [
            TermCpu { left: rows(&x[first * k..], k), right, k },
            TermCpu { left: rows(&u[first * rank..], rank), right: RightCpu::Strided(rows(&b, n)), k: rank },
        ];
        testing::on_every_isa(m, n, &terms, None, false, &vec![0.0; m * n], 2)
    };
    for m in 1..=FEW_ROWS {
        for ((isa, together), row) in product(0, m).into_iter().zip(std::iter::repeat(m - 1)) {
            let (_, alone) =
                product(row, 1).into_iter().find(|(name, _)| *name == isa).expect("the same sets");
            assert_eq!(together[row * n..], alone, "{isa}, row {row} of {m}");
        }
    }
}

#[test]
fn the_cut_into_tasks_does_not_change_a_bit() {
    let mut random = Random::new(2);
    for (m, n, k, dtype) in [
        (1, 300, 100, ComputeDtype::F32),
        (40, 576, 576, ComputeDtype::F32),
        (101, 192, 700, ComputeDtype::F32),
        (101, 1000, 700, ComputeDtype::Bf16),
        (101, 70, 1601, ComputeDtype::Bf16),
        (101, 1000, 700, ComputeDtype::Int8),
        (101, 70, 1601, ComputeDtype::Int8),
    ] {
        let x = random.normal(m * k);
        let mut w = frozen(n, k, &random.normal(n * k));
        w.set_compute_dtype(dtype);
        let terms = [TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(w.host()), k }];
        let out = vec![0.0; m * n];
        let serial = testing::on_every_isa(m, n, &terms, None, false, &out, 1);
        for threads in [2, 3, 16, 64] {
            assert_eq!(testing::on_every_isa(m, n, &terms, None, false, &out, threads), serial);
        }
    }
}

#[test]
fn products_of_one_region_write_their_own_part_of_an_output() {
    let device = Device::Cpu;
    let mut random = Random::new(3);
    let (m, k) = (17, 40);
    let x = Tensor::from_slice(device, &random.normal(m * k));
    let a = Tensor::from_slice(device, &random.normal(8 * k));
    let mut out = Tensor::from_slice(device, &[9.0; 17 * 24]);
    let term = Term { left: View::rows(&x, k), right: Right::View(View::rows(&a, k).t()), k };
    run(&mut [Product { out_offset: 8, out_stride: 24, ..Product::new(m, 8, term, &mut out) }]);
    let expected = reference::product(
        m,
        8,
        &[TermCpu { left: rows(x.cpu(), k), right: RightCpu::Strided(transposed(a.cpu(), k)), k }],
        None,
        &vec![0.0; m * 8],
    );
    for i in 0..m {
        let row = &out.cpu()[i * 24..(i + 1) * 24];
        assert!(row[..8].iter().chain(&row[16..]).all(|&v| v == 9.0), "row {i} outside the product changed");
        assert_close(&row[8..16], &expected[i * 8..(i + 1) * 8], TOLERANCE, "column block");
    }
}

#[test]
#[should_panic(expected = "weight shape")]
fn a_weight_of_another_shape_is_refused() {
    let x = Tensor::zeros(Device::Cpu, 12);
    let w = frozen(2, 5, &[0.0; 10]);
    let mut out = Tensor::zeros(Device::Cpu, 4);
    run(&mut [Product::new(
        2,
        2,
        Term { left: View::rows(&x, 6), right: Right::WeightTransposed(&w), k: 6 },
        &mut out,
    )]);
}

#[test]
fn a_scaled_product_is_added_to_what_is_there() {
    let mut random = Random::new(5);
    for (m, n, k) in [(1, 40, 3), (7, 130, 16), (64, 96, 8)] {
        let left = random.normal(k * m);
        let right = random.normal(k * n);
        let start = random.normal(m * n);
        let (left_tensor, right_tensor) =
            (Tensor::from_slice(Device::Cpu, &left), Tensor::from_slice(Device::Cpu, &right));
        // The left operand transposed, as the factor B of an adapter lies in memory.
        let term = Term {
            left: View::rows(&left_tensor, m).t(),
            right: Right::View(View::rows(&right_tensor, n)),
            k,
        };
        let mut found = start.clone();
        add_scaled(m, n, term, -1.5, &mut found);
        let scaled: Vec<f32> = left.iter().map(|value| -1.5 * value).collect();
        let terms = [TermCpu { left: transposed(&scaled, m), right: RightCpu::Strided(rows(&right, n)), k }];
        let expected = reference::product(m, n, &terms, None, &start);
        assert_close(&found, &expected, TOLERANCE, &format!("{m}x{n}x{k}"));
    }
}

/// Many rows and few, of whole panels and not.
#[test]
fn a_right_operand_of_16_bits_gives_the_bits_of_the_same_in_f32() {
    let mut random = Random::new(7);
    for half in [Half::F16, Half::Bf16] {
        for (m, n, k) in [(1, 8, 96), (3, 40, 8), (40, 24, 576), (64, 576, 8), (70, 33, 5)] {
            let x = Tensor::from_slice(Device::Cpu, &random.normal(m * k));
            let mut right = Tensor::from_slice(Device::Cpu, &random.normal(n * k));
            right.narrow(half).expect("small values");
            let in_f32 = Tensor::from_slice(Device::Cpu, &right.to_vec(n * k));
            let product = |right: View<'_>| {
                let mut out = Tensor::zeros(Device::Cpu, m * n);
                let term = Term { left: View::rows(&x, k), right: Right::View(right), k };
                run(&mut [Product::new(m, n, term, &mut out)]);
                out.to_vec(m * n)
            };
            assert_eq!(product(View::rows(&right, k).t()), product(View::rows(&in_f32, k).t()));
            assert_eq!(product(View::rows(&right, n)), product(View::rows(&in_f32, n)));
        }
    }
}
