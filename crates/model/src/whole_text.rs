//! What a model makes of a whole text: a vector for each token, and how likely each token is after those before it.

use lorafit_kernels::ops::attention::Segments;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::model::{Model, Stream};

impl Model {
    /// The vector of every token of a text after the last norm, `[tokens, hidden]`: what the head reads.
    ///
    /// # Panics
    /// On no token, and on one outside the vocabulary.
    pub fn hidden_states(&self, adapter: Option<&Adapter>, ids: &[u32]) -> Vec<f32> {
        self.of_text(adapter, ids, |buffers| self.normed_rows(adapter, ids.len(), buffers))
    }

    /// The logarithm of the probability of every token but the first after those before it, `[tokens - 1]`.
    ///
    /// # Panics
    /// As [`Model::hidden_states`].
    pub fn log_probabilities(&self, adapter: Option<&Adapter>, ids: &[u32]) -> Vec<f32> {
        /// Rows whose logits are held at once.
        const ROWS: usize = 64;
        self.of_text(adapter, ids, |buffers| {
            let rows: Vec<u32> = (0..ids.len() as u32 - 1).collect();
            let mut found = Vec::with_capacity(rows.len());
            for rows in rows.chunks(ROWS) {
                let logits = self.row_logits(adapter, rows, buffers);
                let next = rows.iter().map(|row| ids[*row as usize + 1] as usize);
                found.extend(
                    logits.chunks_exact(self.config().outputs()).zip(next).map(|(l, id)| log_softmax(l, id)),
                );
            }
            found
        })
    }

    /// Computes a text, of which `read` reads the stream.
    fn of_text(
        &self,
        adapter: Option<&Adapter>,
        ids: &[u32],
        read: impl FnOnce(&mut Buffers) -> Vec<f32> + Send,
    ) -> Vec<f32> {
        assert!(!ids.is_empty(), "a text has at least one token");
        let mut buffers = Buffers::for_evaluation(self.config(), adapter, self.device(), ids.len());
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let segments = Segments::single(ids.len());
        self.on_pool(|| {
            let stream = Stream { ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
            self.forward(adapter.into(), stream, &mut buffers);
            read(&mut buffers)
        })
    }
}

/// The logarithm of the softmax of `logits` at `id`, summed in f64.
fn log_softmax(logits: &[f32], id: usize) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - top).exp()).sum();
    (f64::from(logits[id] - top) - sum.ln()) as f32
}
