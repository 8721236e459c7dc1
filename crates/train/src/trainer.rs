//! The one training loop.
//!
//! An optimizer step takes `batch_size * gradient_accumulation` samples, cuts them into micro-batches of about
//! `micro_batch_tokens` tokens, and adds up the gradient of the mean loss over all supervised tokens of the
//! step. What samples of a micro-batch begin with alike is computed once. The result depends neither on the cut nor on
//! the sharing beyond rounding, so both are a choice of memory and speed alone. Only dropout makes a difference: the
//! tokens that samples share are dropped alike.

use std::time::Instant;

use lorafit_data::{Dataset, Order, Samples, Steps};
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::elementwise::sum_squares;
use lorafit_kernels::random;
use lorafit_model::adapter::{Adapter, Gradients};
use lorafit_model::{Buffers, Model, Recompute};

use crate::evaluate::evaluate_in;
use crate::memory::peak_rss_bytes;
use crate::metrics::{EvaluationRecord, StepRecord};
use crate::optim::{AdamW, OptimizerKind};
use crate::run::{RunError, RunFolder};
use crate::schedule::{Schedule, ScheduleKind};
use crate::stream::{MicroBatchSize, cut};

#[cfg(test)]
mod tests;

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// So many times over the data; fractions are allowed.
    Epochs(f64),
    /// So many optimizer steps.
    Steps(u64),
}

/// Settings of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// How long.
    pub duration: Duration,
    /// Samples of a micro-step; times `gradient_accumulation` it gives the samples of an optimizer step.
    pub batch_size: usize,
    /// See `batch_size`.
    pub gradient_accumulation: usize,
    /// Tokens computed at once, about; see the module.
    pub micro_batch_tokens: usize,
    /// Compute once what samples of a micro-batch begin with alike.
    pub prefix_sharing: bool,
    /// Which activations backward computes again.
    pub recompute: Recompute,
    /// How the moments are kept.
    pub optimizer: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: ScheduleKind,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; `None` leaves them.
    pub max_grad_norm: Option<f64>,
    /// File order, or shuffled by a seed.
    pub order: Order,
    /// Seed of the dropout masks.
    pub seed: u64,
    /// Evaluate every so many steps, and at the end.
    pub eval_every: Option<u64>,
}

impl TrainOptions {
    /// AdamW at its plainest: a constant learning rate, no decay, no clipping, rows in file order one at a time.
    pub fn plain(duration: Duration, learning_rate: f64) -> Self {
        TrainOptions {
            duration,
            batch_size: 1,
            gradient_accumulation: 1,
            micro_batch_tokens: 512,
            prefix_sharing: true,
            recompute: Recompute::None,
            optimizer: OptimizerKind::AdamW,
            learning_rate,
            schedule: ScheduleKind::Constant,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            max_grad_norm: None,
            order: Order::File,
            seed: 0,
            eval_every: None,
        }
    }

    /// Optimizer steps of a run over `samples` samples.
    pub fn total_steps(&self, samples: usize) -> u64 {
        let per_epoch = samples.div_ceil((self.batch_size * self.gradient_accumulation).max(1));
        match self.duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => ((per_epoch as f64 * epochs).ceil() as u64).max(1),
        }
    }

    /// A bound on what is computed at once, in training and in evaluation.
    pub fn micro_batch_size(&self, data: &Dataset, evaluation: Option<&Dataset>) -> MicroBatchSize {
        let of_step = self.batch_size * self.gradient_accumulation;
        let of_training = MicroBatchSize::largest(&data.samples, of_step, self.micro_batch_tokens);
        // An evaluation takes its rows as one group, in the same buffers.
        let of_evaluation =
            |d: &Dataset| MicroBatchSize::largest(&d.samples, d.samples.len(), self.micro_batch_tokens);
        of_training.max(evaluation.map(of_evaluation).unwrap_or_default())
    }
}

/// Sees a run as it goes.
pub trait Observer {
    /// After every optimizer step.
    fn on_step(&mut self, record: &StepRecord, total_steps: u64);
    /// After every evaluation.
    fn on_evaluation(&mut self, record: &EvaluationRecord);
    /// Asked after every step; `true` saves and ends the run.
    fn should_stop(&mut self) -> bool;
}

/// Why a run ended without its adapter.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The loss or a gradient is not a number; the adapter in the run folder is that of an earlier save.
    #[error("step {step}: the {what} is {value} (lines {lines:?} of the training data)")]
    NonFinite {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The rows of the step.
        lines: Vec<usize>,
    },
    /// The run folder cannot be written.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl TrainError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            TrainError::NonFinite { .. } => Some("lower --lr, or set --max-grad-norm".into()),
            TrainError::Run(e) => e.hint(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// True if the observer ended it.
    pub interrupted: bool,
    /// The last step's record.
    pub last: Option<StepRecord>,
    /// The last evaluation.
    pub evaluation: Option<EvaluationRecord>,
    /// The evaluation with the lowest loss, whose adapter is in `best/`.
    pub best: Option<EvaluationRecord>,
    /// Wall time of the loop.
    pub seconds: f64,
}

/// Trains `adapter` in place on `data` and saves it in `run`.
///
/// # Errors
/// [`TrainError`]; the adapter saved before stays.
pub fn train(
    model: &Model,
    adapter: &mut Adapter,
    data: &Dataset,
    evaluation: Option<&Dataset>,
    options: &TrainOptions,
    run: &mut RunFolder,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let started = Instant::now();
    let total_steps = options.total_steps(data.samples.len());
    let size = options.micro_batch_size(data, evaluation);
    let mut stepper = Stepper::new(model, adapter, size, options, total_steps);
    let mut summary =
        Summary { steps: 0, interrupted: false, last: None, evaluation: None, best: None, seconds: 0.0 };
    let steps =
        Steps::new(data.samples.len(), options.order, options.batch_size, options.gradient_accumulation);
    for (step, number) in steps.zip(1..=total_steps) {
        let record = stepper.step(model, adapter, &data.samples, &step.indices, number, options)?;
        run.record_step(&record)?;
        observer.on_step(&record, total_steps);
        summary.steps = number;
        summary.last = Some(record);
        summary.interrupted = number < total_steps && observer.should_stop();

        let due = options.eval_every.is_some_and(|every| number % every == 0) || number == total_steps;
        if let Some(evaluation) = evaluation.filter(|_| due && !summary.interrupted) {
            let lowest = summary.best.as_ref().map(|b| b.loss);
            let record = stepper.evaluation(model, adapter, evaluation, number, options, lowest);
            run.record_evaluation(&record)?;
            observer.on_evaluation(&record);
            if record.best {
                run.save_best(adapter)?;
                summary.best = Some(record.clone());
            }
            summary.evaluation = Some(record);
        }
        if summary.interrupted {
            break;
        }
    }
    run.save_adapter(adapter)?;
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// One optimizer step after another, and what lives between them beside the adapter.
pub(crate) struct Stepper {
    buffers: Buffers,
    gradients: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
}

impl Stepper {
    /// For micro-batches of up to `size`.
    pub(crate) fn new(
        model: &Model,
        adapter: &Adapter,
        size: MicroBatchSize,
        options: &TrainOptions,
        total_steps: u64,
    ) -> Self {
        let TrainOptions { optimizer, schedule, learning_rate, warmup_ratio, weight_decay, .. } = *options;
        Stepper {
            buffers: Buffers::for_training(
                model.config(),
                adapter,
                model.device(),
                size.tokens,
                size.targets,
                options.recompute,
            ),
            gradients: adapter.zero_gradients(),
            optimizer: AdamW::new(adapter, optimizer, weight_decay),
            schedule: Schedule::with_warmup_ratio(schedule, learning_rate, warmup_ratio, total_steps),
        }
    }

    pub(crate) fn step(
        &mut self,
        model: &Model,
        adapter: &mut Adapter,
        samples: &Samples,
        indices: &[usize],
        number: u64,
        options: &TrainOptions,
    ) -> Result<StepRecord, TrainError> {
        let started = Instant::now();
        let non_finite = |what, value| TrainError::NonFinite {
            step: number,
            what,
            value,
            lines: indices.iter().map(|&i| samples.sample(i).row).collect(),
        };
        let supervised: usize = indices.iter().map(|&i| samples.sample(i).supervised_tokens()).sum();
        let scale = (1.0 / supervised as f64) as f32;
        let p = adapter.config().dropout;
        let mask = (p > 0.0).then(|| Mask { p, seed: random::mix(options.seed) }.derive(number));

        self.gradients.clear();
        let (mut loss_sum, mut computed) = (0.0f64, 0);
        let micro_batches = cut(samples, indices, options.micro_batch_tokens, options.prefix_sharing);
        for (part, micro) in micro_batches.enumerate() {
            let mask = mask.map(|m| m.derive(part as u64));
            let (buffers, gradients) = (&mut self.buffers, &mut self.gradients);
            let losses = model.loss_and_gradient(adapter, mask, micro.stream(), scale, buffers, gradients);
            loss_sum += micro.total(&losses);
            computed += micro.tokens() as u64;
        }
        let loss = loss_sum / supervised as f64;
        if !loss.is_finite() {
            return Err(non_finite("loss", loss));
        }
        let grad_norm = self.gradients.tensors().map(|t| sum_squares(t, t.len())).sum::<f64>().sqrt();
        if !grad_norm.is_finite() {
            return Err(non_finite("gradient norm", grad_norm));
        }
        // The constant is that of torch.nn.utils.clip_grad_norm_.
        let clip = options.max_grad_norm.map_or(1.0, |max| (max / (grad_norm + 1e-6)).min(1.0));
        let learning_rate = self.schedule.rate(number);
        self.optimizer.step(adapter, &self.gradients, learning_rate, clip);

        let seconds = started.elapsed().as_secs_f64();
        let tokens = indices.iter().map(|&i| samples.sample(i).len() as u64).sum();
        Ok(StepRecord {
            step: number,
            loss,
            grad_norm,
            learning_rate,
            tokens,
            computed_tokens: computed,
            supervised_tokens: supervised as u64,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    fn evaluation(
        &mut self,
        model: &Model,
        adapter: &Adapter,
        data: &Dataset,
        step: u64,
        options: &TrainOptions,
        lowest: Option<f64>,
    ) -> EvaluationRecord {
        let started = Instant::now();
        let (budget, share) = (options.micro_batch_tokens, options.prefix_sharing);
        let found = evaluate_in(model, Some(adapter), &data.samples, budget, share, &mut self.buffers);
        EvaluationRecord {
            step,
            loss: found.loss,
            perplexity: found.perplexity,
            best: lowest.is_none_or(|lowest| found.loss < lowest),
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}
