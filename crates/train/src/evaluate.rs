//! What a model with an adapter makes of held-out rows: loss, perplexity, and its answers.

use lorafit_data::{GenerationRow, SampleRef, Samples, Tokenizer, TokenizerError};
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, NotNumbers, Prompts, Sampling, Stream, generate, most_new_tokens};

use crate::frozen::{FrozenOutputs, Share};
use crate::stream::{Cut, Micro, MicroBatchSize, cut};

/// Loss over a dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean over all supervised tokens.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
}

/// Evaluates in micro-batches of about `budget` tokens; what rows of one begin with alike is computed once.
pub fn evaluate(model: &Model, adapter: Option<&Adapter>, samples: &Samples, budget: usize) -> Evaluation {
    evaluate_until(model, adapter, samples, budget, &mut || false).expect("nobody stops it")
}

/// As [`evaluate`]. `None` if it is to `stop`, which is asked before every micro-batch.
pub fn evaluate_until(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &Samples,
    budget: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Option<Evaluation> {
    let (mut buffers, cut) = buffers_and_cut(model, adapter, samples, budget);
    evaluate_in(model, adapter, samples, cut, &mut buffers, stop)
}

/// The buffers of an evaluation in micro-batches of about `budget` tokens, and how samples are cut into those.
pub(crate) fn buffers_and_cut(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &Samples,
    budget: usize,
) -> (Buffers, Cut) {
    let tokens = MicroBatchSize::of_evaluation(samples, budget).tokens;
    let buffers = Buffers::for_evaluation(model.config(), adapter, model.device(), tokens);
    (buffers, Cut::of(model.config(), budget, true))
}

/// As [`evaluate`], in buffers that are already there. `None` if it is to `stop`, which is asked before every micro-batch.
pub(crate) fn evaluate_in(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &Samples,
    how: Cut,
    buffers: &mut Buffers,
    stop: &mut dyn FnMut() -> bool,
) -> Option<Evaluation> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let all = Share { samples, indices: &all, frozen: None };
    Some(Evaluation::of(samples, sum_in(model, adapter, all, how, buffers, stop)?))
}

/// The losses of all supervised tokens of a share, added up; `None` if it is to `stop`.
pub(crate) fn sum_in(
    model: &Model,
    adapter: Option<&Adapter>,
    Share { samples, indices, frozen }: Share<'_>,
    how: Cut,
    buffers: &mut Buffers,
    stop: &mut dyn FnMut() -> bool,
) -> Option<f64> {
    let mut sum = 0.0;
    for micro in cut(samples, indices, how) {
        if stop() {
            return None;
        }
        sum += loss_of(model, adapter, &micro, frozen, buffers);
    }
    Some(sum)
}

/// The losses of a micro-batch, added up.
pub(crate) fn loss_of(
    model: &Model,
    adapter: Option<&Adapter>,
    micro: &Micro,
    frozen: Option<&FrozenOutputs>,
    buffers: &mut Buffers,
) -> f64 {
    let loss = |stream: Stream<'_>, buffers: &mut Buffers| model.loss(adapter, stream, buffers).total();
    FrozenOutputs::above(frozen, micro, model, buffers, loss)
}

impl Evaluation {
    /// Of samples whose losses add up to `sum`.
    pub(crate) fn of(samples: &Samples, sum: f64) -> Self {
        let supervised: usize = samples.iter().map(SampleRef::supervised_tokens).sum();
        let loss = sum / supervised as f64;
        Evaluation { loss, perplexity: loss.exp(), supervised_tokens: supervised as u64 }
    }
}

/// Greedy answers to every row.
#[derive(Clone, Debug)]
pub struct Answers {
    /// What the model wrote, in the order of the rows.
    pub texts: Vec<String>,
    /// Answers that were ended by the context that the model is made for.
    pub ended_by_context: usize,
}

/// Why rows cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Ids that the tokenizer cannot decode.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model computes no numbers.
    #[error(transparent)]
    NotNumbers(#[from] NotNumbers),
}

/// Sequences generated side by side, where memory allows.
pub const SIDE_BY_SIDE: usize = 16;

/// Who answers, and how.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its adapter, if any.
    pub adapter: Option<&'a Adapter>,
    /// What its tokens mean.
    pub tokenizer: &'a Tokenizer,
    /// The longest answer; the context may end it before.
    pub max_new_tokens: usize,
    /// Answers that are generated at once.
    pub side_by_side: usize,
}

/// Answers every row greedily. `on_progress(done)` is told as rows finish. `None` if it is `interrupted`, which is asked
/// before every prompt and every round of tokens.
///
/// # Errors
/// Logits that are not numbers; ids that the tokenizer cannot decode.
pub fn answer(
    answering: Answering<'_>,
    rows: &[GenerationRow],
    mut on_progress: impl FnMut(usize),
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Answers>, AnswerError> {
    let prompts: Vec<&[u32]> = rows.iter().map(|r| &r.prompt_ids[..]).collect();
    let found = answer_all(answering, Sampling::default(), (&prompts, &[]), &mut on_progress, interrupted)?;
    Ok(found.map(|answers| Answers {
        ended_by_context: answers.iter().filter(|answer| answer.end == End::Context).count(),
        texts: answers.into_iter().map(|answer| answer.text).collect(),
    }))
}

/// One answer that is drawn at random.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Token ids of the prompt.
    pub prompt: &'a [u32],
    /// The random seed of the answer.
    pub seed: u64,
}

/// An answer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it wrote.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Why it is no longer.
    pub end: End,
}

/// What ended an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model.
    Model,
    /// The longest answer that was asked for.
    Longest,
    /// The context that the model is made for.
    Context,
}

/// Draws answers, each of which depends on its prompt and its seed alone. Equal prompts that follow each other are computed
/// once. `None` if it is `interrupted`, as in [`answer`].
///
/// # Errors
/// As [`answer`].
pub fn sample(
    answering: Answering<'_>,
    sampling: Sampling,
    draws: &[Draw<'_>],
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Answer>>, AnswerError> {
    let (prompts, seeds): (Vec<&[u32]>, Vec<u64>) = draws.iter().map(|draw| (draw.prompt, draw.seed)).unzip();
    answer_all(answering, sampling, (&prompts, &seeds), &mut |_| {}, interrupted)
}

/// Answers prompts, as many at once as [`Answering`] says: where an answer ends, the next begins.
fn answer_all(
    answering: Answering<'_>,
    sampling: Sampling,
    (prompts, seeds): (&[&[u32]], &[u64]),
    on_progress: &mut dyn FnMut(usize),
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Answer>>, AnswerError> {
    let Answering { model, adapter, tokenizer, max_new_tokens, side_by_side } = answering;
    let stop = tokenizer.eos_ids();
    let request = Prompts { ids: prompts, stop, max_new_tokens, sampling, seeds, side_by_side };
    let mut done = 0;
    let mut on_token = |_, token: Option<u32>| {
        if token.is_none() {
            done += 1;
            on_progress(done);
        }
        true
    };
    let found = generate(model, adapter, request, &mut on_token, interrupted)?;
    if interrupted() {
        return Ok(None);
    }
    let mut answers = Vec::with_capacity(found.len());
    for (prompt, ids) in prompts.iter().zip(found) {
        let most = most_new_tokens(model.config(), prompt.len(), max_new_tokens);
        let end = match ids.len() == most {
            false => End::Model,
            true if most < max_new_tokens => End::Context,
            true => End::Longest,
        };
        answers.push(Answer { text: tokenizer.decode(&ids, true)?, tokens: ids.len(), end });
    }
    Ok(Some(answers))
}
