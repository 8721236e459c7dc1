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
    let steps = options.total_steps_after(groups.len(), options.restarts);
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

#[cfg(test)]
mod tests {
    use lorafit_data::{Judgement, Order, Report, Sample, Samples, SamplesBuilder, Side};

    use super::*;
    use crate::preference::Objective;
    use crate::trainer::Duration;

    /// Replies of `lens` tokens behind a prompt of ten that all have in common, by turns good and bad.
    fn dataset(lens: &[usize]) -> Dataset {
        let mut built = SamplesBuilder::default();
        for (row, len) in lens.iter().enumerate() {
            let reply = (0..*len).map(|i| (100 + 50 * row + i) as u32);
            let ids: Vec<u32> = (0..10).chain(reply).collect();
            let supervised = (0..ids.len()).map(|i| i >= 10).collect();
            let side = if row % 2 == 0 { Side::Desirable } else { Side::Undesirable };
            built.push(
                &Sample { ids, supervised, row: row + 1 },
                Some(Judgement { side, weight: 1.0, margin: 0.0 }),
            );
        }
        let samples: Samples = built.finish();
        let tokens = samples.iter().map(|sample| sample.len()).sum();
        let longest = samples.iter().map(|sample| sample.len()).max().unwrap_or(0);
        let report = Report { rows: lens.len(), samples: lens.len(), tokens, longest, ..Report::default() };
        Dataset { samples, report, origin: lorafit_data::Origin::default() }
    }

    fn options(objective: Option<&str>, steps: u64) -> TrainOptions {
        let objective = objective.map(|name| Objective::named(name).expect("a name"));
        TrainOptions {
            batch_size: 2,
            order: Order::File,
            preference: objective.map(PreferenceOptions::of),
            ..TrainOptions::plain(Duration::Steps(steps), 1e-3)
        }
    }

    /// Steps of rows 1 and 2, 3 and 4: a prompt of ten once and two replies, of which the last tokens are only predicted.
    #[test]
    fn what_comes_together_is_counted_and_not_what_could() {
        let config = Config::named("smollm2-135m").expect("a name");
        let data = dataset(&[30, 2, 5, 20]);
        let of =
            |objective, steps| largest_micro_batches(&options(objective, steps), &config, &data, None, true);
        let size = |tokens, targets| MicroBatchSize { tokens, targets };
        let bound = options(None, 1).micro_batch_size(&data, None);
        assert_eq!(bound, size(70, 50));
        let counted = of(None, 2).run;
        assert_eq!(counted, size(10 + 30 + 2, 32));
        assert_eq!(of(None, u64::MAX).run, bound, "too long to be counted");
        // The reference is asked of all four, and a step has each reply behind the prompt of the other, which is the same.
        let judged = of(Some("kto"), 2);
        assert_eq!(judged.run, counted);
        assert_eq!(judged.reference, size(10 + 30 + 2 + 5 + 20, 57).min(bound));
        // The base alone is asked in the buffers of the run.
        let base = largest_micro_batches(&options(Some("kto"), 2), &config, &data, None, false);
        assert_eq!(base.run, judged.reference);
        // Held-out rows are evaluated at once, as far as the longest step has room.
        let held_out = dataset(&[4; 12]);
        let found = largest_micro_batches(&options(None, 2), &config, &data, Some(&held_out), true).run;
        assert_eq!(found.tokens, 10 + 12 * 4);
    }
}
