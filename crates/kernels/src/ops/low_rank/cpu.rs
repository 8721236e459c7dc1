//! The op on the CPU: a thread takes an adapter's rows from their input to their outputs, so that `U` stays in its cache and all
//! adapters share one parallel region.

use rayon::prelude::*;

use super::{Output, RowsOf};
use crate::ops::matmul::FEW_ROWS;
use crate::ops::matmul::cpu::low_rank::{Factor, Inputs, Outputs};

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
    let each = tasks.len().div_ceil(rayon::current_num_threads());
    tasks.par_chunks_mut(each).with_max_len(1).for_each(|tasks| {
        for at in 0..tasks.len() {
            let next = tasks.get(at + 1).map(|task| Factor::of(task.adapter.a));
            tasks[at].run(x, inputs, stride, &widths, next);
        }
    });
}

/// Takes `len` values off, after `skipped` that nobody needs any more.
fn take<'a>(rest: &mut &'a mut [f32], skipped: usize, len: usize) -> &'a mut [f32] {
    let (_, from) = std::mem::take(rest).split_at_mut(skipped);
    let (taken, after) = from.split_at_mut(len);
    *rest = after;
    taken
}

impl Task<'_> {
    fn run(&mut self, x: &[f32], inputs: usize, stride: usize, widths: &[usize], next: Option<Factor<'_>>) {
        let Task { adapter: RowsOf { a, rank, scale, parts, .. }, first, rows, ref mut u, ref mut outputs } =
            *self;
        // On its way from memory while `U` is computed.
        parts.iter().for_each(|part| Factor::of(part.b_t).prefetch());
        let x = &x[first * inputs..];
        let a = Factor::of(a);
        Inputs { x, inputs, rows, a, rank: *rank, scale: *scale, u, stride }.run();
        if let Some(next) = next {
            next.prefetch();
        }
        for part in parts {
            let (out, width) = (&mut *outputs[part.output], widths[part.output]);
            let b_t = Factor::of(part.b_t);
            Outputs { u: &u[part.first..], stride, rows, b_t, rank: part.rank, out, width }.run();
        }
    }
}
