//! What the reference says of replies: their log-probabilities, computed once before the first step.

use lorafit_data::Samples;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model};

use crate::stream::{Cut, MicroBatchSize, cut};

/// The log-probability of the replies of the samples `indices`, in the order of all samples, 0 for the others: the sum over a reply's
/// targets, in nats. `on_progress` gets the number of samples that are done. If it returns `false`, the computation stops without
/// a result.
pub(crate) fn reply_log_probabilities(
    model: &Model,
    adapter: Option<&Adapter>,
    (samples, indices): (&Samples, &[usize]),
    how: Cut,
    buffers: &mut Buffers,
    on_progress: &mut dyn FnMut(usize) -> bool,
) -> Option<Vec<f64>> {
    let mut found = vec![0.0; samples.len()];
    let mut done = 0;
    for micro in cut(samples, indices, how) {
        if !on_progress(done) {
            return None;
        }
        let losses = model.loss(adapter, micro.stream(), buffers).to_vec();
        micro.for_each_owner(|target, place, _| found[micro.sample(place)] -= f64::from(losses[target]));
        done += micro.samples();
    }
    on_progress(done);
    Some(found)
}

/// The places of all samples.
pub(crate) fn all_of(samples: &Samples) -> Vec<usize> {
    (0..samples.len()).collect()
}

/// A reference that is an adapter of its own. It may have another rank than that for which the buffers of the run are, and so has its
/// own.
pub(crate) struct ReferenceAdapter<'a> {
    adapter: &'a Adapter,
    buffers: Buffers,
}

impl<'a> ReferenceAdapter<'a> {
    /// For micro-batches of up to `size`.
    pub(crate) fn new(model: &Model, adapter: &'a Adapter, size: MicroBatchSize) -> Self {
        let (config, device) = (model.config(), model.device());
        let buffers = Buffers::for_targets(config, Some(adapter), device, size.tokens, size.targets);
        ReferenceAdapter { adapter, buffers }
    }
}

/// As [`reply_log_probabilities`], under the reference: its own adapter, or the base alone in `buffers`.
pub(crate) fn of_reference(
    model: &Model,
    reference: Option<&mut ReferenceAdapter<'_>>,
    of: (&Samples, &[usize]),
    how: Cut,
    buffers: &mut Buffers,
    on_progress: &mut dyn FnMut(usize) -> bool,
) -> Option<Vec<f64>> {
    match reference {
        None => reply_log_probabilities(model, None, of, how, buffers, on_progress),
        Some(ReferenceAdapter { adapter, buffers }) => {
            reply_log_probabilities(model, Some(adapter), of, how, buffers, on_progress)
        }
    }
}
