//! What an adapter needs of the model before anything is computed with it: the norms of magnitudes, copies of the weights
//! that it trains whole, and what rows of tokens begin with.

use lorafit_kernels::{Tensor, Weight};

use crate::adapter::{Adapter, Saved, TokenAdapter};
use crate::block::Step;
use crate::model::Model;
use crate::norm::Norm;

/// Values that are copied at once.
const COPIED_VALUES: usize = 1 << 20;

impl Model {
    /// Makes an adapter ready to be computed with, after it was made or changed: whole weights of a fresh one become copies of
    /// the model's, magnitudes the norms of its weights, rows of tokens the model's or the means of several.
    pub fn prepare(&self, adapter: &mut Adapter) {
        self.prepare_magnitudes(adapter);
        self.prepare_saved(&mut adapter.saved);
        self.prepare_tokens(&mut adapter.tokens);
    }

    fn prepare_tokens(&self, tokens: &mut TokenAdapter) {
        let starts = tokens.starts.take();
        for (rows, own) in tokens.both_mut().into_iter().zip([&self.embedding, self.head()]) {
            let Some(rows) = rows else { continue };
            rows.values.set_compute_dtype(self.compute_dtype());
            let Some(starts) = &starts else { continue };
            let values: Vec<f32> = rows
                .ids
                .iter()
                .flat_map(|id| mean_row(own, starts.get(id).map_or(&[*id][..], |pieces| pieces)))
                .collect();
            rows.tensor_mut().write(0, &values);
        }
    }

    fn prepare_saved(&self, saved: &mut Saved) {
        if saved.fresh {
            let Saved { embedding, blocks, norm, head, .. } = &mut *saved;
            for (copy, own) in [(embedding, &self.embedding), (head, self.head())] {
                if let Some(values) = copy.as_mut().and_then(Weight::trained_mut) {
                    copy_matrix(own, values);
                }
            }
            for (copies, block) in blocks.iter_mut().zip(&self.blocks) {
                for copy in copies {
                    let mut norms = block.steps.iter().flat_map(norms_of);
                    let own = norms.find(|(stats, _)| *stats == copy.stats).expect("a norm of the block");
                    copy_norm(own.1, &mut copy.norm);
                }
            }
            if let Some(copy) = norm {
                copy_norm(&self.norm, copy);
            }
            saved.fresh = false;
        }
        let dtype = self.compute_dtype();
        for copy in saved.embedding.iter_mut().chain(&mut saved.head) {
            copy.set_compute_dtype(dtype);
        }
        saved.round();
        saved.prepared = true;
    }
}

/// The norms of a step, each with the place of its statistics.
fn norms_of(step: &Step) -> Vec<(usize, &Norm)> {
    match step {
        Step::Norm(norm) => vec![(norm.stats, &norm.norm)],
        Step::Attend(attend) => (attend.stats..).zip(attend.norms.iter().flatten()).collect(),
        Step::Project(_) | Step::Gate(_) | Step::Add(_) | Step::Again(_) => Vec::new(),
    }
}

/// The mean of the rows `rows` of a matrix, summed in f64.
fn mean_row(matrix: &Weight, rows: &[u32]) -> Vec<f32> {
    let width = matrix.cols();
    let (mut sum, mut values) = (vec![0.0; width], vec![0.0; width]);
    for row in rows.iter().map(|row| *row as usize) {
        matrix.read(row * width..(row + 1) * width, &mut values);
        sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let count = rows.len().max(1) as f64;
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}

fn copy_matrix(own: &Weight, values: &mut Tensor) {
    let len = values.len();
    let mut piece = vec![0.0; COPIED_VALUES.min(len)];
    for start in (0..len).step_by(COPIED_VALUES) {
        let piece = &mut piece[..COPIED_VALUES.min(len - start)];
        own.read(start..start + piece.len(), piece);
        values.write(start, piece);
    }
}

fn copy_norm(own: &Norm, copy: &mut Norm) {
    copy.weight.values.write(0, &own.weight.to_vec(own.weight.len()));
    if let (Some(copy), Some(own)) = (&mut copy.bias, &own.bias) {
        copy.values.write(0, &own.to_vec(own.len()));
    }
}
