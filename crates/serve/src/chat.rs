//! `POST /v1/chat/completions`: conversations that are answered.

use std::time::Instant;

use lorafit_data::{ChatTemplate, Message, Role};
use serde_json::{Map, Value, json};

use crate::ask::{Ask, Form, IDLE, MOST_LISTED};
use crate::constrain::{Checked, Constraint};
use crate::error::ApiError;
use crate::events::Inbox;
use crate::fields::{Fields, kind};
use crate::held_calls::HeldCalls;
use crate::queue::Work;
use crate::reply::{Calls, Kind, Reply};
use crate::site::Site;
use crate::tools::Offered;
use crate::unwritten::Rendering;

const MOST_MESSAGES: usize = 4096;
const MOST_TOOLS: usize = 128;

/// A conversation with the tools that may be called.
struct Conversation {
    messages: Vec<Message>,
    tools: Vec<Value>,
    variables: Map<String, Value>,
}

/// Reads a request and sends it to the engine.
///
/// # Errors
/// What cannot be answered.
pub fn ask(site: &Site, body: &[u8], arrived: Instant) -> Result<(Reply, Inbox), ApiError> {
    let mut fields = Fields::of_body(body)?;
    let mut ask = Ask::read(site, &mut fields)?;
    ask.choosing.log_probabilities = listed(&mut fields)?;
    let (conversation, calls) = conversation(site, &mut fields, &mut ask)?;
    refuse_others(&mut fields)?;
    fields.finish(&IDLE)?;
    let text = conversation.render(site)?;
    // The template writes every special token itself.
    let prompt = site.encode("messages", &text, false)?;
    let (id, created) = Kind::Chat.name()?;
    let reply = Reply {
        id,
        created,
        model: ask.selected.name.clone(),
        kind: Kind::Chat,
        answers: ask.answers,
        prompt_tokens: prompt.len(),
        stream: ask.stream,
        usage: ask.usage,
        lists_tokens: ask.choosing.log_probabilities.is_some(),
        calls,
        tokenizer: site.tokenizer,
    };
    let answers =
        ask.answers(site, vec![prompt], site.limits.new_tokens, matches!(reply.calls, Calls::Found(_)))?;
    Ok((reply, site.send(Work::Answers(answers), ask.selected.adapter, arrived)?))
}

/// `POST /v1/tokenize`: the text that a conversation is written as, and its tokens; or those of a text.
///
/// # Errors
/// What cannot be written.
pub fn tokenize(site: &Site, body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    fields.text("model")?.map(|name| site.models.select(&name)).transpose()?;
    let prompt = fields.text("prompt")?;
    if prompt.is_some() && fields.has("messages") {
        return Err(fields.wrong("prompt", "and `messages` are both given; give one of them"));
    }
    let (text, ids) = match prompt {
        Some(text) => {
            let ids = site.encode("prompt", &text, true)?;
            (text, ids)
        }
        None => {
            let tools = tools(&mut fields)?;
            let messages = messages(&mut fields)?;
            let text = Conversation { messages, tools, variables: variables(&mut fields)? }.render(site)?;
            let ids = site.encode("messages", &text, false)?;
            (text, ids)
        }
    };
    fields.finish(&IDLE)?;
    let token = |id: &u32| {
        let bytes = crate::vocabulary::bytes_of(site.tokenizer, *id);
        let text = String::from_utf8_lossy(&bytes);
        json!({"id": id, "text": text, "bytes": bytes, "special": site.tokenizer.is_special(*id)})
    };
    let tokens: Vec<Value> = ids.iter().map(token).collect();
    Ok(json!({"text": text, "tokens": tokens, "count": ids.len()}))
}

impl Conversation {
    /// The text that the model's template makes of it, up to where the answer begins.
    fn render(&self, site: &Site) -> Result<String, ApiError> {
        site.check_bytes("messages", self.messages.iter().map(|message| message.text().len()).sum())?;
        let template = site.template.as_ref().ok_or_else(|| {
            ApiError::bad(
                "the model has no chat template; use /v1/completions, or start the server with a template",
            )
        })?;
        let template = template.for_tools(!self.tools.is_empty());
        let tools = Some(&*self.tools).filter(|tools| !tools.is_empty());
        if tools.is_some() && !template.names("tools") {
            return Err(ApiError::field(
                "tools",
                "cannot be given to this model: its chat template has no place for them",
            ));
        }
        let with_variables: ChatTemplate;
        let template = match self.variables.is_empty() {
            true => template,
            false => {
                with_variables = template.with_variables(&self.variables);
                &with_variables
            }
        };
        if self.messages.iter().any(Message::calls_tools) && !template.names("tool_calls") {
            let rule = "have `tool_calls`, for which this model's chat template has no place; say the calls in `content`";
            return Err(ApiError::field("messages", rule));
        }
        let render = |messages: &[Message]| template.render_with_tools(messages, tools, true);
        let filled: Vec<Message>;
        let (messages, rendered) = match render(&self.messages) {
            // Some templates add the content of a message that only calls tools to a string.
            Err(_) if self.messages.iter().any(|message| message.content.is_none()) => {
                filled = self.messages.iter().cloned().map(with_content).collect();
                (&filled, render(&filled))
            }
            rendered => (&self.messages, rendered),
        };
        let text =
            rendered.map_err(|error| ApiError::field("messages", format!("cannot be written: {error}")))?;
        site.written.check(&Rendering {
            messages,
            text: &text,
            has_tools: tools.is_some(),
            is_changed: !self.variables.is_empty(),
            render: |messages: &[Message]| render(messages).ok(),
        })?;
        Ok(text)
    }
}

/// A message whose content is a text, if it has none.
fn with_content(mut message: Message) -> Message {
    message.content.get_or_insert_default();
    message
}

fn listed(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    match (wanted, fields.whole("top_logprobs", 0..=MOST_LISTED)?) {
        (false, Some(1..)) => {
            Err(fields.wrong("top_logprobs", "is given without `logprobs`; add `logprobs`: true"))
        }
        (wanted, count) => Ok(wanted.then_some(count.unwrap_or(0) as usize)),
    }
}

/// Fields of OpenAI's that are refused unless they ask for nothing.
fn refuse_others(fields: &mut Fields) -> Result<(), ApiError> {
    for (older, newer) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.value(older).is_some() {
            return Err(fields.wrong(older, format!("is OpenAI's older name; use `{newer}`")));
        }
    }
    match fields.value("modalities") {
        Some(kinds) if kinds != json!(["text"]) => {
            Err(fields.wrong("modalities", "has more than text, and the model writes text"))
        }
        _ => Ok(()),
    }
}

/// Takes `messages`, `tools` and `tool_choice`.
fn conversation(site: &Site, fields: &mut Fields, ask: &mut Ask) -> Result<(Conversation, Calls), ApiError> {
    let messages = messages(fields)?;
    let mut tools = tools(fields)?;
    let calls = choice(fields, &tools)?;
    match fields.value("parallel_tool_calls") {
        Some(Value::Bool(false)) if matches!(calls, Calls::Found(_)) => {
            return Err(fields.wrong(
                "parallel_tool_calls",
                "cannot be false: the model decides how often it calls; leave it out",
            ));
        }
        Some(Value::Bool(_)) | None => {}
        Some(_) => return Err(fields.wrong("parallel_tool_calls", "has to be true or false")),
    }
    if calls != Calls::None && ask.form.is_some() {
        return Err(fields.wrong("tools", "cannot be called in an answer of a given form; leave `response_format` and `regex` out, or set `tool_choice` to none"));
    }
    let is_held = matches!(calls, Calls::Whole | Calls::Of(_));
    if is_held && !ask.stops.is_empty() {
        let rule =
            "would cut the call that `tool_choice` asks for; leave it out, or set `tool_choice` to auto";
        return Err(fields.wrong("stop", rule));
    }
    if is_held {
        ask.form = held_form(&calls, &tools);
    }
    ask.calls = held_calls(site, &calls, &tools);
    if calls == Calls::None {
        tools.clear();
    }
    Ok((Conversation { messages, tools, variables: variables(fields)? }, calls))
}

/// The form of an answer that has to be a call; none for calls that may be made or not.
fn held_form(calls: &Calls, tools: &[Value]) -> Option<Form> {
    let place = |index: usize| format!("tools[{index}].function.parameters");
    match calls {
        Calls::None | Calls::Found(_) => None,
        Calls::Whole => {
            let call = |(index, tool): (usize, &Value)| {
                let mut arguments = parameters(tool);
                move_references(&mut arguments, &format!("#/anyOf/{index}/properties/arguments"));
                let properties = json!({"name": {"const": tool["function"]["name"]}, "arguments": arguments});
                json!({"type": "object", "properties": properties, "required": ["name", "arguments"],
                       "additionalProperties": false})
            };
            let schema = json!({"anyOf": tools.iter().enumerate().map(call).collect::<Vec<_>>()});
            let part = |(index, tool)| (place(index), Constraint::JsonSchema(parameters(tool)));
            let parts = tools.iter().enumerate().map(part).collect();
            Some(Form { constraint: Constraint::JsonSchema(schema), field: "tools".to_owned(), parts })
        }
        Calls::Of(name) => {
            let index = tools.iter().position(|tool| tool["function"]["name"] == name.as_str())?;
            Some(Form::of(&place(index), Constraint::JsonSchema(parameters(&tools[index]))))
        }
    }
}

/// What holds the calls of strict tools to their schemas while they are written. None where that is not possible: then calls that do not
/// fit come back as text.
fn held_calls(site: &Site, calls: &Calls, tools: &[Value]) -> Option<HeldCalls> {
    let Calls::Found(offered) = calls else { return None };
    if offered.iter().all(|tool| tool.strict.is_none()) {
        return None;
    }
    let syntax = site.call_syntax.as_ref()?;
    let of_tool = |(tool, offered): (&Value, &Offered)| {
        let arguments = match offered.strict {
            Some(_) => parameters(tool),
            None => json!({"type": "object"}),
        };
        (offered.name.clone(), arguments)
    };
    let tools: Vec<(String, Value)> = tools.iter().zip(offered).map(of_tool).collect();
    let constraint = syntax.constraint(&tools)?;
    let guide = site.grammars.as_ref().ok()?.begin(&constraint).ok()?;
    Some(syntax.hold(guide))
}

/// Makes references within a schema those of the same schema at `place` of a larger one.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                match (key.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        if let Some(path) = reference.strip_prefix('#') {
                            *reference = format!("{place}{}", path.trim_end_matches('/'));
                        }
                    }
                    // Values, whatever they look like.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                        named.values_mut().for_each(|value| move_references(value, place));
                    }
                    (_, value) => move_references(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|value| move_references(value, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schema of a tool's arguments.
fn parameters(tool: &Value) -> Value {
    match &tool["function"]["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        schema => {
            let mut schema = schema.clone();
            // Arguments are an object, where a schema does not say so, too.
            let says_kind =
                |schema: &Map<String, Value>| ["type", "$ref"].iter().any(|key| schema.contains_key(*key));
            if let Some(schema) = schema.as_object_mut().filter(|schema| !says_kind(schema)) {
                schema.insert("type".to_owned(), json!("object"));
            }
            schema
        }
    }
}

fn choice(fields: &mut Fields, tools: &[Value]) -> Result<Calls, ApiError> {
    let rule = "has to be none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": ...}}";
    let calls = match fields.value("tool_choice") {
        None if tools.is_empty() => Calls::None,
        None => found(tools)?,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Calls::None,
            "auto" if tools.is_empty() => Calls::None,
            "auto" => found(tools)?,
            "required" => Calls::Whole,
            _ => return Err(fields.wrong("tool_choice", rule)),
        },
        Some(choice) => match (choice["type"].as_str(), choice["function"]["name"].as_str()) {
            (Some("function"), Some(name)) => Calls::Of(name.to_owned()),
            _ => return Err(fields.wrong("tool_choice", rule)),
        },
    };
    let is_there = match &calls {
        Calls::None | Calls::Found(_) => true,
        Calls::Whole if tools.is_empty() => {
            return Err(fields.wrong("tool_choice", "is required, but there are no `tools`"));
        }
        Calls::Whole => true,
        Calls::Of(name) => tools.iter().any(|tool| tool["function"]["name"] == name.as_str()),
    };
    match is_there {
        true => Ok(calls),
        false => Err(fields.wrong("tool_choice", "asks for a tool that is not in `tools`; add it there")),
    }
}

/// Calls that the model makes as it likes. Those of strict tools are checked once they are made.
fn found(tools: &[Value]) -> Result<Calls, ApiError> {
    let offered = |(index, tool): (usize, &Value)| {
        let function = &tool["function"];
        let strict = (function["strict"] == true).then(|| Checked::new(&parameters(tool))).transpose();
        let strict = strict.map_err(|why| {
            let rule = format!(
                "cannot be kept where the model decides whether it calls: calls cannot be checked by the schema, which {why}; change \
                 the schema, leave `strict` out, or set `tool_choice` to required or to this tool"
            );
            ApiError::field(&format!("tools[{index}].function.strict"), rule)
        })?;
        Ok(Offered { name: function["name"].as_str().unwrap_or_default().to_owned(), strict })
    };
    tools.iter().enumerate().map(offered).collect::<Result<_, _>>().map(Calls::Found)
}

fn tools(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let tools = match fields.value("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(fields.wrong("tools", format!("is {}; give a list", kind(&other)))),
    };
    if tools.len() > MOST_TOOLS {
        return Err(fields.wrong("tools", format!("has {} tools, and {MOST_TOOLS} is the most", tools.len())));
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let place = format!("tools[{index}]");
        if tool["type"] != "function" {
            return Err(ApiError::field(&format!("{place}.type"), "has to be function"));
        }
        let name = tool["function"]["name"].as_str().filter(|name| !name.is_empty());
        match name {
            Some(name) if names.contains(&name) => {
                return Err(ApiError::field(&place, "has the name of an earlier one; give it another"));
            }
            Some(name) => names.push(name),
            None => {
                return Err(ApiError::field(&format!("{place}.function.name"), "is missing; give a name"));
            }
        }
        let parameters = &tool["function"]["parameters"];
        if !parameters.is_null() && !parameters.is_object() {
            return Err(ApiError::field(
                &format!("{place}.function.parameters"),
                "has to be a JSON schema, an object",
            ));
        }
        let strict = &tool["function"]["strict"];
        if !strict.is_null() && !strict.is_boolean() {
            let rule = format!("is {}; give true or false", kind(strict));
            return Err(ApiError::field(&format!("{place}.function.strict"), rule));
        }
        let kind = &parameters["type"];
        let has_object = kind == "object"
            || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"));
        if !kind.is_null() && !has_object {
            return Err(ApiError::field(
                &format!("{place}.function.parameters.type"),
                "has to be object: the arguments of a call are one",
            ));
        }
    }
    Ok(tools)
}

fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    match fields.value("chat_template_kwargs") {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(other) => {
            Err(fields.wrong("chat_template_kwargs", format!("is {}; give an object", kind(&other))))
        }
    }
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    match fields.value("messages") {
        Some(Value::Array(items)) if (1..=MOST_MESSAGES).contains(&items.len()) => {
            items.into_iter().enumerate().map(|(index, item)| message(item, index)).collect()
        }
        Some(Value::Array(items)) => {
            let rule = format!("has {} messages; give 1 to {MOST_MESSAGES}", items.len());
            Err(fields.wrong("messages", rule))
        }
        Some(other) => Err(fields.wrong("messages", format!("is {}; give a list", kind(&other)))),
        None => Err(fields.wrong("messages", "is missing; give a list of messages")),
    }
}

fn message(item: Value, index: usize) -> Result<Message, ApiError> {
    let mut fields = Fields::of_value(item, &format!("messages[{index}]"))?;
    let role = match fields.needed_text("role")?.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => return Err(fields.wrong("role", "has to be system, developer, user, assistant or tool")),
    };
    let content = content(&mut fields)?;
    let mut message = Message::new(role, "");
    for (key, of) in
        [("name", None), ("tool_call_id", Some(Role::Tool)), ("reasoning_content", Some(Role::Assistant))]
    {
        let text = if of.is_none_or(|of| of == role) { fields.text(key)? } else { None };
        if let Some(text) = text {
            message.extra.insert(key.to_owned(), text.into());
        }
    }
    if role == Role::Assistant
        && let Some(calls) = calls(&mut fields)?
    {
        message.extra.insert("tool_calls".to_owned(), calls);
    }
    if content.is_none() && !message.calls_tools() {
        return Err(fields.wrong("content", "is missing; give a string"));
    }
    message.content = content;
    // What an answer of the API has, and says nothing in a question.
    fields.finish(&["refusal", "annotations"])?;
    Ok(message)
}

/// Takes the calls of a message of the assistant.
fn calls(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let Some(calls) = fields.value("tool_calls") else { return Ok(None) };
    let is_call = |call: &Value| {
        let arguments = &call["function"]["arguments"];
        call["function"]["name"].is_string() && (arguments.is_string() || arguments.is_object())
    };
    match calls.as_array().is_some_and(|calls| calls.iter().all(is_call)) {
        true => Ok(Some(calls)),
        false => Err(fields.wrong(
            "tool_calls",
            "needs a list of calls, each with `function.name` and `function.arguments`",
        )),
    }
}

/// Takes what a message says: a string, or parts that are texts.
fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let parts = match fields.value("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(fields.wrong("content", format!("is {}; give a string", kind(&other)))),
    };
    let text = |(index, part): (usize, &Value)| {
        let place = format!("content[{index}]");
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => Ok(text.to_owned()),
            (Some("text"), None) => Err(fields.wrong(&format!("{place}.text"), "is missing; give a string")),
            (Some(kind), _) => {
                // The name is the client's, and may be long.
                let kind: String = kind.chars().take(40).collect();
                let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
                Err(fields.wrong(&place, format!("is {article} {kind}; this server reads text only")))
            }
            (None, _) => Err(fields.wrong(&format!("{place}.type"), "is missing; give text")),
        }
    };
    parts.iter().enumerate().map(text).collect::<Result<String, _>>().map(Some)
}
