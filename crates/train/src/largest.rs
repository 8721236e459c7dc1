//! The largest micro-batches that a run will have, counted before it begins.
//!
//! The buffers of a run have room for the longest samples together, which hardly ever meet, and for prefixes that are not shared. The
//! processor gives memory to a buffer when it is first written, so that what a run takes is decided by the largest micro-batch that
//! comes. Which rows a step has is known: they are cut here as the loop will cut them, and counted.

use lorafit_data::{Dataset, Groups, Steps};
use lorafit_model::Config;
use rayon::prelude::*;

use crate::preference::PreferenceOptions;
use crate::preference::step::{mismatched, with_prompt};
use crate::stream::{Cut, Micro, MicroBatchSize, cut, cut_groups};
use crate::trainer::TrainOptions;

/// Tokens that are cut for it, at most: some seconds of work. Of a longer run the bound is taken.
const MOST_TOKENS: f64 = 1e8;

/// The largest micro-batches of a run: tokens and targets, which need not be those of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Largest {
    /// Of steps and evaluations, and of the reference where it is the base alone.
    pub run: MicroBatchSize,
    /// Of a reference with an adapter of its own.
    pub reference: MicroBatchSize,
}

/// Those of a run with `options` on these rows, whose reference `has_adapter` of its own or is the base alone.
pub fn largest_micro_batches(
    options: &TrainOptions,
    config: &Config,
    data: &Dataset,
    evaluation: Option<&Dataset>,
    has_adapter: bool,
) -> Largest {
    let bound = options.micro_batch_size(data, evaluation);
    let groups = options.groups(&data.samples);
    let rows_of_step = options.batch_size * options.gradient_accumulation;
    let steps = options.total_steps(groups.len());
    let tokens_of_row = data.report.tokens as f64 / groups.len().max(1) as f64;
    if steps as f64 * rows_of_step as f64 * tokens_of_row > MOST_TOKENS {
        return Largest { run: bound, reference: bound };
    }
    let counting = Counting { options, config, groups: &groups, data };
    let tokens = options.evaluation_tokens(options.of_training(data));
    let of_evaluation = Cut::of(config, tokens, options.prefix_sharing);
    let order = Steps::new(groups.len(), options.order, options.batch_size, options.gradient_accumulation);
    let in_steps = order.take(usize::try_from(steps).unwrap_or(usize::MAX)).par_bridge();
    let in_steps = in_steps.map(|step| counting.step(&step.indices));
    let (mut run, mut reference) =
        in_steps.reduce(Default::default, |one, other| (one.0.max(other.0), one.1.max(other.1)));
    run = evaluation.map_or(run, |set| run.max(evaluated(options, set, of_evaluation)));
    if options.preference.is_some_and(|preference| preference.has_reference()) {
        let sets = [Some(data), evaluation].into_iter().flatten();
        let asked = sets.map(|set| alone(set, of_evaluation)).fold(reference, MicroBatchSize::max);
        match has_adapter {
            true => reference = asked,
            false => run = run.max(asked),
        }
    }
    Largest { run: run.min(bound), reference: reference.min(bound) }
}

/// The largest of both numbers.
fn largest(micros: impl Iterator<Item = Micro>) -> MicroBatchSize {
    micros.map(|micro| micro.size()).fold(MicroBatchSize::default(), MicroBatchSize::max)
}

/// Of samples each by itself, as the reference is asked of them.
fn alone(set: &Dataset, how: Cut) -> MicroBatchSize {
    let all: Vec<usize> = (0..set.samples.len()).collect();
    largest(cut(&set.samples, &all, how))
}

/// Of held-out rows.
fn evaluated(options: &TrainOptions, set: &Dataset, how: Cut) -> MicroBatchSize {
    let Some(preference) = options.preference else { return alone(set, how) };
    let groups = set.samples.groups();
    let all: Vec<usize> = (0..groups.len()).collect();
    let found = largest(cut_groups(&set.samples, &groups, &all, how, with_prompt(&preference)));
    found.max(apart(&preference, set, &all, how))
}

/// Of replies behind other prompts, where the loss asks how far the model is from its reference.
fn apart(preference: &PreferenceOptions, set: &Dataset, rows: &[usize], how: Cut) -> MicroBatchSize {
    if !preference.objective.is_of_distance() {
        return MicroBatchSize::default();
    }
    let mixed = mismatched(&set.samples, rows, usize::MAX);
    let all: Vec<usize> = (0..mixed.len()).collect();
    largest(cut(&mixed, &all, how))
}

/// What steps are counted with.
struct Counting<'a> {
    options: &'a TrainOptions,
    config: &'a Config,
    groups: &'a Groups,
    data: &'a Dataset,
}

impl Counting<'_> {
    /// The largest micro-batch of a step, and that of what the reference is asked in it.
    fn step(&self, indices: &[usize]) -> (MicroBatchSize, MicroBatchSize) {
        let Counting { options, config, groups, data } = *self;
        let how = options.cut(config);
        let Some(preference) = options.preference else {
            return (largest(cut(&data.samples, indices, how)), MicroBatchSize::default());
        };
        let found = largest(cut_groups(&data.samples, groups, indices, how, with_prompt(&preference)));
        let apart = apart(&preference, data, indices, how);
        (found.max(apart), apart)
    }
}
