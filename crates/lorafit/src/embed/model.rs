//! A base that stays open, with adapters by name: what answers and scores for a program.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::sync::Arc;

use clap::{Args as _, Command, FromArgMatches as _};
use lorafit_data::{Document, Message, Role};
use lorafit_model::adapter::Adapter;
use serde_json::{Value, json};

use crate::args::config_file::Given;
use crate::args::numbers::in_plain_words;
use crate::args::sampling::Sampling;
use crate::cli;
use crate::session::answer::{Scored, chat_prompt, stream_answer};
use crate::session::at_hand::AtHand;
use crate::session::base::Base;
use crate::session::limits::Limits;
use crate::terminal::error::{CliError, Failure};
use crate::terminal::host::Host;
use crate::terminal::interrupt;

/// The verb whose flags open a model.
const OPENS: &str = "chat";
/// The verb that answers and scores.
const ANSWERS: &str = "generate";

/// The input of an answer or a score.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// A text, as it stands.
    Text(String),
    /// The messages of a conversation, each with the name of its role.
    Chat(Vec<(String, String)>),
}

/// Adapters by name, each with what its update is multiplied by.
pub type Parts<'a> = &'a [(String, f64)];

/// A base with adapters at hand.
pub struct Model {
    at_hand: AtHand,
}

impl Model {
    /// Opens a base with adapters: `words` are flags of `lorafit chat`.
    ///
    /// # Errors
    /// As the verb has them.
    pub fn open(host: Arc<dyn Host>, words: Vec<OsString>) -> Result<Self, Failure> {
        Ok(Model { at_hand: cli::open_at_hand(host, words)? })
    }

    /// The names of the adapters, in the order in which they were given.
    pub fn adapters(&self) -> Vec<String> {
        self.at_hand.names()
    }

    /// Answers a prompt with the adapters of `parts`, piece by piece, until `piece` gives false; `words` are the sampling flags of
    /// `lorafit generate`. Gives the number of new tokens.
    ///
    /// # Errors
    /// As the verb has them.
    pub fn generate(
        &self,
        host: Arc<dyn Host>,
        prompt: &Prompt,
        parts: Parts<'_>,
        words: Vec<OsString>,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<usize, Failure> {
        let sampling = sampling(words)?;
        self.answer(host, parts, |base, adapter| {
            let (sampling, given) = sampling;
            sampling.validate(&given)?;
            base.check_writes("no answer")?;
            let ids = ids(base, prompt)?;
            stream_answer(base, adapter, &ids, &sampling, &mut |text| {
                let goes_on = (text.is_empty() || piece(text)) && !interrupt::asked();
                Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })
        })
    }

    /// Scores `text`, behind the prompt if there is one. The object has `tokens`, their `log_probabilities` in nats, and the sum of
    /// these as `log_probability`. A model whose head scores texts gives its scores of prompt and text together instead.
    ///
    /// # Errors
    /// As `lorafit generate` has them.
    pub fn score(
        &self,
        host: Arc<dyn Host>,
        prompt: Option<&Prompt>,
        text: &str,
        parts: Parts<'_>,
    ) -> Result<Value, Failure> {
        self.answer(host, parts, |base, adapter| match &base.scoring {
            Some(scoring) => {
                let scored = Scored::of(base, adapter, scoring, &document(prompt, text)?)?;
                Ok(Value::Object(scored.to_json(scoring)))
            }
            None => log_probabilities(base, adapter, prompt, text),
        })
    }

    fn answer<T>(
        &self,
        host: Arc<dyn Host>,
        parts: Parts<'_>,
        work: impl FnOnce(&Base, Option<&Adapter>) -> anyhow::Result<T>,
    ) -> Result<T, Failure> {
        cli::within_verb(host, ANSWERS, || {
            let used = self.at_hand.choose(parts.iter().map(|(name, weight)| (&name[..], *weight)))?;
            work(&self.at_hand.base, self.at_hand.adapter(&used))
        })
    }
}

/// Reads flags of sampling.
fn sampling(words: Vec<OsString>) -> Result<(Sampling, Given), Failure> {
    let command = Sampling::augment_args(Command::new(OPENS)).no_binary_name(true);
    let read = command.try_get_matches_from(words);
    let read =
        read.and_then(|matches| Ok((Sampling::from_arg_matches(&matches)?, Given::new(Some(&matches)))));
    read.map_err(|error| Failure::of_words(&in_plain_words(error)))
}

fn messages(chat: &[(String, String)]) -> Result<Vec<Message>, CliError> {
    let message = |(role, text): &(String, String)| match Role::named(role) {
        Some(role) => Ok(Message::new(role, text)),
        None => {
            let known: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
            Err(CliError::usage(format!("a message has the role `{role}`"))
                .hint(format!("roles are {}", known.join(", "))))
        }
    };
    chat.iter().map(message).collect()
}

/// The tokens of a prompt, which has at least one.
fn ids(base: &Base, prompt: &Prompt) -> anyhow::Result<Vec<u32>> {
    let ids = match prompt {
        Prompt::Text(text) => base.tokenizer.encode(text, true)?,
        Prompt::Chat(chat) => chat_prompt(base, &messages(chat)?)?,
    };
    match ids.is_empty() {
        true => Err(CliError::usage("the prompt has no tokens").hint("give some text").into()),
        false => Ok(ids),
    }
}

/// What a head scores.
fn document(prompt: Option<&Prompt>, text: &str) -> Result<Document, CliError> {
    Ok(match prompt {
        None => Document::Text(text.to_owned()),
        Some(Prompt::Text(prompt)) => Document::Text(format!("{prompt}{text}")),
        Some(Prompt::Chat(chat)) => {
            let mut all = messages(chat)?;
            all.push(Message::new(Role::Assistant, text));
            Document::Chat(all.into())
        }
    })
}

fn log_probabilities(
    base: &Base,
    adapter: Option<&Adapter>,
    prompt: Option<&Prompt>,
    text: &str,
) -> anyhow::Result<Value> {
    let mut all = prompt.map_or(Ok(Vec::new()), |prompt| ids(base, prompt))?;
    // The first token of all has nothing before it.
    let before = all.len().max(1);
    all.extend(base.tokenizer.encode(text, prompt.is_none())?);
    if all.len() <= before {
        return Err(CliError::usage("the text has no token that stands behind another one")
            .hint("give a longer text, or a prompt before it")
            .into());
    }
    Limits::of(base).check_prompt(&all, 1)?;
    let found = base.model.log_probabilities(adapter, &all).split_off(before - 1);
    if found.iter().any(|value| !value.is_finite()) {
        return Err(base.not_numbers());
    }
    let token = |id: &u32| base.tokenizer.decode(&[*id], false);
    let tokens = all[before..].iter().map(token).collect::<Result<Vec<_>, _>>()?;
    let sum: f64 = found.iter().map(|value| f64::from(*value)).sum();
    Ok(json!({
        "log_probability": sum,
        "tokens": tokens,
        "token_ids": all[before..],
        "log_probabilities": found,
        "prompt_tokens": before,
    }))
}
