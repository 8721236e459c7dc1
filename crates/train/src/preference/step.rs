//! From the losses of targets to what they weigh: the losses of replies, and their derivatives.

use lorafit_data::{Groups, Judgement, SampleRef, Samples, SamplesBuilder, Side};
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model};

use super::reference::{ReferenceAdapter, all_of, of_reference, reply_log_probabilities};
use super::{Loss, Measure, Pair, PreferenceOptions, Reply, SftOver, Sums};
use crate::frozen::FrozenOutputs;
use crate::group::{GroupError, ProcessGroup};
use crate::stream::{Cut, Micro};

/// Judged rows, with what the reference says of them.
#[derive(Debug)]
pub(crate) struct JudgedRows {
    /// The replies of each row.
    pub(crate) groups: Groups,
    /// The log-probability of each sample's reply under the reference; none where there is no reference.
    pub(crate) reference: Vec<f64>,
}

/// What is the same for all micro-batches of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    /// The weights of its pairs, or of its labels.
    weight: f64,
    /// Tokens of chosen replies, over which their plain loss is a mean.
    chosen_tokens: f64,
    /// How far the model is from its reference.
    distance: f64,
}

impl Totals {
    /// Of the rows `indices`.
    pub(crate) fn of(
        samples: &Samples,
        rows: &JudgedRows,
        indices: &[usize],
        distance: f64,
        options: &PreferenceOptions,
    ) -> Self {
        let (mut weight, mut chosen_tokens) = (0.0, 0);
        for range in indices.iter().map(|&i| rows.groups.range(i)) {
            for sample in range.map(|i| samples.sample(i)) {
                let Some(Judgement { side, weight: of_row, .. }) = sample.judgement() else { continue };
                match side {
                    Side::Chosen => chosen_tokens += sft_tokens(sample, options),
                    Side::Rejected | Side::Desirable | Side::Undesirable => weight += f64::from(of_row),
                }
            }
        }
        Totals { weight, chosen_tokens: chosen_tokens as f64, distance }
    }
}

/// Which samples have their prompts as targets, too.
pub(crate) fn with_prompt(options: &PreferenceOptions) -> impl Fn(SampleRef<'_>) -> bool + 'static {
    let all = options.has_prompt_targets();
    move |sample| all && sample.judgement().is_some_and(|Judgement { side, .. }| side == Side::Chosen)
}

/// Tokens of a chosen sample that count in its plain loss.
fn sft_tokens(sample: SampleRef<'_>, options: &PreferenceOptions) -> usize {
    match options.objective.sft_over {
        SftOver::Reply => sample.supervised_tokens(),
        // What stands behind the last target is in no stream.
        SftOver::PromptAndReply => sample.inputs().len(),
    }
}

/// What the losses of a micro-batch's targets come to.
#[derive(Debug)]
pub(crate) struct Weighed {
    /// What the targets weigh: the derivatives of the step's loss by their losses.
    pub(crate) weights: Vec<f32>,
    /// Its share of the step's loss.
    pub(crate) loss: f64,
    pub(crate) sums: Sums,
    /// Its replies, by their places in it.
    pub(crate) replies: Vec<Reply>,
}

/// Weighs the targets of a micro-batch by their `losses`.
pub(crate) fn weigh(
    micro: &Micro,
    losses: &[f32],
    samples: &Samples,
    reference: &[f64],
    totals: &Totals,
    options: &PreferenceOptions,
) -> Weighed {
    let replies = replies_of(micro, losses, samples, reference);
    // Derivatives of the step's loss by the log-probabilities of the replies.
    let mut slopes = vec![0.0; replies.len()];
    let (mut loss, mut sums) = (0.0, Sums::default());
    let by_weight = if totals.weight > 0.0 { 1.0 / totals.weight } else { 0.0 };
    let measure = options.objective.reward;
    let reward = |reply: &Reply| options.reward(reply);
    let logp = |reply: &Reply| match measure {
        Measure::Mean => Measure::Mean.of(reply),
        Measure::Ratio | Measure::Sum | Measure::Score => reply.policy,
    };
    let mut chosen_before = None;
    for place in 0..replies.len() {
        let reply = &replies[place];
        let sample = samples.sample(micro.sample(place as u32));
        let Some(Judgement { side, weight, margin }) = sample.judgement() else { continue };
        let weight = f64::from(weight) * by_weight;
        match (side, options.objective.loss) {
            (Side::Chosen, Loss::Pair(_)) => chosen_before = Some(place),
            (Side::Rejected, Loss::Pair(of)) => {
                let Some(chosen) = chosen_before else { continue };
                let pair = Pair { chosen: replies[chosen], rejected: *reply, margin: f64::from(margin) };
                let slope = of(&pair, options);
                loss += weight * slope.loss;
                slopes[chosen] += weight * slope.chosen;
                slopes[place] += weight * slope.rejected;
                sums.pair(reward(&pair.chosen), reward(reply));
                for (is_chosen, reply) in [(true, &pair.chosen), (false, reply)] {
                    sums.reply(is_chosen, reward(reply), logp(reply));
                }
            }
            (Side::Desirable | Side::Undesirable, Loss::Label(of)) => {
                let is_desirable = side == Side::Desirable;
                let slope = of(reply, is_desirable, totals.distance, options);
                loss += weight * slope.loss;
                slopes[place] += weight * slope.reply;
                sums.reply(is_desirable, reward(reply), logp(reply));
            }
            // Rows are read for the objective's purpose.
            (Side::Chosen | Side::Rejected, Loss::Label(_))
            | (Side::Desirable | Side::Undesirable, Loss::Pair(_)) => {}
        }
    }
    let sft = if totals.chosen_tokens > 0.0 { options.sft_weight / totals.chosen_tokens } else { 0.0 };
    let is_chosen: Vec<bool> = (0..replies.len() as u32)
        .map(|place| samples.sample(micro.sample(place)).judgement().is_some_and(|j| j.side == Side::Chosen))
        .collect();
    let mut weights = vec![0.0_f64; losses.len()];
    micro.for_each_owner(|target, place, is_prompt| {
        let place = place as usize;
        if is_chosen[place] && sft != 0.0 {
            weights[target] += sft;
            loss += sft * f64::from(losses[target]);
        }
        if !is_prompt {
            // The loss of a target is the negative of its log-probability.
            weights[target] -= slopes[place];
        }
    });
    Weighed { weights: weights.into_iter().map(|weight| weight as f32).collect(), loss, sums, replies }
}

/// The replies of a micro-batch, by their places in it.
fn replies_of(micro: &Micro, losses: &[f32], samples: &Samples, reference: &[f64]) -> Vec<Reply> {
    let new = |place: u32| {
        let sample = micro.sample(place);
        let tokens = samples.sample(sample).supervised_tokens() as f64;
        Reply { policy: 0.0, reference: reference.get(sample).copied().unwrap_or(0.0), tokens }
    };
    let mut replies: Vec<Reply> = (0..micro.samples() as u32).map(new).collect();
    micro.for_each_owner(|target, place, is_prompt| {
        if !is_prompt {
            replies[place as usize].policy -= f64::from(losses[target]);
        }
    });
    replies
}

/// Who computes, and in what.
pub(crate) struct Computing<'a, 'r> {
    pub(crate) model: &'a Model,
    /// That is trained.
    pub(crate) adapter: Option<&'a Adapter>,
    /// Of the reference.
    pub(crate) reference: Option<&'a mut ReferenceAdapter<'r>>,
    pub(crate) cut: Cut,
    pub(crate) buffers: &'a mut Buffers,
    /// What frozen blocks make of the samples, if that is kept.
    pub(crate) frozen: Option<&'a FrozenOutputs>,
    /// Who computes the other shares.
    pub(crate) group: &'a dyn ProcessGroup,
}

/// How far the model is from its reference, as KTO estimates it: the mean log-ratio of the replies of the rows `indices`, each
/// behind the prompt of the next row; at least 0. Nothing is longer than the `longest` sample. `None` where the loss does not ask
/// for it. Each process computes a share.
pub(crate) fn distance(
    computing: &mut Computing<'_, '_>,
    samples: &Samples,
    indices: &[usize],
    longest: usize,
    options: &PreferenceOptions,
) -> Result<Option<f64>, GroupError> {
    if !options.objective.is_of_distance() {
        return Ok(None);
    }
    let mismatched = mismatched(samples, indices, longest);
    let Computing { model, adapter, reference, cut, buffers, group, .. } = computing;
    let each = Groups::alone(mismatched.len());
    let divided = group.divide(&mismatched, &each, &all_of(&mismatched), cut.shares());
    let own = (&mismatched, &divided[group.rank()][..]);
    let sum = |found: Option<Vec<f64>>| found.map(|found| found.iter().sum::<f64>());
    let policy = sum(reply_log_probabilities(model, *adapter, own, *cut, buffers, &mut |_| true));
    let reference = reference.as_deref_mut();
    let of_reference = sum(of_reference(model, reference, own, *cut, buffers, &mut |_| true));
    let found = policy.zip(of_reference).map(|(policy, reference)| [policy, reference]);
    let [policy, reference] = group.add_up(found)?.expect("nobody stops it");
    Ok(Some(((policy - reference) / indices.len() as f64).max(0.0)))
}

/// Each prompt of the rows with the reply of the row before it; the first with that of the last.
pub(crate) fn mismatched(samples: &Samples, indices: &[usize], longest: usize) -> Samples {
    let mut built = SamplesBuilder::default();
    let mut before = indices.last().copied();
    for &i in indices {
        let (prompt, reply) = (samples.sample(i).to_sample(), before.map(|before| samples.sample(before)));
        let reply = reply.expect("there is a last row").to_sample();
        let start = |supervised: &[bool]| supervised.iter().position(|s| *s).unwrap_or(0);
        let (end, from) = (start(&prompt.supervised), start(&reply.supervised));
        let mut mixed = prompt;
        mixed.ids.truncate(end);
        mixed.ids.extend_from_slice(&reply.ids[from..]);
        mixed.supervised = vec![false; end];
        mixed.supervised.extend_from_slice(&reply.supervised[from..]);
        mixed.truncate(longest);
        built.push(&mixed, None);
        before = Some(i);
    }
    built.finish()
}
