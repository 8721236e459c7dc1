//! The memory of a run before it is made.
//!
//! The sizes of buffers come from the function that lays them out for the run itself
//! ([`lorafit_model::BufferBytes`]), those of weights from their storage; what is trained has a value and a gradient in f32
//! for each parameter, and the moments of its optimizer. Files are written and read a piece at a time. What the program itself takes is measured ([`PROCESS_BYTES`]).

use lorafit_kernels::Placement;
use lorafit_kernels::cuda::cublas;
use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::matmul::cpu_workspace_bytes;
use lorafit_kernels::ops::matmul::cuda::decoded_bytes;
use lorafit_model::adapter::{LoraConfig, TargetError};
use lorafit_model::{
    ActivationDtype, ActivationPolicy, BufferBytes, BufferShape, Config, KvCache, Recompute, Start,
    Trainable, most_new_tokens, sequence_logits_bytes,
};
use serde::{Deserialize, Serialize};

use crate::evaluate::SIDE_BY_SIDE;
use crate::optim::OptimizerKind;
use crate::stream::{MicroBatchSize, tokens_of_each};

/// What the program takes beside everything that is planned: code and libraries 24 MiB, the rest for what the allocator keeps
/// and what is written in passing. Measured.
const PROCESS_BYTES: u64 = 34 << 20;
/// What an entry of the vocabulary takes in a tokenizer, with its merges and, of a GGUF file, their text. Measured with 49,152
/// entries: 25 MiB, 540 bytes an entry; some tokenizers have twice as many merges.
const VOCABULARY_ENTRY_BYTES: u64 = 600;
/// Working memory of the products, for each thread.
const THREAD_BYTES: u64 = 1 << 19;
/// What the CUDA context, the code of kernels and cuBLASLt take of a device beside the workspace. Measured on an H200 with a
/// driver of CUDA 13.0: 533 MiB with a base in bf16, 573 MiB in NF4.
const CONTEXT_BYTES: u64 = 576 << 20;

/// Bytes of a run, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct MemoryPlan {
    /// The base as it is held: frozen weights as they are stored, trained ones in f32.
    pub weights: u64,
    /// The adapter's factors.
    pub adapter: u64,
    /// Gradients of what is trained, and where several processes add them up.
    pub gradients: u64,
    /// The optimizer's moments, and the average of what is trained.
    pub optimizer: u64,
    /// What forward leaves for backward.
    pub activations: u64,
    /// What the blocks use in turn, and on a GPU what ops need in passing. What the start of an adapter takes more than all
    /// that comes after it is counted here, too.
    pub scratch: u64,
    /// Final norm, logits of a chunk, and their gradients.
    pub head: u64,
    /// Keys and values of the sequences that are generated side by side. Training has none: its evaluations compute
    /// losses, in the buffers of the training.
    pub kv_cache: u64,
    /// The program itself; on a GPU what the driver and its libraries take there.
    pub process: u64,
}

impl MemoryPlan {
    /// The parts and their sum, `planned_bytes`, as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("plain numbers");
        json["planned_bytes"] = self.total().into();
        json
    }

    /// Everything: the most memory the run takes.
    pub fn total(&self) -> u64 {
        let MemoryPlan {
            weights,
            adapter,
            gradients,
            optimizer,
            activations,
            scratch,
            head,
            kv_cache,
            process,
        } = self;
        weights + adapter + gradients + optimizer + activations + scratch + head + kv_cache + process
    }
}

/// What a run is planned for.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// Bytes of its weights, those that are trained in f32.
    pub weights: u64,
    /// What is trained.
    pub trainable: Trainable<'a>,
    /// How its moments are kept.
    pub optimizer: OptimizerKind,
    /// Whether an average of it is kept.
    pub averaged: bool,
    /// What an adapter that is made for the run begins with.
    pub start: Start,
    /// How activations are stored.
    pub activation_dtype: ActivationDtype,
    /// Tokens of a micro-batch, at most.
    pub tokens: usize,
    /// How many of them predict something, at most.
    pub targets: usize,
    /// Micro-batches computed at the same time, each of so many tokens.
    pub at_once: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Whether a tokenizer is in memory beside the model; `bench` has none.
    pub has_tokenizer: bool,
    /// What computes: the memory that is planned is that of the device.
    pub placement: Placement,
    /// The reference of judged replies, if it is an adapter of its own.
    pub reference: Option<ReferenceRequest<'a>>,
}

/// A reference that is an adapter of its own.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceRequest<'a> {
    /// The adapter.
    pub lora: &'a LoraConfig,
    /// Whether it is asked in every step, and not only before the first.
    pub in_every_step: bool,
    /// Its largest micro-batch, if that is not as large as the run's.
    pub size: Option<MicroBatchSize>,
}

impl ReferenceRequest<'_> {
    /// Bytes of its adapter.
    ///
    /// # Errors
    /// As [`PlanRequest::plan`].
    pub fn adapter_bytes(&self, config: &Config, placement: Placement) -> Result<u64, TargetError> {
        adapter_bytes(config, self.lora, placement)
    }

    /// Its buffers for micro-batches of its own size, or of this one.
    fn buffer_bytes(
        &self,
        config: &Config,
        placement: Placement,
        size: MicroBatchSize,
    ) -> Result<u64, TargetError> {
        let size = self.size.unwrap_or(size);
        let mut shape = BufferShape::for_evaluation(config, Some(self.lora), size.tokens)?;
        shape.targets = size.targets;
        let BufferBytes { activations, scratch, head } = BufferBytes::of(config, &shape, placement);
        Ok(activations + scratch + head)
    }

    /// Whether its buffers are there beside those of the model. The processor gives memory to buffers when they are first written, a
    /// GPU when they are made.
    fn keeps_buffers(&self, placement: Placement) -> bool {
        self.in_every_step || placement != Placement::Cpu
    }
}

impl PlanRequest<'_> {
    /// The memory of the run under a policy.
    ///
    /// # Errors
    /// A selection of layers or modules that the model does not have.
    pub fn plan(&self, recompute: Recompute) -> Result<MemoryPlan, TargetError> {
        let lens = self.trainable.tensor_lens(self.config)?;
        let (factors, saved) = match self.trainable {
            Trainable::Adapter(lora) => {
                (lora.factor_lens(self.config)?, lora.table_bytes(self.config, self.placement)?)
            }
            Trainable::Weights(_) => (lens.clone(), 0),
        };
        let trained = |for_products| self.placement.bytes_together(&factors, for_products) + saved;
        let norms = |lora: &LoraConfig| lora.norm_bytes(self.config, self.placement);
        let shape = self.shape(recompute)?;
        let BufferBytes { activations, scratch, head } = BufferBytes::of(self.config, &shape, self.placement);
        let of_all = |bytes: u64| bytes * self.at_once as u64;
        let mut plan = MemoryPlan {
            weights: self.weights,
            adapter: match self.trainable {
                Trainable::Adapter(lora) => trained(true) + norms(lora)?,
                Trainable::Weights(_) => 0,
            },
            gradients: of_all(trained(false)),
            optimizer: self.optimizer.state_bytes(self.placement, &lens)
                + if self.averaged { trained(false) } else { 0 },
            activations: of_all(activations),
            scratch: of_all(
                scratch
                    + passing_bytes(
                        self.config,
                        self.weights,
                        self.tokens,
                        self.trainable.weight_lens(self.config)?.into_iter().max(),
                        self.placement,
                    ),
            ),
            head: of_all(head),
            kv_cache: 0,
            process: process_bytes(self.config, self.has_tokenizer, self.placement, self.threads),
        };
        let of_run = plan.total() - plan.weights - plan.adapter - plan.process;
        // Both come before the first step, one after the other.
        let mut before = self.start_bytes()?;
        if let Some(reference) = self.reference {
            plan.adapter += reference.adapter_bytes(self.config, self.placement)?;
            let buffers = reference.buffer_bytes(self.config, self.placement, self.size())?;
            match reference.keeps_buffers(self.placement) {
                true => plan.scratch += buffers,
                false => before = before.max(buffers),
            }
        }
        plan.scratch += before.saturating_sub(of_run);
        Ok(plan)
    }

    /// What the start of an adapter takes beside its result, before the buffers of the run are made.
    fn start_bytes(&self) -> Result<u64, TargetError> {
        match (self.trainable, self.placement) {
            // On a GPU it is the memory of the processor, which is not planned.
            (Trainable::Adapter(lora), Placement::Cpu) => self.start.bytes(self.config, lora),
            (Trainable::Adapter(_) | Trainable::Weights(_), _) => Ok(0),
        }
    }

    fn size(&self) -> MicroBatchSize {
        MicroBatchSize { tokens: self.tokens, targets: self.targets }
    }

    fn shape(&self, recompute: Recompute) -> Result<BufferShape, TargetError> {
        let activations = ActivationPolicy { recompute, dtype: self.activation_dtype };
        BufferShape::for_training(self.config, self.trainable, self.tokens, self.targets, activations)
    }

    /// The policy that recomputes least within `limit` bytes, with its plan; `None` if none fits.
    ///
    /// # Errors
    /// As [`PlanRequest::plan`].
    pub fn fit(&self, limit: u64) -> Result<Option<(Recompute, MemoryPlan)>, TargetError> {
        let some = (1..self.shape(Recompute::None)?.trained_blocks()).map(Recompute::Blocks);
        for recompute in [Recompute::None].into_iter().chain(some).chain([Recompute::Full]) {
            let plan = self.plan(recompute)?;
            if plan.total() <= limit {
                return Ok(Some((recompute, plan)));
            }
        }
        Ok(None)
    }

    /// The most tokens at once, all of which may predict something, that fit in `limit` bytes under a policy, shared by as many
    /// micro-batches ([`tokens_of_each`]); 0 if not even one does.
    ///
    /// # Errors
    /// As [`PlanRequest::plan`].
    pub fn most_tokens(&self, recompute: Recompute, limit: u64) -> Result<usize, TargetError> {
        let fits = |tokens: usize| -> Result<bool, TargetError> {
            let reference = self.reference.map(|reference| ReferenceRequest { size: None, ..reference });
            let tokens = tokens_of_each(tokens, self.at_once);
            let request = PlanRequest { tokens, targets: tokens, reference, ..self.clone() };
            Ok(request.plan(recompute)?.total() <= limit)
        };
        if !fits(1)? {
            return Ok(0);
        }
        let (mut low, mut high) = (1, 1 << 24);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle)? { low = middle } else { high = middle }
        }
        Ok(low)
    }
}

/// An adapter that is computed with and not trained.
fn adapter_bytes(config: &Config, lora: &LoraConfig, placement: Placement) -> Result<u64, TargetError> {
    let factors = placement.bytes_together(&lora.factor_lens(config)?, true);
    Ok(factors + lora.table_bytes(config, placement)? + lora.norm_bytes(config, placement)?)
}

/// What the program itself takes.
fn process_bytes(config: &Config, has_tokenizer: bool, placement: Placement, threads: usize) -> u64 {
    let entries = if has_tokenizer { config.vocab_size as u64 } else { 0 };
    match placement {
        Placement::Cpu => PROCESS_BYTES + VOCABULARY_ENTRY_BYTES * entries + THREAD_BYTES * threads as u64,
        Placement::Cuda(_) => device_process_bytes(),
    }
}

/// What of a plan's total is not in the arena of a GPU: the driver's and its libraries' own.
pub fn device_process_bytes() -> u64 {
    CONTEXT_BYTES + cublas::WORKSPACE_BYTES
}

/// What ops need in passing.
///
/// On the CPU the operands of a product in bf16, whether or not that is what is computed in. On a GPU a matrix, or a tile
/// of it, decoded to the type that is computed with, the largest trained weight rounded to it, and the lists of a batch.
/// `weights` that take as much as values of that type are not decoded; of others the largest matrix is counted, whether
/// or not it is the one.
fn passing_bytes(
    config: &Config,
    weights: u64,
    tokens: usize,
    largest_trained: Option<usize>,
    placement: Placement,
) -> u64 {
    let Placement::Cuda(float) = placement else {
        let attention = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim;
        return cpu_workspace_bytes(tokens, attention.max(2 * config.intermediate_size));
    };
    let largest = config.matrix_shapes().map(|(rows, cols)| decoded_bytes(float, tokens, rows, cols)).max();
    let decoded = match weights < config.weight_bytes(float.bytes(1), None) {
        true => largest.map_or(0, |bytes| placement.buffer_bytes(bytes)),
        false => 0,
    };
    let rounded = match float {
        Float::F32 => 0,
        Float::Bf16 => placement.buffer_bytes(float.bytes(largest_trained.unwrap_or(0) as u64)),
    };
    // Ids, positions, targets with their rows and losses, and the tree, a segment for every other token.
    let lists = (1 << 14) + 64 * tokens as u64;
    // What regions of quantised weights are rounded up by, and their codes.
    let tables = if decoded > 0 { 2048 * config.matrix_shapes().count() as u64 } else { 0 };
    decoded + rounded + lists + tables
}

/// What an evaluation is planned for.
#[derive(Clone, Debug)]
pub struct EvaluationRequest<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// Bytes of its weights.
    pub weights: u64,
    /// The adapter, if there is one.
    pub lora: Option<&'a LoraConfig>,
    /// Tokens whose loss is computed at once, at most.
    pub tokens: usize,
    /// Tokens of each prompt that is answered, in order.
    pub prompts: &'a [usize],
    /// Longest answer.
    pub max_new_tokens: usize,
    /// Threads that compute.
    pub threads: usize,
    /// As of [`PlanRequest`].
    pub placement: Placement,
    /// The reference of judged replies, if it is an adapter of its own.
    pub reference: Option<ReferenceRequest<'a>>,
}

impl EvaluationRequest<'_> {
    /// The memory of the evaluation: of the losses or of the answers, which come one after the other, what takes more.
    ///
    /// # Errors
    /// As [`PlanRequest::plan`].
    pub fn plan(&self, side_by_side: usize) -> Result<MemoryPlan, TargetError> {
        let losses = self.plan_for(self.tokens, 0, 0)?;
        let Some(longest) = self.prompts.iter().copied().max() else { return Ok(losses) };
        let most = |prompt: usize| prompt + most_new_tokens(self.config, prompt, self.max_new_tokens);
        // Where an answer ends the next begins, so that any may be beside each other.
        let mut of_each: Vec<usize> = self.prompts.iter().map(|prompt| most(*prompt)).collect();
        of_each.sort_unstable_by(|a, b| b.cmp(a));
        let held = of_each.iter().take(side_by_side).sum();
        let sequences = side_by_side.min(self.prompts.len());
        let answers = self.plan_for(longest.max(sequences), held, sequences)?;
        Ok(if answers.total() > losses.total() { answers } else { losses })
    }

    fn plan_for(&self, tokens: usize, held: usize, sequences: usize) -> Result<MemoryPlan, TargetError> {
        let shape = BufferShape::for_evaluation(self.config, self.lora, tokens)?;
        let BufferBytes { activations, scratch, head } = BufferBytes::of(self.config, &shape, self.placement);
        let largest_saved =
            self.lora.map_or(Ok(Vec::new()), |lora| lora.table_lens(self.config))?.into_iter().max();
        let mut plan = MemoryPlan {
            weights: self.weights,
            adapter: self.lora.map_or(Ok(0), |lora| adapter_bytes(self.config, lora, self.placement))?,
            gradients: 0,
            optimizer: 0,
            activations,
            scratch: scratch
                + passing_bytes(self.config, self.weights, tokens, largest_saved, self.placement),
            head: head + sequence_logits_bytes(self.config, sequences),
            kv_cache: KvCache::bytes(self.config, self.placement, held),
            process: process_bytes(self.config, true, self.placement, self.threads),
        };
        if let Some(reference) = self.reference {
            plan.adapter += reference.adapter_bytes(self.config, self.placement)?;
            let size = MicroBatchSize { tokens, targets: tokens };
            let buffers = reference.buffer_bytes(self.config, self.placement, size)?;
            plan.scratch += match reference.keeps_buffers(self.placement) {
                true => buffers,
                // It is asked first.
                false => buffers.saturating_sub(activations + scratch + head),
            };
        }
        Ok(plan)
    }

    /// The most answers side by side, up to all or [`SIDE_BY_SIDE`], that fit in `limit` bytes, with their plan; `None` if not
    /// even one does.
    ///
    /// # Errors
    /// As [`PlanRequest::plan`].
    pub fn fit(&self, limit: u64) -> Result<Option<(usize, MemoryPlan)>, TargetError> {
        for side_by_side in (1..=SIDE_BY_SIDE.min(self.prompts.len().max(1))).rev() {
            let plan = self.plan(side_by_side)?;
            if plan.total() <= limit {
                return Ok(Some((side_by_side, plan)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use lorafit_model::WeightSelection;

    use super::*;

    fn request<'a>(config: &'a Config, lora: &'a LoraConfig) -> PlanRequest<'a> {
        PlanRequest {
            config,
            weights: config.weight_bytes(2, None),
            trainable: Trainable::Adapter(lora),
            optimizer: OptimizerKind::AdamW,
            averaged: false,
            start: Start::Default,
            activation_dtype: ActivationDtype::F32,
            tokens: 512,
            targets: 512,
            at_once: 1,
            threads: 2,
            has_tokenizer: true,
            placement: Placement::Cpu,
            reference: None,
        }
    }

    /// Each has buffers and gradients of its own; what is trained, and its moments, are there once.
    #[test]
    fn micro_batches_at_the_same_time_have_buffers_of_their_own() {
        let (config, lora) = (
            Config::named("smollm2-135m").expect("a name"),
            LoraConfig::new("all-linear".parse().expect("targets")),
        );
        let one = request(&config, &lora);
        let two = PlanRequest { at_once: 2, ..one.clone() };
        for recompute in [Recompute::None, Recompute::Full] {
            let (found, single) =
                (two.plan(recompute).expect("a plan"), one.plan(recompute).expect("a plan"));
            let expected = MemoryPlan {
                gradients: 2 * single.gradients,
                activations: 2 * single.activations,
                scratch: 2 * single.scratch,
                head: 2 * single.head,
                ..single
            };
            assert_eq!(found, expected);
            // What fits is what all share.
            let limit = 1 << 30;
            let most = two.most_tokens(recompute, limit).expect("a number");
            assert!(most > 0 && most < one.most_tokens(recompute, limit).expect("a number"));
            let fits = |tokens: usize| {
                let tokens = tokens_of_each(tokens, 2);
                let request = PlanRequest { tokens, targets: tokens, ..two.clone() };
                request.plan(recompute).expect("a plan").total() <= limit
            };
            assert!(fits(most) && !fits(most + 2));
        }
    }

    /// An adapter of its own is there beside that of the run; its buffers, too, where it is asked in every step.
    #[test]
    fn a_reference_with_an_adapter_of_its_own_is_counted() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let other = LoraConfig { rank: 4 * lora.rank, ..lora.clone() };
        let plain = request(&config, &lora);
        let of = |in_every_step| {
            let reference = Some(ReferenceRequest { lora: &other, in_every_step, size: None });
            PlanRequest { reference, ..plain.clone() }.plan(Recompute::None).expect("a plan")
        };
        let alone = plain.plan(Recompute::None).expect("a plan");
        let factors = 4 * other.factor_lens(&config).expect("fits").iter().sum::<usize>() as u64;
        let (once, always) = (of(false), of(true));
        assert_eq!([once.adapter - alone.adapter, always.adapter - alone.adapter], [factors; 2]);
        assert_eq!(once.scratch, alone.scratch, "training takes more than asking before it");
        let request = ReferenceRequest { lora: &other, in_every_step: true, size: None };
        let bytes = |targets| {
            let size = MicroBatchSize { tokens: plain.tokens, targets };
            request.buffer_bytes(&config, Placement::Cpu, size).expect("fits")
        };
        assert_eq!(always.scratch - alone.scratch, bytes(plain.targets));
        assert!(bytes(1) > 0 && bytes(10) - bytes(1) >= 9 * 4 * config.vocab_size as u64, "logits of few");
    }

    /// A model and its reference that have an adapter each: both are counted, and the buffers of both where both are asked side by side.
    #[test]
    fn an_evaluation_counts_the_adapter_of_the_reference_beside_its_own() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let other = LoraConfig { rank: 4 * lora.rank, ..lora.clone() };
        let of = |lora, reference| {
            let request = EvaluationRequest {
                config: &config,
                weights: 1 << 30,
                lora,
                tokens: 512,
                prompts: &[],
                max_new_tokens: 0,
                threads: 2,
                placement: Placement::Cpu,
                reference,
            };
            request.plan(1).expect("a plan")
        };
        let asked = |in_every_step| Some(ReferenceRequest { lora: &other, in_every_step, size: None });
        let bytes = |lora: &LoraConfig| adapter_bytes(&config, lora, Placement::Cpu).expect("fits");
        let alone = of(Some(&lora), None);
        for reference in [asked(false), asked(true)] {
            let both = of(Some(&lora), reference);
            assert_eq!(both.adapter, bytes(&lora) + bytes(&other));
            assert_eq!(of(None, reference).adapter, bytes(&other));
            let own = alone.activations + alone.scratch + alone.head;
            let more = both.scratch - alone.scratch;
            assert!(
                if reference.expect("one").in_every_step { more > own / 2 } else { more < own / 2 },
                "{more} {own}"
            );
        }
    }

    #[test]
    fn a_smaller_limit_recomputes_more() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let request = request(&config, &lora);
        let most = request.plan(Recompute::None).expect("a plan").total();
        let least = request.plan(Recompute::Full).expect("a plan").total();
        assert!(least < most);
        assert_eq!(request.fit(most).expect("valid").expect("fits").0, Recompute::None);
        let (between, plan) = request.fit((most + least) / 2).expect("valid").expect("fits");
        assert!(matches!(between, Recompute::Blocks(1..30)), "{between:?}");
        assert!(plan.total() <= (most + least) / 2);
        assert_eq!(request.fit(least - 1).expect("valid"), None);
    }

    /// By hand: a token of a kept block of SmolLM2 has two times hidden, q and the attention's output, k and v, gate and
    /// up; bf16 halves all of it but the block's input.
    #[test]
    fn bf16_halves_what_is_wide() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let request = request(&config, &lora);
        let bytes = |dtype| {
            let request = PlanRequest { activation_dtype: dtype, ..request.clone() };
            request.plan(Recompute::None).expect("a plan").activations
        };
        let wide = 576 + 2 * 576 + 2 * 192 + 2 * 1536;
        let saved = bytes(ActivationDtype::F32) - bytes(ActivationDtype::Bf16);
        assert_eq!(saved, 2 * wide * 30 * 512);
    }

    #[test]
    fn most_tokens_is_the_last_that_fits() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("q_proj".parse().expect("targets"));
        let request = request(&config, &lora);
        let limit = 1 << 30;
        let tokens = request.most_tokens(Recompute::Full, limit).expect("valid");
        let total = |tokens| {
            let request = PlanRequest { tokens, targets: tokens, ..request.clone() };
            request.plan(Recompute::Full).expect("a plan").total()
        };
        assert!(total(tokens) <= limit && total(tokens + 1) > limit, "{tokens}");
        assert_eq!(request.most_tokens(Recompute::Full, 1000).expect("valid"), 0);
    }

    /// By hand: a token of Llama-2-7B has keys and values of 32 layers of 4096 values each, 1 MiB.
    #[test]
    fn an_evaluation_answers_as_many_side_by_side_as_fit() {
        let config = Config::named("llama-2-7b").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let prompts = [100, 200, 50, 400];
        let request = EvaluationRequest {
            config: &config,
            weights: 1 << 30,
            lora: Some(&lora),
            tokens: 512,
            prompts: &prompts,
            max_new_tokens: 100,
            threads: 2,
            placement: Placement::Cpu,
            reference: None,
        };
        let cache = |side_by_side| request.plan(side_by_side).expect("a plan").kv_cache >> 20;
        // Half a MiB a token; two at once are the longest two.
        assert_eq!([cache(16), cache(4), cache(2), cache(1)], [1150, 1150, 800, 500]);
        let total = |side_by_side| request.plan(side_by_side).expect("a plan").total();
        assert_eq!(request.fit(total(4)).expect("valid").map(|f| f.0), Some(4));
        assert_eq!(request.fit(total(3) - 1).expect("valid").map(|f| f.0), Some(2));
        assert_eq!(request.fit(total(1) - 1).expect("valid"), None);
        let losses = EvaluationRequest { prompts: &[], ..request.clone() }.plan(1).expect("a plan");
        assert_eq!((losses.kv_cache, losses.gradients, losses.activations), (0, 0, 0));
    }

    /// Decimal gigabytes, by hand: 32 * 7 projections at 4.127 bits, embedding and head in 16.
    #[test]
    fn llama_2_7b_in_nf4_takes_what_it_takes() {
        use lorafit_kernels::quant::{Quantization, four_bit::Code};
        use lorafit_model::BaseQuantization;
        let config = Config::named("llama-2-7b").expect("a name");
        let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: true };
        let bytes = config.weight_bytes(2, Some(BaseQuantization { quantization, head: false }));
        let projections = 32.0 * (4.0 * 4096.0 * 4096.0 + 3.0 * 4096.0 * 11008.0);
        let by_hand = projections * (4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0)) / 8.0
            + 2.0 * 2.0 * 32000.0 * 4096.0
            + 4.0 * 65.0 * 4096.0
            + 4.0 * 224.0;
        assert_eq!(bytes, by_hand as u64);
    }

    /// By hand: a value, a gradient and two moments in f32 for each weight, 17.6 GB for TinyLlama; the activations are those
    /// of LoRA without its low-rank inputs.
    #[test]
    fn full_fine_tuning_takes_sixteen_bytes_a_weight() {
        let config = Config::named("tinyllama-1.1b").expect("a name");
        let (all, lora) = (WeightSelection::all(), LoraConfig::new("q_proj".parse().expect("targets")));
        let weights = config.parameters();
        let adapter = request(&config, &lora);
        let full =
            PlanRequest { weights: 4 * weights, trainable: Trainable::Weights(&all), ..adapter.clone() };
        let plan = full.plan(Recompute::None).expect("a plan");
        assert_eq!((plan.weights, plan.gradients), (4 * weights, 4 * weights));
        assert_eq!((plan.optimizer, plan.adapter), (8 * weights, 0));
        let of_lora = adapter.plan(Recompute::None).expect("a plan").activations;
        assert_eq!(of_lora - plan.activations, 4 * 8 * 512 * config.num_hidden_layers as u64);
        // It does not fit in 16 GB whatever is recomputed; with moments in 8 bits it does.
        assert_eq!(full.fit(16_000_000_000).expect("valid"), None);
        let coded = PlanRequest { optimizer: OptimizerKind::AdamW8bit, ..full.clone() };
        assert!(coded.fit(16_000_000_000).expect("valid").is_some());
    }

    /// A value more for each parameter.
    #[test]
    fn an_average_takes_as_much_as_what_is_trained() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let plain = request(&config, &lora);
        let averaged = PlanRequest { averaged: true, ..plain.clone() };
        let total = |request: &PlanRequest<'_>| request.plan(Recompute::Full).expect("a plan").total();
        let parameters = lora.parameters(&config).expect("fits");
        assert_eq!(total(&averaged) - total(&plain), 4 * parameters);
    }

    /// Nothing below the lowest trained weight is kept for backward.
    #[test]
    fn upper_layers_alone_take_less() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("q_proj".parse().expect("targets"));
        let activations = |modules: &str, layers: Option<Vec<usize>>| {
            let selection = WeightSelection { modules: modules.parse().expect("modules"), layers };
            let request =
                PlanRequest { trainable: Trainable::Weights(&selection), ..request(&config, &lora) };
            request.plan(Recompute::None).expect("a plan").activations
        };
        let all = activations("all", None);
        assert_eq!(activations("embed_tokens", None), all);
        assert_eq!(activations("all", Some((15..30).collect())), all / 2);
        assert_eq!(activations("norm", None), 0);
    }

    /// By hand: a block of SmolLM2 has four tensors `A` and seven `B`, of which only `B` of k and v (8 x 192) are small
    /// enough to stay in f32.
    #[test]
    fn moments_in_8_bits_take_a_byte_and_a_scale_for_256() {
        let config = Config::named("smollm2-135m").expect("a name");
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        let request = PlanRequest { optimizer: OptimizerKind::AdamW8bit, ..request(&config, &lora) };
        let (hidden, inner, keys) = (576u64, 1536, 192);
        let coded = 8 * (3 * hidden + hidden + 2 * hidden + inner + 2 * hidden + 2 * inner + hidden);
        let whole = 4 * 8 * 2 * keys;
        let found = request.plan(Recompute::None).expect("a plan").optimizer;
        assert_eq!(found, 30 * 2 * (coded + coded / 256 * 4 + whole));
    }
}
