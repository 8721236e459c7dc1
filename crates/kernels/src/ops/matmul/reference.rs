//! The product written as its definition, in f64.

use super::cpu::{RightCpu, TermCpu};

fn right(operand: &RightCpu<'_>, k: usize, n: usize) -> f64 {
    let mut value = [0.0f32];
    match operand {
        RightCpu::WeightTransposed(w) => w.decode(n, k..k + 1, &mut value),
        RightCpu::Weight(w) => w.decode(k, n..n + 1, &mut value),
        RightCpu::Strided(s) => value[0] = s.values[k * s.row_stride + n * s.col_stride],
    }
    f64::from(value[0])
}

/// `out[m, n] + bias[n] + sum over terms and k`; `out` is zero unless the product accumulates.
pub(super) fn product(
    m: usize,
    n: usize,
    terms: &[TermCpu<'_>],
    bias: Option<&[f32]>,
    out: &[f32],
) -> Vec<f64> {
    let mut result: Vec<f64> = out.iter().map(|&v| f64::from(v)).collect();
    for i in 0..m {
        for j in 0..n {
            let sum = &mut result[i * n + j];
            *sum += bias.map_or(0.0, |b| f64::from(b[j]));
            for term in terms {
                for k in 0..term.k {
                    let left = term.left.values[i * term.left.row_stride + k * term.left.col_stride];
                    *sum += f64::from(left) * right(&term.right, k, j);
                }
            }
        }
    }
    result
}
