//! The self-check of a device, on one whose kernels the CPU runs: what the host asks of a device (regions, tiles, conversions,
//! what is kept) computes what the CPU computes, and the same bits again.

use lorafit_kernels::gpu::{Float, TensorCores};
use lorafit_kernels::ops::matmul::{Product, Right, Term, View, cuda, run};
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::{Device, FrozenWeight, RowOrder, Tensor, Weight, selfcheck};

use crate::driver::{check, check_with, gpu};
use crate::{FLOATS, assert_close, tolerance, values};

#[test]
fn every_op_equals_the_processor_in_f32() {
    check(Float::F32, 80, selfcheck::checks);
}

#[test]
fn every_op_equals_the_processor_in_bf16() {
    check(Float::Bf16, 80, selfcheck::checks);
}

#[test]
fn attention_by_warpgroups_equals_the_processor() {
    let attention = |float| {
        let mut checks = selfcheck::checks(float);
        checks.retain(|check| check.name.starts_with("attention"));
        checks
    };
    check_with(TensorCores::Warpgroups, Float::Bf16, 20, attention);
}

/// A large weight is decoded in several tiles: forward each is some columns of the output, backward a part of the sum.
#[test]
fn products_in_several_tiles_equal_those_in_one() {
    let (m, rows, cols) = (3, 20, 24);
    for float in FLOATS {
        let Some(gpu) = gpu(float) else { return };
        let source = FrozenWeight::from_f32(rows, cols, &values(float, 1, rows * cols));
        let stored = source.with_row_order(RowOrder::RotaryPairs { head_dim: 10 });
        let weights = [stored.quantize(Quantization::Int8).expect("finite"), stored];
        for weight in weights.map(|weight| Weight::on(Device::Cuda(gpu), weight)) {
            for (n, k, right) in
                [(rows, cols, Right::WeightTransposed(&weight)), (cols, rows, Right::Weight(&weight))]
            {
                let [x, mut whole, mut in_tiles] = [m * k, m * n, m * n].map(|len| {
                    let mut tensor = Tensor::activation(Device::Cuda(gpu), len);
                    tensor.write(0, &values(float, 2, len));
                    tensor
                });
                let term = Term { left: View::rows(&x, k), right, k };
                run(&mut [Product::new(m, n, term, &mut whole)]);
                // Eight rows a tile, and four in the last.
                cuda::run_in_tiles(gpu, &mut [Product::new(m, n, term, &mut in_tiles)], 8 * cols + 1);
                // Sums of three parts, each rounded.
                let (found, expected) = (in_tiles.to_vec(m * n), whole.to_vec(m * n));
                assert_close(&found, &expected, 2.0 * tolerance(float), &format!("{float:?}, {n} columns"));
            }
        }
    }
}

/// As a model is saved whose frozen matrices lie on a GPU: pieces of them, which begin and end within rows.
#[test]
fn a_frozen_matrix_on_a_device_is_read_as_on_the_host() {
    let (rows, cols) = (20, 24);
    for float in FLOATS {
        let Some(gpu) = gpu(float) else { return };
        let source = FrozenWeight::from_f32(rows, cols, &values(float, 1, rows * cols));
        let stored = source.with_row_order(RowOrder::RotaryPairs { head_dim: 10 });
        for weight in [stored.quantize(Quantization::Int8).expect("finite"), stored] {
            let expected = weight.to_vec();
            let weight = Weight::on(Device::Cuda(gpu), weight);
            for range in [0..rows * cols, 7..100, 48..72, 479..480, 5..5] {
                let mut found = vec![9.0; range.len()];
                weight.read(range.clone(), &mut found);
                assert_eq!(found, expected[range.clone()], "{float:?} {range:?}");
            }
        }
    }
}
