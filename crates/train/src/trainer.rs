//! The one training loop.
//!
//! An optimizer step takes `batch_size * gradient_accumulation` samples, cuts them into micro-batches of about
//! `micro_batch_tokens` tokens, and adds up the gradient of the mean loss over all supervised tokens of the
//! step. What samples of a micro-batch begin with alike is computed once. The result depends neither on the cut nor on
//! the sharing beyond rounding, so both are a choice of memory and speed alone. Only random
//! numbers make a difference: tokens that samples share have the same dropout mask and the same noise.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lorafit_data::{Dataset, Groups, Order, Samples, Steps};
use lorafit_kernels::ops::cross_entropy::Objective;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::elementwise::sum_squares;
use lorafit_kernels::random;
use lorafit_model::adapter::Adapter;
use lorafit_model::{
    ActivationPolicy, ActiveAdapter, Buffers, Config, EmbeddingNoise, Gradients, Losses, Parameters,
};
use lorafit_remedy::{Remedy, Setting, Task, remedy};

use crate::average::{Average, Averaging};
use crate::best_by::BestBy;
use crate::cadence::{Cadence, CheckpointEvery};
use crate::checkpoint::{self, Best, Checkpoint, Held, State};
use crate::classify;
use crate::evaluate::evaluate_in;
use crate::guard::{Culprit, OnNan, Refusal};
use crate::history::RunHistory;
use crate::memory::{peak_device_bytes, peak_rss_bytes};
use crate::metrics::{EvaluationRecord, SkipRecord, StepRecord};
use crate::optim::{AdamW, OptimizerKind};
use crate::patience::Patience;
use crate::preference::step::{Computing, JudgedRows, Totals, distance, weigh, with_prompt};
use crate::preference::{self, PreferenceMetrics, PreferenceOptions, Sums, reference};
use crate::run::RunFolder;
use crate::run_error::RunError;
use crate::schedule::{Schedule, ScheduleKind};
use crate::stream::{Cut, MicroBatchSize, cut, cut_groups};
use crate::verdict::{Curve, StoppedEarly, Verdict, verdict};

#[cfg(test)]
mod preference_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod score_tests;
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

impl Duration {
    /// Optimizer steps over so many samples, of which a step takes `samples_of_step`.
    pub fn steps(self, samples: usize, samples_of_step: usize) -> u64 {
        let of_epoch = samples.div_ceil(samples_of_step.max(1));
        match self {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => ((of_epoch as f64 * epochs).ceil() as u64).max(1),
        }
    }
}

/// Settings of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// What judged replies are trained for; `None` for replies that are learnt as they are.
    pub preference: Option<PreferenceOptions>,
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
    /// What is kept for backward.
    pub activations: ActivationPolicy,
    /// How the moments are kept.
    pub optimizer: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: ScheduleKind,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Share of the steps in which [`ScheduleKind::Wsd`] falls.
    pub decay_ratio: f64,
    /// Learning rate of the `B` of an adapter over that of its `A` (LoRA+).
    pub b_rate_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Share of each target that is spread over the vocabulary, in training alone.
    pub label_smoothing: f32,
    /// Noise on embeddings while training (NEFTune); `None` for none.
    pub neftune_alpha: Option<f32>,
    /// Gradients are scaled down to this norm; `None` leaves them.
    pub max_grad_norm: Option<f64>,
    /// File order, or shuffled by a seed.
    pub order: Order,
    /// Seed of the dropout masks and of noise.
    pub seed: u64,
    /// Evaluate every so many steps, and at the end.
    pub eval_every: Option<u64>,
    /// Evaluate what the run begins with too, before its first step.
    pub evaluate_start: bool,
    /// Which evaluation is the best.
    pub best_by: BestBy,
    /// End when evaluations no longer lower the loss.
    pub patience: Option<Patience>,
    /// Keep an average of what is trained beside it.
    pub averaging: Option<Averaging>,
    /// How often a checkpoint is saved, beside those that the observer asks for and the last.
    pub checkpoint_every: CheckpointEvery,
    /// How many of them are kept.
    pub keep_checkpoints: usize,
    /// What is done with a step whose loss or gradient is not finite.
    pub on_nan: OnNan,
    /// Refuse steps whose loss is far above the recent ones.
    pub skip_loss_spikes: bool,
}

impl TrainOptions {
    /// AdamW at its plainest: a constant learning rate, no decay, no clipping, rows in file order one at a time.
    pub fn plain(duration: Duration, learning_rate: f64) -> Self {
        TrainOptions {
            preference: None,
            duration,
            batch_size: 1,
            gradient_accumulation: 1,
            micro_batch_tokens: 512,
            prefix_sharing: true,
            activations: ActivationPolicy::default(),
            optimizer: OptimizerKind::AdamW,
            learning_rate,
            schedule: ScheduleKind::Constant,
            warmup_ratio: 0.0,
            decay_ratio: 0.0,
            b_rate_ratio: 1.0,
            weight_decay: 0.0,
            label_smoothing: 0.0,
            neftune_alpha: None,
            max_grad_norm: None,
            order: Order::File,
            seed: 0,
            eval_every: None,
            evaluate_start: false,
            best_by: BestBy::Loss,
            patience: None,
            averaging: None,
            checkpoint_every: CheckpointEvery::Never,
            keep_checkpoints: 1,
            on_nan: OnNan::Stop,
            skip_loss_spikes: false,
        }
    }

    /// Samples that are taken together.
    pub fn groups(&self, samples: &Samples) -> Groups {
        match self.preference {
            Some(_) => samples.groups(),
            None => Groups::alone(samples.len()),
        }
    }

    /// Optimizer steps of a run over `rows` rows ([`TrainOptions::groups`]).
    pub fn total_steps(&self, rows: usize) -> u64 {
        self.duration.steps(rows, self.batch_size * self.gradient_accumulation)
    }

    /// How samples are cut into micro-batches of a model.
    fn cut(&self, config: &Config) -> Cut {
        Cut::of(config, self.micro_batch_tokens, self.prefix_sharing)
    }

    /// A bound on what is computed at once, in training and in evaluation.
    pub fn micro_batch_size(&self, data: &Dataset, evaluation: Option<&Dataset>) -> MicroBatchSize {
        let of_training = self.of_training(data);
        let tokens = self.evaluation_tokens(of_training);
        let of_evaluation = |d: &Dataset| self.of_rows(d, usize::MAX, tokens);
        of_training.max(evaluation.map(of_evaluation).unwrap_or_default())
    }

    fn of_training(&self, data: &Dataset) -> MicroBatchSize {
        self.of_rows(data, self.batch_size * self.gradient_accumulation, self.micro_batch_tokens)
    }

    /// Of rows that are taken `of_step` at a time, in micro-batches of about so many tokens.
    fn of_rows(&self, data: &Dataset, of_step: usize, tokens: usize) -> MicroBatchSize {
        let samples = &data.samples;
        match self.preference {
            None => MicroBatchSize::largest(samples, of_step, tokens),
            Some(preference) => {
                let all_targets = preference.has_prompt_targets();
                MicroBatchSize::largest_groups(samples, &samples.groups(), of_step, tokens, all_targets)
            }
        }
    }

    /// Tokens of a micro-batch of an evaluation. It computes in the buffers of training, which are not made larger for it.
    fn evaluation_tokens(&self, of_training: MicroBatchSize) -> usize {
        self.micro_batch_tokens.min(of_training.tokens)
    }
}

/// Sees a run as it goes.
pub trait Observer {
    /// After every optimizer step.
    fn on_step(&mut self, record: &StepRecord, total_steps: u64);
    /// After every evaluation.
    fn on_evaluation(&mut self, record: &EvaluationRecord);
    /// Asked after every step and during evaluations; `true` saves and ends the run.
    fn should_stop(&mut self) -> bool;
    /// Asked after every step; `true` saves a checkpoint.
    fn should_save(&mut self) -> bool {
        false
    }
    /// After a step that was computed and not taken.
    fn on_skip(&mut self, _record: &SkipRecord) {}
    /// While the reference of judged replies is asked: so many samples of so many are done.
    fn on_reference(&mut self, _done: usize, _samples: usize) {}
    /// After every checkpoint.
    fn on_checkpoint(&mut self, _step: u64, _path: &Path) {}
    /// Something could not be written. The run goes on, and tries again with the next checkpoint.
    fn on_warning(&mut self, _error: &RunError) {}
}

/// A run that cannot go on, since what it trained gives no numbers any more.
#[derive(Debug, thiserror::Error)]
#[error("training diverged: {}", broken(*.step, .refusal.as_ref()))]
pub struct Divergence {
    /// Steps done.
    pub step: u64,
    /// The step that could not be taken; `None` if what is trained holds values that are not numbers.
    pub refusal: Option<Refusal>,
    /// What the curve says, as in `verdict.json`; `None` if the records of the run cannot be read.
    pub verdict: Option<Verdict>,
    /// What another run can begin with, as the value of a setting: the best so far, if it is better than the start.
    pub best: Option<(Setting, PathBuf)>,
}

/// Why a run ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or a gradient is not a number, and those of other rows are; the last checkpoint is from before the step.
    #[error("step {}: the {} is {} (lines {:?} of the training data)", .0.step, .0.culprit, .0.value, .0.lines)]
    NonFinite(Refusal),
    /// Training diverged: no rows have a loss and a gradient that are numbers any more. What was saved before stays.
    #[error(transparent)]
    Diverged(Box<Divergence>),
    /// The run folder cannot be written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A reply that is impossible to the reference: it has tokens that the base does not know.
    #[error(
        "the row on line {line} has a reply that the reference cannot give: it does not know one of its tokens"
    )]
    UnknownToReference {
        /// The row's number.
        line: usize,
    },
    /// The observer ended it before its first step.
    #[error("stopped before the first step, while the reference was asked")]
    Stopped,
}

impl TrainError {
    /// What the curve of the run says, if the error says that it diverged.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            TrainError::Diverged(divergence) => divergence.verdict.as_ref(),
            TrainError::NonFinite(_)
            | TrainError::Run(_)
            | TrainError::UnknownToReference { .. }
            | TrainError::Stopped => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            TrainError::NonFinite(refusal) if refusal.step <= 1 => remedy![
                "see with ", Task::Evaluate, " whether the weights or the adapter themselves hold values that are not numbers";
                "look at the rows";
                "lower ", Setting::Lr
            ],
            TrainError::NonFinite(_) => remedy![
                "look at these rows";
                "go on without them with ", Setting::Resume.is("RUN"), " ", Setting::OnNan.is("skip");
                "start again with a lower ", Setting::Lr
            ],
            TrainError::Diverged(divergence) => {
                let again =
                    remedy!["start again with a lower ", Setting::Lr; "with a lower ", Setting::MaxGradNorm];
                match &divergence.best {
                    None => again,
                    Some((setting, path)) => again.or(remedy![
                        "start from the best so far with ",
                        setting.is(path.display().to_string()),
                        " and a lower ",
                        Setting::Lr
                    ]),
                }
            }
            TrainError::Run(e) => return e.hint(),
            TrainError::UnknownToReference { .. } => remedy![
                "compare with an adapter that knows it, with ", Setting::Reference;
                "train on replies with the new tokens first, and go on from that adapter with ", Setting::Adapter
            ],
            TrainError::Stopped => return None,
        })
    }
}

fn broken(step: u64, refusal: Option<&Refusal>) -> String {
    match refusal {
        Some(Refusal { step, culprit, value, .. }) => {
            format!("the {culprit} of step {step} is {value}, and other rows have no better")
        }
        None => format!("what is trained holds values that are not numbers after step {step}"),
    }
}

impl From<Refusal> for TrainError {
    fn from(refusal: Refusal) -> Self {
        TrainError::NonFinite(refusal)
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps done, those before a resumption included.
    pub steps: u64,
    /// True if the observer ended it.
    pub interrupted: bool,
    /// What the curve of the run says; `None` if it was interrupted.
    pub verdict: Option<Verdict>,
    /// Why it ended before its last step, if it did and was not interrupted.
    pub stopped_early: Option<StoppedEarly>,
    /// The last step's record.
    pub last: Option<StepRecord>,
    /// The last evaluation.
    pub evaluation: Option<EvaluationRecord>,
    /// The best evaluation ([`TrainOptions::best_by`]), whose adapter or model is in `best/`.
    pub best: Option<Best>,
    /// The average, which is in `average/`; `None` if there is none, or the run was interrupted.
    pub average: Option<Averaged>,
    /// Steps computed and not taken.
    pub skipped: u64,
    /// Wall time of the loop.
    pub seconds: f64,
}

/// An average at the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Averaged {
    /// Steps in it.
    pub steps: u64,
    /// What it makes of the held-out rows, if there are some.
    pub evaluation: Option<EvaluationRecord>,
}

/// Where a run begins: at its first step, or where a checkpoint left it. The parameters are handed over by themselves.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// The checkpoint, if any.
    pub checkpoint: Option<&'a Checkpoint>,
}

/// The rows of a run.
#[derive(Clone, Copy, Debug)]
pub struct TrainData<'a> {
    /// What is learnt.
    pub training: &'a Dataset,
    /// What is held out, if any.
    pub evaluation: Option<&'a Dataset>,
    /// The adapter of the reference of judged replies; `None` for the base alone.
    pub reference: Option<&'a Adapter>,
}

/// Trains `parameters` in place on `data` and saves them in `run`.
///
/// # Errors
/// [`TrainError`]; the results and the checkpoints saved before stay. A checkpoint that cannot be written does not end
/// the run; only if the last one cannot, the run ends with that error, its result saved.
pub fn train(
    parameters: &mut Parameters<'_>,
    data: TrainData<'_>,
    options: &TrainOptions,
    start: Start<'_>,
    run: &mut RunFolder,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let started = Instant::now();
    let mut training = Training::begin(parameters, data, options, start, run, observer)?;
    let result = training.go_on().and_then(|interrupted| training.finish(interrupted, started));
    result.map_err(|error| training.judged(error))
}

/// A run that goes on: all that its loop reads and changes.
struct Training<'a, 'p> {
    parameters: &'a mut Parameters<'p>,
    data: TrainData<'a>,
    options: &'a TrainOptions,
    run: &'a mut RunFolder,
    observer: &'a mut dyn Observer,
    total_steps: u64,
    steps: Steps,
    stepper: Stepper<'a>,
    average: Option<Average>,
    saver: Saver,
    state: State,
    /// Tokens of a micro-batch of an evaluation.
    evaluation_tokens: usize,
    /// The last step's record.
    last: Option<StepRecord>,
    /// The last evaluation's.
    evaluated: Option<EvaluationRecord>,
}

impl<'a, 'p> Training<'a, 'p> {
    /// At the first step, or where a checkpoint left it.
    fn begin(
        parameters: &'a mut Parameters<'p>,
        data: TrainData<'a>,
        options: &'a TrainOptions,
        start: Start<'_>,
        run: &'a mut RunFolder,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let rows = options.groups(&data.training.samples).len();
        let total_steps = options.total_steps(rows);
        let size = options.micro_batch_size(data.training, data.evaluation);
        parameters.prepare();
        let mut stepper = Stepper::new(parameters, size, options, total_steps);
        let mut state = State::default();
        let mut average = options.averaging.map(|averaging| Average::new(parameters, averaging, total_steps));
        if let Some(checkpoint) = start.checkpoint {
            checkpoint.restore(&mut stepper.optimizer).map_err(RunError::from)?;
            let restored = average.as_mut().map_or(Ok(()), |average| checkpoint.restore_average(average));
            restored.map_err(RunError::from)?;
            state = checkpoint.state.clone();
        }
        let held = Held { parameters, optimizer: &stepper.optimizer, average: average.as_ref() };
        run.check_space(held, options.keep_checkpoints + 1)?;
        run.write_record(total_steps)?;
        run.write_verdict(None)?;
        let steps = Steps::new(rows, options.order, options.batch_size, options.gradient_accumulation)
            .resume(state.position);
        let saver = Saver::new(options, start.checkpoint.map(|checkpoint| &checkpoint.state));
        let (last, evaluated) = (None, None);
        let evaluation_tokens = options.evaluation_tokens(options.of_training(data.training));
        if let Some(preference) = options.preference {
            let asking = Asking {
                preference,
                data,
                groups: &|samples| options.groups(samples),
                cut: Cut::of(parameters.model().config(), evaluation_tokens, options.prefix_sharing),
                is_resumed: start.checkpoint.is_some(),
            };
            stepper.judged = Some(stepper.judge(parameters, asking, run, observer)?);
        }
        Ok(Training {
            parameters,
            data,
            options,
            run,
            observer,
            total_steps,
            steps,
            stepper,
            average,
            saver,
            state,
            evaluation_tokens,
            last,
            evaluated,
        })
    }

    /// Steps and evaluations until the last is done, or the observer stops them, which is told.
    fn go_on(&mut self) -> Result<bool, TrainError> {
        loop {
            let finished = self.state.step >= self.total_steps || self.stopped_early().is_some();
            let evaluation = self.evaluation_due(finished);
            if (!finished || evaluation.is_some()) && self.observer.should_stop() {
                return Ok(true);
            }
            if let Some(evaluation) = evaluation {
                self.evaluate(evaluation);
                continue;
            }
            if finished {
                return Ok(false);
            }
            if self.observer.should_save() || self.saver.cadence.is_due(self.state.step) {
                self.save()?;
            }
            let Some(step) = self.steps.next() else { return Ok(false) };
            let number = self.state.step + 1;
            self.step(&step.indices, number)?;
            (self.state.step, self.state.position) = (number, step.next);
        }
    }

    /// Why no more steps are taken although there are some, if that is so.
    fn stopped_early(&self) -> Option<StoppedEarly> {
        let (step, total_steps) = (self.state.step, self.total_steps);
        let patience = self.options.patience.filter(|patience| self.state.patience.is_over(*patience))?;
        let Patience { evaluations, min_delta } = patience;
        (step < total_steps).then_some(StoppedEarly { step, total_steps, evaluations, min_delta })
    }

    /// What is evaluated before the next step, if it is time.
    fn evaluation_due(&self, finished: bool) -> Option<&'a Dataset> {
        let step = self.state.step;
        let due = match step {
            0 => self.options.evaluate_start,
            _ => finished || self.options.eval_every.is_some_and(|n| step.is_multiple_of(n)),
        };
        self.data.evaluation.filter(|_| due && self.state.evaluated != Some(step))
    }

    /// Evaluates, and saves what is better than all before. Stopped half-way there is nothing: it is made again when the run
    /// is resumed.
    fn evaluate(&mut self, data: &Dataset) {
        let Training { parameters, options, run, observer, stepper, saver, state, .. } = self;
        let stop = &mut || observer.should_stop();
        let cut = Cut::of(parameters.model().config(), self.evaluation_tokens, options.prefix_sharing);
        let found = stepper.evaluation(parameters, data, cut, state, stop);
        let Some(Evaluated { mut record, margins }) = found else { return };
        if record.best {
            match run.save_best(parameters) {
                Ok(()) => state.best = Some(Best::of(&record)),
                Err(error) => {
                    record.best = false;
                    saver.warn(error, *observer);
                }
            }
        }
        let recorded = run.record_evaluation(&record).and_then(|()| run.show_factors(state.step, parameters));
        saver.recorded(recorded, *observer);
        if !margins.is_empty() {
            saver.recorded(run.record_margins(state.step, margins), *observer);
        }
        state.evaluated = Some(state.step);
        if let Some(patience) = options.patience {
            state.patience.remember(record.loss, patience);
        }
        observer.on_evaluation(&record);
        self.evaluated = Some(record);
    }

    /// Takes step `number`, or refuses it.
    fn step(&mut self, indices: &[usize], number: u64) -> Result<(), TrainError> {
        let Training { parameters, data, options, run, observer, stepper, average, saver, state, .. } = self;
        stepper.spike_above = options.skip_loss_spikes.then(|| state.guard.spike_above()).flatten();
        let record = match stepper.step(parameters, &data.training.samples, indices, number, options) {
            Ok(record) => record,
            Err(refusal) => return self.refuse(refusal),
        };
        if let Some(average) = average {
            average.add(parameters, number);
        }
        state.guard.in_a_row = 0;
        if options.skip_loss_spikes {
            state.guard.remember(record.loss);
        }
        saver.recorded(run.record_step(&record), *observer);
        observer.on_step(&record, self.total_steps);
        self.last = Some(record);
        Ok(())
    }

    /// Goes on without a step, unless its refusal ends the run.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), TrainError> {
        let stops = refusal.culprit != Culprit::LossSpike && self.options.on_nan == OnNan::Stop;
        if stops || self.state.guard.refuse(&refusal) {
            // Nothing was changed, so that there is nothing to save, and nothing that can have diverged.
            if self.stepper.optimizer.updates() == 0 {
                return Err(refusal.into());
            }
            // Of a run that diverged no checkpoint is saved: none could go on from it, and it would push out an earlier one.
            if !stops || self.has_diverged() {
                return Err(self.diverged(Some(refusal)));
            }
            self.save()?;
            return Err(refusal.into());
        }
        let record = SkipRecord::from(&refusal);
        self.saver.recorded(self.run.record_skip(&record), self.observer);
        self.observer.on_skip(&record);
        Ok(())
    }

    /// Whether what was trained so far, and not the rows of the step that was refused, is to blame: the rows of the step after
    /// it have no finite loss and gradient either.
    fn has_diverged(&mut self) -> bool {
        let Training { parameters, data, options, stepper, state, steps, .. } = self;
        let Some(next) = steps.next() else { return false };
        stepper.spike_above = None;
        stepper.compute(parameters, &data.training.samples, &next.indices, state.step + 2, options).is_err()
    }

    /// The error of a run that diverged, before its curve is [judged](Self::judged).
    fn diverged(&self, refusal: Option<Refusal>) -> TrainError {
        let dir = self.run.dir();
        let setting = match self.parameters {
            Parameters::Adapter { .. } => Setting::Adapter,
            Parameters::Weights(_) => Setting::Model,
        };
        let evaluations = RunHistory::read(dir).map(|history| history.evaluations).unwrap_or_default();
        let start = evaluations.first().filter(|first| first.step == 0).map(|first| first.loss);
        let best = self.state.best.filter(|best| start.is_none_or(|start| best.loss < start));
        let best = best.map(|_| (setting, RunFolder::best_dir(dir)));
        let step = self.state.step;
        TrainError::Diverged(Box::new(Divergence { step, refusal, verdict: None, best }))
    }

    /// Gives the error of a run that diverged its verdict, and writes that.
    fn judged(&mut self, error: TrainError) -> TrainError {
        let TrainError::Diverged(mut divergence) = error else { return error };
        divergence.verdict = self.verdict(true).ok().flatten();
        if let Err(error) = self.run.write_verdict(divergence.verdict.as_ref()) {
            self.observer.on_warning(&error);
        }
        TrainError::Diverged(divergence)
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if !checkpoint::is_finite(self.parameters) {
            return Err(self.diverged(None));
        }
        let Training { parameters, run, observer, stepper, average, saver, state, .. } = self;
        let held = Held { parameters, optimizer: &stepper.optimizer, average: average.as_ref() };
        saver.save(run, state, held, *observer);
        Ok(())
    }

    /// What the whole run came to, the part before a resumption included.
    fn verdict(&self, diverged: bool) -> Result<Option<Verdict>, RunError> {
        let rows = self.data.evaluation.map_or(0, |data| self.options.groups(&data.samples).len());
        let curve = RunHistory::read(self.run.dir())?.curve(rows);
        Ok(verdict(&Curve { diverged, stopped_early: self.stopped_early(), ..curve }))
    }

    /// Saves the average, if there is one, and evaluates it.
    fn save_average(&mut self) -> Result<Option<Averaged>, TrainError> {
        let Training { parameters, data, options, run, observer, stepper, average, state, .. } = self;
        let Some(average) = average.as_mut().filter(|average| average.steps > 0) else { return Ok(None) };
        average.swap(parameters);
        let cut = Cut::of(parameters.model().config(), self.evaluation_tokens, options.prefix_sharing);
        let stop = &mut || observer.should_stop();
        let evaluation =
            data.evaluation.and_then(|data| stepper.evaluation(parameters, data, cut, state, stop));
        // It is none of the evaluations among which the best is looked for.
        let evaluation = evaluation.map(|found| EvaluationRecord { best: false, ..found.record });
        let saved = run.save_average(parameters, evaluation.as_ref());
        average.swap(parameters);
        saved?;
        Ok(Some(Averaged { steps: average.steps, evaluation }))
    }

    /// Saves the last checkpoint and the result.
    fn finish(&mut self, interrupted: bool, started: Instant) -> Result<Summary, TrainError> {
        self.save()?;
        self.run.save_result(self.parameters)?;
        if self.state.evaluated != Some(self.state.step) {
            let shown = self.run.show_factors(self.state.step, self.parameters);
            self.saver.recorded(shown, self.observer);
        }
        if let Some(error) = self.saver.failed.take() {
            return Err(error.into());
        }
        let average = if interrupted { None } else { self.save_average()? };
        let verdict = if interrupted { None } else { self.verdict(false)? };
        self.run.write_verdict(verdict.as_ref())?;
        Ok(Summary {
            steps: self.state.step,
            interrupted,
            verdict,
            stopped_early: self.stopped_early(),
            last: self.last.take(),
            evaluation: self.evaluated.take(),
            best: self.state.best,
            average,
            skipped: self.state.guard.skipped,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// A log-probability below this is that of a token whose logit says that it is none of the model's.
const LEAST_LIKELY: f64 = -1e9;

/// What the reference is asked, and how.
struct Asking<'a, 'g> {
    preference: PreferenceOptions,
    data: TrainData<'a>,
    /// The rows of samples.
    groups: &'g dyn Fn(&Samples) -> Groups,
    cut: Cut,
    /// What it said is in the run's folder.
    is_resumed: bool,
}

/// Saves checkpoints, and remembers what could not be saved.
struct Saver {
    cadence: Cadence,
    keep: usize,
    /// What the last checkpoint has; saving it again would change nothing.
    saved: Option<State>,
    /// Why the last attempt to save failed.
    failed: Option<RunError>,
    /// Records wait for space; that is told once.
    records_wait: bool,
}

impl Saver {
    fn new(options: &TrainOptions, saved: Option<&State>) -> Self {
        Saver {
            cadence: Cadence::new(options.checkpoint_every, saved.map_or(0, |state| state.step)),
            keep: options.keep_checkpoints,
            saved: saved.cloned(),
            failed: None,
            records_wait: false,
        }
    }

    /// Saves a checkpoint; a failure is told and kept.
    fn save(&mut self, run: &mut RunFolder, state: &mut State, held: Held<'_>, observer: &mut dyn Observer) {
        self.cadence.saved(state.step);
        state.updates = held.optimizer.updates();
        state.averaged = held.average.map_or(0, |average| average.steps);
        if self.saved.as_ref() == Some(state) {
            return run.prune_checkpoints(self.keep);
        }
        match run.save_checkpoint(state, held, self.keep) {
            Ok(path) => {
                self.failed = None;
                self.records_wait = false;
                self.saved = Some(state.clone());
                observer.on_checkpoint(state.step, &path);
            }
            Err(error) => self.warn(error, observer),
        }
    }

    fn warn(&mut self, error: RunError, observer: &mut dyn Observer) {
        observer.on_warning(&error);
        self.failed = Some(error);
    }

    /// Looks at how writing a record went.
    fn recorded(&mut self, result: Result<(), RunError>, observer: &mut dyn Observer) {
        match result {
            Ok(()) => self.records_wait = false,
            Err(error) if !self.records_wait => {
                observer.on_warning(&error);
                self.records_wait = true;
            }
            Err(_) => {}
        }
    }
}

/// What the rows of a step gave; their gradient stands in the buffers.
struct Computed {
    /// Mean over the supervised tokens.
    loss: f64,
    grad_norm: f64,
    /// Tokens that count in the loss.
    supervised: usize,
    /// Tokens that were computed: those that rows share once.
    tokens: u64,
    /// Of judged replies.
    preference: Option<PreferenceMetrics>,
}

/// What the micro-batches of a step came to.
struct Summed {
    /// The step's loss.
    loss: f64,
    /// Tokens that were computed.
    tokens: u64,
    /// Tokens that count in the loss.
    supervised: usize,
    preference: Option<PreferenceMetrics>,
}

/// What held-out rows came to.
struct Evaluated {
    record: EvaluationRecord,
    /// Of each pair, the reward of its chosen reply above that of its rejected one.
    margins: Vec<f64>,
}

/// What chance does in a step.
#[derive(Clone, Copy)]
struct Chance {
    mask: Option<Mask>,
    noise: Option<EmbeddingNoise>,
}

impl Chance {
    /// In step `number`.
    fn of(parameters: &Parameters<'_>, options: &TrainOptions, number: u64) -> Self {
        let p = parameters.dropout();
        let mask = (p > 0.0).then(|| Mask { p, seed: random::mix(options.seed) }.derive(number));
        let noise = options.neftune_alpha.map(|alpha| {
            // Another stream than that of dropout.
            let seed = random::mix(random::mix(!options.seed) ^ random::mix(number));
            EmbeddingNoise { alpha, seed }
        });
        Chance { mask, noise }
    }

    /// In a micro-batch of it.
    fn active<'a>(self, adapter: Option<&'a Adapter>, part: usize) -> ActiveAdapter<'a> {
        let mask = self.mask.map(|mask| mask.derive(part as u64));
        let noise =
            self.noise.map(|noise| EmbeddingNoise { seed: noise.seed ^ random::mix(part as u64), ..noise });
        ActiveAdapter { adapter, mask, noise }
    }
}

/// Rows whose replies are judged, and what they are trained for.
pub(crate) struct Judged<'a> {
    options: PreferenceOptions,
    training: JudgedRows,
    evaluation: Option<JudgedRows>,
    /// The adapter of the reference.
    reference: Option<&'a Adapter>,
    /// Tokens of the longest sample.
    longest: usize,
}

/// One optimizer step after another, and what lives between them beside the parameters.
pub(crate) struct Stepper<'a> {
    /// Of training on judged replies.
    judged: Option<Judged<'a>>,
    /// By what the best evaluation is told.
    best_by: BestBy,
    buffers: Buffers,
    gradients: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
    /// Losses above this are refused.
    spike_above: Option<f64>,
}

impl<'a> Stepper<'a> {
    /// For micro-batches of up to `size`.
    pub(crate) fn new(
        parameters: &Parameters<'_>,
        size: MicroBatchSize,
        options: &TrainOptions,
        total_steps: u64,
    ) -> Self {
        let TrainOptions { optimizer, schedule, learning_rate, warmup_ratio, decay_ratio, .. } = *options;
        let gradients = parameters.zero_gradients();
        Stepper {
            judged: None,
            best_by: options.best_by,
            buffers: Buffers::for_training(
                parameters.model(),
                parameters.adapter(),
                &gradients,
                size.tokens,
                size.targets,
                options.activations,
            ),
            gradients,
            optimizer: AdamW::new(parameters, optimizer, options.weight_decay, options.b_rate_ratio),
            schedule: Schedule::with_ratios(schedule, learning_rate, warmup_ratio, decay_ratio, total_steps),
            spike_above: None,
        }
    }

    /// Has all further steps take this learning rate.
    pub(crate) fn hold_rate(&mut self, rate: f64) {
        self.schedule =
            Schedule { kind: ScheduleKind::Constant, peak: rate, warmup_steps: 0, ..self.schedule };
    }

    /// The samples of the rows `indices`.
    fn samples_of(&self, indices: &[usize]) -> Vec<usize> {
        match &self.judged {
            None => indices.to_vec(),
            Some(judged) => indices.iter().flat_map(|&i| judged.training.groups.range(i)).collect(),
        }
    }

    /// Computes and takes step `number` over the rows `indices`; if it is refused the parameters stay as they were.
    pub(crate) fn step(
        &mut self,
        parameters: &mut Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        number: u64,
        options: &TrainOptions,
    ) -> Result<StepRecord, Refusal> {
        let started = Instant::now();
        let Computed { loss, grad_norm, supervised, tokens: computed, preference } =
            self.compute(parameters, samples, indices, number, options)?;
        // The constant is that of torch.nn.utils.clip_grad_norm_.
        let clip = options.max_grad_norm.map_or(1.0, |max| (max / (grad_norm + 1e-6)).min(1.0));
        let learning_rate = self.schedule.rate(number);
        self.optimizer.step(parameters, &self.gradients, learning_rate, clip);
        parameters.prepare();

        let seconds = started.elapsed().as_secs_f64();
        let tokens = self.samples_of(indices).into_iter().map(|i| samples.sample(i).len() as u64).sum();
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
            peak_device_bytes: peak_device_bytes(parameters.model().device()),
            preference,
        })
    }

    /// Loss and gradient of the rows of step `number`; refused if one of them is not finite, or the loss is a spike.
    fn compute(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        number: u64,
        options: &TrainOptions,
    ) -> Result<Computed, Refusal> {
        let of_step = self.samples_of(indices);
        let refusal = |culprit, value| {
            let mut lines: Vec<usize> = of_step.iter().map(|&i| samples.sample(i).row).collect();
            lines.dedup();
            Refusal { step: number, culprit, value, lines }
        };
        let chance = Chance::of(parameters, options, number);
        self.gradients.clear();
        let Summed { loss, tokens, supervised, preference } = match self.judged {
            None => self.replies(parameters, samples, indices, chance, options),
            Some(_) => self.judgements(parameters, samples, indices, chance, options),
        };
        if let Some(adapter) = parameters.adapter() {
            self.gradients.clear_start(adapter);
        }
        #[cfg(test)]
        let loss = resume_tests::spoiled(number, Culprit::Loss, loss);
        if !loss.is_finite() {
            return Err(refusal(Culprit::Loss, loss));
        }
        if self.spike_above.is_some_and(|most| loss > most) {
            return Err(refusal(Culprit::LossSpike, loss));
        }
        let grad_norm = sum_squares(&self.gradients.tensors().collect::<Vec<_>>()).sqrt();
        #[cfg(test)]
        let grad_norm = resume_tests::spoiled(number, Culprit::GradientNorm, grad_norm);
        if !grad_norm.is_finite() {
            return Err(refusal(Culprit::GradientNorm, grad_norm));
        }
        Ok(Computed { loss, grad_norm, supervised, tokens, preference })
    }

    /// Adds up the gradient of replies that are learnt as they are: the mean loss over their tokens.
    fn replies(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        chance: Chance,
        options: &TrainOptions,
    ) -> Summed {
        let supervised: usize = indices.iter().map(|&i| samples.sample(i).supervised_tokens()).sum();
        let scale = (1.0 / supervised as f64) as f32;
        let objective = Objective { scale, smoothing: options.label_smoothing };
        let (model, adapter) = (parameters.model(), parameters.adapter());
        let (mut losses, mut tokens) = (Vec::new(), 0);
        for (part, micro) in cut(samples, indices, options.cut(model.config())).enumerate() {
            let (active, stream) = (chance.active(adapter, part), micro.stream());
            let (buffers, gradients) = (&mut self.buffers, &mut self.gradients);
            losses.push(model.loss_and_gradient(active, stream, objective, buffers, gradients));
            tokens += micro.tokens() as u64;
        }
        // Not before the last micro-batch: a GPU is waited for where its values are read.
        let loss = losses.iter().map(Losses::total).sum::<f64>() / supervised as f64;
        Summed { loss, tokens, supervised, preference: None }
    }

    /// Adds up the gradient of judged replies.
    fn judgements(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        chance: Chance,
        options: &TrainOptions,
    ) -> Summed {
        let Stepper { judged, buffers, gradients, .. } = self;
        let judged = judged.as_ref().expect("rows are judged");
        let preference = &judged.options;
        let (model, adapter) = (parameters.model(), parameters.adapter());
        let how = options.cut(model.config());
        let mut computing = Computing { model, adapter, reference: judged.reference, cut: how, buffers };
        let apart = distance(&mut computing, samples, indices, judged.longest, preference);
        let rows = &judged.training;
        let totals = Totals::of(samples, rows, indices, apart.unwrap_or(0.0), preference);
        let (mut loss, mut sums, mut tokens) = (0.0, Sums::default(), 0);
        let micro_batches = cut_groups(samples, &rows.groups, indices, how, with_prompt(preference));
        for (part, micro) in micro_batches.enumerate() {
            let (active, stream) = (chance.active(adapter, part), micro.stream());
            let of_micro = |losses: &[f32]| {
                let weighed = weigh(&micro, losses, samples, &rows.reference, &totals, preference);
                loss += weighed.loss;
                sums.add(&weighed.sums);
                weighed.weights
            };
            model.loss_and_gradient_weighed(active, stream, of_micro, buffers, gradients);
            tokens += micro.tokens() as u64;
        }
        let of_rows =
            |&i: &usize| rows.groups.range(i).map(|i| samples.sample(i).supervised_tokens()).sum::<usize>();
        let supervised = indices.iter().map(of_rows).sum();
        Summed { loss, tokens, supervised, preference: Some(sums.metrics(apart, preference.objective)) }
    }

    /// What a run on judged replies has: the answers of the reference are read from the run's folder if it is resumed, else computed
    /// and written there.
    fn judge(
        &mut self,
        parameters: &Parameters<'_>,
        asking: Asking<'a, '_>,
        run: &RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<Judged<'a>, TrainError> {
        let Asking { preference, data, groups, cut, is_resumed } = asking;
        let sets = [Some(data.training), data.evaluation];
        let samples: usize = sets.iter().flatten().map(|set| set.samples.len()).sum();
        let longest = sets.iter().flatten().map(|set| set.report.longest).max().unwrap_or(0);
        let mut references = match (preference.has_reference(), is_resumed) {
            (false, _) => vec![Vec::new(); 2],
            (true, true) => run.read_reference(&sets.map(|set| set.map(|set| &set.samples)))?,
            (true, false) => {
                let mut done_before = 0;
                let mut found = Vec::new();
                for set in sets {
                    let Some(set) = set else {
                        found.push(Vec::new());
                        continue;
                    };
                    let mut on_progress = |done| {
                        observer.on_reference(done_before + done, samples);
                        !observer.should_stop()
                    };
                    let (model, buffers) = (parameters.model(), &mut self.buffers);
                    let of_set = reference::of_reference(
                        model,
                        data.reference,
                        &set.samples,
                        cut,
                        buffers,
                        &mut on_progress,
                    );
                    let of_set = of_set.ok_or(TrainError::Stopped)?;
                    if let Some(at) = of_set.iter().position(|value| !(LEAST_LIKELY..=0.1).contains(value)) {
                        return Err(TrainError::UnknownToReference { line: set.samples.sample(at).row });
                    }
                    found.push(of_set);
                    done_before += set.samples.len();
                }
                run.write_reference(&sets.map(|set| set.map(|set| &set.samples)), &found)?;
                found
            }
        };
        let rows = |set: &Dataset, reference| JudgedRows { groups: groups(&set.samples), reference };
        let of_evaluation = references.pop().unwrap_or_default();
        let of_training = references.pop().unwrap_or_default();
        Ok(Judged {
            options: preference,
            training: rows(data.training, of_training),
            evaluation: data.evaluation.map(|set| rows(set, of_evaluation)),
            reference: data.reference,
            longest,
        })
    }

    /// Evaluates after the step that `state` is at; `None` if it is to `stop`.
    fn evaluation(
        &mut self,
        parameters: &Parameters<'_>,
        data: &Dataset,
        cut: Cut,
        state: &State,
        stop: &mut dyn FnMut() -> bool,
    ) -> Option<Evaluated> {
        let started = Instant::now();
        let (model, adapter) = (parameters.model(), parameters.adapter());
        let mut classes = None;
        let (loss, perplexity, preference, margins) = match &self.judged {
            None if model.config().labels.is_some() => {
                let found =
                    classify::evaluate_in(model, adapter, &data.samples, cut, &mut self.buffers, stop)?;
                classes = Some(found.metrics);
                (found.loss, None, None, Vec::new())
            }
            None => {
                let found = evaluate_in(model, adapter, &data.samples, cut, &mut self.buffers, stop)?;
                (found.loss, Some(found.perplexity), None, Vec::new())
            }
            Some(Judged { options, evaluation, reference, longest, .. }) => {
                let rows = evaluation.as_ref().expect("held-out rows are judged");
                let buffers = &mut self.buffers;
                let mut computing = Computing { model, adapter, reference: *reference, cut, buffers };
                let samples = &data.samples;
                let found = preference::evaluate_in(&mut computing, samples, rows, options, *longest, stop)?;
                (found.loss, None, Some(found.metrics), found.margins(&rows.groups, options))
            }
        };
        let record = EvaluationRecord {
            step: state.step,
            loss,
            perplexity,
            best: false,
            seconds: started.elapsed().as_secs_f64(),
            preference,
            classes,
        };
        // What the run begins with is there already.
        let best = state.step > 0 && self.best_by.is_better(&record, state.best.as_ref());
        Some(Evaluated { record: EvaluationRecord { best, ..record }, margins })
    }
}
