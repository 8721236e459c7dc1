//! How many micro-batches a run computes at the same time, where nobody says it.
//!
//! Two share the tokens of one, so that buffers for activations take hardly more memory; what comes on top is a second chunk of logits and
//! a second set of gradients. Threads then wait less for each other (see `trainer/lanes.rs`). But rows share a beginning only
//! within a micro-batch, and few rows at once make slow products.

use lorafit_data::{Dataset, Groups, Steps};
use lorafit_kernels::Placement;
use lorafit_model::Config;

use crate::stream::{cut, tokens_of_each};
use crate::trainer::TrainOptions;

/// How many are computed at the same time, if not one.
const AT_ONCE: usize = 2;
/// Tokens of a micro-batch on average, at least: with fewer, products become slower than waiting is.
const FEWEST_TOKENS: usize = 160;
/// How many times as many tokens may be computed. With so many a step takes as long as with one micro-batch at a time, and a fifth less where
/// another program runs. Measured with rows of 92 tokens that begin with the same 29.
const MOST_TOKENS: f64 = 1.08;
/// The base has at least so many times as many parameters as are trained, whose gradients are there twice.
const PARAMETERS: u64 = 16;
/// Steps that are looked at, at most.
const STEPS: usize = 64;
/// After so many tokens no other step is looked at.
const TOKENS: usize = 1 << 20;

/// Micro-batches at the same time for a run with `options` on these rows that trains so many parameters: two where that is faster and
/// takes hardly more memory. The same run always gets the same number.
pub fn micro_batches_at_once(
    options: &TrainOptions,
    config: &Config,
    placement: Placement,
    data: &Dataset,
    trained: u64,
) -> usize {
    let each = tokens_of_each(options.micro_batch_tokens, AT_ONCE);
    let is_possible = placement == Placement::Cpu && options.preference.is_none();
    if !is_possible || !is_small(config, trained) || data.report.longest > each {
        return 1;
    }
    let groups = Groups::alone(data.samples.len());
    let steps = Steps::new(groups.len(), options.order, options.batch_size, options.gradient_accumulation);
    let (mut together, mut apart, mut micro_batches) = (0, 0, 0);
    for step in steps.take(STEPS) {
        if together > TOKENS {
            break;
        }
        let tokens = |micro_batches_at_once: usize| -> Vec<usize> {
            let how = TrainOptions { micro_batches_at_once, ..options.clone() }.cut(config);
            cut(&data.samples, &step.indices, how).map(|micro| micro.tokens()).collect()
        };
        together += tokens(1).iter().sum::<usize>();
        let found = tokens(AT_ONCE);
        apart += found.iter().sum::<usize>();
        // A single one has nothing beside it.
        micro_batches += found.len().max(AT_ONCE);
    }
    let shares_enough = apart as f64 <= MOST_TOKENS * together as f64;
    if shares_enough && apart >= FEWEST_TOKENS * micro_batches { AT_ONCE } else { 1 }
}

/// As [`micro_batches_at_once`], for steps of `rows` rows of `len` tokens each, which have nothing in common.
pub fn at_once_of_equal_rows(
    config: &Config,
    placement: Placement,
    (rows, len): (usize, usize),
    budget: usize,
    trained: u64,
) -> usize {
    let each = tokens_of_each(budget, AT_ONCE);
    // The last token of a row is only predicted.
    let in_each = (each / len.saturating_sub(1).max(1)).clamp(1, rows.max(1));
    if placement != Placement::Cpu || !is_small(config, trained) || len > each {
        return 1;
    }
    let micro_batches = rows.div_ceil(in_each).saturating_add(1) / AT_ONCE * AT_ONCE;
    let micro_batches = micro_batches.min(rows).max(AT_ONCE);
    let enough = FEWEST_TOKENS.saturating_mul(micro_batches);
    if rows.saturating_mul(len.saturating_sub(1)) >= enough { AT_ONCE } else { 1 }
}

/// Whether gradients of so many parameters take little beside the base.
fn is_small(config: &Config, trained: u64) -> bool {
    trained.saturating_mul(PARAMETERS) <= config.parameters()
}

#[cfg(test)]
mod tests {
    use lorafit_data::{Order, Origin, Report, Sample, Samples};
    use lorafit_kernels::gpu::Float;

    use super::*;
    use crate::preference::{Objective, PreferenceOptions};
    use crate::trainer::Duration;

    /// Rows of `len` tokens, of which the first `shared` are the same in all.
    fn rows(count: usize, len: usize, shared: usize) -> Dataset {
        let samples: Samples = (0..count)
            .map(|row| {
                let id = |i: usize| if i < shared { i as u32 } else { (1000 + row * len + i) as u32 };
                let supervised = (0..len).map(|i| i > 0).collect();
                Sample { ids: (0..len).map(id).collect(), supervised, row: row + 1 }
            })
            .collect();
        let report = Report { rows: count, samples: count, longest: len, ..Report::default() };
        Dataset { samples, report, origin: Origin::default() }
    }

    fn options(batch_size: usize) -> TrainOptions {
        TrainOptions { batch_size, order: Order::File, ..TrainOptions::plain(Duration::Epochs(1.0), 1e-3) }
    }

    const TRAINED: u64 = 2_442_240;

    #[test]
    fn two_are_computed_at_the_same_time_where_that_is_faster() {
        let config = Config::named("smollm2-135m").expect("a name");
        let of = |options: &TrainOptions, data: &Dataset| {
            micro_batches_at_once(options, &config, Placement::Cpu, data, TRAINED)
        };
        assert_eq!(of(&options(4), &rows(40, 256, 0)), 2);
        assert_eq!(of(&options(8), &rows(40, 70, 0)), 2);
        // A row that fills more than its share.
        assert_eq!(of(&options(4), &rows(40, 289, 0)), 1);
        // So few tokens that they make one small micro-batch, or two that are too small.
        assert_eq!(of(&options(1), &rows(40, 250, 0)), 1);
        assert_eq!(of(&options(4), &rows(40, 70, 0)), 1);
        // A prefix that would be computed twice, and one that hardly counts.
        assert_eq!(of(&options(8), &rows(40, 100, 80)), 1);
        assert_eq!(of(&options(8), &rows(40, 200, 4)), 2);
        let apart = TrainOptions { prefix_sharing: false, ..options(8) };
        assert_eq!(of(&apart, &rows(40, 100, 80)), 2);

        let judged = Objective::named("dpo").map(PreferenceOptions::of);
        assert_eq!(of(&TrainOptions { preference: judged, ..options(4) }, &rows(40, 256, 0)), 1);
        let data = rows(40, 256, 0);
        let on = |placement, trained| micro_batches_at_once(&options(4), &config, placement, &data, trained);
        assert_eq!(on(Placement::Cuda(Float::Bf16), TRAINED), 1);
        assert_eq!(on(Placement::Cpu, config.parameters()), 1);
    }

    /// For rows of one length the plan and the run take the same number.
    #[test]
    fn rows_of_one_length_are_decided_alike() {
        let config = Config::named("smollm2-135m").expect("a name");
        for budget in [64, 356, 512, 1024] {
            for count in [1, 2, 3, 4, 5, 6, 7, 8, 10, 40] {
                for len in [10, 60, 64, 90, 97, 100, 128, 135, 145, 170, 256, 288, 289, 500] {
                    let options = TrainOptions { micro_batch_tokens: budget, ..options(count) };
                    let data = rows(count, len, 0);
                    let expected = micro_batches_at_once(&options, &config, Placement::Cpu, &data, TRAINED);
                    let found = at_once_of_equal_rows(&config, Placement::Cpu, (count, len), budget, TRAINED);
                    assert_eq!(found, expected, "{count} rows of {len} tokens, {budget} at once");
                }
            }
        }
    }
}
