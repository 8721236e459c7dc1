//! Loops over neighbouring columns, written so that the compiler vectorises them.

use multiversion::multiversion;

/// `factors` of the columns from `first` on; `magnitudes` and `squares` begin there, `products` and `b_t` are whole.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn factors(
    magnitudes: &[f32],
    squares: &[f32],
    [products, b_t]: [&[f32]; 2],
    (first, width): (usize, usize),
    scale: f32,
    factors: &mut [f32],
) {
    let count = factors.len();
    factors.fill(0.0);
    for (products, b_t) in products.chunks_exact(width).zip(b_t.chunks_exact(width)) {
        let (products, b_t) = (&products[first..first + count], &b_t[first..first + count]);
        for ((sum, product), b) in factors.iter_mut().zip(products).zip(b_t) {
            *sum += product * b;
        }
    }
    for ((factor, square), magnitude) in factors.iter_mut().zip(squares).zip(magnitudes) {
        let square = square + 2.0 * scale * *factor;
        // Rounding may bring the square of a row of zeros below 0.
        *factor = if square > 0.0 || square.is_nan() { magnitude / square.sqrt() } else { 0.0 };
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn apply(y: &mut [f32], factors: &[f32], bias: Option<&[f32]>) {
    match bias {
        None => y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor),
        Some(bias) => {
            for ((y, factor), bias) in y.iter_mut().zip(factors).zip(bias) {
                *y = *y * factor + bias;
            }
        }
    }
}

/// Adds to `sums`, which are of the columns from `first` on; `magnitudes` and `bias` are whole.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn gradient(
    [d_y, y]: [&[f32]; 2],
    (first, width): (usize, usize),
    magnitudes: &[f32],
    bias: Option<&[f32]>,
    sums: &mut [f32],
) {
    let (columns, mut of_these) = (first..first + sums.len(), [0.0f32; super::COLUMNS]);
    let of_these = &mut of_these[..sums.len()];
    for (d_y, y) in d_y.chunks_exact(width).zip(y.chunks_exact(width)) {
        let (d_y, y) = (&d_y[columns.clone()], &y[columns.clone()]);
        match bias {
            None => {
                for ((sum, d_y), y) in of_these.iter_mut().zip(d_y).zip(y) {
                    *sum += d_y * y;
                }
            }
            Some(bias) => {
                for (((sum, d_y), y), bias) in of_these.iter_mut().zip(d_y).zip(y).zip(&bias[columns.clone()])
                {
                    *sum += d_y * (y - bias);
                }
            }
        }
    }
    for ((sum, of_this), magnitude) in sums.iter_mut().zip(of_these).zip(&magnitudes[columns]) {
        if *magnitude != 0.0 {
            *sum += *of_this / magnitude;
        }
    }
}
