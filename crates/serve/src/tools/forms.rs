//! The forms of calls, each read from behind its marker.

mod gemma;
mod python;

use serde_json::{Map, Value};

use super::{Call, Offered};
use gemma::{FUNCTION_GEMMA, GEMMA_4, Marks};

/// What begins calls, and how they go on.
pub(super) const MARKERS: [(&str, Form); 24] = [
    ("<tool_call>", Form::Block),
    ("[TOOL_CALLS]", Form::Mistral),
    ("<|tool_call|>", Form::Json { close: None, shape: Shape::Named }),
    ("<|python_tag|>", Form::PythonTag),
    ("<function=", Form::Function),
    ("<TOOLCALL>", Form::Json { close: Some("</TOOLCALL>"), shape: Shape::Named }),
    ("<tool_calls>", Form::Json { close: Some("</tool_calls>"), shape: Shape::Named }),
    ("<|START_ACTION|>", Form::Json { close: None, shape: Shape::Named }),
    ("<|tools_prefix|>", Form::Json { close: None, shape: Shape::KeyIsName }),
    ("<｜tool▁calls▁begin｜>", Form::Section(&DEEPSEEK)),
    (DEEPSEEK.begin, Form::Entry(&DEEPSEEK)),
    ("<|tool_calls_section_begin|>", Form::Section(&KIMI)),
    (KIMI.begin, Form::Entry(&KIMI)),
    ("<|start|>assistant", Form::Harmony(Header::Turn)),
    ("<|channel|>commentary to=functions.", Form::Harmony(Header::Recipient { in_channel: true })),
    ("<|channel|>analysis to=functions.", Form::Harmony(Header::Recipient { in_channel: true })),
    (" to=functions.", Form::Harmony(Header::Recipient { in_channel: false })),
    ("<|tool_call>", Form::Gemma(&GEMMA_4)),
    ("<start_function_call>", Form::Gemma(&FUNCTION_GEMMA)),
    ("<|tool_call_start|>", Form::PythonList { close: "<|tool_call_end|>" }),
    ("<function_calls>", Form::PythonLines { close: "</function_calls>" }),
    ("<minimax:tool_call>", Form::Invocations { close: "</minimax:tool_call>" }),
    ("<seed:tool_call>", Form::Tagged { close: "</seed:tool_call>" }),
    ("<|assistant|>", Form::OfOffered),
];

const DEEPSEEK: Entry =
    Entry {
        begin: "<｜tool▁call▁begin｜>", separator: "<｜tool▁sep｜>", end: "<｜tool▁call▁end｜>"
    };
const KIMI: Entry = Entry {
    begin: "<|tool_call_begin|>",
    separator: "<|tool_call_argument_begin|>",
    end: "<|tool_call_end|>",
};

/// How calls go on behind their marker.
pub(super) enum Form {
    /// JSON, and what has to end it.
    Json { close: Option<&'static str>, shape: Shape },
    /// What Qwen and others write up to `</tool_call>`.
    Block,
    /// A list, or a name and an object.
    Mistral,
    /// JSON, after which more may follow without the marker.
    PythonTag,
    /// A name behind `<function=`.
    Function,
    /// Entries, of which the first is read with what begins the section.
    Section(&'static Entry),
    /// A call of a section.
    Entry(&'static Entry),
    /// A message of harmony whose recipient is a function.
    Harmony(Header),
    /// `call:f{...}`
    Gemma(&'static Marks),
    /// `[f(x=1), g()]`
    PythonList { close: &'static str },
    /// `f(x=1)`, one a line.
    PythonLines { close: &'static str },
    /// `<invoke name="f"><parameter name="x">` value
    Invocations { close: &'static str },
    /// `<function=f><parameter=x>` value
    Tagged { close: &'static str },
    /// A name of a tool that was offered, and in the next line an object.
    OfOffered,
}

/// How far the header of a message of harmony is read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Header {
    /// Behind who speaks.
    Turn,
    /// Behind what the name of a function follows; whether that stands in the channel's place.
    Recipient { in_channel: bool },
}

/// The markers of a call in a section.
pub(super) struct Entry {
    begin: &'static str,
    separator: &'static str,
    end: &'static str,
}

/// What JSON says of a call.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// `{"name": f, "arguments": {...}}`
    Named,
    /// The same with both, and no other keys, since no marker says that it is a call.
    Bare,
    /// `{f: {...}}`
    KeyIsName,
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    /// It may be a call, more of it is needed.
    More,
    /// It is no call, whatever follows.
    No,
}

type Read<T> = Result<T, Stop>;

/// A place in the text behind a marker.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Nothing follows `text`.
    ended: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, ended: bool) -> Self {
        Self { text, at: 0, ended }
    }

    /// The bytes read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The bytes of the text.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Reads the calls behind a marker; `offered` are the tools that may be called.
    pub(super) fn calls(&mut self, form: &Form, offered: &[Offered]) -> Read<Vec<Call>> {
        match form {
            Form::Json { close, shape } => self.json_calls(*close, *shape),
            Form::PythonTag => self.json_calls(None, Shape::Named),
            Form::Block => self.block(),
            Form::Mistral => self.mistral(),
            Form::Function => Ok(vec![self.function()?]),
            Form::Section(entry) => {
                self.blank();
                self.take(entry.begin)?;
                Ok(vec![self.entry(entry)?])
            }
            Form::Entry(entry) => Ok(vec![self.entry(entry)?]),
            Form::Harmony(header) => Ok(vec![self.harmony(*header)?]),
            Form::Gemma(marks) => Ok(vec![self.gemma(marks)?]),
            Form::PythonList { close } => self.python_list(close),
            Form::PythonLines { close } => self.several(close, Self::python_call),
            Form::Invocations { close } => self.several(close, Self::invocation),
            Form::Tagged { close } => {
                self.blank();
                self.take("<function=")?;
                let call = self.function()?;
                self.close(close)?;
                Ok(vec![call])
            }
            Form::OfOffered => Ok(vec![self.of_offered(offered)?]),
        }
    }

    /// Reads calls up to `close`, of which there is at least one.
    fn several(&mut self, close: &str, read: fn(&mut Self) -> Read<Call>) -> Read<Vec<Call>> {
        let mut calls = Vec::new();
        loop {
            self.blank();
            calls.push(read(self)?);
            match self.close(close) {
                Ok(()) => return Ok(calls),
                Err(Stop::More) => return Err(Stop::More),
                Err(Stop::No) => {}
            }
        }
    }

    /// Reads calls without a marker, perhaps behind what parts them from earlier ones.
    pub(super) fn bare_calls(&mut self, has_earlier: bool, offered: &[Offered]) -> Read<Vec<Call>> {
        self.blank();
        match self.of_offered(offered) {
            Err(Stop::No) => {}
            found => return found.map(|call| vec![call]),
        }
        if has_earlier && matches!(self.peek()?, ';' | ',') {
            self.at += 1;
            self.blank();
        }
        let from = self.at;
        // Soon says of other JSON that it is none, so that it does not wait for its end.
        if self.peek()? == '[' {
            self.at += 1;
            self.blank();
        }
        self.take("{")?;
        self.blank();
        self.take("\"")?;
        let key = self.until("\"")?;
        if !BARE_KEYS.contains(&key) {
            return Err(Stop::No);
        }
        self.at = from;
        self.json_calls(None, Shape::Bare)
    }

    fn json_calls(&mut self, close: Option<&str>, shape: Shape) -> Read<Vec<Call>> {
        self.blank();
        let value = self.json()?;
        let calls = match value {
            Value::Array(items) if !items.is_empty() => {
                items.into_iter().map(|item| call_of(item, shape)).collect::<Option<_>>()
            }
            other => call_of(other, shape).map(|call| vec![call]),
        };
        let calls = calls.ok_or(Stop::No)?;
        close.map_or(Ok(()), |close| self.close(close))?;
        Ok(calls)
    }

    /// Behind `<tool_call>`.
    fn block(&mut self) -> Read<Vec<Call>> {
        const CLOSE: &str = "</tool_call>";
        self.blank();
        match self.peek()? {
            '{' | '[' => self.json_calls(Some(CLOSE), Shape::Named),
            '<' => {
                self.take("<function=")?;
                let call = self.function()?;
                self.close(CLOSE)?;
                Ok(vec![call])
            }
            _ => {
                let name = self.name()?.to_owned();
                let mut arguments = Map::new();
                self.blank();
                while self.begins("<arg_key>")? {
                    let key = self.until("</arg_key>")?.trim().to_owned();
                    self.blank();
                    self.take("<arg_value>")?;
                    arguments.insert(key, value_of(self.until("</arg_value>")?));
                    self.blank();
                }
                self.close(CLOSE)?;
                Ok(vec![Call { name, arguments: Value::Object(arguments) }])
            }
        }
    }

    /// Behind `[TOOL_CALLS]`.
    fn mistral(&mut self) -> Read<Vec<Call>> {
        self.blank();
        if matches!(self.peek()?, '[' | '{') {
            return self.json_calls(None, Shape::Named);
        }
        let name = self.name()?.to_owned();
        if self.begins("[CALL_ID]")? {
            self.name()?;
        }
        self.begins("[ARGS]")?;
        self.blank();
        Ok(vec![Call { name, arguments: self.object()? }])
    }

    /// Behind `<function=`: an object, or parameters one by one.
    fn function(&mut self) -> Read<Call> {
        const CLOSE: &str = "</function>";
        let name = self.name()?.to_owned();
        self.take(">")?;
        self.blank();
        if self.peek()? == '{' {
            let arguments = self.object()?;
            self.close(CLOSE)?;
            return Ok(Call { name, arguments });
        }
        let mut arguments = Map::new();
        while self.begins("<parameter=")? {
            let key = self.until(">")?.to_owned();
            let value = self.until("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            arguments.insert(key, value_of(value.strip_suffix('\n').unwrap_or(value)));
            self.blank();
        }
        self.close(CLOSE)?;
        Ok(Call { name, arguments: Value::Object(arguments) })
    }

    /// The name of a tool that was offered, and in the next line what it is called with.
    fn of_offered(&mut self, offered: &[Offered]) -> Read<Call> {
        let from = self.at;
        self.blank();
        let mut may_follow = false;
        for Offered { name, .. } in offered {
            match self.take(name) {
                Ok(()) if self.rest().starts_with('\n') => {
                    self.blank();
                    let arguments = self.object().inspect_err(|_| self.at = from)?;
                    return Ok(Call { name: name.clone(), arguments });
                }
                Ok(()) => {
                    may_follow |= self.rest().is_empty();
                    self.at -= name.len();
                }
                Err(stop) => may_follow |= stop == Stop::More,
            }
        }
        self.at = from;
        Err(if may_follow { Stop::More } else { Stop::No })
    }

    /// A message of harmony to a function: `to=functions.f` beside the channel, and an object as the message.
    fn harmony(&mut self, header: Header) -> Read<Call> {
        const TO: &str = " to=functions.";
        let in_channel = match header {
            Header::Recipient { in_channel } => in_channel,
            Header::Turn => {
                let in_channel = self.begins("<|channel|>")?;
                if in_channel && !self.begins("commentary")? {
                    self.take("analysis")?;
                }
                self.take(TO)?;
                in_channel
            }
        };
        let name = self.name()?.to_owned();
        if !in_channel {
            self.take("<|channel|>")?;
            if !self.begins("commentary")? {
                self.take("analysis")?;
            }
        }
        self.blank();
        self.begins("<|constrain|>")?;
        self.blank();
        self.begins("json")?;
        self.blank();
        self.take("<|message|>")?;
        self.blank();
        let arguments = self.object()?;
        self.close("<|call|>")?;
        Ok(Call { name, arguments })
    }

    /// Calls of Python in a list, or JSON.
    fn python_list(&mut self, close: &str) -> Read<Vec<Call>> {
        self.blank();
        let from = self.at;
        self.take("[")?;
        self.blank();
        if self.peek()? == '{' {
            self.at = from;
            return self.json_calls(Some(close), Shape::Named);
        }
        let mut calls = Vec::new();
        self.parts(']', |cursor| {
            calls.push(cursor.python_call()?);
            Ok(())
        })?;
        if calls.is_empty() {
            return Err(Stop::No);
        }
        self.close(close)?;
        Ok(calls)
    }

    /// `<invoke name="f">`, with parameters one by one.
    fn invocation(&mut self) -> Read<Call> {
        self.blank();
        self.take("<invoke name=\"")?;
        let name = self.name()?.to_owned();
        self.take("\">")?;
        self.blank();
        let mut arguments = Map::new();
        while self.begins("<parameter name=\"")? {
            let key = self.until("\">")?.to_owned();
            let value = self.until("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            arguments.insert(key, value_of(value.strip_suffix('\n').unwrap_or(value)));
            self.blank();
        }
        self.close("</invoke>")?;
        Ok(Call { name, arguments: Value::Object(arguments) })
    }

    /// Behind what begins a call of a section.
    fn entry(&mut self, entry: &Entry) -> Read<Call> {
        let mut name = self.until(entry.separator)?.trim();
        self.blank();
        let fenced = self.peek()? != '{';
        if fenced {
            // DeepSeek V3 writes the kind of the tool, then the name and the object as code.
            const FENCE: &str = "```json";
            name = self.until(FENCE)?.trim();
            self.blank();
        }
        let arguments = self.object()?;
        if fenced {
            self.blank();
            self.take("```")?;
        }
        self.close(entry.end)?;
        // Kimi K2 writes `functions.NAME:NUMBER`.
        let name = name.strip_prefix("functions.").unwrap_or(name);
        let name = match name.rsplit_once(':') {
            Some((name, number)) if number.parse::<u32>().is_ok() => name,
            _ => name,
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Stop::No);
        }
        Ok(Call { name: name.to_owned(), arguments })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn peek(&self) -> Read<char> {
        self.rest().chars().next().ok_or(Stop::More)
    }

    /// Takes `word`, if it stands here.
    fn begins(&mut self, word: &str) -> Read<bool> {
        match self.take(word) {
            Ok(()) => Ok(true),
            Err(Stop::No) => Ok(false),
            Err(Stop::More) if self.ended => Ok(false),
            Err(Stop::More) => Err(Stop::More),
        }
    }

    /// Takes `word`, which has to stand here.
    fn take(&mut self, word: &str) -> Read<()> {
        if self.rest().starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(if word.starts_with(self.rest()) { Stop::More } else { Stop::No })
    }

    /// Takes what ends a call; an answer that ends before has ended it too.
    fn close(&mut self, word: &str) -> Read<()> {
        self.blank();
        if self.ended && word.starts_with(self.rest()) {
            self.at = self.text.len();
            return Ok(());
        }
        self.take(word)
    }

    /// Takes the text before `word`, and it.
    fn until(&mut self, word: &str) -> Read<&'a str> {
        let found = self.rest().find(word).ok_or(Stop::More)?;
        let text = &self.rest()[..found];
        self.at += found + word.len();
        Ok(text)
    }

    /// Takes the name of a tool.
    fn name(&mut self) -> Read<&'a str> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        let length = self.rest().find(|c| !is_part(c));
        let length = length.or(self.ended.then_some(self.rest().len())).ok_or(Stop::More)?;
        if length == 0 {
            return Err(Stop::No);
        }
        let name = &self.rest()[..length];
        self.at += length;
        Ok(name)
    }

    fn object(&mut self) -> Read<Value> {
        self.json().and_then(|value| if value.is_object() { Ok(value) } else { Err(Stop::No) })
    }

    /// Takes an object or a list.
    fn json(&mut self) -> Read<Value> {
        if !matches!(self.peek()?, '{' | '[') {
            return Err(Stop::No);
        }
        let end = self.at + json_end(self.rest()).ok_or(Stop::More)?;
        let value = serde_json::from_str(&self.text[self.at..end]).map_err(|_| Stop::No)?;
        self.at = end;
        Ok(value)
    }
}

/// The bytes of the object or list that `text` begins with.
fn json_end(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Keys of a call without a marker.
const BARE_KEYS: [&str; 5] = ["name", "parameters", "arguments", "type", "id"];

/// The call that JSON says.
fn call_of(value: Value, shape: Shape) -> Option<Call> {
    let Value::Object(mut object) = value else { return None };
    if shape == Shape::KeyIsName {
        let mut entries = object.into_iter();
        let (name, arguments) = entries.next()?;
        return (entries.next().is_none() && arguments.is_object()).then_some(Call { name, arguments });
    }
    if shape == Shape::Bare && !object.keys().all(|key| BARE_KEYS.contains(&key.as_str())) {
        return None;
    }
    if let Some(inner @ Value::Object(_)) = object.get_mut("function") {
        return call_of(inner.take(), shape);
    }
    let name = ["name", "tool_name"].iter().find_map(|key| object.get(*key)?.as_str());
    let name = name.filter(|name| !name.is_empty())?.to_owned();
    let arguments = match ["arguments", "parameters"].iter().find_map(|key| object.remove(*key)) {
        // OpenAI's own form holds them as text.
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        None | Some(Value::Null) if shape == Shape::Named => Value::Object(Map::new()),
        given => given?,
    };
    arguments.is_object().then_some(Call { name, arguments })
}

/// A value that is written as text: JSON or Python's constants where it is that, but text that is quoted stays as it is.
fn value_of(text: &str) -> Value {
    match text.trim() {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        trimmed => match serde_json::from_str(trimmed) {
            // Lists and dictionaries as Python writes them.
            Err(_) => python::literal(trimmed).unwrap_or_else(|| Value::String(text.to_owned())),
            Ok(Value::String(_)) => Value::String(text.to_owned()),
            Ok(value) => value,
        },
    }
}
