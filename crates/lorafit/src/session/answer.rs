//! One answer of a model, piece by piece as it comes.

use std::ops::ControlFlow;

use lorafit_data::Message;
use lorafit_model::adapter::Adapter;
use lorafit_model::{NotNumbers, Prompts};
use lorafit_remedy::{Setting, remedy};

use crate::args::sampling::Sampling;
use crate::session::base::Base;
use crate::session::limits::Limits;
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
