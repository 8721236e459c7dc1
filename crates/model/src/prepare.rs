//! What an adapter needs of the model before anything is computed with it: the norms of magnitudes, copies of the weights
//! that it trains whole, and what rows of tokens begin with.

use lorafit_kernels::{Tensor, Weight};

use crate::adapter::{Adapter, Saved, TargetError, TokenAdapter};
use crate::block::Step;
use crate::model::Model;
use crate::norm::Norm;
use crate::shape::SCORE;

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
            rows.values.set_compute_dtype(self.head().compute_dtype());
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
        let dtype = self.head().compute_dtype();
        for copy in saved.embedding.iter_mut().chain(&mut saved.head) {
            copy.set_compute_dtype(dtype);
        }
        saved.round();
        saved.prepared = true;
    }
}

impl Adapter {
    /// Whether it has a head that scores texts.
    pub fn scores(&self) -> bool {
        self.saved.scores()
    }

    /// Adds a head that scores texts, which begins as that of `model` and is trained whole, to an adapter that has none. Factors and
    /// whole weights stay as they are.
    ///
    /// # Errors
    /// A model that scores no texts.
    pub fn add_head(&mut self, model: &Model) -> Result<(), TargetError> {
        self.config.save_modules.push(SCORE.to_owned());
        let copies = Saved::zeros(model.config(), &self.config, model.device())?;
        let before = std::mem::replace(&mut self.saved, Saved { fresh: true, ..copies });
        model.prepare(self);
        let names: Vec<String> = self.saved.weights.iter().map(|weight| weight.shape.name.clone()).collect();
        for (name, copy) in names.iter().zip(self.saved.tensors_mut()) {
            if let Some((values, _)) = before.copy_of(name) {
                copy.write(0, &values.to_vec(values.len()));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lorafit_kernels::Device;

    use super::*;
    use crate::adapter::LoraConfig;
    use crate::weights::ModelFiles;

    #[test]
    fn a_head_is_added_to_what_was_trained_and_begins_as_the_models() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/llama");
        let mut files = ModelFiles::open(&dir).expect("opens");
        let plain = Model::load(&files, Device::Cpu).expect("loads");
        let lora = LoraConfig {
            save_modules: vec!["norm".to_owned()],
            ..LoraConfig::new("q_proj,down_proj".parse().expect("targets"))
        };
        let mut adapter = Adapter::init(plain.config(), &lora, 1, Device::Cpu).expect("fits");
        plain.prepare(&mut adapter);
        for (i, tensor) in adapter.tensors_mut().enumerate() {
            let values: Vec<f32> = (0..tensor.len()).map(|at| 0.25 * (i + at % 7) as f32).collect();
            tensor.write(0, &values);
        }
        plain.prepare(&mut adapter);
        let values = |adapter: &Adapter| -> Vec<Vec<f32>> {
            adapter.tensors().map(|tensor| tensor.to_vec(tensor.len())).collect()
        };
        let before = values(&adapter);
        assert!(!adapter.scores());

        files.score(3, 7).expect("labels");
        let scoring = Model::load(&files, Device::Cpu).expect("loads");
        adapter.add_head(&scoring).expect("a head");
        let mut after = values(&adapter);
        let (copy, _) = adapter.saved.copy_of("score.weight").expect("a head");
        let mut own = vec![0.0; copy.len()];
        scoring.head().read(0..own.len(), &mut own);
        assert_eq!(copy.to_vec(copy.len()), own);
        assert!(own.iter().any(|value| *value != 0.0));
        let at = after.iter().position(|values| *values == own).expect("it is trained");
        after.remove(at);
        assert_eq!(after, before, "what was trained stays");
        assert!(adapter.scores() && adapter.is_prepared());
    }
}
