//! What a model says of one text: an answer, piece by piece as it comes, or what a head that scores texts gives.

use std::ops::ControlFlow;

use lorafit_data::{Document, Message, reply_ids, text_ids};
use lorafit_model::adapter::Adapter;
use lorafit_model::{NotNumbers, Prompts};
use lorafit_remedy::{Setting, remedy};
use lorafit_train::score_text;
use serde_json::{Map, Value, json};

use crate::args::sampling::Sampling;
use crate::session::base::Base;
use crate::session::classified;
use crate::session::limits::Limits;
use crate::session::scoring::Scoring;
use crate::terminal::error::CliError;

/// The token ids of a conversation with the template's prompt for a reply.
pub fn chat_prompt(base: &Base, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
    let template = base.tokenizer.compile_chat_template()?.ok_or_else(|| {
        CliError::new("the model has no chat template").hint(remedy![
            "give one with ", Setting::Template;
            "leave out ", Setting::Chat, " and give the whole prompt as text"
        ])
    })?;
    let text = template.render(messages, true)?;
    // The template writes every special token itself.
    Ok(base.tokenizer.encode(&text, false)?)
}

/// Continues `ids`, handing each piece of text on as it comes; gives the number of new tokens.
pub fn stream_answer(
    base: &Base,
    adapter: Option<&Adapter>,
    ids: &[u32],
    sampling: &Sampling,
    piece: &mut dyn FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<usize> {
    let room = Limits::of(base).check_prompt(ids, sampling.max_new_tokens)?;
    let mut decoder = base.tokenizer.decode_stream(true);
    let mut failure = None;
    let mut hand_on = |text: anyhow::Result<String>| match text.and_then(|t| piece(&t)) {
        Ok(flow) => flow.is_continue(),
        Err(error) => {
            failure = Some(error);
            false
        }
    };
    let stop = base.tokenizer.eos_ids();
    let on_token =
        |_, token: Option<u32>| token.is_none_or(|token| hand_on(decoder.push(token).map_err(Into::into)));
    let settings = sampling.settings();
    let prompts =
        Prompts { ids: &[ids], stop, max_new_tokens: room, sampling: settings, seeds: &[], side_by_side: 1 };
    let never = &mut || false;
    let answers = lorafit_model::generate(&base.model, adapter, prompts, on_token, never);
    hand_on(decoder.finish().map_err(Into::into));
    match (failure, answers) {
        (Some(error), _) => Err(error),
        (None, Err(NotNumbers { .. })) => Err(base.not_numbers()),
        (None, Ok(answers)) => {
            Limits::of(base).tell_end(answers[0].len(), room, sampling.max_new_tokens);
            Ok(answers[0].len())
        }
    }
}

/// A text that a head has scored.
pub struct Scored {
    /// Tokens of the text.
    pub tokens: usize,
    /// What the head gives.
    pub scores: Vec<f32>,
}

impl Scored {
    /// Has the head of `base`, which scores texts as `scoring` says, score a text.
    ///
    /// # Errors
    /// A text that has no tokens or is beyond the model ([`lorafit_data::RowProblem`]), and scores that are not numbers.
    pub fn of(
        base: &Base,
        adapter: Option<&Adapter>,
        scoring: &Scoring,
        document: &Document,
    ) -> anyhow::Result<Self> {
        let ids = match scoring {
            Scoring::Reward => reply_ids(&base.tokenizer, document)?,
            Scoring::Classes(_) => text_ids(&base.tokenizer, document)?,
        };
        Limits::of(base).check_prompt(&ids, 1)?;
        let scores = score_text(&base.model, adapter, &ids);
        match scores.iter().all(|score| score.is_finite()) {
            true => Ok(Scored { tokens: ids.len(), scores }),
            false => Err(base.not_numbers()),
        }
    }

    /// The reward, or the label with the probabilities of all.
    pub fn to_json(&self, scoring: &Scoring) -> Map<String, Value> {
        let mut found = match scoring {
            Scoring::Reward => Map::from_iter([("reward".to_owned(), json!(self.scores[0]))]),
            Scoring::Classes(labels) => classified::of_text(labels, &self.scores),
        };
        found.insert("prompt_tokens".to_owned(), json!(self.tokens));
        found
    }
}
