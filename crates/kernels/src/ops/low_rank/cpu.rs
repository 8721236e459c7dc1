//! The op on the CPU: a thread takes an adapter's rows from their input to their outputs, so that `U` stays in its cache and all
//! adapters share one parallel region.

use rayon::prelude::*;

use super::{Output, RowsOf};
use crate::ops::matmul::FEW_ROWS;
use crate::ops::matmul::cpu::{ProductCpu, RightCpu, Strided, TermCpu, run_serial};

/// Some rows of an adapter, with what belongs to them.
struct Task<'a> {
    adapter: &'a RowsOf<'a>,
    first: usize,
    rows: usize,
    u: &'a mut [f32],
    outputs: Vec<&'a mut [f32]>,
}

/// See [`super::add`].
pub(super) fn add(
    x: &[f32],
    inputs: usize,
    adapters: &[RowsOf<'_>],
    (u, stride): (&mut [f32], usize),
    outputs: &mut [Output<'_>],
) {
    let widths: Vec<usize> = outputs.iter().map(|output| output.width).collect();
    let threads_of_each = rayon::current_num_threads().div_ceil(adapters.len());
    let mut rest_of_u = u;
    let mut rest: Vec<&mut [f32]> = outputs.iter_mut().map(|output| output.values.cpu_mut()).collect();
    let mut tasks = Vec::with_capacity(adapters.len());
    let mut row = 0;
    for adapter in adapters {
        // A few rows have the same bits together and apart.
        let at_once = match adapter.rows.len() <= FEW_ROWS {
            true => adapter.rows.len().div_ceil(threads_of_each).max(1),
            false => adapter.rows.len(),
        };
        for first in adapter.rows.clone().step_by(at_once) {
            let rows = at_once.min(adapter.rows.end - first);
            let u = take(&mut rest_of_u, (first - row) * stride, rows * stride);
            let outputs = rest.iter_mut().zip(&widths);
            let outputs =
                outputs.map(|(rest, width)| take(rest, (first - row) * width, rows * width)).collect();
            row = first + rows;
            tasks.push(Task { adapter, first, rows, u, outputs });
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|task| task.run(x, inputs, stride, &widths));
}

/// Takes `len` values off, after `skipped` that nobody needs any more.
fn take<'a>(rest: &mut &'a mut [f32], skipped: usize, len: usize) -> &'a mut [f32] {
    let (_, from) = std::mem::take(rest).split_at_mut(skipped);
    let (taken, after) = from.split_at_mut(len);
    *rest = after;
    taken
}

impl Task<'_> {
    fn run(self, x: &[f32], inputs: usize, stride: usize, widths: &[usize]) {
        let Task { adapter: RowsOf { a, rank, scale, parts, .. }, first, rows: m, u, mut outputs } = self;
        let a = Strided { values: a.cpu(), row_stride: 1, col_stride: inputs };
        let left = Strided { values: &x[first * inputs..], row_stride: inputs, col_stride: 1 };
        let terms = [TermCpu { left, right: RightCpu::Strided(a), k: inputs }];
        let (n, bias, out_stride) = (*rank, None, stride);
        run_serial(ProductCpu { m, n, terms: &terms, bias, accumulate: false, out: u, out_stride });
        if *scale != 1.0 {
            for row in u.chunks_mut(stride) {
                row[..n].iter_mut().for_each(|value| *value *= scale);
            }
        }
        for part in parts {
            let (out, width) = (&mut *outputs[part.output], widths[part.output]);
            let left = Strided { values: &u[part.first..], row_stride: stride, col_stride: 1 };
            let b_t = Strided { values: part.b_t.cpu(), row_stride: width, col_stride: 1 };
            let terms = [TermCpu { left, right: RightCpu::Strided(b_t), k: part.rank }];
            let (n, accumulate, out_stride) = (width, true, width);
            run_serial(ProductCpu { m, n, terms: &terms, bias, accumulate, out, out_stride });
        }
    }
}
