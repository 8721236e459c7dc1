//! How far the logits of two models lie apart on the same tokens.

use lorafit_data::Samples;
use lorafit_kernels::ops::attention::Segments;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, Stream};

/// Logits that are compared at a time, in rows.
const ROWS: usize = 16;

/// Differences of logits over all tokens of some rows and the whole vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogitDifference {
    /// The largest, without its sign; not a number where a logit is none.
    pub largest: f32,
    /// The mean, without signs.
    pub mean: f64,
    /// Tokens whose logits were compared.
    pub tokens: u64,
    /// Tokens after which both models find the same one the likeliest.
    pub same_first: u64,
}

/// Compares two models of one vocabulary, each with an adapter or without.
pub fn logit_difference(
    first: (&Model, Option<&Adapter>),
    second: (&Model, Option<&Adapter>),
    samples: &Samples,
) -> LogitDifference {
    let longest = samples.iter().map(|sample| sample.len()).max().unwrap_or(0);
    let buffers = |(model, adapter): (&Model, Option<&Adapter>)| {
        Buffers::for_evaluation(model.config(), adapter, model.device(), longest)
    };
    let (mut of_first, mut of_second) = (buffers(first), buffers(second));
    let mut found = LogitDifference::default();
    let mut sum = 0.0;
    for sample in samples.iter() {
        forward(first, sample.ids, &mut of_first);
        forward(second, sample.ids, &mut of_second);
        let rows: Vec<u32> = (0..sample.len() as u32).collect();
        for rows in rows.chunks(ROWS) {
            let logits = first.0.row_logits(first.1, rows, &mut of_first);
            let others = second.0.row_logits(second.1, rows, &mut of_second);
            let vocab = first.0.config().vocab_size;
            for (logits, others) in logits.chunks_exact(vocab).zip(others.chunks_exact(vocab)) {
                found.tokens += 1;
                found.same_first += u64::from(likeliest(logits) == likeliest(others));
                for difference in logits.iter().zip(others).map(|(a, b)| (a - b).abs()) {
                    sum += f64::from(difference);
                    // A difference that is no number stays the largest.
                    if difference > found.largest || difference.is_nan() {
                        found.largest = difference;
                    }
                }
            }
        }
    }
    let values = found.tokens as f64 * first.0.config().vocab_size as f64;
    found.mean = sum / values.max(1.0);
    found
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&i, &j| logits[i].total_cmp(&logits[j]))
}

/// Leaves the hidden states of `ids` in `buffers`.
fn forward((model, adapter): (&Model, Option<&Adapter>), ids: &[u32], buffers: &mut Buffers) {
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let segments = Segments::single(ids.len());
    let stream = Stream { ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
    model.forward(adapter.into(), stream, buffers);
}
