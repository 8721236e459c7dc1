//! Whether a run fits the memory it may take, and what it recomputes so that it does.

use lorafit_kernels::Device;
use lorafit_model::Recompute;
use lorafit_model::adapter::TargetError;
use lorafit_remedy::amounts::{memory, more_and_less};
use lorafit_remedy::{Part, Remedy, Setting, remedy};
use lorafit_train::{MemoryPlan, PlanRequest, available_bytes, device_process_bytes, rss_bytes};

use crate::args::memory::{MemoryArgs, RecomputeChoice};
use crate::args::size::ByteSize;
use crate::session::memory_table::{allow_at_least, in_one_line, remedy_of};
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

/// Shorter texts than this say too little to be trained on: no hint advises to cut rows to less.
pub const LEAST_TOKENS: usize = 16;

/// How a run shares the memory of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// Processes that share what is free.
    pub processes: usize,
    /// Bytes that each takes beside what is planned.
    pub beside: u64,
}

impl Sharing {
    /// Of one process, which shares nothing.
    pub const ALONE: Sharing = Sharing { processes: 1, beside: 0 };
}

/// The texts that a run is trained on.
#[derive(Clone, Copy, Debug)]
pub struct Texts {
    /// Tokens of the shortest.
    pub shortest: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Those of a row, which are computed together.
    pub of_row: usize,
}

impl MemoryArgs {
    /// The bytes the run may take on `device`; `None` where nothing is asked for and the system does not tell.
    pub fn limit(&self, device: Device) -> Option<u64> {
        memory_limit(self.memory, device)
    }

    /// The bytes that may be planned for a run that shares the machine so.
    pub fn limit_of(&self, device: Device, Sharing { processes, beside }: Sharing) -> u64 {
        limit_among(self.memory, device, processes).map_or(u64::MAX, |limit| limit.saturating_sub(beside))
    }

    /// The policy with which a run of one process fits, with its plan; `None` if it does not.
    ///
    /// # Errors
    /// A selection that the model does not have.
    fn fitting(
        &self,
        request: &PlanRequest<'_>,
        limit: u64,
    ) -> Result<Option<(Recompute, MemoryPlan)>, TargetError> {
        match self.policy() {
            RecomputeChoice::Fixed(recompute) => {
                let plan = request.plan(recompute)?;
                Ok((plan.total() <= limit).then_some((recompute, plan)))
            }
            RecomputeChoice::Auto => request.fit(limit),
        }
    }

    /// The recomputation with which a run of one process fits; `None` if it fits with none.
    ///
    /// # Errors
    /// A selection that the model does not have.
    pub fn policy_of(
        &self,
        request: &PlanRequest<'_>,
        device: Device,
    ) -> Result<Option<Recompute>, TargetError> {
        Ok(self.fitting(request, self.limit_of(device, Sharing::ALONE))?.map(|(recompute, _)| recompute))
    }

    /// The policy to use and the plan of the run; `texts` is asked where it does not fit.
    ///
    /// # Errors
    /// A selection that the model does not have; and, inside, a run that does not fit, with what would.
    pub fn choose(
        &self,
        request: &PlanRequest<'_>,
        device: Device,
        sharing: Sharing,
        texts: impl FnOnce() -> Texts,
    ) -> Result<Result<(Recompute, MemoryPlan), CliError>, TargetError> {
        let limit = self.limit_of(device, sharing);
        if let Some(found) = self.fitting(request, limit)? {
            return Ok(Ok(found));
        }
        let asked = request.plan(match self.policy() {
            RecomputeChoice::Fixed(recompute) => recompute,
            RecomputeChoice::Auto => Recompute::Full,
        })?;
        let [needs, may_take] = more_and_less(asked.total(), limit);
        let text = format!("training needs {needs} but may take {may_take}\n  {}", in_one_line(&asked));
        let enough = self.memory.map(|_| asked.total() + sharing.beside);
        Ok(Err(CliError::new(text).hint(ways_to_fit(request, enough, limit, texts())?)))
    }
}

/// How a run that does not fit in `limit` bytes can be made to fit. `enough` is what it takes as it is, where --memory can be raised to that.
fn ways_to_fit(
    request: &PlanRequest<'_>,
    enough: Option<u64>,
    limit: u64,
    texts: Texts,
) -> Result<Remedy, TargetError> {
    let policy = |recompute| Setting::Recompute.is(RecomputeChoice::Fixed(recompute).to_string());
    let with_more = |less: Remedy| match enough {
        Some(bytes) => less.or(allow_at_least(bytes)),
        None => less,
    };
    if let Some((recompute, plan)) = request.fit(limit)? {
        return Ok(with_more(remedy![policy(recompute), " needs ", memory(plan.total())]));
    }
    // A bound: one micro-batch at a time has all tokens of those at the same time.
    let (tokens, targets) = (request.at_once * request.tokens, request.at_once * request.targets);
    let one = PlanRequest { tokens, targets, at_once: 1, ..request.clone() };
    let alone = || Setting::MicroBatchesAtOnce.is("1");
    if let Some((recompute, plan)) = one.fit(limit)? {
        let needs = memory(plan.total());
        return Ok(with_more(remedy![alone(), " with ", policy(recompute), " needs ", needs]));
    }
    let most = one.most_tokens(Recompute::Full, limit)?;
    let (Texts { shortest, longest, of_row }, len) = (texts, most / texts.of_row);
    let useful = shortest.max(LEAST_TOKENS).min(longest);
    if len < useful {
        let few = useful * of_row;
        let least = PlanRequest { tokens: few, targets: few, ..one }.plan(Recompute::Full)?;
        let is_float = request.weights >= request.config.weight_bytes(2, None);
        return Ok(remedy_of(few, &least, is_float, enough));
    }
    let way = |to_cut: Option<Setting>| {
        let mut parts: Vec<Part> = vec![Setting::Recompute.is("full"), " with ".into()];
        if request.at_once > 1 {
            parts.extend([alone(), " and ".into()]);
        }
        if let Some(setting) = to_cut {
            parts.extend([setting.is(len.to_string()), " and ".into()]);
        }
        parts.extend([Setting::MicroBatchTokens.is(most.to_string()), " fits".into()]);
        parts
    };
    Ok(with_more(Remedy::new(match len < longest {
        true => vec![way(Some(Setting::MaxSeqLen)), way(Some(Setting::Seq))],
        false => vec![way(None)],
    })))
}
