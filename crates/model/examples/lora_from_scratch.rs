//! LoRA from scratch: a frozen matrix, two thin factors, their gradients by hand, AdamW, and the merge.
//!
//! `cargo run -p lorafit-model --example lora_from_scratch`

use lorafit_kernels::ops::adamw::{self, Step};
use lorafit_kernels::ops::elementwise;
use lorafit_kernels::ops::matmul::{self, Product, Right, Term, View};
use lorafit_kernels::{Device, Tensor, random};

const WIDTH: usize = 64; // inputs, and outputs, of the frozen matrix
const ROWS: usize = 256; // examples, all in one batch

/// `len` values from a normal distribution.
fn normal(seed: u64, len: usize, deviation: f32) -> Tensor {
    let values: Vec<f32> = (0..len as u64).map(|i| deviation * random::normal(seed, i)).collect();
    Tensor::from_slice(Device::Cpu, &values)
}

/// `left . right`, `[m, n]`, with sums of `k` products.
fn product([m, k, n]: [usize; 3], left: View<'_>, right: View<'_>) -> Tensor {
    let mut out = Tensor::zeros(Device::Cpu, m * n);
    matmul::run(&mut [Product::new(m, n, Term { left, right: Right::View(right), k }, &mut out)]);
    out
}

/// `x W^T`, with the outputs of `w` in its rows.
fn linear(x: &Tensor, w: &Tensor) -> Tensor {
    product([ROWS, WIDTH, WIDTH], View::rows(x, WIDTH), View::rows(w, WIDTH).t())
}

/// The mean square of `y - wanted`, and its gradient by `y`.
fn loss_and_gradient(y: &Tensor, wanted: &Tensor) -> (f32, Tensor) {
    let (y, wanted) = (y.to_vec(y.len()), wanted.to_vec(wanted.len()));
    let error: Vec<f32> = y.iter().zip(&wanted).map(|(y, wanted)| y - wanted).collect();
    let gradient: Vec<f32> = error.iter().map(|e| 2.0 * e / error.len() as f32).collect();
    (
        error.iter().map(|e| e * e).sum::<f32>() / error.len() as f32,
        Tensor::from_slice(Device::Cpu, &gradient),
    )
}

/// Trains factors of rank `r` until the frozen `W` does what `W` plus a hidden change of rank 4 does. The losses before and
/// after, and that of `W` with the factors merged into it.
fn train(r: usize, steps: u64) -> [f32; 3] {
    let (x, w) = (normal(1, ROWS * WIDTH, 1.0), normal(2, WIDTH * WIDTH, 0.125));
    let (left, right) = (normal(3, WIDTH * 4, 0.25), normal(4, 4 * WIDTH, 0.25));
    let mut goal = product([WIDTH, 4, WIDTH], View::rows(&left, 4), View::rows(&right, WIDTH));
    elementwise::add(&w, WIDTH * WIDTH, &mut goal);
    let wanted = linear(&x, &goal);

    // The adapter. B is zero, so B A is zero, and training begins with what the frozen matrix does.
    let (mut a, mut b) = (normal(5, r * WIDTH, 0.125), Tensor::zeros(Device::Cpu, WIDTH * r));
    let [mut a_first, mut a_second] = [a.zeros_like(), a.zeros_like()];
    let [mut b_first, mut b_second] = [b.zeros_like(), b.zeros_like()];
    let frozen = linear(&x, &w);
    // Y = X W^T + U B^T, where U = X A^T.
    let layer = |a: &Tensor, b: &Tensor| {
        let u = product([ROWS, WIDTH, r], View::rows(&x, WIDTH), View::rows(a, WIDTH).t());
        let mut y = product([ROWS, r, WIDTH], View::rows(&u, r), View::rows(b, r).t());
        elementwise::add(&frozen, y.len(), &mut y);
        (u, y)
    };
    for number in 1..=steps {
        let (u, y) = layer(&a, &b);
        let (_, d_y) = loss_and_gradient(&y, &wanted);
        // Of W there is no gradient. dB = dY^T U, dU = dY B, dA = dU^T X.
        let d_b = product([WIDTH, ROWS, r], View::rows(&d_y, WIDTH).t(), View::rows(&u, r));
        let d_u = product([ROWS, WIDTH, r], View::rows(&d_y, WIDTH), View::rows(&b, r));
        let d_a = product([r, ROWS, WIDTH], View::rows(&d_u, r).t(), View::rows(&x, WIDTH));
        let step = Step::new(number, 1e-2);
        adamw::step(&mut a, &d_a, &mut a_first, &mut a_second, r * WIDTH, &step);
        adamw::step(&mut b, &d_b, &mut b_first, &mut b_second, r * WIDTH, &step);
    }
    // The merge: W + B A is a matrix like W.
    let mut merged = product([WIDTH, r, WIDTH], View::rows(&b, r), View::rows(&a, WIDTH));
    elementwise::add(&w, WIDTH * WIDTH, &mut merged);
    [&frozen, &layer(&a, &b).1, &linear(&x, &merged)].map(|y| loss_and_gradient(y, &wanted).0)
}

fn main() {
    println!("rank  trained values  loss before  loss after  merged");
    for r in [1, 2, 4, 8] {
        let [before, after, merged] = train(r, 300);
        println!("{r:>4}  {:>14}  {before:>11.2e}  {after:>10.2e}  {merged:.2e}", 2 * r * WIDTH);
    }
}

#[cfg(test)]
mod tests {
    use super::train;

    #[test]
    fn a_change_of_rank_4_is_learnt_from_rank_4_on() {
        let [before, after, _] = train(4, 300);
        assert!(after < 1e-3 * before, "rank 4: {before} to {after}");
        let [before, after, merged] = train(1, 300);
        assert!(after > 0.1 * before && after < 0.9 * before, "rank 1 learns a part: {before} to {after}");
        // The same sums in another order.
        assert!(
            (merged - after).abs() < 1e-4 * after,
            "the merged matrix does what the layer does: {merged}, {after}"
        );
    }
}
