//! `POST /v1/embeddings` and `POST /v1/score`: what a model makes of whole texts.

use std::time::Instant;

use serde_json::{Value, json};

use crate::ask::{IDLE, model};
use crate::completion::texts;
use crate::error::ApiError;
use crate::events::{Event, Inbox};
use crate::fields::Fields;
use crate::queue::{Wanted, Work};
use crate::site::Site;
use crate::vocabulary::bytes_of;

/// What was asked of texts.
pub struct Question {
    model: String,
    texts: Vec<Vec<u32>>,
    /// Vectors as base64 of their little-endian f32 numbers, as OpenAI's client asks for them.
    base64: bool,
    wanted: Wanted,
    /// Of the adapter.
    strength: f64,
}

/// Reads a request for embeddings and sends it to the engine.
///
/// # Errors
/// What cannot be answered.
pub fn embed(site: &Site, body: &[u8], arrived: Instant) -> Result<(Question, Inbox), ApiError> {
    let mut fields = Fields::of_body(body)?;
    let base64 = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.wrong("encoding_format", "has to be float or base64")),
    };
    let wanted = match fields.text("pooling")?.as_deref() {
        None | Some("mean") => Wanted::Mean,
        Some("last") => Wanted::Last,
        Some(_) => return Err(fields.wrong("pooling", "has to be mean or last")),
    };
    let width = site.model.config().hidden_size as u64;
    match fields.whole("dimensions", 1..=u64::MAX)? {
        Some(asked) if asked != width => {
            return Err(fields.wrong(
                "dimensions",
                format!("cannot be chosen: vectors have {width} numbers; leave it out"),
            ));
        }
        _ => {}
    }
    send(site, fields, Asked { base64, wanted }, arrived)
}

/// Reads a request for log-probabilities and sends it to the engine.
///
/// # Errors
/// What cannot be answered.
pub fn score(site: &Site, body: &[u8], arrived: Instant) -> Result<(Question, Inbox), ApiError> {
    let fields = Fields::of_body(body)?;
    send(site, fields, Asked { base64: false, wanted: Wanted::LogProbabilities }, arrived)
}

struct Asked {
    base64: bool,
    wanted: Wanted,
}

fn send(
    site: &Site,
    mut fields: Fields,
    asked: Asked,
    arrived: Instant,
) -> Result<(Question, Inbox), ApiError> {
    let selected = site.models.select(&model(&mut fields)?)?;
    let texts = texts(site, &mut fields, "input", site.limits.choices.max(MOST_TEXTS))?;
    fields.finish(&IDLE)?;
    let Asked { base64, wanted } = asked;
    if wanted == Wanted::LogProbabilities && texts.iter().any(|ids| ids.len() < 2) {
        return Err(ApiError::field(
            "input",
            "needs texts of two tokens or more: the first token of a text has no score",
        ));
    }
    let inbox = site.send(Work::Texts { texts: texts.clone(), wanted }, selected.adapter, arrived)?;
    let (model, strength) = (selected.name, selected.strength);
    Ok((Question { model, texts, base64, wanted, strength }, inbox))
}

/// Texts of one request.
const MOST_TEXTS: usize = 256;

impl Question {
    /// The answer, once all of it is there.
    ///
    /// # Errors
    /// What ended it.
    pub async fn answer(self, site: &Site, mut inbox: Inbox) -> Result<Value, ApiError> {
        let mut data = Vec::with_capacity(self.texts.len());
        while data.len() < self.texts.len() {
            match inbox.next().await? {
                Some(Event::Values { index, values }) => data.push(self.one(site, index, &values)?),
                Some(Event::Began | Event::Piece { .. } | Event::Ended(_)) => {}
                None => return Err(ApiError::internal("a fault of the server ended this answer; ask again")),
            }
        }
        let tokens: usize = self.texts.iter().map(Vec::len).sum();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        Ok(json!({"object": "list", "model": self.model, "data": data, "usage": usage}))
    }

    fn one(&self, site: &Site, index: usize, values: &[f32]) -> Result<Value, ApiError> {
        if values.iter().any(|value| !value.is_finite()) {
            return Err(ApiError::not_numbers(self.strength));
        }
        if self.wanted != Wanted::LogProbabilities {
            let vector = match self.base64 {
                true => {
                    base64(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).into()
                }
                false => json!(values),
            };
            return Ok(json!({"object": "embedding", "index": index, "embedding": vector}));
        }
        let ids = &self.texts[index];
        let scores = [Value::Null].into_iter().chain(values.iter().map(|value| json!(value)));
        let token = |(id, score): (&u32, Value)| {
            let text = String::from_utf8_lossy(&bytes_of(site.tokenizer, *id)).into_owned();
            json!({"id": id, "token": text, "logprob": score})
        };
        let tokens: Vec<Value> = ids.iter().zip(scores).map(token).collect();
        let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
        let mean = sum / values.len() as f64;
        Ok(json!({"object": "score", "index": index, "logprob": sum, "mean_logprob": mean,
                  "perplexity": (-mean).exp(), "tokens": tokens}))
    }
}

/// Bytes in base64, as RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xFB, 0xFF]), "+/8=");
    }
}
