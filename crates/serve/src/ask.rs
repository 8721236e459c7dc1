//! Fields that chat and completions have in common: which model, how tokens are chosen, when an answer ends, how it is sent.

use std::sync::Arc;

use serde_json::Value;

use crate::constrain::{Constraint, Refusal};
use crate::error::ApiError;
use crate::fields::{Fields, kind, shown};
use crate::held_calls::HeldCalls;
use crate::models::Selected;
use crate::queue::{Answers, Planned};
use crate::sampler::Choosing;
use crate::site::Site;

/// Fields that change nothing in an answer.
pub const IDLE: [&str; 7] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// The most alternatives that are listed of a token.
pub const MOST_LISTED: u64 = 20;
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;
const MOST_BIASED: usize = 1024;

/// What a request asks for in the fields that chat and completions have in common.
pub struct Ask {
    /// The model.
    pub selected: Selected,
    /// Answers to each prompt.
    pub answers: usize,
    /// How tokens are chosen.
    pub choosing: Choosing,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Tokens of the longest answer.
    pub most: Option<usize>,
    /// The form that an answer has to have.
    pub form: Option<Form>,
    /// What holds calls of tools to their schemas that the model may make or not.
    pub calls: Option<HeldCalls>,
    /// Whether the answer is sent as it comes.
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub usage: bool,
    seed: u64,
}

/// A form that answers have to have.
pub struct Form {
    /// What they have to be.
    pub constraint: Constraint,
    /// The field that asks for it.
    pub field: String,
    /// Fields that ask for a part of it, each with that part: where the whole cannot be kept, one of them may be to blame.
    pub parts: Vec<(String, Constraint)>,
}

impl Form {
    /// What one field asks for.
    pub fn of(field: &str, constraint: Constraint) -> Self {
        Form { constraint, field: field.to_owned(), parts: Vec::new() }
    }
}

/// Takes the name of the model.
///
/// # Errors
/// None, or something else than a string.
pub fn model(fields: &mut Fields) -> Result<String, ApiError> {
    fields
        .text("model")?
        .ok_or_else(|| fields.wrong("model", "is missing; give a name that GET /v1/models lists"))
}

impl Ask {
    /// Takes what chat and completions have in common.
    ///
    /// # Errors
    /// A field that cannot be as it is.
    pub fn read(site: &Site, fields: &mut Fields) -> Result<Self, ApiError> {
        let selected = site.models.select(&model(fields)?)?;
        let answers = fields.whole("n", 1..=site.limits.choices as u64)?.unwrap_or(1) as usize;
        let (stream, usage) = streaming(fields)?;
        Ok(Ask {
            selected,
            answers,
            choosing: choosing(site, fields)?,
            stops: stops(fields)?,
            most: most_tokens(site, fields)?,
            form: form(fields)?,
            calls: None,
            stream,
            usage,
            seed: seed(fields)?,
        })
    }

    /// The answers to `prompts`, in order, those to one prompt together.
    ///
    /// # Errors
    /// No room for them, and a form that cannot be kept.
    pub fn answers(
        &self,
        site: &Site,
        prompts: Vec<Vec<u32>>,
        otherwise: usize,
        shows_special: bool,
    ) -> Result<Answers, ApiError> {
        let rooms = site.rooms(&prompts, self.answers, self.most, otherwise)?;
        let mut planned = Vec::with_capacity(prompts.len() * self.answers);
        for (prompt, room) in prompts.into_iter().zip(rooms) {
            for _ in 0..self.answers {
                let guide = self.form.as_ref().map(|form| begin(site, form)).transpose()?;
                let seed = self.seed.wrapping_add(planned.len() as u64);
                let calls = self.calls.as_ref().map(HeldCalls::again);
                planned.push(Planned { prompt: prompt.clone(), seed, room, guide, calls });
            }
        }
        let choosing = Arc::new(self.choosing.clone());
        let strength = self.selected.strength;
        let to_each = self.answers;
        Ok(Answers { planned, to_each, choosing, stops: self.stops.clone(), shows_special, strength })
    }
}

fn begin(site: &Site, form: &Form) -> Result<crate::constrain::Guide, ApiError> {
    let grammars = site.grammars.as_ref().map_err(|why| {
        ApiError::bad(format!("answers of a form are not possible with this model's tokenizer: {why}"))
    })?;
    let refused = |field: &str, why: &str| ApiError::field(field, format!("cannot be kept: {why}"));
    grammars.begin(&form.constraint).map_err(|refusal| {
        let of_part = |(field, part): &(String, Constraint)| match grammars.begin(part) {
            Err(Refusal::Cannot(why)) => Some(refused(field, &why)),
            Err(Refusal::TooLong(_)) | Ok(_) => None,
        };
        let part = match &refusal {
            Refusal::Cannot(_) => form.parts.iter().find_map(of_part),
            // What takes long as a whole may do so in every part.
            Refusal::TooLong(_) => None,
        };
        part.unwrap_or_else(|| refused(&form.field, refusal.why()))
    })
}

fn streaming(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let stream = fields.flag("stream")?;
    let Some(options) = fields.value("stream_options") else { return Ok((stream, false)) };
    let mut options = Fields::of_value(options, &fields.name("stream_options"))?;
    let usage = options.flag("include_usage")?;
    options.finish(&["include_obfuscation"])?;
    match stream {
        true => Ok((true, usage)),
        false => {
            Err(fields
                .wrong("stream_options", "is given without `stream`; add `stream`: true, or leave it out"))
        }
    }
}

fn choosing(site: &Site, fields: &mut Fields) -> Result<Choosing, ApiError> {
    let mut number = |field: &str, low: f64, high: f64, otherwise: f64| {
        fields.number(field, low..=high).map(|number| number.unwrap_or(otherwise) as f32)
    };
    let temperature = number("temperature", 0.0, 2.0, 1.0)?;
    let top_p = number("top_p", 0.0, 1.0, 1.0)?;
    let min_p = number("min_p", 0.0, 1.0, 0.0)?;
    let frequency_penalty = number("frequency_penalty", -2.0, 2.0, 0.0)?;
    let presence_penalty = number("presence_penalty", -2.0, 2.0, 0.0)?;
    let repetition_penalty = number("repetition_penalty", 0.01, 10.0, 1.0)?;
    let vocabulary = site.model.config().vocab_size;
    let top_k = top_k(fields)?;
    let bias = bias(fields, vocabulary)?;
    Ok(Choosing {
        temperature,
        top_p,
        top_k,
        min_p,
        frequency_penalty,
        presence_penalty,
        repetition_penalty,
        bias,
        log_probabilities: None,
    })
}

/// Takes `top_k`; 0, and vLLM's -1, are all tokens, and so is any number that is larger than there are tokens.
fn top_k(fields: &mut Fields) -> Result<usize, ApiError> {
    let Some(value) = fields.value("top_k").filter(|value| value.as_i64() != Some(-1)) else { return Ok(0) };
    let count = value.as_u64().map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    count.ok_or_else(|| {
        let rule = "give a whole number of 1 or more, or 0 or -1 to turn it off";
        fields.wrong("top_k", format!("is {}; {rule}", shown(&value)))
    })
}

fn bias(fields: &mut Fields, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let map = match fields.value("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            let rule = format!("is {}; give an object of token ids and numbers", kind(&other));
            return Err(fields.wrong("logit_bias", rule));
        }
    };
    if map.len() > MOST_BIASED {
        let rule = format!("has {} tokens, and {MOST_BIASED} is the most", map.len());
        return Err(fields.wrong("logit_bias", rule));
    }
    let entry = |(token, value): (&String, &Value)| {
        let id = token.parse::<u32>().ok().filter(|id| (*id as usize) < vocabulary);
        let number = value.as_f64().filter(|number| (-100.0..=100.0).contains(number));
        id.zip(number.map(|number| number as f32))
    };
    let entries: Option<Vec<_>> = map.iter().map(entry).collect();
    entries.ok_or_else(|| {
        let rule = format!("needs token ids below {vocabulary} and numbers from -100 to 100");
        fields.wrong("logit_bias", rule)
    })
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let rule = "needs a string, or a list of up to 16 strings, each of 1 to 256 bytes";
    let stops = match fields.value("stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => {
            let texts = items.into_iter().map(|item| match item {
                Value::String(text) => Some(text),
                _ => None,
            });
            texts.collect::<Option<Vec<_>>>().ok_or_else(|| fields.wrong("stop", rule))?
        }
        Some(_) => return Err(fields.wrong("stop", rule)),
    };
    let fine = stops.len() <= MOST_STOPS && stops.iter().all(|s| (1..=LONGEST_STOP).contains(&s.len()));
    if fine { Ok(stops) } else { Err(fields.wrong("stop", rule)) }
}

fn most_tokens(site: &Site, fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let within = 1..=site.limits.new_tokens as u64;
    let older = fields.whole("max_tokens", within.clone())?;
    let newer = fields.whole("max_completion_tokens", within)?;
    match (older, newer) {
        (Some(a), Some(b)) if a != b => {
            Err(fields.wrong("max_tokens", "differs from `max_completion_tokens`; give one of them"))
        }
        (a, b) => Ok(a.or(b).map(|most| most as usize)),
    }
}

fn seed(fields: &mut Fields) -> Result<u64, ApiError> {
    match fields.value("seed") {
        None => random(),
        Some(value) => {
            let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
            seed.ok_or_else(|| fields.wrong("seed", "has to be a whole number of 64 bits"))
        }
    }
}

/// A random number.
///
/// # Errors
/// A system that has none.
pub fn random() -> Result<u64, ApiError> {
    getrandom::u64().map_err(|error| ApiError::internal(format!("the system has no random numbers: {error}")))
}

fn form(fields: &mut Fields) -> Result<Option<Form>, ApiError> {
    let regex = fields.text("regex")?;
    let format = fields.value("response_format");
    let of_format = match format {
        None => None,
        Some(format) => {
            let mut format = Fields::of_value(format, &fields.name("response_format"))?;
            let found = match format.needed_text("type")?.as_str() {
                "text" => None,
                "json_object" => Some(Constraint::JsonObject),
                "json_schema" => Some(Constraint::JsonSchema(schema(&mut format)?)),
                _ => return Err(format.wrong("type", "has to be text, json_object or json_schema")),
            };
            format.finish(&[])?;
            found
        }
    };
    match (of_format, regex) {
        (Some(_), Some(_)) => {
            Err(fields.wrong("regex", "and `response_format` cannot both be kept; give one of them"))
        }
        (Some(format), None) => Ok(Some(Form::of("response_format", format))),
        (None, regex) => Ok(regex.map(|regex| Form::of("regex", Constraint::Regex(regex)))),
    }
}

fn schema(format: &mut Fields) -> Result<Value, ApiError> {
    let within = format.value("json_schema").ok_or_else(|| format.wrong("json_schema", "is missing"))?;
    let mut within = Fields::of_value(within, &format.name("json_schema"))?;
    let schema =
        within.value("schema").ok_or_else(|| within.wrong("schema", "is missing; give a JSON schema"))?;
    within.finish(&["name", "description", "strict"])?;
    Ok(schema)
}
