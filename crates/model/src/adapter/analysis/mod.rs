//! What an adapter changed, from its small factors.
//!
//! The update of a layer is `dW = s B A`, `[out, in]`, of rank `r` at most. It is never formed: with thin QR
//! decompositions `B = Q_b R_b` and `A^T = Q_a R_a` it is `Q_b (s R_b R_a^T) Q_a^T`, and the singular value decomposition
//! `U S V^T` of the `r x r` matrix in the middle is that of `dW`, whose singular vectors are `Q_b U` and `Q_a V`. All of it
//! is in f64.

pub(crate) mod linear_algebra;

use lorafit_kernels::FrozenWeight;
use rayon::prelude::*;

use super::factors::Factors;
use linear_algebra::{Matrix, svd, thin_qr};

/// The update of one layer, decomposed.
#[derive(Clone, Debug)]
pub struct Update {
    /// The singular values of `dW`, from large to small: `min(r, out, in)` of them.
    pub singular_values: Vec<f64>,
    /// The directions of the output that change, `[out, rank()]`.
    left: Matrix,
    /// The directions of the input that are seen, `[in, rank()]`.
    right: Matrix,
}

impl Update {
    /// The update that `factors` make.
    pub fn of(factors: &Factors) -> Self {
        let Factors { rank, outputs, inputs, scale, ref a, ref b, .. } = *factors;
        let a_t = a.chunks_exact(inputs.max(1)).map(|row| row.iter().map(|&v| f64::from(v)).collect());
        let b_column = |column: usize| b.iter().skip(column).step_by(rank).map(|&v| f64::from(v)).collect();
        let (q_a, r_a) = thin_qr(&Matrix::from_columns(inputs, a_t.collect()));
        let (q_b, r_b) = thin_qr(&Matrix::from_columns(outputs, (0..rank).map(b_column).collect()));
        let core = svd(&r_b.times(&r_a.transposed()).scaled(scale));
        let rank = numerical_rank(&core.values, outputs.max(inputs));
        Update {
            left: q_b.times(&core.u.first(rank)),
            right: q_a.times(&core.v.first(rank)),
            singular_values: core.values,
        }
    }

    /// `||dW||_F`.
    pub fn norm(&self) -> f64 {
        self.singular_values.iter().map(|s| s * s).sum::<f64>().sqrt()
    }

    /// The number of singular values that are not rounding.
    pub fn rank(&self) -> usize {
        self.left.cols()
    }

    /// How many directions the update uses: `exp` of the entropy of the singular values divided by their sum (Roy and
    /// Vetterli 2007, "The effective rank"). From 1 to `r`, and 0 of an update that is zero.
    pub fn effective_rank(&self) -> f64 {
        let sum: f64 = self.singular_values.iter().sum();
        if sum == 0.0 {
            return 0.0;
        }
        let shares = self.singular_values.iter().map(|s| s / sum).filter(|&share| share > 0.0);
        (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
    }

    /// `||dW||_F^2 / ||dW||_2^2` (Rudelson and Vershynin 2007), which counts only directions that are nearly as strong as
    /// the strongest. 0 of an update that is zero.
    pub fn stable_rank(&self) -> f64 {
        match self.singular_values.first() {
            Some(&largest) if largest > 0.0 => {
                self.singular_values.iter().map(|s| (s / largest).powi(2)).sum()
            }
            _ => 0.0,
        }
    }

    /// `||dW - dW_k||_F` where `dW_k` has the `rank` strongest directions of the update: no matrix of that rank is nearer
    /// (Eckart and Young 1936).
    pub fn left_out(&self, rank: usize) -> f64 {
        self.singular_values.iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt()
    }

    /// Factors `A` `[rank, in]` and `B` `[out, rank]`, row-major, so that `scale B A` has the `rank` strongest directions of
    /// the update. Each direction's strength is shared evenly by both; where there are fewer, the rest is zero.
    pub fn truncated(&self, rank: usize, scale: f64) -> (Vec<f32>, Vec<f32>) {
        let (outputs, inputs) = (self.left.rows(), self.right.rows());
        let (mut a, mut b) = (vec![0.0; rank * inputs], vec![0.0; outputs * rank]);
        for k in 0..rank.min(self.rank()) {
            let root = (self.singular_values[k] / scale.abs()).sqrt();
            for (input, value) in a[k * inputs..][..inputs].iter_mut().enumerate() {
                *value = (root * self.right.at(input, k)) as f32;
            }
            let root = root.copysign(scale);
            for output in 0..outputs {
                b[output * rank + k] = (root * self.left.at(output, k)) as f32;
            }
        }
        (a, b)
    }

    /// What this update and another of the same layer have in common: of outputs, and of inputs.
    pub fn overlap(&self, other: &Update) -> Overlap {
        Overlap {
            outputs: Subspaces::of(&self.left, &other.left),
            inputs: Subspaces::of(&self.right, &other.right),
        }
    }
}

/// As `matrix_rank` of numpy: values above rounding of the largest.
fn numerical_rank(values: &[f64], longest: usize) -> usize {
    let bound = values.first().copied().unwrap_or(0.0) * longest as f64 * f64::EPSILON;
    values.iter().filter(|&&value| value > bound).count()
}

/// How two updates of one layer lie to each other.
#[derive(Clone, Debug)]
pub struct Overlap {
    /// By the directions of the output they change.
    pub outputs: Subspaces,
    /// By the directions of the input they see. Two runs that began with the same `A` (the same seed) are close here
    /// before they have learnt anything.
    pub inputs: Subspaces,
}

/// Two lists of orthonormal directions, the stronger first, as the products of each with each.
#[derive(Clone, Debug)]
pub struct Subspaces {
    /// `[directions of one, directions of the other]`.
    products: Matrix,
    /// Dimension of the space they lie in.
    dimension: usize,
}

impl Subspaces {
    fn of(one: &Matrix, other: &Matrix) -> Self {
        Subspaces { products: one.transposed_times(other), dimension: one.rows() }
    }

    /// How many directions there are of one and of the other.
    pub fn sizes(&self) -> (usize, usize) {
        (self.products.rows(), self.products.cols())
    }

    /// The similarity of the first `i` directions of one and the first `j` of the other, `||U_i^T V_j||_F^2 / min(i, j)`
    /// (Hu et al. 2021, section 7.2): 0 for orthogonal subspaces, 1 where one holds the other.
    pub fn similarity(&self, i: usize, j: usize) -> f64 {
        let least = i.min(j);
        if least == 0 {
            return 0.0;
        }
        let squares = (0..j).flat_map(|col| (0..i).map(move |row| self.products.at(row, col).powi(2)));
        squares.sum::<f64>() / least as f64
    }

    /// What [`Self::similarity`] of all directions would be by chance.
    pub fn similarity_by_chance(&self) -> f64 {
        let (one, other) = self.sizes();
        one.max(other) as f64 / self.dimension.max(1) as f64
    }

    /// The principal angles between the two subspaces in degrees, the smallest first (Björck and Golub 1973).
    pub fn principal_angles(&self) -> Vec<f64> {
        svd(&self.products).values.iter().map(|cos| cos.min(1.0).acos().to_degrees()).collect()
    }
}

/// `||W||_F` of a stored matrix, decoded a row at a time on all threads.
pub fn weight_norm(weight: &FrozenWeight) -> f64 {
    let row_square = |row: &mut Vec<f32>, i: usize| {
        weight.decode(i, 0..weight.cols(), row);
        row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>()
    };
    let squares: Vec<f64> =
        (0..weight.rows()).into_par_iter().map_init(|| vec![0.0; weight.cols()], row_square).collect();
    squares.iter().sum::<f64>().sqrt()
}
