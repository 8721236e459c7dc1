//! What of a conversation its chat template leaves out. A row trained without it would not be the row that was written.
//!
//! Templates write nearly everything, so the whole is looked at first: the conversation is rendered once more with marks in
//! the places of what counts, and what has its mark in that text is written. Of what has none, each is asked for by itself:
//! where the text stays the same without it, or with another in its place, it is lost. What only describes (a tool's
//! parameters, the name of a call) is counted, all else is refused.

use serde_json::{Map, Value, json};

use crate::error::RowProblem;
use crate::format::keys::is_empty;
use crate::format::{Message, Role, TOOL_CALLS};
use crate::reply::Rendered;

/// Begins a mark. A noncharacter, which no template looks for.
const MARK: char = '\u{FDD7}';

/// A conversation of more messages is long.
const LONG: usize = 64;

/// Refuses a conversation of which the template leaves out a tool, a call or an argument of one, or what somebody says. Gives
/// the names of what else it leaves out.
///
/// # Errors
/// The first that is left out, by its name in the row.
pub(crate) fn check(rendered: &Rendered) -> Result<Vec<String>, RowProblem> {
    let mut counted = Vec::new();
    check_tools(rendered, &mut counted)?;
    for (i, message) in rendered.conversation.messages.iter().enumerate() {
        if message.calls_tools() {
            check_calls(rendered, i, message, &mut counted)?;
        }
    }
    check_tools_of_messages(rendered)?;
    check_words(rendered)?;
    Ok(counted)
}

fn not_written(field: String) -> Result<(), RowProblem> {
    Err(RowProblem::NotWritten { field })
}

/// Marks, each with what it stands for.
#[derive(Default)]
struct Marks<W>(Vec<(String, W)>);

impl<W> Marks<W> {
    fn next(&mut self, what: W) -> Value {
        let mark = format!("{MARK}{}{MARK}", self.0.len());
        self.0.push((mark.clone(), what));
        json!(mark)
    }

    /// What has no mark in a text; all of it where there is no text.
    fn missing(self, text: Option<&str>) -> impl Iterator<Item = W> {
        let is_missing = move |mark: &str| text.is_none_or(|text| !text.contains(mark));
        self.0.into_iter().filter(move |(mark, _)| is_missing(mark)).map(|(_, what)| what)
    }
}

/// The object with name and parameters of a tool, or name and arguments of a call.
fn function(value: &mut Value) -> Option<&mut Map<String, Value>> {
    let value = if value.get("function").is_some() { value.get_mut("function")? } else { value };
    value.as_object_mut()
}

fn count(counted: &mut Vec<String>, name: String) {
    if !counted.contains(&name) {
        counted.push(name);
    }
}

fn check_tools(rendered: &Rendered, counted: &mut Vec<String>) -> Result<(), RowProblem> {
    let Some(tools) = rendered.conversation.tools.as_deref().filter(|tools| !tools.is_empty()) else {
        return Ok(());
    };
    let render = |tools: Option<&[Value]>| {
        rendered.template.render_with_tools(&rendered.conversation.messages, tools, false).ok()
    };
    let mut marked = tools.to_vec();
    let mut marks = Marks(Vec::new());
    for (i, tool) in marked.iter_mut().enumerate() {
        let Some(function) = function(tool) else { continue };
        for key in ["name", "description"] {
            if let Some(Value::String(text)) = function.get_mut(key).filter(|text| **text != json!("")) {
                *text = marks.next((i, key)).as_str().unwrap_or_default().to_owned();
            }
        }
        let parameters = function.get_mut("parameters").and_then(Value::as_object_mut);
        let properties = parameters.and_then(|p| p.get_mut("properties")).and_then(Value::as_object_mut);
        if let Some(properties) = properties.filter(|properties| !properties.is_empty()) {
            let mark = marks.next((i, "parameters"));
            let name = mark.as_str().unwrap_or_default().to_owned();
            properties.insert(name, json!({"type": "string", "description": "d"}));
        }
    }
    let text = render(Some(&marked));
    let mut missing = marks.missing(text.as_deref()).peekable();
    if missing.peek().is_some() && render(None).is_some_and(|without| without == rendered.text) {
        return not_written("tools".into());
    }
    for (i, key) in missing {
        // As it is without the tool, or without what it says.
        let mut others = tools.to_vec();
        let key = if key == "name" { "" } else { key };
        match (key, function(&mut others[i])) {
            ("parameters", Some(function)) => {
                function.insert("parameters".into(), json!({"type": "object", "properties": {}}));
            }
            ("description", Some(function)) => {
                function.insert("description".into(), json!(""));
            }
            _ => {
                others.remove(i);
            }
        }
        let others = if others.is_empty() { None } else { Some(&others[..]) };
        if render(others).is_some_and(|other| other == rendered.text) {
            match key {
                "" => return not_written(format!("tools[{i}]")),
                key => count(counted, format!("tools[].function.{key}")),
            }
        }
    }
    Ok(())
}

/// A message with other calls.
fn with_calls(message: &Message, calls: Vec<Value>) -> Message {
    let mut message = message.clone();
    message.extra.insert(TOOL_CALLS.into(), Value::Array(calls));
    message
}

fn check_calls(
    rendered: &Rendered,
    m: usize,
    message: &Message,
    counted: &mut Vec<String>,
) -> Result<(), RowProblem> {
    let read = message.calls_read();
    let calls = read.as_array().map(Vec::as_slice).unwrap_or_default();
    let same = |calls: Vec<Value>| {
        let other = match calls.is_empty() {
            true => message.without_tool_calls(),
            false => with_calls(message, calls),
        };
        rendered.with(m, other).is_some_and(|other| other == rendered.text)
    };
    let mut marked = calls.to_vec();
    let mut marks = Marks(Vec::new());
    for (i, call) in marked.iter_mut().enumerate() {
        let Some(function) = function(call) else { continue };
        if function.contains_key("name") {
            function.insert("name".into(), marks.next((i, None)));
        }
        if let Some(Value::Object(arguments)) = function.get_mut("arguments") {
            for (name, value) in arguments.iter_mut() {
                *value = marks.next((i, Some(name.clone())));
            }
        }
    }
    let text = rendered.with(m, with_calls(message, marked));
    let mut missing = marks.missing(text.as_deref()).peekable();
    if missing.peek().is_some() && same(Vec::new()) {
        return not_written(format!("messages[{m}].{TOOL_CALLS}"));
    }
    for (i, argument) in missing {
        let mut without = calls.to_vec();
        without.remove(i);
        if same(without) {
            return not_written(format!("messages[{m}].{TOOL_CALLS}[{i}]"));
        }
        let mut others = calls.to_vec();
        let Some(function) = function(&mut others[i]) else { continue };
        match &argument {
            None => function.insert("name".into(), json!(MARK.to_string())),
            Some(name) => {
                let arguments = function.get_mut("arguments").and_then(Value::as_object_mut);
                arguments.and_then(|arguments| arguments.shift_remove(name))
            }
        };
        match (same(others), argument) {
            (true, None) => count(counted, format!("messages[].{TOOL_CALLS}[].function.name")),
            (true, Some(name)) => {
                let call = format!("messages[{m}].{TOOL_CALLS}[{i}]");
                return not_written(format!("{call}.function.arguments.{name}"));
            }
            (false, _) => {}
        }
    }
    Ok(())
}

/// Some templates take tools from the system message. Others have a variable of that name, so that it says nothing whether
/// they name it.
fn check_tools_of_messages(rendered: &Rendered) -> Result<(), RowProblem> {
    for (i, message) in rendered.conversation.messages.iter().enumerate() {
        for key in ["tools", "functions"] {
            if message.extra.get(key).is_none_or(is_empty) {
                continue;
            }
            let mut without = message.clone();
            without.extra.shift_remove(key);
            if rendered.with(i, without).is_some_and(|other| other == rendered.text) {
                return not_written(format!("messages[{i}].{key}"));
            }
        }
    }
    Ok(())
}

/// What is said: of everyone but the assistant, and of the assistant beside calls. Replies are looked for by themselves.
fn check_words(rendered: &Rendered) -> Result<(), RowProblem> {
    let messages = &rendered.conversation.messages;
    for (i, message) in messages.iter().enumerate() {
        let words = message.text().trim();
        if words.is_empty() || (message.role == Role::Assistant && !message.calls_tools()) {
            continue;
        }
        // Of words that the template does not write itself, there are as many as messages have.
        let says = |other: &Message| match messages.len() {
            0..=LONG => other.text().matches(words).count(),
            // Every message in every other takes too long.
            _ => usize::from(other.text().trim() == words),
        };
        let wanted: usize = messages.iter().map(says).sum();
        let found = rendered.text.matches(words).take(wanted).count();
        if found == wanted && !rendered.template.names(words) {
            continue;
        }
        if rendered.with(i, message.saying(&MARK.to_string())).is_some_and(|other| other == rendered.text) {
            return not_written(format!("messages[{i}].content"));
        }
    }
    Ok(())
}
