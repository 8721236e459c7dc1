//! What trials share, opened once: bases and tokenised rows; and the memory that several of them take at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lorafit_data::{GenerationRow, Samples, SamplesBuilder};
use lorafit_kernels::Device;
use lorafit_model::adapter::{Adapter, LoraConfig};
use lorafit_model::{Recompute, Trainable, WeightSelection};
use lorafit_remedy::amounts::{counted, memory, more_and_less};
use lorafit_train::{
    ALONE, EvaluationRequest, MemoryPlan, PlanRequest, ReferenceRequest, evaluate, evaluate_until,
    option_tokens,
};
use serde_json::json;

use crate::args::memory::RecomputeChoice;
use crate::args::options::Init;
use crate::args::train::TrainArgs;
use crate::metrics::Metrics;
use crate::session::base::Base;
use crate::session::evaluation::prompts_to_answer;
use crate::session::limits::Limits;
use crate::session::run::{Data, Shared};
use crate::session::trained::Trained;
use crate::sweep::file::{Settings, no_held_out_rows};
use crate::terminal::error::CliError;

/// Bases, rows and adapters of references, each once, and which of them each trial works with.
#[derive(Default)]
pub struct Inputs {
    bases: Vec<(String, Base)>,
    data: Vec<(String, Rows)>,
    /// By their base and their folder.
    references: Vec<((usize, PathBuf), Adapter)>,
    of_trial: Vec<(usize, usize)>,
    reference_of_trial: Vec<Option<usize>>,
    /// The loss of held-out rows without an adapter, once it is known.
    base_losses: Mutex<BTreeMap<(usize, usize), f64>>,
    /// Longest answer.
    max_new_tokens: usize,
    /// By what held-out rows are judged; by nothing where trials are compared by their loss.
    pub metrics: Metrics,
}

/// Rows, tokenised once.
struct Rows {
    data: Data,
    /// Those that are held out as they are answered, where trials are compared by what they make of rows.
    prompts: Vec<GenerationRow>,
}

impl Inputs {
    /// Opens what the trials need. Chat templates see `clock` as now or, without one, the time of the first opening.
    pub fn open(trials: &[TrainArgs], settings: &Settings, clock: Option<i64>) -> anyhow::Result<Self> {
        let (max_new_tokens, metrics) = (settings.max_new_tokens, settings.metrics()?);
        let mut inputs = Inputs { max_new_tokens, metrics, ..Inputs::default() };
        for args in trials {
            if let (true, Some(metric)) = (args.preference.is_scored(), inputs.metrics.list.first()) {
                let text = format!(
                    "--metric {} with --objective {}: a head that scores texts writes no answers",
                    metric.name, args.preference.objective
                );
                return Err(CliError::usage(text).hint("compare such trials by their loss").into());
            }
            let base_key = json!([
                args.model,
                args.init == Init::Random,
                args.base,
                args.compute,
                args.template,
                args.new_tokens,
                args.adapter,
                args.head_key()
            ])
            .to_string();
            let base = match inputs.bases.iter().position(|(key, _)| *key == base_key) {
                Some(base) => base,
                None => {
                    let mut base = args.open_base()?;
                    if let Some(clock) = clock.or_else(|| inputs.clock()) {
                        base.tokenizer.set_clock(clock);
                    }
                    inputs.bases.push((base_key, base));
                    inputs.bases.len() - 1
                }
            };
            let data_key = data_key(base, args);
            let data = match inputs.data.iter().position(|(key, _)| *key == data_key) {
                Some(data) => data,
                None => {
                    let base = &inputs.bases[base].1;
                    let loaded = args.load(base)?;
                    if loaded.held_out.is_none() {
                        return Err(no_held_out_rows().into());
                    }
                    let choices = settings.criteria.choices.as_ref();
                    let mut prompts = match inputs.metrics.list.is_empty() {
                        true => Vec::new(),
                        false => args.prompts(base, choices)?,
                    };
                    let skips = args.rows.skip_bad_rows;
                    Limits::of(base).check_prompts(&mut prompts, skips)?;
                    inputs.data.push((data_key, Rows { data: loaded, prompts }));
                    inputs.data.len() - 1
                }
            };
            inputs.of_trial.push((base, data));
            let reference = inputs.open_reference(base, args)?;
            inputs.reference_of_trial.push(reference);
        }
        Ok(inputs)
    }

    /// The place of the adapter of the reference of a trial over that base, if it has one of its own.
    fn open_reference(&mut self, base: usize, args: &TrainArgs) -> anyhow::Result<Option<usize>> {
        let Some(dir) = args.reference_adapter() else { return Ok(None) };
        let key = (base, dir.to_owned());
        if let Some(known) = self.references.iter().position(|(known, _)| *known == key) {
            return Ok(Some(known));
        }
        let Some(adapter) = args.open_reference(&self.bases[base].1)? else { return Ok(None) };
        self.references.push((key, adapter));
        Ok(Some(self.references.len() - 1))
    }

    /// The adapter of the reference of the trial at that place, if it has one of its own.
    pub fn reference(&self, place: usize) -> Option<&Adapter> {
        self.reference_of_trial[place].map(|reference| &self.references[reference].1)
    }

    /// Base and rows of the trial at that place.
    pub fn of(&self, place: usize) -> (&Base, &Data) {
        let (base, data) = self.of_trial[place];
        (&self.bases[base].1, &self.data[data].1.data)
    }

    /// The loss of the held-out rows of the trial at that place without an adapter; `None` where the base has no weights, and
    /// where it is `stopping`.
    pub fn base_loss(
        &self,
        place: usize,
        args: &TrainArgs,
        stopping: &mut dyn FnMut() -> bool,
    ) -> Option<f64> {
        let (base, data) = self.of(place);
        // Its loss would be another than that of the trials.
        let has_own_loss = args.preference.objective().is_some() || args.preference.is_classifier();
        let held_out = data.held_out.as_ref().filter(|_| args.init != Init::Random && !has_own_loss)?;
        // Trials that begin together wait for the first: all of them need it.
        let mut known = self.base_losses.lock().unwrap_or_else(PoisonError::into_inner);
        let loss = match known.get(&self.of_trial[place]) {
            Some(loss) => *loss,
            None => {
                let (samples, tokens) = (&held_out.samples, args.tokens_at_once());
                evaluate_until(&base.model, None, samples, tokens, stopping)?.loss
            }
        };
        known.insert(self.of_trial[place], loss);
        Some(loss).filter(|loss| loss.is_finite())
    }

    /// What the trial at that place is to answer: nothing where trials are compared by their loss.
    pub fn prompts(&self, place: usize) -> &[GenerationRow] {
        &self.data[self.of_trial[place].1].1.prompts
    }

    /// What chat templates see as now.
    pub fn clock(&self) -> Option<i64> {
        self.bases.first().map(|(_, base)| base.tokenizer.clock())
    }

    /// Where all trials are computed.
    pub fn device(&self) -> Device {
        self.bases.first().map_or(Device::Cpu, |(_, base)| base.model.device())
    }

    /// Decides what trials leave to the data.
    ///
    /// # Errors
    /// As [`TrainArgs::settle_frozen`] and [`TrainArgs::check_at_once`].
    pub fn settle(&self, trials: &mut [TrainArgs]) -> anyhow::Result<()> {
        for (i, args) in trials.iter_mut().enumerate() {
            let (base, data) = self.of(i);
            let trained = Trained::fresh(args, base)?;
            let shared = Shared { base, data, reference: self.reference(i), group: &ALONE };
            args.check_at_once(base.model.device().placement())?;
            args.settle_frozen(shared, &trained)?;
        }
        Ok(())
    }

    /// Plans `at_once` trials at a time in `limit` bytes: each gets a policy of recomputation within its share.
    ///
    /// # Errors
    /// More trials than fit, with how many do.
    pub fn plan(&self, trials: &[TrainArgs], at_once: usize, limit: u64) -> anyhow::Result<SweepPlan> {
        let trained: Vec<Planned> = trials
            .iter()
            .enumerate()
            .map(|(i, args)| Planned::of(args, self.of(i).0))
            .collect::<Result<_, _>>()?;
        let prompts: Vec<Vec<usize>> =
            (0..trials.len()).map(|i| prompts_to_answer(&self.metrics, self.prompts(i))).collect();
        let requests: Vec<TrialRequest<'_>> = trials
            .iter()
            .enumerate()
            .map(|(i, args)| {
                let (base, data) = self.of(i);
                let (weights, trainable) = (trained[i].weights, trained[i].trainable());
                let shared = Shared { base, data, reference: self.reference(i), group: &ALONE };
                let training = args.plan_request(shared, weights, trainable);
                TrialRequest {
                    recompute: args.memory.policy(),
                    answering: EvaluationRequest {
                        config: training.config,
                        weights,
                        lora: match trainable {
                            Trainable::Adapter(lora) => Some(lora),
                            Trainable::Weights(_) => None,
                        },
                        // The loss was computed in the buffers of the training.
                        tokens: option_tokens(training.config, self.prompts(i), args.tokens_at_once()).max(1),
                        prompts: &prompts[i],
                        max_new_tokens: self.max_new_tokens,
                        threads: training.threads,
                        placement: base.model.device().placement(),
                        reference: None,
                    },
                    training,
                }
            })
            .collect();
        let weights = self.bases.iter().map(|(_, base)| base.weight_bytes).sum();
        let shared = Common { weights, references: self.reference_bytes()? };
        let asked = SweepPlan::new(&requests, shared, at_once, limit)?;
        if asked.total() <= limit {
            return Ok(asked);
        }
        let [needed, may_take] = more_and_less(asked.total(), limit);
        let text = format!(
            "{} at once {} {needed} but may take {may_take}\n  base and program {}, largest trial {}",
            counted(at_once, "trial", "trials"),
            if at_once == 1 { "needs" } else { "need" },
            memory(asked.shared),
            memory(asked.largest()),
        );
        for fewer in (1..at_once).rev() {
            if SweepPlan::new(&requests, shared, fewer, limit)?.total() <= limit {
                return Err(CliError::new(text).hint(format!("--trials-at-once {fewer} fits")).into());
            }
        }
        let hint = "not even one fits: lower `micro-batch-tokens` or `max-seq-len`, or quantise the base with `quant`";
        Err(CliError::new(text).hint(hint).into())
    }

    /// Bytes of the adapters of references, which all trials share.
    fn reference_bytes(&self) -> anyhow::Result<u64> {
        let bytes = |((base, _), adapter): &((usize, PathBuf), Adapter)| {
            let model = &self.bases[*base].1.model;
            let request = ReferenceRequest { lora: adapter.config(), in_every_step: false, size: None };
            Ok(request.adapter_bytes(model.config(), model.device().placement())?)
        };
        self.references.iter().map(bytes).sum()
    }

    /// Seconds that a token of each trial takes to train, guessed: twice a forward pass over a few rows, and once more for
    /// what is recomputed.
    pub fn seconds_per_token(&self, trials: &[TrainArgs], plan: &SweepPlan) -> Vec<f64> {
        let mut forward = vec![None; self.bases.len()];
        let of_trial = |(place, args): (usize, &TrainArgs)| {
            let (base, data) = self.of(place);
            let measure = || forward_seconds(base, &data.rows.samples, args.tokens_at_once());
            let forward: f64 = *forward[self.of_trial[place].0].get_or_insert_with(measure);
            let passes = if plan.trials[place].recompute == Recompute::None { 2.0 } else { 3.0 };
            passes * forward
        };
        trials.iter().enumerate().map(of_trial).collect()
    }
}

/// Seconds that a token takes in a forward pass over the first few rows.
fn forward_seconds(base: &Base, samples: &Samples, micro_batch_tokens: usize) -> f64 {
    let mut few = SamplesBuilder::default();
    let mut tokens = 0;
    for sample in samples.iter() {
        if tokens >= micro_batch_tokens.min(512) {
            break;
        }
        tokens += sample.len();
        few.push(&sample.to_sample(), sample.judgement());
    }
    let started = Instant::now();
    evaluate(&base.model, None, &few.finish(), micro_batch_tokens);
    started.elapsed().as_secs_f64() / tokens.max(1) as f64
}

/// All that decides the rows and their tokens.
fn data_key(base: usize, args: &TrainArgs) -> String {
    // The seed draws what is held out, and which rows a weight (behind a colon) takes; else the rows are the same.
    let is_drawn = args.held_out().is_some() || args.data.iter().any(|data| data.contains(':'));
    let seed = is_drawn.then_some(args.seed);
    let purpose = format!("{:?}", args.preference.purpose());
    let read = json!([args.rows, purpose, args.classes, args.cache]);
    json!([base, args.data, args.eval_data, args.eval_split, args.validation, seed, read]).to_string()
}

/// What a trial trains, as far as its memory is planned for it: the values of one trial at a time are made to know.
struct Planned {
    /// Bytes of the weights.
    weights: u64,
    what: What,
}

enum What {
    Adapter(Box<LoraConfig>),
    Weights(WeightSelection),
}

impl Planned {
    fn of(args: &TrainArgs, base: &Base) -> anyhow::Result<Self> {
        let trained = Trained::fresh(args, base)?;
        let what = match trained.trainable() {
            Trainable::Adapter(lora) => What::Adapter(Box::new(lora.clone())),
            Trainable::Weights(selection) => What::Weights(selection.clone()),
        };
        Ok(Planned { weights: trained.weight_bytes(base), what })
    }

    fn trainable(&self) -> Trainable<'_> {
        match &self.what {
            What::Adapter(lora) => Trainable::Adapter(lora),
            What::Weights(selection) => Trainable::Weights(selection),
        }
    }
}

/// What the memory of a trial is planned for.
struct TrialRequest<'a> {
    training: PlanRequest<'a>,
    recompute: RecomputeChoice,
    answering: EvaluationRequest<'a>,
}

/// Bytes of what trials share beside the program.
#[derive(Clone, Copy)]
struct Common {
    /// Bytes of the bases.
    weights: u64,
    /// Bytes of the reference adapters.
    references: u64,
}

/// The memory of a trial.
#[derive(Clone, Debug)]
pub struct TrialPlan {
    /// What it recomputes.
    pub recompute: Recompute,
    /// Its training as a run by itself.
    pub plan: MemoryPlan,
    /// Answers side by side after the training: as many as fit where its gradients, moments and activations were.
    pub side_by_side: usize,
    /// What it takes beside what all share: adapter or weights, gradients, moments, activations; or the answers, where
    /// those take more.
    pub own: u64,
}

/// The memory of trials side by side.
#[derive(Clone, Debug)]
pub struct SweepPlan {
    /// Bases and program.
    pub shared: u64,
    /// How many run at once.
    pub at_once: usize,
    /// The trials.
    pub trials: Vec<TrialPlan>,
}

impl SweepPlan {
    fn new(
        requests: &[TrialRequest<'_>],
        common: Common,
        at_once: usize,
        limit: u64,
    ) -> anyhow::Result<Self> {
        let shared = common.weights + common.references;
        let mut plan = SweepPlan { shared, at_once, trials: Vec::new() };
        for TrialRequest { training: request, recompute, answering } in requests {
            let full = request.plan(Recompute::Full)?;
            plan.shared = plan.shared.max(shared + full.process);
            let share = limit.saturating_sub(shared + full.process) / at_once as u64;
            // A model of its own shares no weights.
            let weights = match request.trainable {
                Trainable::Adapter(_) => full.weights,
                Trainable::Weights(_) => 0,
            };
            let reference = request.reference;
            let reference =
                reference.map_or(Ok(0), |asked| asked.adapter_bytes(request.config, request.placement))?;
            let of_all = weights + reference;
            let (recompute, training) = match recompute {
                RecomputeChoice::Fixed(recompute) => (*recompute, request.plan(*recompute)?),
                RecomputeChoice::Auto => request
                    .fit(share.saturating_add(of_all + full.process))?
                    .unwrap_or((Recompute::Full, full)),
            };
            let (side_by_side, answers) = match answering.fit(training.total())? {
                Some(fits) => fits,
                None => (1, answering.plan(1)?),
            };
            // Who answers has no reference.
            let [training_own, answering_own] =
                [training.total() - of_all, answers.total() - weights].map(|bytes| bytes - training.process);
            let own = training_own.max(answering_own);
            plan.trials.push(TrialPlan { recompute, plan: training, side_by_side, own });
        }
        Ok(plan)
    }

    fn largest(&self) -> u64 {
        self.trials.iter().map(|trial| trial.own).max().unwrap_or(0)
    }

    /// The most memory of the process: what is shared, and the largest trials that may meet.
    pub fn total(&self) -> u64 {
        let mut own: Vec<u64> = self.trials.iter().map(|trial| trial.own).collect();
        own.sort_unstable_by(|a, b| b.cmp(a));
        self.shared + own.iter().take(self.at_once).sum::<u64>()
    }
}
