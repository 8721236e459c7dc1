//! Chat rows: `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`.
//!
//! Beside `messages` may stand a `system` prompt, and `tools`, a list of the functions that the assistant may call (JSON
//! schemas). Tables hold lists as JSON text, so `messages` and `tools` may be that; a message of the assistant then has `tool_calls` and perhaps no content, and one of the role
//! `tool` has the result. `"train": false` keeps a reply out of what is trained. Further keys of a message are handed
//! to the template as they are.
//!
//! OpenAI's older names are read as the newer ones: `functions` as `tools`, `function_call` as `tool_calls`, and its
//! `"weight": 0` as `"train": false`. `content` may be a list of parts, of which only text is read. A row may set variables
//! of the chat template (`chat_template_kwargs`, `enable_thinking`).
//!
//! `tool_calls[].function.arguments` is an object for templates (transformers, "Tool use"); data sets often hold it
//! as JSON text, as OpenAI's interface gives it, which most templates would quote a second time. So templates are given
//! the object that the text says, and those that fail with one the text as it stands.

use serde::Serialize;
use serde_json::{Map, Value};

use super::keys::{self, Use, is_empty};
use super::{Fields, Mapping, Shape, kind, not_blank, question};
use crate::error::RowProblem;
use crate::json;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing orders.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// The role's name in data and templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said; `None` for a reply that only calls tools.
    pub content: Option<String>,
    /// Whether the model is to learn it, if it is the assistant's. Templates do not see it.
    #[serde(skip)]
    pub train: bool,
    /// Further keys, which templates may use.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// What the row has otherwise.
    #[serde(skip)]
    pub(crate) in_row: InRow,
}

/// What the row of a message has otherwise than the message.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct InRow {
    /// The parts of its content; none where that is a text.
    pub parts: Vec<Value>,
    /// Keys of the parts that nothing reads.
    pub passed_over: Vec<String>,
    /// Whether templates are given the parts, and not the text that they are together.
    pub for_template: bool,
    /// The name of its role, where the mapping says which it is.
    pub role: Option<String>,
    /// Keys of the message and the columns that they are from, in a row that has no messages.
    pub columns: Vec<(&'static str, String)>,
}

impl Message {
    /// A message without further keys.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), train: true, extra: Map::new(), in_row: InRow::default() }
    }

    /// What is said; nothing for a reply that only calls tools.
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }

    /// The same message, whose `key` is from a column of the row.
    #[must_use]
    pub(crate) fn of_column(mut self, key: &'static str, column: &str) -> Self {
        self.in_row.columns.push((key, column.to_owned()));
        self
    }

    /// The same message with other words, in a form that templates are given alike.
    #[must_use]
    pub(crate) fn saying(&self, text: &str) -> Self {
        let mut message = self.clone();
        if message.in_row.for_template {
            let mut part = message.in_row.parts.swap_remove(0);
            part["text"] = text.into();
            message.in_row.parts = vec![part];
        }
        message.content = Some(text.into());
        message
    }

    /// Whether a text has the words of the message, of each part by itself where templates get those.
    pub(crate) fn is_written_in(&self, text: &str) -> bool {
        match self.in_row.for_template {
            false => text.contains(self.text()),
            true => self.part_texts().all(|part| text.contains(part)),
        }
    }

    /// The texts of its parts.
    pub(crate) fn part_texts(&self) -> impl Iterator<Item = &str> {
        self.in_row.parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str))
    }

    /// Whether the message calls tools.
    pub fn calls_tools(&self) -> bool {
        self.extra.get(TOOL_CALLS).and_then(Value::as_array).is_some_and(|calls| !calls.is_empty())
    }

    /// The message as it would be if it called none.
    pub(crate) fn without_tool_calls(&self) -> Self {
        let mut message = self.clone();
        message.extra.remove(TOOL_CALLS);
        message
    }

    /// Its calls, with objects for arguments that are JSON text; null if there are none.
    pub(crate) fn calls_read(&self) -> Value {
        let stored = || self.extra.get(TOOL_CALLS).cloned().unwrap_or_default();
        with_arguments_read(self).unwrap_or_else(stored)
    }

    /// Roughly how much text the message holds.
    pub(crate) fn size_bytes(&self) -> usize {
        self.text().len() + self.extra.values().map(json_size_bytes).sum::<usize>()
    }
}

/// Roughly how much text a value holds.
pub(crate) fn json_size_bytes(value: &Value) -> usize {
    let mut bytes = 0;
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        bytes += 8;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => waiting.extend(items),
            Value::Object(items) => {
                bytes += items.keys().map(String::len).sum::<usize>();
                waiting.extend(items.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    bytes
}

/// A conversation, with the functions that the assistant may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// JSON schemas of the functions; `None` if the row has none.
    pub tools: Option<Vec<Value>>,
    /// Variables of the chat template that the row sets.
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// What a field such as `messages[1].content` is called in the row.
    pub(crate) fn name_in_row(&self, field: String) -> String {
        let parts = field.strip_prefix("messages[").and_then(|rest| rest.split_once("]."));
        let column = parts.and_then(|(i, key)| {
            let message = self.messages.get(i.parse::<usize>().ok()?)?;
            message.in_row.columns.iter().find(|(of, _)| *of == key).map(|(_, column)| column.clone())
        });
        column.unwrap_or(field)
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// The calls of a message.
pub(crate) const TOOL_CALLS: &str = "tool_calls";
const FUNCTION_CALL: &str = "function_call";
/// Variables that templates are given anyhow, which a row must not set.
const NOT_VARIABLES: [&str; 11] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "return_assistant_tokens_mask",
];
/// What parts of a message that are text say they are.
const TEXT_PARTS: [&str; 3] = ["text", "input_text", "output_text"];

/// What a conversation's fields are called.
pub(super) struct Keys {
    /// The list of messages.
    pub list: &'static str,
    /// Who says a message.
    pub role: &'static str,
    /// What is said.
    pub content: &'static str,
    /// Further names of roles.
    pub roles: &'static [(&'static str, Role)],
    /// The shape that has these names.
    pub shape: Shape,
}

/// ShareGPT's names.
pub(super) const SHAREGPT: Keys = Keys {
    list: "conversations",
    role: "from",
    content: "value",
    roles: &[("human", Role::User), ("gpt", Role::Assistant), ("observation", Role::Tool)],
    shape: Shape::ShareGpt,
};

pub(super) const MESSAGES: Keys = Keys {
    list: "messages",
    role: "role",
    content: "content",
    roles: &[("function", Role::Tool), ("observation", Role::Tool)],
    shape: Shape::Chat,
};

/// What a conversation ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A reply of the assistant.
    Reply,
    /// Any message.
    Any,
}

pub(super) fn parse(fields: Fields, keys: &Keys, mapping: &Mapping) -> Result<Conversation, RowProblem> {
    read(fields, keys, mapping, End::Reply)
}

/// As [`parse`], of a conversation that is read as a text: it may end with any message.
pub(super) fn parse_any(fields: Fields, keys: &Keys, mapping: &Mapping) -> Result<Conversation, RowProblem> {
    read(fields, keys, mapping, End::Any)
}

fn read(mut fields: Fields, keys: &Keys, mapping: &Mapping, end: End) -> Result<Conversation, RowProblem> {
    let tools = tools(&mut fields)?;
    let variables = variables(&mut fields)?;
    let system = question::system(&mut fields, keys.shape)?;
    let list = match fields.remove(keys.list).map(from_json_text) {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(keys.list.into(), "a list", &other)),
        None => return Err(RowProblem::MissingField { field: keys.list.into(), shape: keys.shape }),
    };
    let messages = list.into_iter().enumerate().map(|(i, m)| message(i, m, keys, mapping));
    let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
    if messages.is_empty() {
        return Err(RowProblem::NoMessages);
    }
    if end == End::Reply {
        check_replies(&messages, keys, mapping)?;
    }
    match system {
        Some(system) if messages[0].role != Role::System => {
            messages.insert(0, Message::new(Role::System, system));
        }
        Some(system) if messages[0].text().trim() != system.trim() => {
            let why = "the messages begin with another system message";
            return Err(RowProblem::Refused { field: keys::SYSTEM[0].into(), why });
        }
        Some(_) | None => {}
    }
    Ok(Conversation { messages, tools, variables })
}

/// Refuses messages that do not end with a reply, and replies that say nothing.
fn check_replies(messages: &[Message], keys: &Keys, mapping: &Mapping) -> Result<(), RowProblem> {
    if !messages.iter().any(|m| m.role == Role::Assistant) {
        let mapped = mapping.roles.iter().filter(|(_, role)| *role == Role::Assistant);
        let unmet = mapped.map(|(name, _)| name.clone()).next();
        return Err(RowProblem::NoReply { unmet });
    }
    if let Some(last) = messages.last().filter(|last| last.role != Role::Assistant) {
        return Err(RowProblem::NoLastReply { role: last.role });
    }
    for (i, message) in messages.iter().enumerate() {
        if message.role == Role::Assistant && !message.calls_tools() {
            not_blank(message.text(), &format!("{}[{i}].{}", keys.list, keys.content))?;
        }
    }
    Ok(())
}

/// The variables of the template that a row sets.
fn variables(fields: &mut Fields) -> Result<Map<String, Value>, RowProblem> {
    const KWARGS: &str = "chat_template_kwargs";
    let mut found = match fields.remove(KWARGS).map(from_json_text).filter(|value| !is_empty(value)) {
        None => Map::new(),
        Some(Value::Object(found)) => found,
        Some(other) => return Err(wrong(KWARGS.into(), "an object", &other)),
    };
    if let Some(name) = found.keys().find(|name| NOT_VARIABLES.contains(&name.as_str())) {
        let why = "the template gets it from elsewhere";
        return Err(RowProblem::Refused { field: format!("{KWARGS}[{name}]"), why });
    }
    for name in keys::SWITCHES.iter().chain(keys::MATERIAL) {
        let Some(value) = fields.remove(*name).filter(|value| !is_empty(value)) else { continue };
        if found.get(*name).is_some_and(|other| *other != value) {
            let why = "chat_template_kwargs says otherwise";
            return Err(RowProblem::Refused { field: (*name).into(), why });
        }
        found.insert((*name).into(), value);
    }
    Ok(found)
}

/// What JSON text says, where that is a list or an object; else the value as it is.
pub(super) fn from_json_text(value: Value) -> Value {
    let read = value.as_str().and_then(|text| json::value(text).ok());
    read.filter(|read: &Value| read.is_array() || read.is_object()).unwrap_or(value)
}

/// What JSON text says, where that is a message, a list of them, or a list of such lists, as tables have them. Any other text is what
/// somebody said, though it may be JSON.
pub(super) fn messages_from_text(value: Value) -> Value {
    fn are_messages(list: &Value) -> bool {
        let is_message = |item: &Value| item.get("role").is_some();
        list.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_message))
    }
    let is_text = value.is_string();
    let read = from_json_text(value.clone());
    let are_lists = read.as_array().is_some_and(|lists| !lists.is_empty() && lists.iter().all(are_messages));
    match is_text && !are_messages(&read) && !are_lists && read.get("role").is_none() {
        true => value,
        false => read,
    }
}

/// The functions that the assistant may call, whichever name they have.
fn tools(fields: &mut Fields) -> Result<Option<Vec<Value>>, RowProblem> {
    let tools = fields.remove("tools").map_or(Ok(None), |value| objects("tools", value))?;
    let functions = fields.remove("functions").map_or(Ok(None), |value| objects("functions", value))?;
    let functions = functions.filter(|functions| !functions.is_empty());
    match (tools.as_ref().is_some_and(|tools| !tools.is_empty()), functions) {
        (_, None) => Ok(tools),
        (true, Some(_)) => {
            Err(RowProblem::Refused { field: "functions".into(), why: "the row has tools, too" })
        }
        (false, Some(functions)) => {
            let tool = |function| serde_json::json!({"type": "function", "function": function});
            Ok(Some(functions.into_iter().map(tool).collect()))
        }
    }
}

/// A list of objects, or the JSON text of one.
fn objects(field: &str, value: Value) -> Result<Option<Vec<Value>>, RowProblem> {
    let list = match from_json_text(value) {
        Value::Null => return Ok(None),
        // An empty cell of a table.
        value @ Value::String(_) if is_empty(&value) => return Ok(None),
        Value::Array(list) => list,
        other => return Err(wrong(field.into(), "a list", &other)),
    };
    match list.iter().position(|tool| !tool.is_object()) {
        Some(i) => Err(wrong(format!("{field}[{i}]"), "an object", &list[i])),
        None => Ok(Some(list)),
    }
}

fn message(i: usize, value: Value, keys: &Keys, mapping: &Mapping) -> Result<Message, RowProblem> {
    let place = |key: &str| format!("{}[{i}].{key}", keys.list);
    let missing = |key| RowProblem::MissingField { field: place(key), shape: keys.shape };
    let mut extra = match value {
        Value::Object(map) => map,
        other => return Err(wrong(format!("{}[{i}]", keys.list), "an object", &other)),
    };
    let (role_key, content_key) = named_as(&extra, keys);
    let mut in_row = InRow::default();
    let role = match extra.remove(role_key) {
        Some(Value::String(text)) if text == FUNCTION_CALL && mapping.role(&text).is_none() => {
            // The content is a call, or a list of calls (LLaMA-Factory).
            let calls = extra.remove(content_key).map_or(Value::Null, from_json_text);
            let calls = if calls.is_object() { Value::Array(vec![calls]) } else { calls };
            if !calls.is_array() || is_empty(&calls) {
                return Err(wrong(place(content_key), "the JSON text of a call or a list of calls", &calls));
            }
            extra.insert(TOOL_CALLS.into(), calls);
            Role::Assistant
        }
        Some(Value::String(text)) if json::odd_number(&text).is_none() => {
            let roles = if role_key == SHAREGPT.role { SHAREGPT.roles } else { keys.roles };
            let named = || roles.iter().find(|(name, _)| *name == text).map(|(_, role)| *role);
            in_row.role = mapping.roles.iter().any(|(name, _)| *name == text).then(|| text.clone());
            mapping.role(&text).or_else(named).ok_or(RowProblem::UnknownRole { role: text })?
        }
        Some(other) => return Err(wrong(place(role_key), "a string", &other)),
        None => return Err(missing(role_key)),
    };
    let train = is_trained(&mut extra, role, &place)?;
    name_calls(&mut extra, &place)?;
    if let Some(calls) = extra.remove(TOOL_CALLS) {
        let calls = from_json_text(calls);
        check_calls(&calls, &place(TOOL_CALLS))?;
        extra.insert(TOOL_CALLS.into(), calls);
    }
    let content = extra.remove(content_key);
    keys::check_message(extra.iter(), place)?;
    let mut message = Message { role, content: None, train, extra, in_row };
    message.content = match content {
        Some(Value::String(text)) if json::odd_number(&text).is_none() => Some(text),
        Some(Value::Array(parts)) if !parts.is_empty() && parts.iter().all(Value::is_object) => {
            Some(joined(parts, &place(content_key), &mut message.in_row)?)
        }
        None | Some(Value::Null) if message.calls_tools() => None,
        Some(other) => return Err(wrong(place(content_key), "a string", &other)),
        None => return Err(missing(content_key)),
    };
    name_reasoning(&mut message.extra);
    Ok(message)
}

/// The keys of a message's role and content: those of its shape, else the names that the other of [`MESSAGES`] and
/// [`SHAREGPT`] has for them.
fn named_as(message: &Map<String, Value>, keys: &Keys) -> (&'static str, &'static str) {
    let found = |own: &'static str, names: [&'static str; 2]| {
        let other = names.into_iter().find(|name| message.contains_key(*name));
        if message.contains_key(own) { own } else { other.unwrap_or(own) }
    };
    (
        found(keys.role, [MESSAGES.role, SHAREGPT.role]),
        found(keys.content, [MESSAGES.content, SHAREGPT.content]),
    )
}

/// Whether the model is to learn a message, by `train` or OpenAI's `weight`.
fn is_trained(
    extra: &mut Map<String, Value>,
    role: Role,
    place: &impl Fn(&str) -> String,
) -> Result<bool, RowProblem> {
    let train = match extra.remove("train") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(train)) => Some(("train", train)),
        Some(other) => return Err(wrong(place("train"), "true or false", &other)),
    };
    let weight = match extra.remove("weight") {
        None | Some(Value::Null) => None,
        Some(value) if value.as_f64() == Some(0.0) => Some(("weight", false)),
        Some(value) if value.as_f64() == Some(1.0) => Some(("weight", true)),
        Some(_) => {
            let why = "replies are trained or not, so that it is 0 or 1";
            return Err(RowProblem::Refused { field: place("weight"), why });
        }
    };
    match (train, weight) {
        (Some((_, train)), Some((_, weight))) if train != weight => {
            Err(RowProblem::Refused { field: place("weight"), why: "`train` says otherwise" })
        }
        // What others say is not the model's to learn.
        (Some((field, true)), _) | (_, Some((field, true))) if role != Role::Assistant => {
            Err(RowProblem::Unsupported { field: place(field) })
        }
        (train, weight) => Ok(train.or(weight).is_none_or(|(_, train)| train)),
    }
}

/// Makes `tool_calls` of `function_call`.
fn name_calls(extra: &mut Map<String, Value>, place: &impl Fn(&str) -> String) -> Result<(), RowProblem> {
    let call = match extra.remove(FUNCTION_CALL).map(from_json_text) {
        None => return Ok(()),
        Some(value) if is_empty(&value) => return Ok(()),
        Some(Value::Object(call)) => call,
        Some(other) => return Err(wrong(place(FUNCTION_CALL), "an object", &other)),
    };
    if extra.get(TOOL_CALLS).is_some_and(|calls| !is_empty(calls)) {
        return Err(RowProblem::Refused {
            field: place(FUNCTION_CALL),
            why: "the message has tool_calls, too",
        });
    }
    extra.insert(TOOL_CALLS.into(), serde_json::json!([{"type": "function", "function": call}]));
    Ok(())
}

/// Joins the texts of a message's parts, with nothing between them. `told` gets them, and the keys that nothing reads.
///
/// # Errors
/// A part that is not text, or has a key that would change what is trained.
fn joined(parts: Vec<Value>, place: &str, told: &mut InRow) -> Result<String, RowProblem> {
    let mut joined = String::new();
    for (i, part) in parts.iter().enumerate() {
        let kind_of = part.get("type").and_then(Value::as_str).map(str::to_owned);
        if let Some(kind) = kind_of.filter(|kind| !TEXT_PARTS.contains(&kind.as_str())) {
            return Err(RowProblem::NotText { field: format!("{place}[{i}]"), kind });
        }
        let others = part.as_object().into_iter().flatten();
        let is_other =
            |(key, value): &(&String, &Value)| key != &"type" && key != &"text" && !is_empty(value);
        for (key, _) in others.filter(is_other) {
            match keys::of_message(key) {
                Some(Use::Harmless) => {}
                None => told.passed_over.push(key.clone()),
                Some(Use::Refused(why)) => {
                    return Err(RowProblem::Refused { field: format!("{place}[{i}].{key}"), why });
                }
                Some(_) => {
                    let why = "it belongs to a message, not to a part of one";
                    return Err(RowProblem::Refused { field: format!("{place}[{i}].{key}"), why });
                }
            }
        }
        match part.get("text") {
            Some(Value::String(text)) if json::odd_number(text).is_none() => joined.push_str(text),
            text => {
                let text = text.unwrap_or(&Value::Null);
                return Err(wrong(format!("{place}[{i}].text"), "a string", text));
            }
        }
    }
    told.parts = parts;
    Ok(joined)
}

/// Refuses calls without a name, and arguments that are neither an object nor the JSON text of one.
fn check_calls(calls: &Value, place: &str) -> Result<(), RowProblem> {
    let calls = match calls {
        Value::Null => return Ok(()),
        Value::Array(calls) => calls,
        other => return Err(wrong(place.into(), "a list", other)),
    };
    for (i, call) in calls.iter().enumerate() {
        let Value::Object(call) = call else { return Err(wrong(format!("{place}[{i}]"), "an object", call)) };
        let function = match call.get("function") {
            Some(Value::Object(function)) => function,
            Some(other) => return Err(wrong(format!("{place}[{i}].function"), "an object", other)),
            None => call,
        };
        let of_function = |key: &str| format!("{place}[{i}].function.{key}");
        match function.get("name") {
            Some(Value::String(name)) if !name.trim().is_empty() => {}
            found => {
                let found = found.unwrap_or(&Value::Null);
                return Err(wrong(of_function("name"), "the name of the function", found));
            }
        }
        match function.get("arguments") {
            None | Some(Value::Object(_)) => {}
            Some(Value::String(text)) if read_object(text).is_some() => {}
            Some(Value::String(_)) => {
                let why = "its text is not the JSON of an object";
                return Err(RowProblem::Refused { field: of_function("arguments"), why });
            }
            Some(other) => {
                return Err(wrong(of_function("arguments"), "an object or the JSON text of one", other));
            }
        }
    }
    Ok(())
}

fn read_object(text: &str) -> Option<Value> {
    json::value(text).ok().filter(Value::is_object)
}

/// A message's calls with objects for arguments that are JSON text; nothing if none is.
pub(crate) fn with_arguments_read(message: &Message) -> Option<Value> {
    let mut calls = message.extra.get(TOOL_CALLS)?.clone();
    let mut found = false;
    for call in calls.as_array_mut()? {
        let function = if call.get("function").is_some() { call.get_mut("function") } else { Some(call) };
        let Some(arguments) = function.and_then(|function| function.get_mut("arguments")) else { continue };
        if let Some(read) = arguments.as_str().and_then(read_object) {
            *arguments = read;
            found = true;
        }
    }
    found.then_some(calls)
}

/// Gives a message's reasoning the names that templates read it by, whichever the data set chose (transformers,
/// `_alias_reasoning_fields`).
pub(super) fn name_reasoning(extra: &mut Map<String, Value>) {
    let names = ["reasoning_content", "thinking", "reasoning"];
    let found = names.into_iter().find_map(|name| extra.get(name).filter(|value| !value.is_null()));
    if let Some(reasoning) = found.cloned() {
        extra.entry("thinking").or_insert_with(|| reasoning.clone());
        extra.insert("reasoning_content".into(), reasoning);
    }
}

fn wrong(field: String, want: &'static str, found: &Value) -> RowProblem {
    RowProblem::WrongType { field, want, found: kind(found) }
}
