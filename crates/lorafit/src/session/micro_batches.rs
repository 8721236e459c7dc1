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

use crate::args::options::{MicroBatchTokens, MicroBatchesAtOnce};
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
        let Shared { base, data, .. } = shared;
        let rows_of_step = self.batch_size * self.gradient_accumulation;
        let groups = self.loop_options().groups(&data.rows.samples).len().max(1);
        let tokens_of_step = data.rows.report.tokens * rows_of_step.min(groups) / groups;
        let mut left = candidates(tokens_of_step).peekable();
        let wanted = left.peek().copied();
        let mut found = MICRO_BATCH_TOKENS;
        for tokens in left {
            self.micro_batch_tokens = MicroBatchTokens::Value(tokens);
            let request = self.plan_request(shared, trained.weight_bytes(base), trained.trainable());
            // The default is taken whatever it needs; what does not fit at all is said where the run is planned.
            found = tokens;
            if matches!(self.memory.choose(&request, base.model.device())?, Ok((Recompute::None, _))) {
                break;
            }
        }
        let rows = counted(rows_of_step, "row", "rows");
        let tokens = grouped(tokens_of_step as u64);
        let limited = if Some(found) < wanted { "; all at once take more memory than there is" } else { "" };
        Ok(Some(format!(
            "--micro-batch-tokens auto: {found}, since the {rows} of a step have about {tokens} tokens{limited}"
        )))
    }
}

impl TrainArgs {
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
        let device = base.model.device();
        if let Some(MicroBatchesAtOnce::Value(_)) = self.micro_batches_at_once {
            self.check_at_once(device.placement())?;
            return Ok(None);
        }
        // The number is kept in any case: the same settings give the same bits elsewhere, too.
        self.micro_batches_at_once = Some(MicroBatchesAtOnce::Value(1));
        if group.size() > 1 || rayon::current_num_threads() == 1 {
            return Ok(None);
        }
        let (config, placement) = (base.model.config(), device.placement());
        let trained_parameters = trained.trainable().tensor_lens(config)?.iter().sum::<usize>() as u64;
        let options = self.loop_options();
        let found = micro_batches_at_once(&options, config, placement, &data.rows, trained_parameters);
        if found == 1 {
            return Ok(None);
        }
        let recomputed = |args: &TrainArgs| -> anyhow::Result<Option<Recompute>> {
            let request = args.plan_request(shared, trained.weight_bytes(base), trained.trainable());
            Ok(args.memory.choose(&request, device)?.ok().map(|(recompute, _)| recompute))
        };
        let several =
            TrainArgs { micro_batches_at_once: Some(MicroBatchesAtOnce::Value(found)), ..self.clone() };
        let policy = recomputed(&several)?;
        if policy == Some(Recompute::None) || policy.is_some() && policy == recomputed(self)? {
            *self = several;
            return Ok(None);
        }
        Ok(Some(format!(
            "--micro-batches-at-once auto: 1; {found} at the same time take more memory than there is"
        )))
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
            Some(MicroBatchesAtOnce::Value(number)) => {
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
}
