//! `POST /v1/completions`: texts that are continued.

use std::time::Instant;

use serde_json::Value;

use crate::ask::{Ask, IDLE, MOST_LISTED};
use crate::error::ApiError;
use crate::events::Inbox;
use crate::fields::Fields;
use crate::queue::Work;
use crate::reply::{Calls, Kind, Reply};
use crate::site::Site;

/// Tokens of an answer where the request does not say, as OpenAI has it.
const USUAL_TOKENS: usize = 16;

/// Reads a request and sends it to the engine.
///
/// # Errors
/// What cannot be answered.
pub fn ask(site: &Site, body: &[u8], arrived: Instant) -> Result<(Reply, Inbox), ApiError> {
    let mut fields = Fields::of_body(body)?;
    let mut ask = Ask::read(site, &mut fields)?;
    let prompts = texts(site, &mut fields, "prompt", site.limits.choices)?;
    if prompts.len() * ask.answers > site.limits.choices {
        let rule = format!("and `n` ask for more than the {} answers there may be", site.limits.choices);
        return Err(ApiError::field("prompt", rule));
    }
    let listed = fields.whole("logprobs", 0..=MOST_LISTED)?;
    ask.choosing.log_probabilities = listed.map(|count| count as usize);
    refuse_others(&mut fields, ask.answers)?;
    fields.finish(&IDLE)?;
    let (id, created) = Kind::Completion.name()?;
    let reply = Reply {
        id,
        created,
        model: ask.selected.name.clone(),
        kind: Kind::Completion,
        answers: prompts.len() * ask.answers,
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        stream: ask.stream,
        usage: ask.usage,
        lists_tokens: listed.is_some(),
        calls: Calls::None,
        tokenizer: site.tokenizer,
    };
    let answers = ask.answers(site, prompts, USUAL_TOKENS.min(site.limits.new_tokens), false)?;
    Ok((reply, site.send(Work::Answers(answers), ask.selected.adapter, arrived)?))
}

/// Fields of OpenAI's that are refused unless they ask for nothing.
fn refuse_others(fields: &mut Fields, answers: usize) -> Result<(), ApiError> {
    if fields.flag("echo")? {
        return Err(
            fields.wrong("echo", "is not supported; POST /v1/score gives log-probabilities of a text")
        );
    }
    match fields.whole("best_of", 1..=u64::MAX)? {
        Some(best) if best != answers as u64 => {
            Err(fields.wrong("best_of", "is not supported; `n` gives several answers"))
        }
        _ => Ok(()),
    }
}

/// Takes one text or several, each as text or as token ids.
///
/// # Errors
/// Something else, more than `most`, and a text that the model cannot be given.
pub fn texts(site: &Site, fields: &mut Fields, field: &str, most: usize) -> Result<Vec<Vec<u32>>, ApiError> {
    let rule = "needs a string, a list of strings, a list of token ids, or a list of those";
    let wrong = || ApiError::field(field, rule);
    let items = match fields.value(field) {
        None => return Err(ApiError::field(field, "is missing; give a string")),
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_number) => vec![Value::Array(items)],
        Some(Value::Array(items)) => items,
        Some(text @ Value::String(_)) => vec![text],
        Some(_) => return Err(wrong()),
    };
    if items.is_empty() || items.len() > most {
        return Err(ApiError::field(field, format!("has {} texts; give 1 to {most}", items.len())));
    }
    let ids = |item: &Value| -> Result<Vec<u32>, ApiError> {
        match item {
            Value::String(text) => site.encode(field, text, true),
            Value::Array(ids) => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                let ids: Vec<u32> = ids.iter().map(id).collect::<Option<_>>().ok_or_else(wrong)?;
                site.check_prompt(field, &ids)?;
                Ok(ids)
            }
            _ => Err(wrong()),
        }
    };
    items.iter().map(ids).collect()
}
