//! The numbers a model gives the tokens of a row, for comparison with other programs.

use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, Stream};

/// What a model says of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    /// Negative log likelihood of each token but the first, in nats.
    pub next_token_nll: Vec<f32>,
    /// The largest logits after the last token with their ids, largest first.
    pub top_logits: Vec<(u32, f32)>,
}

/// Scores the sequence `ids`, and gives the `top` largest logits after it.
pub fn token_scores(model: &Model, adapter: Option<&Adapter>, ids: &[u32], top: usize) -> TokenScores {
    let mut buffers = Buffers::for_evaluation(model.config(), adapter, model.device(), ids.len());
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let segments = Segments::single(ids.len());
    let targets: Vec<Target> =
        ids.iter().skip(1).zip(&positions).map(|(&id, &row)| Target { row, id, weight: 1.0 }).collect();
    let stream = Stream { ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
    model.forward(adapter.into(), stream, &mut buffers);
    let next_token_nll = model.row_losses(adapter, &targets, &mut buffers).to_vec();
    let last = positions.last().copied();
    let logits = model.row_logits(adapter, last.as_slice(), &mut buffers);
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(top);
    TokenScores { next_token_nll, top_logits: ranked }
}
