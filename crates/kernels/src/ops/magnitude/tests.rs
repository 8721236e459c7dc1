use super::*;
use crate::ops::matmul::{self, Product, Right, Term, View};
use crate::testing::{Random, assert_close, finite_difference, weighted_sum, widen};
use crate::{FrozenWeight, Weight};

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(Device::Cpu, values)
}

/// `y` of the definition in f64, `[rows, out]`: with `W + D` formed, and the norms of its rows given or computed.
struct Definition {
    inputs: usize,
    outputs: usize,
    w: Vec<f64>,
    /// `[out, in]`.
    d: Vec<f64>,
    bias: Vec<f64>,
}

impl Definition {
    fn norms(&self) -> Vec<f64> {
        let rows = self.w.chunks(self.inputs).zip(self.d.chunks(self.inputs));
        rows.map(|(w, d)| w.iter().zip(d).map(|(w, d)| (w + d).powi(2)).sum::<f64>().sqrt()).collect()
    }

    fn y(&self, x: &[f64], magnitudes: &[f64], norms: &[f64]) -> Vec<f64> {
        let of_row = |x: &[f64]| -> Vec<f64> {
            let of_output = |j: usize| {
                let at = j * self.inputs..(j + 1) * self.inputs;
                let weights = self.w[at.clone()].iter().zip(&self.d[at]);
                let z: f64 = x.iter().zip(weights).map(|(x, (w, d))| x * (w + d)).sum();
                magnitudes[j] / norms[j] * z + self.bias[j]
            };
            (0..self.outputs).map(of_output).collect()
        };
        x.chunks(self.inputs).flat_map(of_row).collect()
    }
}

#[test]
fn factors_outputs_and_gradients_are_those_of_the_definition() {
    for (rows, inputs, outputs, rank, scale) in
        [(5, 33, 130, 4, 2.0), (1, 8, 1, 1, 0.5), (70, 16, 64, 7, -1.5)]
    {
        let mut random = Random::new(outputs as u64);
        let [w, a, b_t, x, bias, d_y] =
            [outputs * inputs, rank * inputs, rank * outputs, rows * inputs, outputs, rows * outputs]
                .map(|len| random.normal(len));
        let magnitudes: Vec<f32> = random.normal(outputs).iter().map(|m| 3.0 + m.abs()).collect();
        let d = (0..outputs * inputs).map(|i| {
            let (j, k) = (i / inputs, i % inputs);
            let sum = (0..rank)
                .map(|r| f64::from(b_t[r * outputs + j]) * f64::from(a[r * inputs + k]))
                .sum::<f64>();
            f64::from(scale) * sum
        });
        let definition = Definition { inputs, outputs, w: widen(&w), d: d.collect(), bias: widen(&bias) };
        let norms = definition.norms();

        let weight = Weight::from(FrozenWeight::from_f32(outputs, inputs, &w));
        let squares: Vec<f32> = w.chunks(inputs).map(|row| row.iter().map(|w| w * w).sum()).collect();
        let (a, b_t) = (tensor(&a), tensor(&b_t));
        let (mut gram, mut products) = (tensor(&vec![0.0; rank * rank]), tensor(&vec![0.0; rank * outputs]));
        let left = View::rows(&a, inputs);
        let term = Term { left, right: Right::View(left.t()), k: inputs };
        matmul::run(&mut [Product { scale: scale / 2.0, ..Product::new(rank, rank, term, &mut gram) }]);
        let of_weight = Term { left, right: Right::WeightTransposed(&weight), k: inputs };
        let of_gram =
            Term { left: View::rows(&gram, rank), right: Right::View(View::rows(&b_t, outputs)), k: rank };
        let mut product = Product::new(rank, outputs, of_weight, &mut products);
        product.terms.push(of_gram);
        matmul::run(&mut [product]);
        let (m, mut found) = (tensor(&magnitudes), tensor(&vec![0.0; outputs]));
        let parts = NormParts { squares: &tensor(&squares), products: &products, b_t: &b_t, scale };
        factors(&m, parts, &mut found);
        let expected: Vec<f64> = magnitudes.iter().zip(&norms).map(|(m, n)| f64::from(*m) / n).collect();
        // Sums of some hundred products in f32.
        assert_close(&found.to_vec(outputs), &expected, 1e-5, "factors");

        let z = definition.y(&widen(&x), &norms, &norms);
        let z: Vec<f32> =
            z.iter().enumerate().map(|(i, z)| (z - definition.bias[i % outputs]) as f32).collect();
        let (mut y, bias) = (tensor(&z), tensor(&bias));
        apply(&mut y, rows, &found, Some(&bias));
        let expected = definition.y(&widen(&x), &widen(&magnitudes), &norms);
        assert_close(&y.to_vec(rows * outputs), &expected, 1e-5, "outputs");
        let mut without = tensor(&z);
        apply(&mut without, rows, &found, None);
        let expected: Vec<f64> =
            expected.iter().enumerate().map(|(i, y)| y - definition.bias[i % outputs]).collect();
        assert_close(&without.to_vec(rows * outputs), &expected, 1e-5, "outputs without a bias");

        // The norms are a constant.
        let loss = |m: &[f64]| weighted_sum(&definition.y(&widen(&x), m, &norms), &d_y);
        let expected = finite_difference(&widen(&magnitudes), loss);
        for (y, bias) in [(&y, Some(&bias)), (&without, None)] {
            let mut d_m = tensor(&vec![1.0; outputs]);
            gradient(&tensor(&d_y), y, rows, &m, bias, &mut d_m);
            let found: Vec<f32> = d_m.to_vec(outputs).iter().map(|d| d - 1.0).collect();
            assert_close(&found, &expected, 2e-5, "gradient of the magnitudes");
        }
    }
}

#[test]
fn a_row_of_zeros_gives_zeros_and_not_nothing() {
    let zeros = || tensor(&[0.0; 3]);
    let parts =
        NormParts { squares: &tensor(&[4.0, 0.0, -1e-9]), products: &zeros(), b_t: &zeros(), scale: 1.0 };
    let (m, mut found) = (tensor(&[3.0, 0.0, 2.0]), zeros());
    factors(&m, parts, &mut found);
    assert_eq!(found.to_vec(3), [1.5, 0.0, 0.0]);
    let (y, d_y, mut d_m) = (zeros(), tensor(&[1.0; 3]), zeros());
    gradient(&d_y, &y, 1, &m, None, &mut d_m);
    assert_eq!(d_m.to_vec(3), [0.0; 3]);
    // NaN stays NaN, so that a run that diverged is noticed.
    let broken = tensor(&[f32::NAN; 3]);
    factors(&m, NormParts { squares: &broken, products: &zeros(), b_t: &zeros(), scale: 1.0 }, &mut found);
    assert!(found.to_vec(3).iter().all(|f| f.is_nan()));
}
