//! The cases: every op that layers call, over one token, odd lengths, deep trees and shared key heads.

use super::{Accuracy, Case, Outputs, Place, all};
use crate::bytes::SharedBytes;
use crate::gpu::Float;
use crate::ops::attention::{self, Gradients, Heads, Saved, Scores, Segment, Segments};
use crate::ops::cross_entropy::{self, Objective, Target};
use crate::ops::dropout::{self, Mask};
use crate::ops::gate::{self, Activation, OutputProduct};
use crate::ops::low_rank::{self, GradientShape, TermGradients};
use crate::ops::magnitude::{self, NormParts};
use crate::ops::matmul::{self, Base, Product, Right, Term, View};
use crate::ops::rope::{self, Angles, Pairs, Rotation};
use crate::ops::{adamw, elementwise, embedding, layer_norm, noise, rms_norm};
use crate::quant::four_bit::Code;
use crate::quant::{Format, Quantization};
use crate::random::mix;
use crate::tensor::{Bf16Tensor, Tensor};
use crate::weight::{ComputeDtype, FrozenWeight, RowOrder, Weight};

/// Every case.
pub(super) fn all_cases() -> Vec<Case> {
    let mut cases = elementwise_cases();
    cases.extend(gate_product_cases());
    cases.extend(term_gradient_cases());
    cases.extend(row_cases());
    cases.extend(rope_cases());
    cases.extend(product_cases());
    cases.extend(attention_cases());
    cases.extend(loss_and_step_cases());
    cases
}

fn elementwise_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in [1usize, 9, 2051] {
        cases.push(Case::new(format!("add, {len} values"), Accuracy::Rounded, move |on| {
            let (x, mut y) = (on.activation(1, len), on.activation(2, len));
            elementwise::add(&x, len, &mut y);
            vec![all(&y)]
        }));
        cases.push(Case::new(format!("scales and caps, {len} values"), Accuracy::Rounded, move |on| {
            let [mut scaled, mut sum, mut capped, mut d_x] = [12, 13, 14, 15].map(|i| on.activation(i, len));
            let x = on.activation(16, len);
            elementwise::scale(&mut scaled, len, 0.37);
            elementwise::add_scaled(&x, -1.7, len, &mut sum);
            elementwise::softcap(&mut capped, len, 2.5);
            elementwise::softcap_backward(&x, len, 10.0, &mut d_x);
            vec![all(&scaled), all(&sum), all(&capped), all(&d_x)]
        }));
        cases.push(Case::new(format!("copies, {len} values"), Accuracy::Exact, move |on| {
            let (x, mut y) = (on.activation(3, len + 8), on.output(len + 16));
            elementwise::copy_range(&x, 8, len, &mut y, 16);
            elementwise::copy(&x, 8, &mut y);
            vec![all(&y)]
        }));
        for activation in Activation::ALL {
            let name = format!("{activation:?} as a gate and alone, {len} values");
            cases.push(Case::new(name, Accuracy::Rounded, move |on| gate_case(on, activation, len)));
        }
        cases.push(Case::new(format!("dropout, {len} values"), Accuracy::Rounded, move |on| {
            let mask = Mask { p: 0.3, seed: 7 };
            let (x, mut y, mut d_x) = (on.activation(7, len), on.output(len), on.activation(8, len));
            dropout::forward(&x, mask, len, &mut y);
            dropout::backward(&x, mask, len, &mut d_x);
            vec![all(&y), all(&d_x)]
        }));
        cases.push(Case::new(format!("noise, {len} values in a row"), Accuracy::Rounded, move |on| {
            let mut x = on.activation(7, 2 * len);
            noise::add(&mut x, len, &[0.5, 0.25], 7);
            vec![all(&x)]
        }));
        cases.push(Case::new(format!("bf16 and back, {len} values"), Accuracy::Exact, move |on| {
            let (x, mut wide, mut rounded) = (on.parameter(9, len), on.statistic(len), on.parameter(9, len));
            let mut narrow = Bf16Tensor::zeros(on.device, len);
            elementwise::narrow(&x, len, &mut narrow);
            elementwise::widen(&narrow, len, &mut wide);
            elementwise::round_to_bf16(&mut rounded, len);
            vec![all(&wide), all(&rounded)]
        }));
        cases.push(Case::new(format!("sum of squares, {len} values"), Accuracy::Rounded, move |on| {
            let total = elementwise::sum_squares(&[&on.parameter(10, len), &on.parameter(11, 2 * len)]);
            vec![vec![total as f32]]
        }));
    }
    cases
}

fn gate_product_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for activation in Activation::ALL {
        for (rows, width, rank) in [(37usize, 72usize, 8usize), (150, 264, 24), (70, 1000, 64)] {
            let shape = format!("{rows} x {width}, rank {rank}");
            let name = format!("{activation:?} as a gate and a product of its output, {shape}");
            cases.push(Case::new(name, Accuracy::Composed, move |on| {
                gate_product_case(on, activation, (rows, width), rank)
            }));
        }
    }
    cases
}

fn gate_case(on: &Place, activation: Activation, len: usize) -> Outputs {
    let [mut of_gate, mut up, mut d_y, mut x, mut d_alone] =
        [4, 5, 6, 4, 6].map(|seed| on.activation(seed, len));
    let [mut y, mut alone] = [0; 2].map(|_| on.output(len));
    gate::forward(activation, &of_gate, &up, len, &mut y);
    gate::backward_in_place(activation, &mut d_y, &mut of_gate, &mut up, len, true);
    gate::plain_forward(activation, &x, len, &mut alone);
    gate::plain_backward_in_place(activation, &mut d_alone, &mut x, len, false);
    vec![all(&y), all(&of_gate), all(&up), all(&d_y), all(&alone), all(&x), all(&d_alone)]
}

/// A gate's way back with the product of its output.
fn gate_product_case(
    on: &Place,
    activation: Activation,
    (rows, width): (usize, usize),
    rank: usize,
) -> Outputs {
    let [mut of_gate, mut up, mut d_y] = [4, 5, 6].map(|seed| on.activation(seed, rows * width));
    let (left, mut sum) = (on.activation(7, rows * rank), on.parameter(8, rank * width));
    // Parts of the rows, in f32.
    let mut workspace = on.output(2 * 16 * rank * width);
    let product = OutputProduct { left: &left, rank, sum: &mut sum, workspace: &mut workspace };
    gate::backward_and_product(activation, &mut d_y, [&mut of_gate, &mut up], (rows, width), product);
    vec![all(&of_gate), all(&up), all(&sum)]
}

/// Of shapes whose gradients a device that computes in bf16 has from one read.
fn term_gradient_cases() -> Vec<Case> {
    let case = |(rows, width, rank)| {
        let shape = GradientShape { rows, width, rank };
        assert!(shape.is_known(Float::Bf16), "{shape:?}");
        let name = format!("gradients of a low-rank term, {rows} x {width}, rank {rank}");
        Case::new(name, Accuracy::Composed, move |on| term_gradient_case(on, shape))
    };
    [(1030, 264, 8), (1024, 512, 24)].map(case).into()
}

fn term_gradient_case(on: &Place, shape: GradientShape) -> Outputs {
    let GradientShape { rows, width, rank } = shape;
    let (first, stride) = (8, rank + 16);
    let (d_out, u) = (on.activation(60, rows * width), on.activation(61, rows * stride));
    let (mut d_u, mut d_b_t) = (on.activation(62, rows * stride), on.parameter(63, rank * width));
    // With a copy that products read, as factors have.
    let mut b_t = Tensor::zeros_together(on.device, &[rank * width], true).remove(0);
    b_t.write(0, &on.values(64, rank * width));
    let mut workspace = on.statistic(shape.workspace_values());
    low_rank::output_gradients(TermGradients {
        shape,
        d_out: &d_out,
        u: &u,
        d_u: &mut d_u,
        first,
        stride,
        scale: 0.6,
        b_t: &b_t,
        d_b_t: &mut d_b_t,
        workspace: &mut workspace,
    });
    vec![all(&d_u), all(&d_b_t)]
}

fn magnitude_case(on: &Place, rows: usize, width: usize) -> Outputs {
    let rank = 3;
    let (magnitudes, squares) = (on.parameter(31, width), on.values(32, width));
    // Above what the products take away.
    let squares: Vec<f32> = squares.iter().map(|value| 20.0 + value.abs()).collect();
    let squares = Tensor::from_slice(on.device, &squares);
    let (products, b_t) = (on.activation(33, rank * width), on.parameter(34, rank * width));
    let (mut factors, bias) = (on.statistic(width), on.parameter(35, width));
    let parts = NormParts { squares: &squares, products: &products, b_t: &b_t, scale: 0.7 };
    magnitude::factors(&magnitudes, parts, &mut factors);
    let [mut y, mut without, d_y] = [36, 37, 38].map(|seed| on.activation(seed, rows * width));
    let mut sums = on.parameter(39, width);
    magnitude::gradient(&d_y, &y, rows, &squares, Some(&bias), &mut sums);
    magnitude::apply(&mut y, rows, &factors, Some(&bias));
    magnitude::apply(&mut without, rows, &factors, None);
    vec![all(&factors), all(&y), all(&without), all(&sums)]
}

fn row_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, width) in [(1usize, 3usize), (5, 64), (33, 96), (7, 1000)] {
        let shape = format!("{rows} x {width}");
        cases.push(Case::new(format!("rms_norm, {shape}"), Accuracy::Rounded, move |on| {
            rms_norm_case(on, rows, width)
        }));
        for with_bias in [false, true] {
            let name = format!("layer_norm, {shape}, bias: {with_bias}");
            cases.push(Case::new(name, Accuracy::Rounded, move |on| {
                layer_norm_case(on, rows, width, with_bias)
            }));
        }
        cases.push(Case::new(
            format!("rows picked, added and summed, {shape}"),
            Accuracy::Rounded,
            move |on| {
                let x = on.activation(25, rows * width);
                let ids: Vec<u32> = [0, rows - 1, rows / 2, 0].map(|row| row as u32).to_vec();
                let mut picked = on.output(ids.len() * width);
                elementwise::gather_rows(&x, &ids, width, &mut picked);
                let (mut scattered, mut sums) = (on.activation(26, rows * width), on.parameter(27, width));
                elementwise::scatter_add_rows(&picked, &ids, width, &mut scattered);
                elementwise::add_column_sums(&x, rows, width, &mut sums);
                let (first, mut scaled) = (width / 3, on.activation(28, rows * width));
                elementwise::scale_columns(&mut scaled, rows, width, first..width, 0.37);
                let (mut grown, factors) = (on.activation(16, rows * width), on.parameter(15, rows));
                elementwise::scale_rows(&mut grown, rows, width, &factors);
                vec![all(&picked), all(&scattered), all(&sums), all(&scaled), all(&grown)]
            },
        ));
        cases.push(Case::new(format!("magnitudes, {shape}"), Accuracy::Rounded, move |on| {
            magnitude_case(on, rows, width)
        }));
        cases.push(Case::new(format!("columns copied, {shape}"), Accuracy::Exact, move |on| {
            let (first, y_width) = (width / 3, width + 11);
            let (x, mut y) = (on.activation(17, rows * width), on.activation(18, rows * y_width));
            elementwise::copy_columns(&x, rows, width, first..width, &mut y, y_width, 5);
            vec![all(&y)]
        }));
        cases.push(Case::new(format!("embedding, {shape}"), Accuracy::Rounded, move |on| {
            let table = FrozenWeight::from_f32(rows, width, &on.values(29, rows * width));
            let weight = Weight::on(on.device, table);
            let ids = [rows - 1, 0, rows - 1].map(|row| row as u32);
            let (mut y, mut d_weight) = (on.output(3 * width), on.parameter(30, rows * width));
            let (mut row, mut sum) = (on.output(3 * width), on.activation(19, 3 * width));
            embedding::forward(&weight, &ids, &mut y);
            embedding::add(&weight, &ids, &mut row, &mut sum);
            embedding::backward(&y, &ids, width, &mut d_weight);
            vec![all(&y), all(&sum), all(&d_weight)]
        }));
    }
    cases
}

fn rope_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let whole = Rotation::of_whole_heads;
    for (rows, heads, rotation) in [
        (1usize, 1usize, whole(5)),
        (7, 3, whole(32)),
        (19, 2, whole(64)),
        (7, 3, Rotation { head_dim: 80, factor: 1.25, ..whole(16) }),
        (7, 3, Rotation { head_dim: 15, pairs: Pairs::Neighbours, ..whole(7) }),
        (19, 2, Rotation { pairs: Pairs::Neighbours, ..whole(64) }),
    ] {
        let Rotation { head_dim, frequencies: half, pairs, .. } = rotation;
        let name = format!("rope, {rows} x {heads} heads of {head_dim}, {half} pairs of {pairs:?}");
        cases.push(Case::new(name, Accuracy::Rounded, move |on| {
            let positions: Vec<u32> = (0..rows as u32).map(|row| row * row * 9).collect();
            let frequencies: Vec<f32> = (0..half).map(|j| 1e4f32.powf(-(j as f32) / half as f32)).collect();
            let mut angles = Angles::for_rotation(rows, rotation, |len| on.statistic(len));
            angles.set(&positions, &frequencies);
            let len = rows * heads * head_dim;
            let (x, mut y, mut d_x) = (on.activation(31, len), on.output(len), on.activation(32, len));
            let [mut turned, mut d_keys] = [33, 34].map(|seed| on.activation(seed, rows * head_dim));
            let mut queries = on.activation(35, len);
            rope::forward(&x, &angles, rows, heads, &mut y);
            rope::forward_in_place([&mut queries, &mut turned], &angles, rows, [heads, 1]);
            rope::backward_in_place([&mut d_x, &mut d_keys], &angles, rows, [heads, 1]);
            vec![all(&y), all(&queries), all(&turned), all(&d_x), all(&d_keys)]
        }));
    }
    cases
}

fn rms_norm_case(on: &Place, rows: usize, width: usize) -> Outputs {
    let len = rows * width;
    let (x, weight, d_y) = (on.activation(20, len), on.parameter(21, width), on.activation(22, len));
    let (mut y, mut again, mut rstd) = (on.output(len), on.output(len), on.statistic(rows));
    let (mut d_x, mut d_weight) = (on.activation(23, len), on.parameter(24, width));
    rms_norm::forward(&x, &weight, 1e-5, rows, &mut y, &mut rstd);
    rms_norm::recompute(&x, &weight, &rstd, rows, &mut again);
    rms_norm::backward(&d_y, &x, &weight, &rstd, rows, &mut d_x);
    rms_norm::backward_weight(&d_y, &x, &rstd, rows, &mut d_weight);
    let (mut d_twice, mut output) = (on.activation(23, len), on.output(len));
    rms_norm::backward_and_output(&d_y, &x, &weight, &rstd, rows, &mut d_twice, &mut output);
    vec![all(&y), all(&again), all(&rstd), all(&d_x), all(&d_weight), all(&d_twice), all(&output)]
}

fn layer_norm_case(on: &Place, rows: usize, width: usize, with_bias: bool) -> Outputs {
    let len = rows * width;
    let (x, d_y) = (on.activation(33, len), on.activation(34, len));
    let (weight, bias) = (on.parameter(35, width), on.parameter(36, width));
    let bias = with_bias.then_some(&bias);
    let (mut y, mut again, mut saved) = (on.output(len), on.output(len), on.statistic(2 * rows));
    layer_norm::forward(&x, &weight, bias, 1e-5, rows, &mut y, &mut saved);
    layer_norm::recompute(&x, &weight, bias, &saved, rows, &mut again);
    let mut d_x = on.activation(37, len);
    layer_norm::backward(&d_y, &x, &weight, &saved, rows, &mut d_x);
    let (mut d_weight, mut d_bias) = (on.parameter(38, width), on.parameter(39, width));
    layer_norm::backward_weight(&d_y, &x, &saved, rows, &mut d_weight);
    layer_norm::backward_bias(&d_y, rows, &mut d_bias);
    vec![all(&y), all(&again), all(&saved), all(&d_x), all(&d_weight), all(&d_bias)]
}

/// How a weight of a product is stored.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Blocks(Format),
    Quantized(Quantization),
    Pairs(Format),
    Trained,
}

/// A weight of `rows` x `cols` where the case runs, multiplied as there.
fn weight(on: &Place, stored: Stored, rows: usize, cols: usize) -> Weight {
    let values = on.values(40, rows * cols);
    let f32s = || FrozenWeight::from_f32(rows, cols, &values);
    let of_blocks = |format: Format| {
        let bytes = SharedBytes::from_vec(blocks(format, rows * cols / format.block_len()));
        FrozenWeight::new(rows, cols, format, bytes).expect("whole blocks")
    };
    let frozen = match stored {
        Stored::Blocks(format) => of_blocks(format),
        Stored::Quantized(quantization) => f32s().quantize(quantization).expect("finite values"),
        Stored::Pairs(format) => {
            of_blocks(format).with_row_order(RowOrder::RotaryPairs { head_dim: rows / 2 })
        }
        Stored::Trained => f32s(),
    };
    let mut weight = Weight::on(on.device, frozen);
    if matches!(stored, Stored::Trained) {
        weight.train(on.device);
    }
    weight.set_compute_dtype(match on.float {
        Float::F32 => ComputeDtype::F32,
        Float::Bf16 => ComputeDtype::Bf16,
    });
    weight
}

/// Random blocks whose values are all below 8 in magnitude.
fn blocks(format: Format, count: usize) -> Vec<u8> {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let (mut all, mut values, mut draw) = (Vec::with_capacity(count * bytes), vec![0.0; len], 0);
    while all.len() < count * bytes {
        let block: Vec<u8> = (0..bytes as u64).map(|i| mix(mix(draw) ^ i) as u8).collect();
        draw += 1;
        format.decode(&block, &mut values);
        if values.iter().all(|v| v.abs() < 8.0) {
            all.extend(block);
        }
    }
    all
}

/// A weight forward and backward: `X W^T + bias`, added to what was there, and `dY W`; and some of its rows.
fn weight_case(stored: Stored, m: usize, rows: usize, cols: usize) -> Case {
    let name = match stored {
        Stored::Blocks(format) => format!("product with {format}"),
        Stored::Quantized(quantization) => format!("product with {quantization}"),
        Stored::Pairs(format) => format!("product with {format} in rotary pairs"),
        Stored::Trained => "product with a trained weight".to_owned(),
    };
    Case::new(format!("{name}, {m} x {rows} x {cols}"), Accuracy::Composed, move |on| {
        let weight = weight(on, stored, rows, cols);
        let (x, d_y, bias) =
            (on.activation(41, m * cols), on.activation(42, m * rows), on.parameter(43, rows));
        let (mut y, mut added, mut d_x) =
            (on.output(m * rows), on.activation(44, m * rows), on.output(m * cols));
        let (before, mut behind, mut scaled) =
            (on.activation(45, m * rows), on.output(m * rows), on.output(m * rows));
        let forward = Term { left: View::rows(&x, cols), right: Right::WeightTransposed(&weight), k: cols };
        let backward = Term { left: View::rows(&d_y, rows), right: Right::Weight(&weight), k: rows };
        matmul::run(&mut [
            Product { bias: Some(&bias), ..Product::new(m, rows, forward, &mut y) },
            Product { bias: Some(&bias), base: Base::Output, ..Product::new(m, rows, forward, &mut added) },
            Product { base: Base::Of(&before), ..Product::new(m, rows, forward, &mut behind) },
            Product { scale: 0.3, ..Product::new(m, rows, forward, &mut scaled) },
            Product::new(m, cols, backward, &mut d_x),
        ]);
        let (ids, mut picked) = ([rows - 1, 0, rows - 1].map(|row| row as u32), on.output(3 * cols));
        embedding::forward(&weight, &ids, &mut picked);
        vec![all(&y), all(&added), all(&behind), all(&scaled), all(&d_x), all(&picked)]
    })
}

fn product_cases() -> Vec<Case> {
    let four_bit = |code, double| Stored::Quantized(Quantization::FourBit { code, block_len: 64, double });
    let stored = Format::ALL.map(Stored::Blocks).into_iter().chain([
        four_bit(Code::Nf4, false),
        four_bit(Code::Nf4, true),
        four_bit(Code::Fp4, false),
        four_bit(Code::Fp4, true),
        Stored::Quantized(Quantization::Int8),
        // Held as they are stored, or sorted on the way to another type.
        Stored::Pairs(Format::F32),
        Stored::Pairs(Format::F16),
        Stored::Pairs(Format::BF16),
        Stored::Pairs(Format::Q5_1),
        Stored::Trained,
    ]);
    // Few rows are multiplied without decoding the matrix first.
    let mut cases: Vec<Case> = stored
        .flat_map(|stored| [weight_case(stored, 5, 48, 256), weight_case(stored, 11, 48, 256)])
        .collect();
    cases.push(weight_case(four_bit(Code::Nf4, true), 1, 130, 66));
    cases.push(weight_case(Stored::Blocks(Format::BF16), 65, 33, 70));
    for (tokens, rank) in [(1usize, 8usize), (37, 16)] {
        let name = format!("LoRA products, {tokens} tokens, rank {rank}");
        cases.push(Case::new(name, Accuracy::Composed, move |on| lora_products(on, tokens, rank)));
    }
    cases
}

/// The products of a layer with two stacked adapters: `Y = X W^T + bias + U B^T` in a part of a wider matrix, `U = X A^T` in
/// columns, and the gradients `dA = dU^T X` and `dB^T = U^T dY` in f32, added to what was there.
fn lora_products(on: &Place, tokens: usize, rank: usize) -> Outputs {
    let (inputs, outputs, all_ranks) = (64, 40, 2 * rank);
    let base = weight(on, Stored::Blocks(Format::BF16), outputs, inputs);
    let (x, d_y) = (on.activation(50, tokens * inputs), on.activation(51, tokens * outputs));
    let (a, b_t) = (on.parameter(52, all_ranks * inputs), on.parameter(53, rank * outputs));
    let (bias, out_offset, out_stride) = (on.parameter(56, outputs), 3, outputs + 5);
    let (mut u, mut second, mut y) = (
        on.output(tokens * all_ranks),
        on.output(tokens * all_ranks),
        on.activation(57, 3 + tokens * out_stride),
    );
    let x_view = View::rows(&x, inputs);
    let stacked = View::rows(&a, inputs);
    let term = Term { left: x_view, right: Right::View(stacked.t()), k: inputs };
    matmul::run(&mut [Product::new(tokens, all_ranks, term, &mut u)]);
    let term = Term { left: x_view, right: Right::View(stacked.from_row(rank).t()), k: inputs };
    let product = Product::new(tokens, rank, term, &mut second);
    matmul::run(&mut [Product { out_offset: rank, out_stride: all_ranks, ..product }]);

    let part = View::rows(&u, all_ranks).from_col(rank);
    let terms = vec![
        Term { left: x_view, right: Right::WeightTransposed(&base), k: inputs },
        Term { left: part, right: Right::View(View::rows(&b_t, outputs)), k: rank },
    ];
    let first = terms[0];
    let product = Product::new(tokens, outputs, first, &mut y);
    matmul::run(&mut [Product { terms, bias: Some(&bias), out_offset, out_stride, ..product }]);

    let (mut d_a, mut d_b_t) = (on.parameter(54, all_ranks * inputs), on.parameter(55, rank * outputs));
    let of_a = Term { left: View::rows(&u, all_ranks).t(), right: Right::View(x_view), k: tokens };
    let of_b = Term { left: part.t(), right: Right::View(View::rows(&d_y, outputs)), k: tokens };
    matmul::run(&mut [
        Product { base: Base::Output, ..Product::new(all_ranks, inputs, of_a, &mut d_a) },
        Product { base: Base::Output, ..Product::new(rank, outputs, of_b, &mut d_b_t) },
    ]);
    vec![all(&u), all(&second), all(&y), all(&d_a), all(&d_b_t)]
}

/// A stream of segments, each its tokens and what it continues.
type Tree = Vec<(usize, Option<usize>)>;

fn trees() -> [(&'static str, Tree); 5] {
    [
        ("one token", vec![(1, None)]),
        ("65 tokens", vec![(65, None)]),
        ("two rows", vec![(3, None), (33, None)]),
        ("a branch", vec![(17, None), (5, Some(0)), (1, Some(0)), (9, Some(1))]),
        (
            "a deep tree",
            (0..12).map(|i: usize| (1 + i % 3, (i > 0).then(|| i.saturating_sub(1 + i % 2)))).collect(),
        ),
    ]
}

fn attention_cases() -> Vec<Case> {
    let heads = |query, key_value, dim| Heads { query, key_value, dim };
    let mut shapes = vec![];
    for (name, tree) in trees() {
        shapes.push((heads(2, 1, 64), name, tree));
    }
    let [.., branch, _] = trees();
    // Of the last three sizes there are none for tensor cores.
    let sizes = [80, 96, 128, 256, 20, 100, 200].into_iter().zip([
        (1, 1),
        (4, 4),
        (8, 1),
        (3, 3),
        (6, 2),
        (2, 2),
        (5, 1),
    ]);
    for of in sizes.map(|(dim, (query, key_value))| heads(query, key_value, dim)) {
        shapes.push((of, branch.0, branch.1.clone()));
    }
    let mut cases = Vec::new();
    for (heads, name, tree) in shapes {
        let Heads { query, key_value, dim } = heads;
        let name = format!("attention, {query} heads of {dim} over {key_value}, {name}");
        let scores = Scores::of(heads);
        cases.push(Case::new(name, Accuracy::Composed, move |on| attention_case(on, heads, scores, &tree)));
    }
    let [one, long, _, branch, deep] = trees();
    let (every, last) = (&CAPS_AND_WINDOWS[..], &CAPS_AND_WINDOWS[3..]);
    for (heads, (name, tree), caps_and_windows) in [
        (heads(2, 1, 64), one, every),
        (heads(6, 2, 128), branch.clone(), every),
        (heads(3, 1, 20), deep, every),
        (heads(1, 1, 80), branch.clone(), last),
        (heads(4, 4, 96), branch.clone(), last),
        (heads(2, 1, 100), branch.clone(), last),
        (heads(1, 1, 200), branch, last),
        (heads(3, 3, 256), long, last),
    ] {
        for &(softcap, window) in caps_and_windows {
            let scores = Scores { scale: 0.3, softcap, window };
            let name = format!("attention, {} heads of {}, {name}, {scores:?}", heads.query, heads.dim);
            let tree = tree.clone();
            cases.push(Case::new(name, Accuracy::Composed, move |on| {
                attention_case(on, heads, scores, &tree)
            }));
        }
    }
    for (heads, rows, past) in [
        (heads(4, 2, 64), 1, 0),
        (heads(4, 2, 64), 1, 300),
        (heads(3, 1, 80), 5, 70),
        (heads(2, 2, 256), 2, 9),
    ] {
        let Heads { query, key_value, dim } = heads;
        let name =
            format!("attention to a cache of {past}, {rows} rows of {query} heads of {dim} over {key_value}");
        let scores = Scores::of(heads);
        cases.push(Case::new(name, Accuracy::Composed, move |on| cached_case(on, heads, scores, rows, past)));
    }
    for (heads, caps_and_windows) in
        [(heads(3, 1, 33), every), (heads(2, 1, 100), last), (heads(1, 1, 200), last)]
    {
        for &(softcap, window) in caps_and_windows {
            let scores = Scores { scale: 0.2, softcap, window };
            let name = format!("attention to a cache of 290, 20 rows, heads of {}, {scores:?}", heads.dim);
            cases
                .push(Case::new(name, Accuracy::Composed, move |on| cached_case(on, heads, scores, 20, 290)));
        }
    }
    cases
}

/// A cap, a window, and both.
const CAPS_AND_WINDOWS: [(Option<f32>, Option<usize>); 4] =
    [(Some(1.5), None), (None, Some(5)), (Some(20.0), Some(1)), (Some(3.0), Some(9))];

fn cached_case(on: &Place, heads: Heads, scores: Scores, rows: usize, past: usize) -> Outputs {
    let (width, keys) = (heads.query * heads.dim, (past + rows) * heads.key_value * heads.dim);
    // The rows are not the first of their batch.
    let (q, k, v) = (on.activation(60, (rows + 2) * width), on.activation(61, keys), on.activation(62, keys));
    let mut out = on.output((rows + 2) * width);
    let sequence = attention::Continued { first_row: 2, rows, keys: &k, values: &v, past };
    attention::forward_cached(&q, &[sequence], heads, scores, &mut out);
    vec![all(&out)]
}

fn attention_case(on: &Place, heads: Heads, scores: Scores, tree: &[(usize, Option<usize>)]) -> Outputs {
    let mut start = 0;
    let list = tree.iter().map(|&(len, parent)| {
        start += len;
        Segment { start: start - len, len, parent }
    });
    let list: Vec<Segment> = list.collect();
    let tokens = start;
    let segments = Segments::new(list, tokens).expect("a stream");
    let (wide, narrow) = (tokens * heads.query * heads.dim, tokens * heads.key_value * heads.dim);
    let (mut q, mut k, v) = (on.activation(63, wide), on.activation(64, narrow), on.activation(65, narrow));
    let (mut out, mut lse, d_out) =
        (on.output(wide), on.statistic(tokens * heads.query), on.activation(66, wide));
    let rotation = Rotation::of_whole_heads(heads.dim / 2);
    let mut angles = Angles::for_rotation(tokens, rotation, |len| on.statistic(len));
    let positions: Vec<u32> = (0..tokens as u32).collect();
    angles.set(&positions, &vec![0.2; heads.dim / 2]);
    // Of some streams queries and keys are turned.
    let turned = (tree.len() > 1).then_some(&angles);
    match turned {
        Some(angles) => {
            let keys = [&mut q, &mut k];
            attention::turn_and_forward(keys, &v, angles, &segments, heads, scores, &mut out, &mut lse);
        }
        None => attention::forward(&q, &k, &v, &segments, heads, scores, &mut out, &mut lse),
    }
    let workspace = attention::backward_workspace(on.device.placement(), tokens, heads);
    let mut workspace = on.statistic(workspace);
    let (mut d_q, mut d_k, mut d_v) = (on.output(wide), on.output(narrow), on.output(narrow));
    let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
    let gradients = Gradients { q: &mut d_q, k: &mut d_k, v: &mut d_v, turned };
    attention::backward(&d_out, saved, &segments, heads, scores, gradients, &mut workspace);
    vec![all(&q), all(&k), all(&out), all(&lse), all(&d_q), all(&d_k), all(&d_v)]
}

fn loss_and_step_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for vocab in [1usize, 37, 5003] {
        cases.push(Case::new(format!("cross entropy, vocabulary {vocab}"), Accuracy::Rounded, move |on| {
            let target = |row, id: usize, weight| Target { row, id: id.min(vocab - 1) as u32, weight };
            // Row 1 has none; row 2 is a branch point with a repeated target.
            let targets = [target(0, 36, 1.0), target(2, 5, 1.0), target(2, 5, 0.5), target(3, 0, 2.0)];
            let (mut logits, mut losses) = (on.activation(70, 4 * vocab), on.statistic(9));
            cross_entropy::loss(&logits, 4, vocab, &targets, &mut losses, 0);
            cross_entropy::loss_and_gradient(&mut logits, 4, vocab, &targets, 0.25.into(), &mut losses, 5);
            let (mut smoothed, mut smoothed_losses) = (on.activation(70, 4 * vocab), on.statistic(4));
            // With a vocabulary of one token the gradient is zero, so that only rounding errors would be compared.
            let objective = Objective { scale: 0.25, smoothing: if vocab > 1 { 0.1 } else { 0.0 } };
            cross_entropy::loss_and_gradient(
                &mut smoothed,
                4,
                vocab,
                &targets,
                objective,
                &mut smoothed_losses,
                0,
            );
            vec![all(&losses), all(&logits), all(&smoothed_losses), all(&smoothed)]
        }));
    }
    let step =
        |number| adamw::Step { weight_decay: 0.01, gradient_scale: 0.3, ..adamw::Step::new(number, 1e-3) };
    for len in [1usize, 255, 5001] {
        cases.push(Case::new(format!("AdamW, {len} parameters"), Accuracy::Rounded, move |on| {
            let (mut p, mut m, mut v) = (on.parameter(71, len), on.statistic(len), on.statistic(len));
            for number in 1..=3 {
                adamw::step(&mut p, &on.parameter(72 + number, len), &mut m, &mut v, len, &step(number));
            }
            vec![all(&p), all(&m), all(&v)]
        }));
        cases.push(Case::new(format!("8-bit AdamW, {len} parameters"), Accuracy::Rounded, move |on| {
            let (mut p, [mut m, mut v]) =
                (on.parameter(80, len), [0, 1].map(|_| adamw::Moment8::zeros(on.device, len)));
            for number in 1..=3 {
                adamw::step_8bit(&mut p, &on.parameter(80 + number, len), &mut m, &mut v, len, &step(number));
            }
            let scales = |moment: &adamw::Moment8| all(moment.absmax());
            vec![all(&p), scales(&m), scales(&v)]
        }));
    }
    cases
}
