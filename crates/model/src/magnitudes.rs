//! What the magnitudes of a DoRA adapter need of the model: the norms of the rows of `W + scale B A`
//! ([`lorafit_kernels::ops::magnitude`]). The squares of frozen rows are summed once, in f64; the rest is two products with
//! `rank` columns for each projection, after every change of the adapter.

use lorafit_kernels::ops::magnitude::{self, NormParts};
use lorafit_kernels::ops::matmul::{self, Product, Right, Term, View};
use lorafit_kernels::{Tensor, Weight};
use rayon::prelude::*;

use crate::adapter::{Adapter, LoraGroup, Magnitude, NormState, Norms};
use crate::block::linear::LinearGroup;
use crate::model::Model;

/// Values that are decoded at once.
const READ_VALUES: usize = 1 << 18;

impl Model {
    /// Makes an adapter with magnitudes ready to be computed with, after it was made or changed; magnitudes of a fresh one
    /// become the norms of the weights.
    pub(crate) fn prepare_magnitudes(&self, adapter: &mut Adapter) {
        let Adapter { layers, norms: Some(norms), .. } = adapter else { return };
        let state = norms.state;
        if state == NormState::Current {
            return;
        }
        for (block, sites) in self.blocks.iter().zip(layers) {
            for (group, adapter) in block.groups().zip(sites) {
                let Some(adapter) = adapter else { continue };
                if state != NormState::Stale {
                    read_squares(group, adapter, state == NormState::Fresh);
                }
                set_factors(group, adapter, norms);
            }
        }
        norms.state = NormState::Current;
    }
}

/// Sums the squares of the rows of the weights; `fresh` magnitudes become their roots.
fn read_squares(group: &LinearGroup, adapter: &mut LoraGroup, fresh: bool) {
    for part in &mut adapter.parts {
        let Some(Magnitude { values, squares, .. }) = &mut part.magnitude else { continue };
        let sums = row_squares(&group.projections[part.projection].weight);
        squares.write(0, &sums);
        if fresh {
            values.write(0, &sums.iter().map(|sum| sum.sqrt()).collect::<Vec<f32>>());
        }
    }
}

/// The sum of the squares of each row.
fn row_squares(weight: &Weight) -> Vec<f32> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let at_once = (READ_VALUES / cols.max(1)).max(1);
    let mut sums = vec![0.0f32; rows];
    let of_rows = |(i, sums): (usize, &mut [f32])| {
        let mut values = vec![0.0; sums.len() * cols];
        weight.read(i * at_once * cols..i * at_once * cols + values.len(), &mut values);
        for (sum, row) in sums.iter_mut().zip(values.chunks_exact(cols)) {
            *sum = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() as f32;
        }
    };
    sums.par_chunks_mut(at_once).enumerate().for_each(of_rows);
    sums
}

/// The factors of all magnitudes of a group.
fn set_factors(group: &LinearGroup, adapter: &mut LoraGroup, norms: &mut Norms) {
    let inputs = group.inputs();
    let LoraGroup { a, parts, .. } = adapter;
    for part in parts {
        let Some(Magnitude { values, squares, factors }) = &mut part.magnitude else { continue };
        let (rank, outputs, weight) = (part.rank, values.len(), &group.projections[part.projection].weight);
        let Norms { gram, products, .. } = &mut *norms;
        let a = View::rows(a, inputs).from_row(part.first);
        let term = Term { left: a, right: Right::View(a.t()), k: inputs };
        matmul::run(&mut [Product { scale: part.scale / 2.0, ..Product::new(rank, rank, term, gram) }]);

        let of_weight = Term { left: a, right: Right::WeightTransposed(weight), k: inputs };
        let right = Right::View(View::rows(&part.b_t, outputs));
        let of_update = Term { left: View::rows(gram, rank), right, k: rank };
        let mut product = Product::new(rank, outputs, of_weight, products);
        product.terms.push(of_update);
        matmul::run(&mut [product]);

        let b_t: &Tensor = &part.b_t;
        magnitude::factors(values, NormParts { squares, products, b_t, scale: part.scale }, factors);
    }
}
