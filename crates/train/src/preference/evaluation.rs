//! What a model makes of held-out judged rows: their loss, its metrics, and the log-probabilities of all replies.

use lorafit_data::{Groups, SampleRef, Samples};
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, Stream};

use super::reference::{ReferenceAdapter, all_of, of_reference};
use super::step::{Computing, JudgedRows, Totals, distance, weigh, with_prompt};
use super::{Loss, PreferenceMetrics, PreferenceOptions, Reply, Sums};
use crate::frozen::FrozenOutputs;
use crate::group::{ALONE, GroupError};
use crate::stream::{Cut, MicroBatchSize, cut_groups};

/// What held-out judged rows come to.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedEvaluation {
    /// Mean loss over the rows, as training has it.
    pub loss: f64,
    /// What training tells beside it.
    pub metrics: PreferenceMetrics,
    /// The replies, in the order of the samples.
    pub replies: Vec<Reply>,
}

impl JudgedEvaluation {
    /// Of each pair, the reward of its chosen reply above that of its rejected one; none where rows are no pairs.
    pub fn margins(&self, rows: &Groups, options: &PreferenceOptions) -> Vec<f64> {
        if !matches!(options.objective.loss, Loss::Pair(_)) {
            return Vec::new();
        }
        let margin = |row: usize| match &self.replies[rows.range(row)] {
            [chosen, rejected] => Some(options.reward(chosen) - options.reward(rejected)),
            _ => None,
        };
        (0..rows.len()).filter_map(margin).collect()
    }
}

/// A model that is judged, and the reference that it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct JudgedModel<'a> {
    /// The base of both.
    pub model: &'a Model,
    /// The adapter of the model.
    pub adapter: Option<&'a Adapter>,
    /// That of the reference; `None` for the base alone.
    pub reference: Option<&'a Adapter>,
}

/// Evaluates judged rows in micro-batches of about `budget` tokens. `None` if it is to `stop`, which is asked before every
/// micro-batch.
pub fn evaluate(
    judged: JudgedModel<'_>,
    samples: &Samples,
    options: &PreferenceOptions,
    budget: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Option<JudgedEvaluation> {
    let JudgedModel { model, adapter, reference } = judged;
    let size = MicroBatchSize::of_judged(samples, budget, options.has_prompt_targets());
    let buffers = &mut Buffers::for_evaluation(model.config(), adapter, model.device(), size.tokens);
    let cut = Cut::of(model.config(), budget, true);
    let reference = reference.filter(|_| options.has_reference());
    let mut reference = reference.map(|adapter| ReferenceAdapter::new(model, adapter, size));
    let of_reference = match options.has_reference() {
        true => {
            let all = (samples, &all_of(samples)[..]);
            of_reference(model, reference.as_mut(), all, cut, buffers, &mut |_| !stop())?
        }
        false => Vec::new(),
    };
    // Its buffers make room for those of the model.
    let mut reference = reference.filter(|_| options.asks_in_every_step());
    let rows = JudgedRows { groups: samples.groups(), reference: of_reference };
    let longest = samples.iter().map(|sample| sample.len()).max().unwrap_or(0);
    let reference = reference.as_mut();
    let mut computing = Computing { model, adapter, reference, cut, buffers, frozen: None, group: &ALONE };
    evaluate_in(&mut computing, samples, &rows, options, longest, stop).expect("a process alone loses nobody")
}

/// As [`evaluate`], where what the reference says is known and buffers are there. Each process computes a share of the rows; there is
/// nothing if one of them is to `stop`.
pub(crate) fn evaluate_in(
    computing: &mut Computing<'_, '_>,
    samples: &Samples,
    rows: &JudgedRows,
    options: &PreferenceOptions,
    longest: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Option<JudgedEvaluation>, GroupError> {
    let indices: Vec<usize> = (0..rows.groups.len()).collect();
    let apart = distance(computing, samples, &indices, longest, options)?;
    let Computing { group, cut, .. } = *computing;
    let totals = Totals::of(samples, rows, &indices, apart.unwrap_or(0.0), options);
    let divided = group.divide(samples, &rows.groups, &indices, cut.shares());
    let own = share(computing, samples, rows, &divided[group.rank()], (&totals, options), stop);
    let of_share = |(loss, sums, replies): (f64, Sums, Vec<Reply>)| {
        let own = samples_of(rows, &divided[group.rank()]).map(|i| replies[i].policy);
        [loss].into_iter().chain(sums.to_numbers()).chain(own).collect()
    };
    let Some(all) = group.gather_values(own.map(of_share))? else { return Ok(None) };
    let (mut loss, mut sums) = (0.0, Sums::default());
    let new = |(i, sample): (usize, SampleRef<'_>)| Reply {
        policy: 0.0,
        reference: rows.reference.get(i).copied().unwrap_or(0.0),
        tokens: sample.supervised_tokens() as f64,
    };
    let mut replies: Vec<Reply> = samples.iter().enumerate().map(new).collect();
    for (share, values) in divided.iter().zip(&all) {
        let Some(([of_share, numbers @ ..], policies)) = values.split_first_chunk::<11>() else { continue };
        loss += of_share;
        sums.add(&Sums::from_numbers(*numbers));
        samples_of(rows, share).zip(policies).for_each(|(i, policy)| replies[i].policy = *policy);
    }
    Ok(Some(JudgedEvaluation { loss, metrics: sums.metrics(apart, options.objective), replies }))
}

/// The samples of rows.
fn samples_of<'a>(rows: &'a JudgedRows, indices: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    indices.iter().flat_map(|&row| rows.groups.range(row))
}

/// The loss of the rows `indices`, its sums, and their replies in the places of their samples.
fn share(
    computing: &mut Computing<'_, '_>,
    samples: &Samples,
    rows: &JudgedRows,
    indices: &[usize],
    (totals, options): (&Totals, &PreferenceOptions),
    stop: &mut dyn FnMut() -> bool,
) -> Option<(f64, Sums, Vec<Reply>)> {
    let Computing { model, adapter, cut, buffers, frozen, .. } = computing;
    let (mut loss, mut sums) = (0.0, Sums::default());
    let mut replies = vec![Reply { policy: 0.0, reference: 0.0, tokens: 0.0 }; samples.len()];
    for micro in cut_groups(samples, &rows.groups, indices, *cut, with_prompt(options)) {
        if stop() {
            return None;
        }
        let compute =
            |stream: Stream<'_>, buffers: &mut Buffers| model.loss(*adapter, stream, buffers).to_vec();
        let losses = FrozenOutputs::above(*frozen, &micro, model, buffers, compute);
        let weighed = weigh(&micro, &losses, samples, &rows.reference, totals, options);
        loss += weighed.loss;
        sums.add(&weighed.sums);
        for (place, reply) in (0..).zip(weighed.replies) {
            replies[micro.sample(place)] = reply;
        }
    }
    Some((loss, sums, replies))
}
