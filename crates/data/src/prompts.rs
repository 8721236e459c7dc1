//! Prompts to answer, from rows with or without a reply, and rows with the answers that were given.

use serde_json::{Value, json};

use crate::dataset::GenerationRow;
use crate::error::{DataError, RowProblem};
use crate::format::{Document, Fields, Message, Shape};
use crate::mask::prompt_and_reply;
use crate::source::rows::{self, Read};
use crate::source::{NO_REPLY, Origin, Source};
use crate::tokenizer::Tokenizer;

/// A prompt, in the form that its row has it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptRow {
    /// The prompt to answer. Its reference is empty if the row has no reply.
    pub generation: GenerationRow,
    /// Whether the row has a reply.
    pub has_reply: bool,
    form: Form,
}

/// How a prompt is written.
#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// As text.
    Text(String),
    /// As messages, with what stands beside them; and the message that the row has as its reply.
    Messages { fields: Fields, reply: Box<Message> },
}

/// Who said what is written behind a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// A model, in these words.
    Model(&'a str),
    /// The row itself, as it has it.
    Row,
}

impl AsRef<GenerationRow> for PromptRow {
    fn as_ref(&self) -> &GenerationRow {
        &self.generation
    }
}

impl PromptRow {
    fn of(document: Document, generation: GenerationRow) -> Result<Self, RowProblem> {
        let has_reply = generation.reference != NO_REPLY;
        let form = match document {
            Document::Completion(row) => Form::Text(row.prompt),
            Document::Chat(mut conversation) => {
                let Some(reply) = conversation.messages.pop() else { return Err(RowProblem::NoMessages) };
                let messages: Vec<Value> = conversation.messages.iter().map(written).collect();
                let mut fields = Fields::from_iter([("prompt".to_owned(), messages.into())]);
                fields.extend(conversation.tools.map(|tools| ("tools".to_owned(), tools.into())));
                if !conversation.variables.is_empty() {
                    fields.insert("chat_template_kwargs".into(), conversation.variables.into());
                }
                Form::Messages { fields, reply: Box::new(reply) }
            }
            Document::Text(_) => return Err(RowProblem::NoPrompt { shape: Shape::Text }),
        };
        let reference = if has_reply { generation.reference } else { String::new() };
        Ok(PromptRow { generation: GenerationRow { reference, ..generation }, has_reply, form })
    }

    /// Whether the prompt is text, without a chat template.
    pub fn is_text(&self) -> bool {
        matches!(self.form, Form::Text(_))
    }

    /// The row `prompt` with further fields, each of which is said behind it.
    pub fn with(&self, said: &[(&str, Said<'_>)]) -> Fields {
        let mut fields = match &self.form {
            Form::Text(prompt) => Fields::from_iter([("prompt".to_owned(), prompt.clone().into())]),
            Form::Messages { fields, .. } => fields.clone(),
        };
        for (name, said) in said {
            let value = match (&self.form, said) {
                (Form::Text(_), Said::Model(text)) => (*text).into(),
                (Form::Text(_), Said::Row) => self.generation.reference.clone().into(),
                (Form::Messages { .. }, Said::Model(text)) => json!([{"role": "assistant", "content": text}]),
                (Form::Messages { reply, .. }, Said::Row) => json!([written(reply)]),
            };
            fields.insert((*name).to_owned(), value);
        }
        fields
    }
}

/// A message as rows have it.
fn written(message: &Message) -> Value {
    let mut value = json!(message);
    if !message.in_row.parts.is_empty() {
        value["content"] = message.in_row.parts.clone().into();
    }
    if let (None, Some(fields)) = (&message.content, value.as_object_mut()) {
        fields.shift_remove("content");
    }
    value
}

/// Reads rows as prompts, whether they have a reply or not; with where they are from.
///
/// # Errors
/// As [`crate::generation_rows`], but for replies that are not there.
pub fn prompt_rows(
    source: impl Into<Source>,
    tokenizer: &Tokenizer,
) -> Result<(Vec<PromptRow>, Origin), DataError> {
    let source = Source { without_replies: true, ..source.into() };
    let template = tokenizer.compile_chat_template()?;
    let mut prompts = Vec::new();
    let origin = rows::read(
        &source,
        |Read { row, number, .. }| {
            let document = row.into_document(template.is_some())?;
            let Some((prompt, prompt_ids, reference)) =
                prompt_and_reply(tokenizer, template.as_ref(), &document)?
            else {
                return Err(RowProblem::NoPrompt { shape: Shape::Text });
            };
            PromptRow::of(
                document,
                GenerationRow { prompt, prompt_ids, reference, row: number, choices: None },
            )
        },
        |row| {
            prompts.push(row);
            Ok(())
        },
    )?;
    Ok((prompts, origin))
}
