//! The decompositions of [`super`], in f64: a thin QR by Householder reflections and a singular value decomposition by
//! one-sided Jacobi rotations (Golub and Van Loan, Matrix Computations, 4th ed., 5.2.2 and 8.6.3).
//!
//! Matrices are small on one side, so both are written for clearness; accuracy is that of f64.

/// A matrix as its columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    rows: usize,
    columns: Vec<Vec<f64>>,
}

impl Matrix {
    /// `rows x columns.len()`.
    pub fn from_columns(rows: usize, columns: Vec<Vec<f64>>) -> Self {
        debug_assert!(columns.iter().all(|column| column.len() == rows));
        Matrix { rows, columns }
    }

    /// The first columns of the identity.
    fn identity(rows: usize, cols: usize) -> Self {
        let unit = |i: usize| (0..rows).map(|row| f64::from(u8::from(row == i))).collect();
        Matrix { rows, columns: (0..cols).map(unit).collect() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.columns.len()
    }

    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.columns[col][row]
    }

    /// The first `cols` columns.
    pub fn first(mut self, cols: usize) -> Self {
        self.columns.truncate(cols);
        self
    }

    pub fn scaled(mut self, factor: f64) -> Self {
        self.columns.iter_mut().flatten().for_each(|value| *value *= factor);
        self
    }

    pub fn transposed(&self) -> Self {
        let columns = (0..self.rows).map(|row| self.columns.iter().map(|column| column[row]).collect());
        Matrix { rows: self.cols(), columns: columns.collect() }
    }

    /// `self . right`.
    pub fn times(&self, right: &Matrix) -> Self {
        debug_assert_eq!(self.cols(), right.rows);
        let product = |weights: &Vec<f64>| {
            let mut sum = vec![0.0; self.rows];
            for (column, &weight) in self.columns.iter().zip(weights) {
                add_scaled(&mut sum, weight, column);
            }
            sum
        };
        Matrix { rows: self.rows, columns: right.columns.iter().map(product).collect() }
    }

    /// `self^T . right`.
    pub fn transposed_times(&self, right: &Matrix) -> Self {
        let product = |column: &Vec<f64>| self.columns.iter().map(|own| dot(own, column)).collect();
        Matrix { rows: self.cols(), columns: right.columns.iter().map(product).collect() }
    }
}

/// Of vectors of one length. Several sums, since one alone would wait for its own last addition.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const SUMS: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..SUMS {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn add_scaled(sum: &mut [f64], factor: f64, values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// `matrix = Q R`: `Q` `[rows, k]` with orthonormal columns, `R` `[k, cols]` upper triangular, `k = min(rows, cols)`.
/// `Q` is orthonormal also where the matrix has not full rank, or is zero.
pub(crate) fn thin_qr(matrix: &Matrix) -> (Matrix, Matrix) {
    let (rows, cols) = (matrix.rows, matrix.cols());
    let k = rows.min(cols);
    let mut r = matrix.clone();
    // H = I - factor v v^T; v begins at the row of its number.
    let mut reflections: Vec<(f64, Vec<f64>)> = Vec::with_capacity(k);
    for i in 0..k {
        let mut v = r.columns[i][i..].to_vec();
        let norm = dot(&v, &v).sqrt();
        // The sign that does not cancel. A single value is left as it is, as in LAPACK.
        v[0] += norm.copysign(v[0]);
        let square = dot(&v, &v);
        let factor = if square > 0.0 && v.len() > 1 { 2.0 / square } else { 0.0 };
        r.columns[i..].iter_mut().for_each(|column| reflect(column, i, factor, &v));
        reflections.push((factor, v));
    }
    let mut q = Matrix::identity(rows, k);
    for (i, (factor, v)) in reflections.iter().enumerate().rev() {
        q.columns.iter_mut().for_each(|column| reflect(column, i, *factor, v));
    }
    // Below the diagonal there is rounding only.
    for (i, column) in r.columns.iter_mut().enumerate() {
        column.truncate(k);
        column.iter_mut().skip(i + 1).for_each(|value| *value = 0.0);
    }
    (q, Matrix { rows: k, columns: r.columns })
}

fn reflect(column: &mut [f64], from: usize, factor: f64, v: &[f64]) {
    let tail = &mut column[from..];
    let along = factor * dot(tail, v);
    add_scaled(tail, -along, v);
}

/// `matrix = U diag(values) V^T`, values from large to small.
pub(crate) struct Svd {
    /// `[rows, k]`, `k = min(rows, cols)`; the column of a value that is zero is zero.
    pub u: Matrix,
    /// `k` of them.
    pub values: Vec<f64>,
    /// `[cols, k]`.
    pub v: Matrix,
}

/// More sweeps than any matrix needs; convergence is quadratic.
const SWEEPS: usize = 60;

/// The singular value decomposition of a small matrix.
pub(crate) fn svd(matrix: &Matrix) -> Svd {
    if matrix.cols() > matrix.rows {
        let Svd { u, values, v } = svd(&matrix.transposed());
        // The right vectors of the transposed matrix are orthonormal, its left ones may be zero.
        return Svd { u: v, values, v: u };
    }
    let n = matrix.cols();
    let (mut work, mut v) = (matrix.columns.clone(), Matrix::identity(n, n).columns);
    for _ in 0..SWEEPS {
        let mut turned = false;
        for p in 0..n {
            for q in p + 1..n {
                turned |= orthogonalise(&mut work, &mut v, p, q);
            }
        }
        if !turned {
            break;
        }
    }
    let norms: Vec<f64> = work.iter().map(|column| dot(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]));
    let unit = |i: &usize| {
        let norm = norms[*i];
        work[*i].iter().map(|value| if norm > 0.0 { value / norm } else { 0.0 }).collect()
    };
    Svd {
        u: Matrix { rows: matrix.rows, columns: order.iter().map(unit).collect() },
        values: order.iter().map(|&i| norms[i]).collect(),
        v: Matrix { rows: n, columns: order.iter().map(|&i| v[i].clone()).collect() },
    }
}

/// Turns two columns until they are orthogonal; false if they were.
fn orthogonalise(work: &mut [Vec<f64>], v: &mut [Vec<f64>], p: usize, q: usize) -> bool {
    let (pp, qq) = (dot(&work[p], &work[p]), dot(&work[q], &work[q]));
    let pq = dot(&work[p], &work[q]);
    if pq.abs() <= f64::EPSILON * (pp * qq).sqrt() {
        return false;
    }
    // tan of the angle, the smaller root of t^2 + 2 zeta t - 1 = 0.
    let zeta = (qq - pp) / (2.0 * pq);
    let t = 1.0_f64.copysign(zeta) / (zeta.abs() + zeta.hypot(1.0));
    let cos = 1.0 / t.hypot(1.0);
    let sin = cos * t;
    for columns in [work, v] {
        let (left, right) = columns.split_at_mut(q);
        for (a, b) in left[p].iter_mut().zip(&mut right[0]) {
            (*a, *b) = (cos * *a - sin * *b, sin * *a + cos * *b);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorafit_kernels::random;

    fn random_matrix(seed: u64, rows: usize, cols: usize) -> Matrix {
        let value = |i: usize| f64::from(random::uniform(random::mix(seed), i as u64)) - 0.5;
        let columns = (0..cols).map(|c| (0..rows).map(|r| value(c * rows + r)).collect()).collect();
        Matrix::from_columns(rows, columns)
    }

    /// Of full rank, of rank 2, with zero columns, and zero; tall, wide and square.
    fn matrices() -> Vec<Matrix> {
        let mut all = Vec::new();
        for (seed, (rows, cols)) in
            [(1, 1), (7, 1), (1, 7), (40, 8), (8, 8), (5, 12), (200, 33)].into_iter().enumerate()
        {
            let full = random_matrix(seed as u64, rows, cols);
            let low = random_matrix(90, rows, 2).times(&random_matrix(91, 2, cols));
            let mut holes = full.clone();
            holes.columns.iter_mut().step_by(2).for_each(|column| column.fill(0.0));
            let zero = full.clone().scaled(0.0);
            all.extend([full.clone(), full.scaled(1e-60), low, holes, zero]);
        }
        all
    }

    fn distance(a: &Matrix, b: &Matrix) -> f64 {
        assert_eq!((a.rows, a.cols()), (b.rows, b.cols()));
        let differences = a.columns.iter().flatten().zip(b.columns.iter().flatten());
        differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    fn largest(matrix: &Matrix) -> f64 {
        matrix.columns.iter().flatten().fold(0.0, |most: f64, value| most.max(value.abs()))
    }

    /// A few hundred roundings of f64.
    const ROUNDING: f64 = 1e-13;

    #[test]
    fn q_is_orthonormal_r_is_triangular_and_their_product_is_the_matrix() {
        for matrix in matrices() {
            let (q, r) = thin_qr(&matrix);
            let k = matrix.rows.min(matrix.cols());
            assert!(distance(&q.transposed_times(&q), &Matrix::identity(k, k)) < ROUNDING);
            assert!(distance(&q.times(&r), &matrix) <= ROUNDING * largest(&matrix));
            assert!((0..r.cols()).all(|c| (c + 1..k).all(|row| r.at(row, c) == 0.0)));
        }
    }

    #[test]
    fn singular_vectors_are_orthonormal_and_give_the_matrix_back() {
        for matrix in matrices() {
            let Svd { u, values, v } = svd(&matrix);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]) && values.iter().all(|&s| s >= 0.0));
            let mut scaled = u.clone();
            for (column, value) in scaled.columns.iter_mut().zip(&values) {
                column.iter_mut().for_each(|entry| *entry *= value);
            }
            assert!(distance(&scaled.times(&v.transposed()), &matrix) <= ROUNDING * largest(&matrix));
            let rank = values.iter().filter(|&&s| s > 1e-12 * values[0]).count();
            for vectors in [u.first(rank), v.first(rank)] {
                let gram = vectors.transposed_times(&vectors);
                assert!(distance(&gram, &Matrix::identity(rank, rank)) < ROUNDING);
            }
        }
    }
}
