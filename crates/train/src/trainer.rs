//! The one training loop.
//!
//! An optimizer step takes `batch_size * gradient_accumulation` samples, cuts them into micro-batches of about
//! `micro_batch_tokens` tokens, and adds up the gradient of the mean loss over all supervised tokens of the
//! step. What samples of a micro-batch begin with alike is computed once. The result depends neither on the cut nor on
//! the sharing beyond rounding, so both are a choice of memory and speed alone. Only random
//! numbers make a difference: tokens that samples share have the same dropout mask and the same noise.

use std::path::Path;
use std::time::Instant;

use lorafit_data::{Dataset, Groups, Order, Samples, Steps};
use lorafit_model::adapter::Adapter;
use lorafit_model::{ActivationPolicy, Config, Parameters};
use lorafit_remedy::Setting;

use crate::average::{Average, Averaging};
use crate::best_by::BestBy;
use crate::cadence::CheckpointEvery;
use crate::checkpoint::{self, Best, Checkpoint, Held, State};
use crate::frozen::{Frozen, FrozenCache};
use crate::group::{ALONE, GroupError, ProcessGroup};
use crate::guard::{Culprit, OnNan, Refusal};
use crate::history::RunHistory;
use crate::metrics::{EvaluationRecord, SkipRecord, StepRecord};
use crate::optim::OptimizerKind;
use crate::patience::{Patience, PatienceState};
use crate::preference::PreferenceOptions;
use crate::reference_cache::ReferenceCache;
use crate::restart::{RestartReason, steps_before, steps_through};
use crate::run::RunFolder;
use crate::run_error::RunError;
use crate::schedule::{Schedule, ScheduleKind};
use crate::stream::{Cut, MicroBatchSize, tokens_of_each};
use crate::verdict::{Choice, Curve, StoppedEarly, Verdict, verdict};

mod error;
#[cfg(test)]
mod frozen_tests;
#[cfg(test)]
mod group_tests;
mod judged;
mod lanes;
#[cfg(test)]
mod preference_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod resume_tests;
mod saver;
#[cfg(test)]
mod score_tests;
mod stepper;
#[cfg(test)]
mod tests;

use error::NotTaken;
pub use error::{Divergence, TrainError};
use judged::{Asking, Judged};
use saver::Saver;
use stepper::Evaluated;
pub(crate) use stepper::Stepper;

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

/// The loss on held-out rows before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StartLoss {
    /// Nobody asks for it.
    NotAsked,
    /// It is computed.
    Measured,
    /// It is this one, which was computed elsewhere: a mean over tokens.
    Known(f64),
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
    /// Micro-batches computed at the same time, which share these tokens evenly; one where replies are judged.
    pub micro_batches_at_once: usize,
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
    /// Share of the steps that warm up; `None` for the usual one ([`Schedule::with_ratios`]).
    pub warmup_ratio: Option<f64>,
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
    /// The evaluation of what the run begins with, before its first step.
    pub start_loss: StartLoss,
    /// Which evaluation is the best.
    pub best_by: BestBy,
    /// End when evaluations no longer lower the loss.
    pub patience: Option<Patience>,
    /// When there is more to learn at the end ([`RestartReason`]), begin the schedule anew for twice as many steps, at most so many
    /// times. Early stopping begins anew, too, with the second half of those steps.
    pub restarts: u64,
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
            micro_batches_at_once: 1,
            prefix_sharing: true,
            activations: ActivationPolicy::default(),
            optimizer: OptimizerKind::AdamW,
            learning_rate,
            schedule: ScheduleKind::Constant,
            warmup_ratio: Some(0.0),
            decay_ratio: 0.0,
            b_rate_ratio: 1.0,
            weight_decay: 0.0,
            label_smoothing: 0.0,
            neftune_alpha: None,
            max_grad_norm: None,
            order: Order::File,
            seed: 0,
            eval_every: None,
            start_loss: StartLoss::NotAsked,
            best_by: BestBy::Loss,
            patience: None,
            restarts: 0,
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

    /// Optimizer steps of a run over `rows` rows ([`TrainOptions::groups`]), before any restart.
    pub fn total_steps(&self, rows: usize) -> u64 {
        self.duration.steps(rows, self.batch_size * self.gradient_accumulation)
    }

    /// The same after so many restarts.
    pub fn total_steps_after(&self, rows: usize, restarts: u64) -> u64 {
        steps_through(self.total_steps(rows), restarts)
    }

    /// The course of the learning rate over so many steps.
    pub fn schedule_over(&self, steps: u64) -> Schedule {
        let TrainOptions { schedule, learning_rate, warmup_ratio, decay_ratio, .. } = *self;
        Schedule::with_ratios(schedule, learning_rate, warmup_ratio, decay_ratio, steps)
    }

    /// Tokens of a micro-batch, about.
    pub fn tokens_of_each(&self) -> usize {
        tokens_of_each(self.micro_batch_tokens, self.micro_batches_at_once)
    }

    /// How samples are cut into micro-batches of a model.
    pub(crate) fn cut(&self, config: &Config) -> Cut {
        let cut = Cut::of(config, self.tokens_of_each(), self.prefix_sharing);
        cut.side_by_side(self.micro_batches_at_once)
    }

    /// A bound on what is computed at once, in training and in evaluation.
    pub fn micro_batch_size(&self, data: &Dataset, evaluation: Option<&Dataset>) -> MicroBatchSize {
        let of_training = self.of_training(data);
        let tokens = self.evaluation_tokens(of_training);
        let of_evaluation = |d: &Dataset| self.of_rows(&d.samples, usize::MAX, tokens);
        of_training.max(evaluation.map(of_evaluation).unwrap_or_default())
    }

    pub(crate) fn of_training(&self, data: &Dataset) -> MicroBatchSize {
        self.of_rows(&data.samples, self.batch_size * self.gradient_accumulation, self.tokens_of_each())
    }

    /// Of rows that are taken `of_step` at a time, in micro-batches of about so many tokens.
    pub(crate) fn of_rows(&self, samples: &Samples, of_step: usize, tokens: usize) -> MicroBatchSize {
        match self.preference {
            None => MicroBatchSize::largest(samples, of_step, tokens),
            Some(preference) => {
                let all_targets = preference.has_prompt_targets();
                MicroBatchSize::largest_groups(samples, &samples.groups(), of_step, tokens, all_targets)
            }
        }
    }

    /// Tokens of a micro-batch of an evaluation. It computes in the buffers of training, which are not made larger for it.
    pub(crate) fn evaluation_tokens(&self, of_training: MicroBatchSize) -> usize {
        self.tokens_of_each().min(of_training.tokens)
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
    /// While frozen blocks compute all texts before the first step: so many of so many are done.
    fn on_frozen(&mut self, _done: usize, _texts: usize) {}
    /// The outputs of the lowest `blocks` blocks, which are frozen, are kept for `tokens` tokens; those for `known` of them were there.
    fn on_frozen_kept(&mut self, _blocks: usize, _tokens: u64, _known: u64) {}
    /// After a step that was computed and not taken.
    fn on_skip(&mut self, _record: &SkipRecord) {}
    /// While the reference of judged replies is asked: so many samples of so many are done.
    fn on_reference(&mut self, _done: usize, _samples: usize) {}
    /// What the reference says of so many samples is known from another run.
    fn on_known_reference(&mut self, _samples: usize) {}
    /// After every checkpoint.
    fn on_checkpoint(&mut self, _step: u64, _path: &Path) {}
    /// There is more to learn after the last step: the run goes on until it has taken `total_steps`.
    fn on_restart(&mut self, _step: u64, _total_steps: u64, _reason: RestartReason) {}
    /// Something could not be written. The run goes on, and tries again with the next checkpoint.
    fn on_warning(&mut self, _error: &RunError) {}
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

/// Where a run begins, and on whom: at its first step, or where a checkpoint left it. The parameters are handed over by themselves.
#[derive(Debug)]
pub struct Start<'a> {
    /// The checkpoint, if any.
    pub checkpoint: Option<&'a Checkpoint>,
    /// The processes that train together, of which the first has the run's folder.
    pub group: &'a dyn ProcessGroup,
}

impl Default for Start<'_> {
    /// At the first step, in one process.
    fn default() -> Self {
        Start { checkpoint: None, group: &ALONE }
    }
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
    /// Where what the reference says is kept for other runs, if anywhere.
    pub cache: Option<&'a ReferenceCache>,
    /// Where the outputs of frozen blocks are kept; `None` to compute them in every pass. Passed over where there are none, where
    /// embeddings get noise, and with several processes.
    pub frozen: Option<&'a FrozenCache>,
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
    result.map_err(|error| training.ended(error))
}

/// What the frozen blocks make of all rows, if that is kept.
fn begin_frozen(
    parameters: &Parameters<'_>,
    data: TrainData<'_>,
    (options, cut): (&TrainOptions, Cut),
    stepper: &mut Stepper<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<Frozen>, TrainError> {
    let below = (parameters.model(), stepper.lanes.first.gradients.blocks_below());
    let Some(cache) = data.frozen else { return Ok(None) };
    if below.1 == 0 || options.neftune_alpha.is_some() || !stepper.group.is_alone() {
        return Ok(None);
    }
    let sets = [Some(data.training), data.evaluation];
    let texts: usize = sets.iter().flatten().map(|set| set.samples.len()).sum();
    let (mut done_before, mut tokens, mut known) = (0, 0, 0);
    let mut outputs = |set: &Dataset| {
        let mut on_progress = |done: usize| {
            observer.on_frozen(done_before + done, texts);
            !observer.should_stop()
        };
        let found =
            cache.outputs(below, &set.samples, cut, &mut stepper.lanes.first.buffers, &mut on_progress);
        let found = found.map_err(|source| RunError::Frozen { source })?;
        let found = found.ok_or(TrainError::Stopped)?;
        let (rows, is_new) = found.rows();
        done_before += set.samples.len();
        tokens += rows;
        known += if is_new { 0 } else { rows };
        Ok::<_, TrainError>(found)
    };
    let found =
        outputs(data.training).and_then(|training| Ok((training, data.evaluation.map(outputs).transpose()?)));
    let (training, evaluation) = match found {
        Err(TrainError::Run(error)) => {
            observer.on_warning(&error);
            return Ok(None);
        }
        found => found?,
    };
    observer.on_frozen_kept(below.1, tokens, known);
    Ok(Some(Frozen { training, evaluation }))
}

/// A run that goes on: all that its loop reads and changes.
struct Training<'a, 'p> {
    parameters: &'a mut Parameters<'p>,
    data: TrainData<'a>,
    options: &'a TrainOptions,
    run: &'a mut RunFolder,
    observer: &'a mut dyn Observer,
    /// Steps before the first restart.
    first_round: u64,
    /// Steps of the run as far as it is known to go.
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
        start: Start<'a>,
        run: &'a mut RunFolder,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let rows = options.groups(&data.training.samples).len();
        let first_round = options.total_steps(rows);
        let restarts = start.checkpoint.map_or(0, |checkpoint| checkpoint.state.restarts.done);
        let total_steps = steps_through(first_round, restarts);
        let size = options.micro_batch_size(data.training, data.evaluation);
        parameters.prepare();
        let mut stepper = Stepper::new(parameters, size, options, first_round);
        stepper.set_round(options, first_round, restarts);
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
                size,
                is_resumed: start.checkpoint.is_some(),
                group: start.group,
            };
            let judged = Judged::begin(parameters, asking, &mut stepper.lanes.first.buffers, run, observer)?;
            stepper.judged = Some(judged);
        }
        stepper.group = start.group;
        let cut = Cut::of(parameters.model().config(), evaluation_tokens, options.prefix_sharing);
        stepper.frozen = begin_frozen(parameters, data, (options, cut), &mut stepper, observer)?;
        if !start.group.is_alone() {
            start.group.check_equal("what it begins to train", &fingerprint(parameters))?;
        }
        Ok(Training {
            parameters,
            data,
            options,
            run,
            observer,
            first_round,
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
            if (!finished || evaluation.is_some()) && self.should_stop()? {
                return Ok(true);
            }
            if let Some(evaluation) = evaluation {
                self.evaluate(evaluation)?;
                continue;
            }
            if finished {
                if self.restart()? {
                    continue;
                }
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

    /// Begins another round if there is more to learn at the end of this one; whether there is one.
    fn restart(&mut self) -> Result<bool, TrainError> {
        let (restarts, options) = (&self.state.restarts, self.options);
        if restarts.done >= options.restarts || self.stopped_early().is_some() {
            return Ok(false);
        }
        // Smoothed targets have a higher loss, and judgements may be told apart by another number than their loss.
        let is_comparable = options.preference.is_none() && options.label_smoothing == 0.0;
        let Some(reason) = restarts.reason(is_comparable) else { return Ok(false) };
        self.state.restarts.restart();
        let done = self.state.restarts.done;
        self.state.patience = PatienceState::default();
        self.total_steps = steps_through(self.first_round, done);
        self.stepper.set_round(self.options, self.first_round, done);
        if let Some(averaging @ Averaging::Last(_)) = self.options.averaging {
            // Other steps are the last.
            self.average = Some(Average::new(self.parameters, averaging, self.total_steps));
        }
        self.run.write_record(self.total_steps)?;
        self.observer.on_restart(self.state.step, self.total_steps, reason);
        Ok(true)
    }

    /// Whether a restart raised the learning rate so short a time ago that a higher loss says nothing.
    fn is_unsettled(&self) -> bool {
        let restarts = self.state.restarts.done;
        let first = steps_before(self.first_round, restarts);
        restarts > 0 && self.state.step < first + (self.total_steps - first) / 2
    }

    /// Whether one of the processes is asked to stop, on which all agree.
    fn should_stop(&mut self) -> Result<bool, GroupError> {
        let (group, own) = (self.stepper.group, self.observer.should_stop());
        if group.is_alone() {
            return Ok(own);
        }
        Ok(group.gather(&[u8::from(own)])?.contains(&vec![1]))
    }

    /// Why no more steps are taken although there are some, if that is so.
    fn stopped_early(&self) -> Option<StoppedEarly> {
        let (step, total_steps) = (self.state.step, self.total_steps);
        let patience = self.options.patience.filter(|patience| self.state.patience.is_over(*patience))?;
        let Patience { evaluations, min_delta } = patience;
        let by = self.options.best_by;
        (step < total_steps).then_some(StoppedEarly { step, total_steps, evaluations, min_delta, by })
    }

    /// What is evaluated before the next step, if it is time.
    fn evaluation_due(&self, finished: bool) -> Option<&'a Dataset> {
        let step = self.state.step;
        let due = match step {
            0 => self.options.start_loss != StartLoss::NotAsked,
            _ => finished || self.options.eval_every.is_some_and(|n| step.is_multiple_of(n)),
        };
        self.data.evaluation.filter(|_| due && self.state.evaluated != Some(step))
    }

    /// Evaluates, and saves what is better than all before. Stopped half-way there is nothing: it is made again when the run
    /// is resumed.
    fn evaluate(&mut self, data: &Dataset) -> Result<(), TrainError> {
        let is_unsettled = self.is_unsettled();
        let Training { parameters, options, run, observer, stepper, saver, state, .. } = self;
        let stop = &mut || observer.should_stop();
        let cut = Cut::of(parameters.model().config(), self.evaluation_tokens, options.prefix_sharing);
        let found = match options.start_loss {
            StartLoss::Known(loss) if state.step == 0 => Some(Evaluated::known(loss)),
            _ => stepper.evaluation(parameters, data, cut, state, stop)?,
        };
        let Some(Evaluated { mut record, margins }) = found else { return Ok(()) };
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
        let to_lower = options.best_by.to_lower(&record);
        if let Some(patience) = options.patience.filter(|_| !is_unsettled) {
            state.patience.remember(to_lower, patience);
        }
        state.restarts.remember(to_lower[0], state.step);
        observer.on_evaluation(&record);
        self.evaluated = Some(record);
        Ok(())
    }

    /// Takes step `number`, or refuses it.
    fn step(&mut self, indices: &[usize], number: u64) -> Result<(), TrainError> {
        let Training { parameters, data, options, run, observer, stepper, average, saver, state, .. } = self;
        stepper.spike_above = options.skip_loss_spikes.then(|| state.guard.spike_above()).flatten();
        let record = match stepper.step(parameters, &data.training.samples, indices, number, options) {
            Ok(record) => record,
            Err(NotTaken::Refused(refusal)) => return self.refuse(refusal),
            Err(NotTaken::Group(error)) => return Err(error.into()),
        };
        if let Some(average) = average {
            average.add(parameters, number);
        }
        state.guard.in_a_row = 0;
        if options.skip_loss_spikes {
            state.guard.remember(record.loss);
        }
        let round = self.total_steps - steps_before(self.first_round, state.restarts.done);
        if number > self.total_steps - round.div_ceil(3) {
            state.restarts.remember_late(record.loss);
        }
        saver.recorded(run.record_step(&record), *observer);
        if let Some(source) = stepper.frozen.as_ref().and_then(Frozen::take_failure) {
            observer.on_warning(&RunError::Frozen { source });
        }
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
            if !stops || self.has_diverged()? {
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
    fn has_diverged(&mut self) -> Result<bool, TrainError> {
        let Training { parameters, data, options, stepper, state, steps, .. } = self;
        let Some(next) = steps.next() else { return Ok(false) };
        stepper.spike_above = None;
        match stepper.compute(parameters, &data.training.samples, &next.indices, state.step + 2, options) {
            Ok(_) => Ok(false),
            Err(NotTaken::Refused(_)) => Ok(true),
            Err(NotTaken::Group(error)) => Err(error.into()),
        }
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

    /// What is left to do for a run that ends with an error: one that diverged gets its verdict. Where other processes are gone the
    /// steps that all have taken are saved: parameters change only when all gradients are there.
    fn ended(&mut self, error: TrainError) -> TrainError {
        let mut divergence = match error {
            TrainError::Diverged(divergence) => divergence,
            TrainError::Group(GroupError::Lost(_) | GroupError::Failed { .. }) => {
                // What is no checkpoint is not written. Why the run ends stays.
                let _ = self.save();
                return error;
            }
            _ => return error,
        };
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

    /// What the whole run came to, the part before a resumption included; the first process knows.
    fn verdict(&self, diverged: bool) -> Result<Option<Verdict>, RunError> {
        if !self.stepper.group.is_first() {
            return Ok(None);
        }
        let rows = self.data.evaluation.map_or(0, |data| self.options.groups(&data.samples).len());
        let config = self.parameters.model().config();
        // Judged replies are compared, not chosen; and the head of a reward gives one number.
        let choice = match (self.options.preference, config.labels) {
            (Some(_), _) => None,
            (None, Some(labels)) => Some(Choice::Labels(labels)),
            (None, None) => Some(Choice::Tokens(config.vocab_size)),
        };
        let curve = RunHistory::read(self.run.dir())?.curve(rows);
        Ok(verdict(&Curve { diverged, choice, stopped_early: self.stopped_early(), ..curve }))
    }

    /// Saves the average, if there is one, and evaluates it.
    fn save_average(&mut self) -> Result<Option<Averaged>, TrainError> {
        let Training { parameters, data, options, run, observer, stepper, average, state, .. } = self;
        let Some(average) = average.as_mut().filter(|average| average.steps > 0) else { return Ok(None) };
        average.swap(parameters);
        let cut = Cut::of(parameters.model().config(), self.evaluation_tokens, options.prefix_sharing);
        let stop = &mut || observer.should_stop();
        let evaluation = data.evaluation.map(|data| stepper.evaluation(parameters, data, cut, state, stop));
        let evaluation = match evaluation.transpose() {
            Ok(found) => found.flatten(),
            Err(error) => {
                average.swap(parameters);
                return Err(error.into());
            }
        };
        // It is none of the evaluations among which the best is looked for.
        let evaluation = evaluation.map(|found| EvaluationRecord { best: false, ..found.record });
        let saved = run.save_average(parameters, evaluation.as_ref());
        average.swap(parameters);
        saved?;
        Ok(Some(Averaged { steps: average.steps, evaluation }))
    }

    /// Saves the last checkpoint and the result.
    fn finish(&mut self, interrupted: bool, started: Instant) -> Result<Summary, TrainError> {
        let group = self.stepper.group;
        // Asked to stop, nobody has time to wait for others.
        if !group.is_alone() && !interrupted {
            group.check_equal("what it has trained", &fingerprint(self.parameters))?;
        }
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

/// A hash of all that is trained, bit for bit.
fn fingerprint(parameters: &Parameters<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for tensor in parameters.tensors() {
        let bytes: Vec<u8> =
            tensor.to_vec(tensor.len()).iter().flat_map(|value| value.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}
