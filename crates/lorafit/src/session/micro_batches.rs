//! `--micro-batch-tokens auto`: as many tokens at once as the rows of a step have, where memory allows.
//!
//! Large products read weights less often and share their packing among more rows. Beyond the rows of a step there is nothing to add,
//! and where activations would have to be computed twice more is lost than gained.

use lorafit_model::Recompute;
use lorafit_remedy::amounts::{counted, grouped};

use crate::args::options::MicroBatchTokens;
use crate::args::train::{MICRO_BATCH_TOKENS, TrainArgs};
use crate::session::run::Shared;
use crate::session::trained::Trained;

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
