//! Whether a run fits the memory it may take, and what it recomputes so that it does.

use lorafit_kernels::Device;
use lorafit_model::Recompute;
use lorafit_model::adapter::TargetError;
use lorafit_remedy::amounts::memory;
use lorafit_remedy::{Setting, remedy};
use lorafit_train::{MemoryPlan, PlanRequest, available_bytes, device_process_bytes, rss_bytes};

use crate::args::memory::{MemoryArgs, RecomputeChoice};
use crate::args::size::ByteSize;
use crate::session::memory_table::{in_one_line, remedy_of};
use crate::terminal::error::CliError;

/// The bytes of `--memory` or, by default, what is free where it is computed; `None` where the system does not tell.
pub fn memory_limit(asked: Option<ByteSize>, device: Device) -> Option<u64> {
    limit_among(asked, device, 1)
}

/// As [`memory_limit`], of one of so many processes that share what is free.
fn limit_among(asked: Option<ByteSize>, device: Device, processes: usize) -> Option<u64> {
    // What this process already has is no longer free, but its own.
    let free = || match device {
        Device::Cpu => Some(available_bytes()? / processes as u64 / 10 * 9 + rss_bytes()),
        // Nobody else's needs are to be expected there.
        Device::Cuda(gpu) => {
            Some(gpu.info().free_bytes / 50 * 49 + gpu.reserved_bytes() + device_process_bytes())
        }
    };
    asked.map(|size| size.0).or_else(free)
}

impl MemoryArgs {
    /// Those of one of so many processes that share the memory of the machine, and take so many bytes beside what is planned.
    pub fn of_one(&self, processes: usize, beside: u64) -> Self {
        let limit = limit_among(self.memory, Device::Cpu, processes);
        MemoryArgs { memory: limit.map(|limit| ByteSize(limit.saturating_sub(beside))), ..self.clone() }
    }

    /// The bytes the run may take on `device`; `None` where nothing is asked for and the system does not tell.
    pub fn limit(&self, device: Device) -> Option<u64> {
        memory_limit(self.memory, device)
    }

    /// The policy to use and the plan of the run.
    ///
    /// # Errors
    /// A selection that the model does not have; and, inside, a run that does not fit, with what would.
    pub fn choose(
        &self,
        request: &PlanRequest<'_>,
        device: Device,
    ) -> Result<Result<(Recompute, MemoryPlan), CliError>, TargetError> {
        let choice = self.policy();
        let limit = self.limit(device).unwrap_or(u64::MAX);
        let (asked, found) = match choice {
            RecomputeChoice::Fixed(recompute) => {
                let plan = request.plan(recompute)?;
                (plan, (plan.total() <= limit).then_some((recompute, plan)))
            }
            RecomputeChoice::Auto => (request.plan(Recompute::Full)?, request.fit(limit)?),
        };
        if let Some(found) = found {
            return Ok(Ok(found));
        }
        let text = format!(
            "training needs {} but may take {}\n  {}",
            memory(asked.total()),
            memory(limit),
            in_one_line(&asked)
        );
        // A bound: one micro-batch at a time has all tokens of those at the same time.
        let (tokens, targets) = (request.at_once * request.tokens, request.at_once * request.targets);
        let one = PlanRequest { tokens, targets, at_once: 1, ..request.clone() };
        let policy = |recompute| Setting::Recompute.is(RecomputeChoice::Fixed(recompute).to_string());
        let hint = match (request.fit(limit)?, one.fit(limit)?) {
            (Some((recompute, plan)), _) => remedy![policy(recompute), " needs ", memory(plan.total())],
            (None, Some((recompute, plan))) => {
                let one = Setting::MicroBatchesAtOnce.is("1".to_owned());
                remedy![one, " with ", policy(recompute), " needs ", memory(plan.total())]
            }
            (None, None) => match one.most_tokens(Recompute::Full, limit)? {
                0 => {
                    let least = PlanRequest { tokens: 1, targets: 1, ..one }.plan(Recompute::Full)?;
                    let is_float = request.weights >= request.config.weight_bytes(2, None);
                    remedy_of(&least, is_float, self.memory.is_some())
                }
                tokens => {
                    let (full, tokens) = (|| Setting::Recompute.is("full"), tokens.to_string());
                    let at_once = || Setting::MicroBatchTokens.is(tokens.clone());
                    remedy![
                        full(), " with ", Setting::MaxSeqLen.is(tokens.clone()), " and ", at_once(), " fits";
                        full(), " with ", Setting::Seq.is(tokens.clone()), " and ", at_once(), " fits"
                    ]
                }
            },
        };
        Ok(Err(CliError::new(text).hint(hint)))
    }
}
