//! One optimizer step, and one evaluation: what of a run is arithmetic.

use std::time::{Duration, Instant};

use lorafit_data::{Dataset, Groups, Samples};
use lorafit_kernels::ops::cross_entropy::Objective;
use lorafit_kernels::ops::dropout::Mask;
use lorafit_kernels::ops::elementwise::sum_squares;
use lorafit_kernels::random;
use lorafit_model::adapter::Adapter;
use lorafit_model::{ActiveAdapter, Buffers, EmbeddingNoise, Losses, Model, Parameters, Stream};

use super::TrainOptions;
use super::error::NotTaken;
use super::judged::{Few, Judged};
use super::lanes::{Lane, Lanes};
use crate::best_by::BestBy;
use crate::checkpoint::State;
use crate::classify::{self, ClassEvaluation};
use crate::evaluate::{Evaluation, loss_of};
use crate::frozen::{Frozen, FrozenOutputs, Share};
use crate::group::{ALONE, GroupError, ProcessGroup, Reducer, Reduction};
use crate::guard::{Culprit, Refusal};
use crate::memory::{peak_device_bytes, peak_rss_bytes};
use crate::metrics::{EvaluationRecord, StepRecord};
use crate::optim::AdamW;
use crate::preference::step::{Computing, Totals, distance, weigh, with_prompt};
use crate::preference::{self, PreferenceMetrics, Sums};
use crate::restart::{steps_before, steps_through};
use crate::schedule::{Schedule, ScheduleKind};
use crate::stream::{Cut, Micro, MicroBatchSize, cut_groups, parts};

/// What the rows of a step gave; their gradient stands in the buffers.
pub(super) struct Computed {
    /// Mean over the supervised tokens.
    pub(super) loss: f64,
    grad_norm: f64,
    /// Tokens that count in the loss.
    supervised: usize,
    /// Tokens that were computed: those that rows share once.
    tokens: u64,
    /// Of judged replies.
    preference: Option<PreferenceMetrics>,
    /// Of several processes.
    reduction: Option<Reduction>,
}

/// What the micro-batches of a step came to.
struct Summed {
    /// The step's loss.
    loss: f64,
    /// Tokens that were computed.
    tokens: u64,
    /// Tokens that count in the loss.
    supervised: usize,
    /// Of judged replies.
    judged: Option<SummedJudgements>,
}

/// What of judged replies means are made of, and how far the model is from its reference.
struct SummedJudgements {
    sums: Sums,
    apart: Option<f64>,
    objective: &'static preference::Objective,
}

/// What held-out rows came to.
pub(super) struct Evaluated {
    pub(super) record: EvaluationRecord,
    /// Of each pair, the reward of its chosen reply above that of its rejected one.
    pub(super) margins: Vec<f64>,
}

impl Evaluated {
    /// The evaluation at the start of a run, from a mean loss that was computed elsewhere.
    pub(super) fn known(loss: f64) -> Self {
        let (step, best, seconds, preference, classes) = (0, false, 0.0, None, None);
        let perplexity = Some(loss.exp());
        let record = EvaluationRecord { step, loss, perplexity, best, seconds, preference, classes };
        Evaluated { record, margins: Vec::new() }
    }
}

/// What chance does in a step.
#[derive(Clone, Copy)]
struct Chance {
    mask: Option<Mask>,
    noise: Option<EmbeddingNoise>,
    /// Of this process; others have other streams.
    rank: u64,
}

impl Chance {
    /// In step `number`.
    fn of(parameters: &Parameters<'_>, options: &TrainOptions, number: u64, rank: usize) -> Self {
        let p = parameters.dropout();
        let mask = (p > 0.0).then(|| Mask { p, seed: random::mix(options.seed) }.derive(number));
        let noise = options.neftune_alpha.map(|alpha| {
            // Another stream than that of dropout.
            let seed = random::mix(random::mix(!options.seed) ^ random::mix(number));
            EmbeddingNoise { alpha, seed }
        });
        Chance { mask, noise, rank: rank as u64 }
    }

    /// In a micro-batch of it.
    fn active<'a>(self, adapter: Option<&'a Adapter>, part: usize) -> ActiveAdapter<'a> {
        let part = (self.rank << 32) | part as u64;
        let mask = self.mask.map(|mask| mask.derive(part));
        let noise = self.noise.map(|noise| EmbeddingNoise { seed: noise.seed ^ random::mix(part), ..noise });
        ActiveAdapter { adapter, mask, noise }
    }
}

/// One optimizer step after another, and what lives between them beside the parameters.
pub(crate) struct Stepper<'a> {
    /// The processes that take its steps together.
    pub(super) group: &'a dyn ProcessGroup,
    reducer: Reducer,
    /// Of training on judged replies.
    pub(super) judged: Option<Judged<'a>>,
    /// What the frozen blocks make of the rows, if that is kept.
    pub(super) frozen: Option<Frozen>,
    /// By what the best evaluation is told.
    best_by: BestBy,
    pub(super) lanes: Lanes,
    pub(super) optimizer: AdamW,
    schedule: Schedule,
    /// Losses above this are refused.
    pub(super) spike_above: Option<f64>,
}

impl<'a> Stepper<'a> {
    /// For micro-batches of up to `size`.
    pub(crate) fn new(
        parameters: &Parameters<'_>,
        size: MicroBatchSize,
        options: &TrainOptions,
        total_steps: u64,
    ) -> Self {
        Stepper {
            group: &ALONE,
            reducer: Reducer::default(),
            judged: None,
            frozen: None,
            best_by: options.best_by,
            lanes: Lanes::new(parameters, size, options),
            optimizer: AdamW::new(parameters, options.optimizer, options.weight_decay, options.b_rate_ratio),
            schedule: options.schedule_over(total_steps),
            spike_above: None,
        }
    }

    /// Has the learning rate follow the round after so many restarts of a run whose first round has so many steps.
    pub(super) fn set_round(&mut self, options: &TrainOptions, first_round: u64, restarts: u64) {
        let (earlier, end) = (steps_before(first_round, restarts), steps_through(first_round, restarts));
        self.schedule = options.schedule_over(end - earlier).after(earlier);
    }

    /// Has its steps be on the judged rows of `samples`, if rows are judged, without a run whose folder has what the reference says.
    pub(crate) fn judge(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        reference: Option<&'a Adapter>,
        size: MicroBatchSize,
        options: &TrainOptions,
    ) {
        let Some(preference) = options.preference else { return };
        let few = Few { preference, samples, reference, cut: options.cut(parameters.model().config()), size };
        self.judged = Some(few.judged(parameters.model(), &mut self.lanes.first.buffers));
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
    ) -> Result<StepRecord, NotTaken> {
        let started = Instant::now();
        let Computed { loss, grad_norm, supervised, tokens: computed, preference, reduction } =
            self.compute(parameters, samples, indices, number, options)?;
        // The constant is that of torch.nn.utils.clip_grad_norm_.
        let clip = options.max_grad_norm.map_or(1.0, |max| (max / (grad_norm + 1e-6)).min(1.0));
        let learning_rate = self.schedule.rate(number);
        self.optimizer.step(parameters, &self.lanes.first.gradients, learning_rate, clip);
        parameters.prepare();

        let seconds = started.elapsed().as_secs_f64();
        let labels = usize::from(parameters.model().config().labels.is_some());
        let of_sample = |i: usize| (samples.sample(i).len() - labels) as u64;
        let tokens = self.samples_of(indices).into_iter().map(of_sample).sum();
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
            reduction,
        })
    }

    /// Loss and gradient of the rows of step `number`; refused if one of them is not finite, or the loss is a spike.
    pub(super) fn compute(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        number: u64,
        options: &TrainOptions,
    ) -> Result<Computed, NotTaken> {
        let of_step = self.samples_of(indices);
        let refusal = |culprit, value| {
            let mut lines: Vec<usize> = of_step.iter().map(|&i| samples.sample(i).row).collect();
            lines.dedup();
            NotTaken::Refused(Refusal { step: number, culprit, value, lines })
        };
        let chance = Chance::of(parameters, options, number, self.group.rank());
        self.lanes.clear();
        let summed = match self.judged {
            None => self.replies(parameters, samples, indices, chance, options),
            Some(_) => self.judgements(parameters, samples, indices, chance, options)?,
        };
        let (Summed { loss, tokens, supervised, judged }, waited) = self.of_all(summed)?;
        let preference = judged.map(|judged| judged.sums.metrics(judged.apart, judged.objective));
        if let Some(adapter) = parameters.adapter() {
            self.lanes.first.gradients.clear_start(adapter);
        }
        #[cfg(test)]
        let loss = super::resume_tests::spoiled(number, Culprit::Loss, loss);
        if !loss.is_finite() {
            return Err(refusal(Culprit::Loss, loss));
        }
        if self.spike_above.is_some_and(|most| loss > most) {
            return Err(refusal(Culprit::LossSpike, loss));
        }
        let reduction = self.reduce(waited)?;
        let grad_norm = sum_squares(&self.lanes.first.gradients.tensors().collect::<Vec<_>>()).sqrt();
        #[cfg(test)]
        let grad_norm = super::resume_tests::spoiled(number, Culprit::GradientNorm, grad_norm);
        if !grad_norm.is_finite() {
            return Err(refusal(Culprit::GradientNorm, grad_norm));
        }
        Ok(Computed { loss, grad_norm, supervised, tokens, preference, reduction })
    }

    /// The rows of `indices` that this process computes.
    fn own_share(&self, samples: &Samples, rows: &Groups, indices: &[usize], how: Cut) -> Vec<usize> {
        self.group.divide(samples, rows, indices, how.shares()).swap_remove(self.group.rank())
    }

    /// What the shares of all processes came to, and how long this one waited for the others.
    fn of_all(&self, mut own: Summed) -> Result<(Summed, Duration), GroupError> {
        let started = Instant::now();
        if self.group.is_alone() {
            return Ok((own, Duration::ZERO));
        }
        let sums = own.judged.as_ref().map(|judged| judged.sums).unwrap_or_default();
        let numbers = [own.loss, own.tokens as f64].into_iter().chain(sums.to_numbers()).collect();
        let all = self.group.gather_values(Some(numbers))?.unwrap_or_default();
        let (mut loss, mut tokens, mut sums) = (0.0, 0, Sums::default());
        for values in &all {
            let Some([of_share, computed, of_judged @ ..]) = values.first_chunk::<12>() else { continue };
            loss += of_share;
            tokens += *computed as u64;
            sums.add(&Sums::from_numbers(*of_judged));
        }
        own.judged.iter_mut().for_each(|judged| judged.sums = sums);
        Ok((Summed { loss, tokens, ..own }, started.elapsed()))
    }

    /// Adds up the gradients of all processes.
    fn reduce(&mut self, waited: Duration) -> Result<Option<Reduction>, GroupError> {
        if self.group.is_alone() {
            return Ok(None);
        }
        let (took, bytes) = self.reducer.sum(self.group, &mut self.lanes.first.gradients.tensors_mut())?;
        Ok(Some(Reduction {
            processes: self.group.size(),
            wait_seconds: waited.as_secs_f64(),
            seconds: took.as_secs_f64(),
            bytes,
        }))
    }

    /// Adds up the gradient of replies that are learnt as they are: the mean loss over the tokens of all rows, of which this process
    /// computes a share.
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
        let how = options.cut(model.config());
        let own = self.own_share(samples, &Groups::alone(samples.len()), indices, how);
        let parts = parts(samples, &own, how);
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.training);
        let found = self.lanes.compute(parts.len(), |part, Lane { buffers, gradients }| {
            let (active, micro) = (chance.active(adapter, part), Micro::of_part(samples, &parts[part], how));
            let compute = |stream: Stream<'_>, buffers: &mut Buffers| {
                model.loss_and_gradient(active, stream, objective, buffers, gradients)
            };
            let losses = FrozenOutputs::above(frozen, &micro, model, buffers, compute);
            (losses, micro.tokens() as u64)
        });
        self.lanes.add_up();
        let (losses, tokens): (Vec<Losses>, Vec<u64>) = found.into_iter().unzip();
        let tokens = tokens.iter().sum();
        // Not before the last micro-batch: a GPU is waited for where its values are read.
        let loss = losses.iter().map(Losses::total).sum::<f64>() / supervised as f64;
        Summed { loss, tokens, supervised, judged: None }
    }

    /// Adds up the gradient of judged replies.
    fn judgements(
        &mut self,
        parameters: &Parameters<'_>,
        samples: &Samples,
        indices: &[usize],
        chance: Chance,
        options: &TrainOptions,
    ) -> Result<Summed, GroupError> {
        let Stepper { judged, lanes, group, frozen, .. } = self;
        let Lane { buffers, gradients } = &mut lanes.first;
        let (group, frozen) = (*group, frozen.as_ref().map(|frozen| &frozen.training));
        let judged = judged.as_mut().expect("rows are judged");
        let Judged { options: preference, training: rows, reference, longest, .. } = judged;
        let (model, adapter) = (parameters.model(), parameters.adapter());
        let how = options.cut(model.config());
        let reference = reference.as_mut();
        let mut computing = Computing { model, adapter, reference, cut: how, buffers, frozen, group };
        let apart = distance(&mut computing, samples, indices, *longest, preference)?;
        let totals = Totals::of(samples, rows, indices, apart.unwrap_or(0.0), preference);
        let (mut loss, mut sums, mut tokens) = (0.0, Sums::default(), 0);
        let own = group.divide(samples, &rows.groups, indices, how.shares()).swap_remove(group.rank());
        let micro_batches = cut_groups(samples, &rows.groups, &own, how, with_prompt(preference));
        for (part, micro) in micro_batches.enumerate() {
            let active = chance.active(adapter, part);
            let of_micro = |losses: &[f32]| {
                let weighed = weigh(&micro, losses, samples, &rows.reference, &totals, preference);
                loss += weighed.loss;
                sums.add(&weighed.sums);
                weighed.weights
            };
            let compute = |stream: Stream<'_>, buffers: &mut Buffers| {
                model.loss_and_gradient_weighed(active, stream, of_micro, buffers, gradients);
            };
            FrozenOutputs::above(frozen, &micro, model, buffers, compute);
            tokens += micro.tokens() as u64;
        }
        let of_rows =
            |&i: &usize| rows.groups.range(i).map(|i| samples.sample(i).supervised_tokens()).sum::<usize>();
        let supervised = indices.iter().map(of_rows).sum();
        let judged = SummedJudgements { sums, apart, objective: preference.objective };
        Ok(Summed { loss, tokens, supervised, judged: Some(judged) })
    }

    /// Evaluates after the step that `state` is at, each process a share of the rows; `None` if one of them is to `stop`.
    pub(super) fn evaluation(
        &mut self,
        parameters: &Parameters<'_>,
        data: &Dataset,
        cut: Cut,
        state: &State,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Evaluated>, GroupError> {
        let started = Instant::now();
        let (model, adapter, group) = (parameters.model(), parameters.adapter(), self.group);
        let mut classes = None;
        let samples = &data.samples;
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.evaluation.as_ref());
        let divided = || {
            let all: Vec<usize> = (0..samples.len()).collect();
            group.divide(samples, &Groups::alone(samples.len()), &all, cut.shares())
        };
        let (loss, perplexity, preference, margins) = match &mut self.judged {
            None if model.config().labels.is_some() => {
                let (divided, buffers) = (divided(), &mut self.lanes.first.buffers);
                let own = Share { samples, indices: &divided[group.rank()], frozen };
                let own = classify::scores_in(model, adapter, own, cut, buffers, stop);
                let Some(scores) = scores_of_all(group, &divided, own, model.config().outputs())? else {
                    return Ok(None);
                };
                let found = ClassEvaluation::of(samples, scores);
                classes = Some(found.metrics);
                (found.loss, None, None, Vec::new())
            }
            None => {
                let divided = divided();
                let own = Share { samples, indices: &divided[group.rank()], frozen };
                let own = sum_in(model, adapter, own, cut, &mut self.lanes, stop).map(|sum| [sum]);
                let Some([sum]) = group.add_up(own)? else { return Ok(None) };
                let found = Evaluation::of(samples, sum);
                (found.loss, Some(found.perplexity), None, Vec::new())
            }
            Some(Judged { options, evaluation, reference, longest, .. }) => {
                let rows = evaluation.as_ref().expect("held-out rows are judged");
                let (buffers, reference) = (&mut self.lanes.first.buffers, reference.as_mut());
                let mut computing = Computing { model, adapter, reference, cut, buffers, frozen, group };
                let found = preference::evaluate_in(&mut computing, samples, rows, options, *longest, stop)?;
                let Some(found) = found else { return Ok(None) };
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
        Ok(Some(Evaluated { record: EvaluationRecord { best, ..record }, margins }))
    }
}

/// As [`crate::evaluate::sum_in`], in lanes.
fn sum_in(
    model: &Model,
    adapter: Option<&Adapter>,
    Share { samples, indices, frozen }: Share<'_>,
    how: Cut,
    lanes: &mut Lanes,
    stop: &mut dyn FnMut() -> bool,
) -> Option<f64> {
    let mut sum = 0.0;
    for at_once in parts(samples, indices, how).chunks(lanes.count()) {
        if stop() {
            return None;
        }
        let losses = lanes.compute(at_once.len(), |place, lane| {
            let micro = Micro::of_part(samples, &at_once[place], how);
            loss_of(model, adapter, &micro, frozen, &mut lane.buffers)
        });
        losses.into_iter().for_each(|loss| sum += loss);
    }
    Some(sum)
}

/// The scores of all samples, each of which one process has computed; `None` if one of them was stopped.
fn scores_of_all(
    group: &dyn ProcessGroup,
    divided: &[Vec<usize>],
    own: Option<Vec<Vec<f32>>>,
    labels: usize,
) -> Result<Option<Vec<Vec<f32>>>, GroupError> {
    if group.is_alone() {
        return Ok(own);
    }
    let of_share = |scores: Vec<Vec<f32>>| {
        let of_sample = |&i: &usize| scores[i].iter().map(|score| f64::from(*score)).collect::<Vec<_>>();
        divided[group.rank()].iter().flat_map(of_sample).collect()
    };
    let Some(all) = group.gather_values(own.map(of_share))? else { return Ok(None) };
    let mut scores = vec![Vec::new(); divided.iter().map(Vec::len).sum()];
    for (share, values) in divided.iter().zip(&all) {
        for (i, of_sample) in share.iter().zip(values.chunks(labels)) {
            scores[*i] = of_sample.iter().map(|score| *score as f32).collect();
        }
    }
    Ok(Some(scores))
}
