//! How the rows of a step are cut, where that is automatic.
//!
//! `--micro-batch-tokens auto`: as many tokens at once as the rows of a step have, where memory allows. Large products read weights less
//! often and share their packing among more rows. Beyond the rows of a step there is nothing to add, and where activations would have to be
//! computed twice more is lost than gained.
//!
//! `--micro-batches-at-once auto`: see [`micro_batches_at_once`].

use lorafit_kernels::Placement;
use lorafit_model::{Config, Recompute};
use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::{at_once_of_equal_rows, micro_batches_at_once};

use crate::args::options::{AtOnce, MicroBatchTokens, MicroBatchesAtOnce};
use crate::args::train::{MICRO_BATCH_TOKENS, TrainArgs};
use crate::session::run::Shared;
use crate::session::trained::Trained;
use crate::terminal::error::CliError;

/// Tokens at once, at most: more bring nothing that could be measured.
const MOST: usize = 4096;

/// Powers of two from the first that holds the rows of a step down to the default.
fn candidates(tokens_of_step: usize) -> impl Iterator<Item = usize> {
    let most = tokens_of_step.clamp(MICRO_BATCH_TOKENS, MOST).next_power_of_two();
    std::iter::successors(Some(most), |tokens| Some(tokens / 2))
        .take_while(|tokens| *tokens >= MICRO_BATCH_TOKENS)
}

/// Tokens computed at once in steps of so many tokens, and whether memory is the reason that they are no more. `keeps_all` tells of a number
/// of tokens whether a run with so many fits without computing anything twice.
///
/// # Errors
/// Those of `keeps_all`.
pub fn tokens_for_step(
    step_tokens: usize,
    mut keeps_all: impl FnMut(usize) -> anyhow::Result<bool>,
) -> anyhow::Result<(usize, bool)> {
    let candidates: Vec<usize> = candidates(step_tokens).collect();
    for &tokens in &candidates {
        if keeps_all(tokens)? {
            return Ok((tokens, tokens < candidates[0]));
        }
    }
    // The default is taken whatever it needs; what does not fit at all is said where the run is planned.
    Ok((MICRO_BATCH_TOKENS, candidates.len() > 1))
}

/// So many micro-batches at the same time, or one, where several do not fit or need more to be computed twice. `policy` tells what a run
/// with a number of them computes twice, and nothing if it does not fit. `train` and `bench` decide by this.
///
/// # Errors
/// Those of `policy`.
pub fn several_or_one(
    several: usize,
    mut policy: impl FnMut(usize) -> anyhow::Result<Option<Recompute>>,
) -> anyhow::Result<usize> {
    if several == 1 {
        return Ok(1);
    }
    let found = policy(several)?;
    let takes_no_more = found == Some(Recompute::None) || found.is_some() && found == policy(1)?;
    Ok(if takes_no_more { several } else { 1 })
}

impl TrainArgs {
    /// Finds how many tokens are computed at once where that is automatic; the line that says it.
    ///
    /// # Errors
    /// A selection of modules that the base does not have.
    pub fn find_micro_batch(
        &mut self,
        shared: Shared<'_>,
        trained: &Trained,
    ) -> anyhow::Result<Option<String>> {
        if self.micro_batch_tokens != MicroBatchTokens::Auto {
            return Ok(None);
        }
        let Shared { data, .. } = shared;
        let rows_of_step = self.batch_size.saturating_mul(self.gradient_accumulation);
        let groups = self.loop_options().groups(&data.rows.samples).len().max(1);
        let tokens = data.rows.report.tokens * rows_of_step.min(groups) / groups;
        let (found, is_limited) = tokens_for_step(tokens, |tokens| {
            let with = TrainArgs { micro_batch_tokens: MicroBatchTokens::Value(tokens), ..self.clone() };
            Ok(with.policy(shared, trained)? == Some(Recompute::None))
        })?;
        self.micro_batch_tokens = MicroBatchTokens::Value(found);
        let rows = counted(rows_of_step, "row", "rows");
        let tokens = grouped(tokens as u64);
        let limited = if is_limited { "; all at once take more memory than there is" } else { "" };
        Ok(Some(format!(
            "--micro-batch-tokens auto: {found}, since the {rows} of a step have about {tokens} tokens{limited}"
        )))
    }

    /// What a run with these flags computes twice so that it fits; nothing if it does not fit.
    fn policy(&self, shared: Shared<'_>, trained: &Trained) -> anyhow::Result<Option<Recompute>> {
        let base = shared.base;
        let request = self.plan_request(shared, trained.weight_bytes(base), trained.trainable());
        Ok(self.memory.policy_of(&request, base.model.device())?)
    }

    /// Refuses several micro-batches at the same time where there can only be one.
    ///
    /// # Errors
    /// A number that has no meaning here.
    pub fn check_at_once(&self, placement: Placement) -> Result<(), CliError> {
        check_possible(self.at_once(), placement, self.preference.objective().is_some())
    }

    /// Finds how many micro-batches are computed at the same time where that is automatic, and refuses several where that cannot be; the
    /// line that says what memory did not allow.
    ///
    /// # Errors
    /// A number that has no meaning here, or a selection of modules that the base does not have.
    pub fn find_at_once(&mut self, shared: Shared<'_>, trained: &Trained) -> anyhow::Result<Option<String>> {
        let Shared { base, data, group, .. } = shared;
        let placement = base.model.device().placement();
        if let Some(MicroBatchesAtOnce::Value(_)) = self.micro_batches_at_once {
            self.check_at_once(placement)?;
            return Ok(None);
        }
        let of = |number| Some(MicroBatchesAtOnce::Value(AtOnce(number)));
        // The number is kept in any case: the same settings give the same bits elsewhere, too.
        self.micro_batches_at_once = of(1);
        if group.size() > 1 || rayon::current_num_threads() == 1 {
            return Ok(None);
        }
        let config = base.model.config();
        let trained_parameters = trained.trainable().tensor_lens(config)?.iter().sum::<usize>() as u64;
        let options = self.loop_options();
        let wanted = micro_batches_at_once(&options, config, placement, &data.rows, trained_parameters);
        let found = several_or_one(wanted, |number| {
            let with = TrainArgs { micro_batches_at_once: of(number), ..self.clone() };
            with.policy(shared, trained)
        })?;
        self.micro_batches_at_once = of(found);
        Ok((found < wanted).then(|| {
            format!(
                "--micro-batches-at-once auto: 1; {wanted} at the same time take more memory than there is"
            )
        }))
    }
}

/// Steps of rows of one length, which have nothing in common.
#[derive(Clone, Copy, Debug)]
pub struct EqualRows {
    /// Rows of a step.
    pub rows: usize,
    /// Tokens of a row.
    pub len: usize,
    /// Tokens computed at once.
    pub tokens: usize,
    /// Whether the rows are judged replies.
    pub is_judged: bool,
    /// Threads that compute.
    pub threads: usize,
}

impl EqualRows {
    /// Micro-batches at the same time as `asked`, or the number that a run which trains so many parameters has of itself.
    ///
    /// # Errors
    /// A number that has no meaning here.
    pub fn at_once(
        self,
        asked: Option<MicroBatchesAtOnce>,
        (config, placement): (&Config, Placement),
        trained: u64,
    ) -> Result<usize, CliError> {
        match asked {
            Some(MicroBatchesAtOnce::Value(AtOnce(number))) => {
                check_possible(number, placement, self.is_judged)?;
                Ok(number)
            }
            None | Some(MicroBatchesAtOnce::Auto) if self.is_judged || self.threads == 1 => Ok(1),
            None | Some(MicroBatchesAtOnce::Auto) => {
                Ok(at_once_of_equal_rows(config, placement, (self.rows, self.len), self.tokens, trained))
            }
        }
    }
}

/// Refuses several micro-batches at the same time where there is only one.
fn check_possible(number: usize, placement: Placement, is_judged: bool) -> Result<(), CliError> {
    let obstacle = match placement {
        _ if number == 1 => return Ok(()),
        Placement::Cuda(_) => "a GPU computes one after the other",
        Placement::Cpu if is_judged => "a step of judged replies computes one after the other",
        Placement::Cpu => return Ok(()),
    };
    let text = format!("--micro-batches-at-once {number} has no meaning here: {obstacle}");
    Err(CliError::usage(text).hint("give --micro-batches-at-once 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_at_once_are_those_of_a_step_within_bounds() {
        let of = |tokens| candidates(tokens).collect::<Vec<_>>();
        assert_eq!(of(30), [512]);
        assert_eq!(of(512), [512]);
        assert_eq!(of(700), [1024, 512]);
        assert_eq!(of(100_000), [4096, 2048, 1024, 512]);
    }

    #[test]
    fn tokens_at_once_are_the_most_that_need_nothing_twice() {
        let of = |most: usize| tokens_for_step(2000, |tokens| Ok(tokens <= most)).expect("no error");
        assert_eq!(of(5000), (2048, false));
        assert_eq!(of(1100), (1024, true));
        // Whatever it needs.
        assert_eq!(of(0), (512, true));
        assert_eq!(tokens_for_step(30, |_| Ok(false)).expect("no error"), (512, false));
    }

    #[test]
    fn one_is_computed_at_a_time_where_several_need_more_memory() {
        let of = |several: Option<Recompute>, one: Option<Recompute>| {
            several_or_one(2, |number| Ok(if number == 1 { one } else { several })).expect("no error")
        };
        assert_eq!(of(Some(Recompute::None), Some(Recompute::None)), 2);
        assert_eq!(of(Some(Recompute::Full), Some(Recompute::Full)), 2);
        assert_eq!(of(Some(Recompute::Blocks(3)), Some(Recompute::Blocks(2))), 1);
        assert_eq!(of(None, Some(Recompute::Full)), 1);
        // Where neither fits, the error is that of one.
        assert_eq!(of(None, None), 1);
        assert_eq!(several_or_one(1, |_| unreachable!("one is one")).expect("no error"), 1);
    }
}
