use super::cpu::{RightCpu, Strided, TermCpu, testing};
use super::*;
use crate::testing::{Random, assert_close};

/// Sums of up to 1,200 products of values near 1 in f32: the error grows with sqrt(k) * 2^-24.
const TOLERANCE: f64 = 5e-6;

fn rows(values: &[f32], cols: usize) -> Strided<'_> {
    Strided { values, row_stride: cols, col_stride: 1 }
}

fn transposed(values: &[f32], rows: usize) -> Strided<'_> {
    Strided { values, row_stride: 1, col_stride: rows }
}

#[test]
fn every_instruction_set_equals_the_reference_on_awkward_shapes() {
    let mut random = Random::new(1);
    for (m, n, k) in [
        (1, 1, 1),
        (1, 70, 33),
        (3, 130, 600),
        (5, 7, 9),
        (12, 32, 512),
        (13, 33, 513),
        (29, 100, 1100),
        (50, 16, 64),
    ] {
        let x = random.normal(m * k);
        let w = Weight::from_f32(n, k, &random.normal(n * k));
        let v = Weight::from_f32(k, n, &random.normal(n * k));
        let y = random.normal(n * k);
        let (u, b) = (random.normal(m * 5), random.normal(n * 5));
        let bias = random.normal(n);
        let start = random.normal(m * n);
        let lora = TermCpu { left: rows(&u, 5), right: RightCpu::Strided(transposed(&b, 5)), k: 5 };
        let cases = [
            vec![TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(&w), k }, lora],
            vec![TermCpu { left: rows(&x, k), right: RightCpu::Weight(&v), k }],
            vec![TermCpu { left: transposed(&x, m), right: RightCpu::Weight(&v), k }, lora],
            // A weight gradient, `dY^T X`.
            vec![TermCpu { left: transposed(&x, m), right: RightCpu::Strided(rows(&y, n)), k }],
        ];
        for terms in &cases {
            for (accumulate, bias) in
                [(false, None), (true, None), (false, Some(&bias[..])), (true, Some(&bias[..]))]
            {
                let begin = if accumulate { start.clone() } else { vec![0.0; m * n] };
                let expected = reference::product(m, n, terms, bias, &begin);
                for (isa, found) in testing::on_every_isa(m, n, terms, bias, accumulate, &start, 3) {
                    assert_close(&found, &expected, TOLERANCE, &format!("{isa} {m}x{n}x{k}"));
                }
            }
        }
    }
}

#[test]
fn the_cut_into_tasks_does_not_change_a_bit() {
    let mut random = Random::new(2);
    for (m, n, k) in [(1, 300, 100), (40, 576, 576), (101, 192, 700)] {
        let x = random.normal(m * k);
        let w = Weight::from_f32(n, k, &random.normal(n * k));
        let terms = [TermCpu { left: rows(&x, k), right: RightCpu::WeightTransposed(&w), k }];
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
    let w = Weight::from_f32(2, 5, &[0.0; 10]);
    let mut out = Tensor::zeros(Device::Cpu, 4);
    run(&mut [Product::new(
        2,
        2,
        Term { left: View::rows(&x, 6), right: Right::WeightTransposed(&w), k: 6 },
        &mut out,
    )]);
}
