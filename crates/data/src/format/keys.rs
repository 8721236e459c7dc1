//! Every key that rows and messages are known to have, and what becomes of it. This list is the only one: rows are read
//! by it, the help of the command line is written from it, and what is not in it is passed over and counted.
//!
//! A key that would change what is trained, and that nothing here reads, is refused by name. A key whose value says
//! nothing (null, an empty text, list or object; tables have them in every row) is as good as absent.

use std::fmt::Write;

use serde_json::Value;

use super::{Fields, Shape};
use crate::error::RowProblem;
use crate::json;

/// What a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The row itself.
    Row,
    /// A message of a conversation.
    Message,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is what the model learns or is told.
    Read,
    /// The chat template gets it; refused or counted where the template does not ask for it.
    Template,
    /// It says how the row is read, and that is done: the words say what.
    Honoured(&'static str),
    /// It would change what is trained, and nothing reads it: the words say why.
    Refused(&'static str),
    /// It says where a row is from or what it is about, and changes nothing.
    Harmless,
}

/// Keys of which the same becomes.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Their names.
    pub names: &'static [&'static str],
    /// What they belong to.
    pub place: Place,
    /// The shapes of the rows that have them.
    pub shapes: &'static [Shape],
    /// What becomes of them.
    pub meaning: Use,
}

/// Names of the column that asks, and of the one that answers.
pub const QUESTIONS: &[&str] =
    &["question", "query", "q", "input", "prompt", "instruction", "user", "human", "problem", "request"];
/// See [`QUESTIONS`].
pub const ANSWERS: &[&str] =
    &["answer", "response", "a", "output", "reply", "assistant", "bot", "gpt", "solution", "completion"];
/// Variables of templates that a row may set beside `chat_template_kwargs`; if the template does not ask for one of the
/// first, nothing is lost.
pub const SWITCHES: &[&str] = &["enable_thinking", "reasoning_effort", "thinking_budget"];
/// The rest, which the template has to write.
pub const MATERIAL: &[&str] = &[
    "documents",
    "model_identity",
    "builtin_tools",
    "custom_tools",
    "xml_tools",
    "python_tools",
    "date_string",
];
/// What templates know a message's reasoning by.
pub const REASONING: &[&str] = &["reasoning_content", "thinking", "reasoning"];
/// Names of what stands before a conversation.
pub const SYSTEM: &[&str] = &["system", "system_prompt"];

const ALL: &[Shape] = &Shape::ALL;
/// Rows that are conversations whatever the model.
const CONVERSATIONS: &[Shape] = &[Shape::Chat, Shape::ShareGpt, Shape::Completion, Shape::Preference];
const JUDGED: &[Shape] = &[Shape::Preference, Shape::Judged];
const TURNS: &[Shape] = &[Shape::Instruction, Shape::Question];

const fn row(names: &'static [&'static str], shapes: &'static [Shape], meaning: Use) -> Keys {
    Keys { names, place: Place::Row, shapes, meaning }
}

const fn message(names: &'static [&'static str], meaning: Use) -> Keys {
    Keys { names, place: Place::Message, shapes: CONVERSATIONS, meaning }
}

/// The list. Of two entries that fit a key, the first counts.
pub const LIST: &[Keys] = &[
    row(&["messages"], &[Shape::Chat], Use::Read),
    row(&["conversations"], &[Shape::ShareGpt], Use::Read),
    row(&["instruction", "input", "output"], &[Shape::Instruction], Use::Read),
    row(&["prompt", "completion"], &[Shape::Completion], Use::Read),
    row(&["text"], &[Shape::Text], Use::Read),
    row(&["prompt", "chosen", "rejected"], &[Shape::Preference], Use::Read),
    row(&["label"], &[Shape::Judged], Use::Honoured("true or false: whether the reply is good")),
    row(&["weight"], JUDGED, Use::Honoured("how much the row counts, 1 unless given")),
    row(&["margin"], &[Shape::Preference], Use::Honoured("by how much the chosen reply should be better")),
    row(
        &["score_chosen", "score_rejected", "chosen_score", "rejected_score"],
        &[Shape::Preference],
        Use::Harmless,
    ),
    row(QUESTIONS, &[Shape::Question], Use::Read),
    row(ANSWERS, &[Shape::Question], Use::Read),
    row(SYSTEM, CONVERSATIONS, Use::Read),
    row(SYSTEM, TURNS, Use::Read),
    row(&["tools"], CONVERSATIONS, Use::Template),
    row(&["functions"], CONVERSATIONS, Use::Honoured("read as tools")),
    row(&["chat_template_kwargs"], CONVERSATIONS, Use::Honoured("variables of the chat template")),
    row(SWITCHES, CONVERSATIONS, Use::Honoured("variables of the chat template")),
    row(MATERIAL, CONVERSATIONS, Use::Honoured("variables of the chat template")),
    row(
        &["history"],
        TURNS,
        Use::Honoured("earlier turns, [[question, answer], ...]; they are trained, too"),
    ),
    row(&["weight"], ALL, Use::Honoured("only 1 is accepted, since weights are those of files: b.csv:0.5")),
    row(REASONING, &[Shape::Question], Use::Template),
    row(REASONING, ALL, Use::Refused("reasoning belongs into the assistant's message, as reasoning_content")),
    row(SYSTEM, ALL, Use::Refused("text is trained as it is; conversations have a system prompt")),
    row(
        &["tools", "functions"],
        ALL,
        Use::Refused("only conversations have tools: write the row as messages"),
    ),
    row(&["chat_template_kwargs"], ALL, Use::Refused("only conversations are written by the chat template")),
    row(SWITCHES, ALL, Use::Refused("only conversations are written by the chat template")),
    row(MATERIAL, ALL, Use::Refused("only conversations are written by the chat template")),
    row(&["history"], ALL, Use::Refused("write the earlier turns as messages")),
    row(&["context"], TURNS, Use::Refused("map it to `input`, which puts it below the instruction")),
    row(
        &["images", "image", "audio", "audios", "video", "videos", "image_url"],
        ALL,
        Use::Refused("only text is trained"),
    ),
    row(&["label"], ALL, Use::Refused("a file has labels in all of its rows, from the first on, or in none")),
    row(
        &["chosen", "rejected"],
        ALL,
        Use::Refused("a preference has both; keep one reply in the row, or leave both out"),
    ),
    row(
        &["loss_mask", "labels", "input_ids", "attention_mask", "assistant_masks", "completion_mask"],
        ALL,
        Use::Refused("rows are tokenised and masked here"),
    ),
    row(
        &["train", "loss_weight", "sample_weight"],
        ALL,
        Use::Refused("rows are weighted by file: b.csv:0.5"),
    ),
    message(&["role", "content"], Use::Read),
    message(&["from", "value"], Use::Read),
    message(&["train"], Use::Honoured("false: not trained")),
    message(&["weight"], Use::Honoured("of the assistant's: 0 is not trained, 1 is")),
    message(&["tool_calls"], Use::Template),
    message(&["function_call"], Use::Honoured("read as tool_calls")),
    message(REASONING, Use::Template),
    message(&["name", "tool_call_id"], Use::Template),
    message(
        &["images", "image", "audio", "audios", "video", "videos", "image_url", "file"],
        Use::Refused("only text is trained"),
    ),
    message(&["tools", "functions"], Use::Template),
    message(
        &["refusal", "loss", "loss_mask", "mask", "masked", "label", "train_detail"],
        Use::Refused("`train`, true or false, says which replies are trained"),
    ),
    Keys { names: METADATA, place: Place::Row, shapes: ALL, meaning: Use::Harmless },
    message(METADATA, Use::Harmless),
];

/// What rows carry along.
const METADATA: &[&str] = &[
    "id",
    "idx",
    "index",
    "uuid",
    "source",
    "url",
    "dataset",
    "split",
    "category",
    "language",
    "lang",
    "license",
    "author",
    "date",
    "timestamp",
    "created",
    "created_at",
    "model",
    "metadata",
    "meta",
    "tags",
    "topic",
    "conversation_id",
    "message_id",
    "prompt_id",
    "hash",
    "md5",
];

/// What becomes of a row's key; `None` for one that nobody knows.
pub fn of_row(shape: Shape, name: &str) -> Option<Use> {
    // Tables of questions have names as people write them.
    let is = |known: &&str| match shape {
        Shape::Question => known.eq_ignore_ascii_case(name.trim()),
        _ => *known == name,
    };
    LIST.iter()
        .filter(|keys| keys.place == Place::Row && keys.shapes.contains(&shape))
        .find(|keys| keys.names.iter().any(is))
        .map(|keys| keys.meaning)
}

/// What becomes of a message's key; `None` for one that nobody knows, which the template may.
pub fn of_message(name: &str) -> Option<Use> {
    let of_messages = LIST.iter().filter(|keys| keys.place == Place::Message);
    of_messages.clone().find(|keys| keys.names.contains(&name)).map(|keys| keys.meaning)
}

/// Whether a value says nothing.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty() || json::is_nan(value),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a value is the number 1, which tables have as text.
fn is_one(value: &Value) -> bool {
    let number = value.as_str().map_or_else(|| value.as_f64(), |text| text.trim().parse().ok());
    number == Some(1.0)
}

/// Refuses what is to be refused of a row, and names in `passed_over` what nobody knows.
pub(super) fn check(shape: Shape, fields: &Fields, passed_over: &mut Vec<String>) -> Result<(), RowProblem> {
    for (name, value) in fields.iter().filter(|(_, value)| !is_empty(value)) {
        match of_row(shape, name) {
            Some(Use::Refused(why)) => return Err(RowProblem::Refused { field: name.clone(), why }),
            Some(Use::Honoured(why))
                if name.eq_ignore_ascii_case("weight") && !JUDGED.contains(&shape) && !is_one(value) =>
            {
                return Err(RowProblem::Refused { field: name.clone(), why });
            }
            None => passed_over.push(name.clone()),
            Some(Use::Read | Use::Template | Use::Honoured(_) | Use::Harmless) => {}
        }
    }
    Ok(())
}

/// Refuses what only conversations have, in a row that turns out to be plain text.
pub(super) fn refuse_in_text(fields: &Fields) -> Result<(), RowProblem> {
    for (name, _) in fields.iter().filter(|(_, value)| !is_empty(value)) {
        if let Some(Use::Refused(why)) = of_row(Shape::Text, name) {
            return Err(RowProblem::Refused { field: name.clone(), why });
        }
    }
    Ok(())
}

/// Refuses what is to be refused of a message's further keys.
pub(super) fn check_message<'a>(
    extra: impl Iterator<Item = (&'a String, &'a Value)>,
    place: impl Fn(&str) -> String,
) -> Result<(), RowProblem> {
    for (name, value) in extra {
        if let Some(Use::Refused(why)) = of_message(name)
            && !is_empty(value)
        {
            return Err(RowProblem::Refused { field: place(name), why });
        }
    }
    Ok(())
}

/// The list for people: a line for each entry, of at most `width` characters where words allow it.
pub fn told(width: usize) -> String {
    let mut lines =
        vec!["Keys of rows and what they do (all other keys are ignored, and counted):".to_owned()];
    for keys in LIST {
        let place = match keys.place {
            Place::Row => "",
            Place::Message => "of a message: ",
        };
        let shapes: Vec<&str> = keys.shapes.iter().map(|shape| shape.name()).collect();
        let shapes = match keys.place == Place::Message || keys.shapes.len() == ALL.len() {
            true => String::new(),
            false => format!(" ({})", shapes.join(", ")),
        };
        let meaning = match keys.meaning {
            Use::Read => "read".to_owned(),
            Use::Template => "given to the chat template".to_owned(),
            Use::Honoured(what) => what.to_owned(),
            Use::Refused(why) => format!("refused: {why}"),
            Use::Harmless => "ignored, and not counted".to_owned(),
        };
        let mut line = String::from(" ");
        let text = format!("{place}{}{shapes}: {meaning}", keys.names.join(", "));
        for word in text.split(' ') {
            if line.len() + 1 + word.len() > width {
                lines.push(std::mem::replace(&mut line, "   ".to_owned()));
            }
            let _ = write!(line, " {word}");
        }
        lines.push(line);
    }
    lines.join("\n")
}
