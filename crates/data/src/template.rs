//! Chat templates: a conversation to the text the model was trained on.
//!
//! A template is a Jinja program that ships with the model, in Hugging Face's dialect (transformers,
//! `chat_template_utils.py`): blocks trimmed, loop controls, Python's string methods, `raise_exception`,
//! `strftime_now`, and a `tojson` that writes as Python's `json.dumps` does. It is a program from the internet, so it
//! runs with a budget of steps, of output and of time.
//!
//! The engine, minijinja, follows jinja2 in most and not in all. So a template's text is prepared (`source.rs`), parsed by
//! the engine and written again in terms that the engine does as jinja2 does (`rewrite.rs`), and filters, tests, methods
//! and the text of values are our own. What is not supported is refused by its name; `fixtures/jinja` judges it.
//!
//! `{% generation %}` … `{% endgeneration %}` marks what an assistant says. The tags write nothing, or, for
//! [`ChatTemplate::render_marked`], one character each that the conversation does not have; these are taken out again
//! and their places are the spans.

mod arguments;
mod builtin;
mod deadline;
mod filters;
mod format;
mod functions;
mod json;
mod letters;
mod methods;
mod numbers;
mod objects;
mod operators;
mod printing;
mod python;
mod rewrite;
mod source;
mod tests;

use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use lorafit_remedy::{Remedy, Setting, remedy};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, machinery};

use crate::format::{Message, TOOL_CALLS, json_size_bytes, with_arguments_read};
use crate::json::has_odd_number;

pub use builtin::Builtin;
pub(crate) use builtin::read as read_template;

/// The longest template that is read. The longest of the field have about 30 KB.
const LONGEST_SOURCE: usize = 128 << 10;
/// Steps a template may take, whatever it renders. A step is an instruction or 64 bytes of data; templates of the
/// field need about a hundred for each message. The same template always takes the same steps, so that this limit is the
/// one to meet; what the template engine does not count ends at [`LONGEST_RUN`].
const BASE_FUEL: u64 = 200_000;
/// Further steps for each message, and one for so many bytes of the conversation.
const FUEL_PER_MESSAGE: u64 = 2_000;
const BYTES_PER_FUEL: u64 = 4;
/// Never more steps than this, which a conversation of some 10 MB needs: what a template can nest is bounded by
/// them, and so is the stack it needs.
const MOST_FUEL: u64 = 1_000_000;
/// The longest a template may compute. The steps of the longest conversation take less, unless they are such as to
/// compare strings of several MB.
const LONGEST_RUN: Duration = Duration::from_millis(150);
/// Bytes a template may write, whatever it renders, and for each byte of the conversation. Templates write every
/// message about once.
const BASE_OUTPUT: usize = 1 << 20;
const OUTPUT_PER_BYTE: usize = 8;

const NAME: &str = "chat_template";
/// The variables that the two tags of a generation mark write.
const MARKS: [&str; 2] = ["py_generation_begins", "py_generation_ends"];
/// Where the characters that stand for the tags are taken from: noncharacters, which text has no reason to hold.
const MARK_CHARACTERS: Range<u32> = 0xFDD0..0xFDF0;

/// The special tokens by name, as templates see them (`bos_token`, ...). One that is `None` is undefined in the
/// template, which then writes nothing for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<String>,
    /// End of sequence.
    pub eos: Option<String>,
    /// Unknown.
    pub unk: Option<String>,
    /// Padding.
    pub pad: Option<String>,
}

/// Why a chat template could not be read or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is not Jinja, or uses what is not supported.
    #[error("chat template{}: {message}", at(*line))]
    Syntax {
        /// Line of the template, counted from 1.
        line: Option<usize>,
        /// What is wrong with it.
        message: String,
    },
    /// The template is longer than any template has a reason to be.
    #[error("the chat template has {bytes} bytes, more than the {limit} that are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// The template failed while rendering.
    #[error("chat template{}: {message}", at(*line))]
    Failed {
        /// Line of the template, counted from 1.
        line: Option<usize>,
        /// What went wrong.
        message: String,
    },
    /// The template ran longer than any template has a reason to.
    #[error("the chat template was stopped after {steps} steps; it may loop without end")]
    TooManySteps {
        /// The budget.
        steps: u64,
    },
    /// The template ran for longer than any template has a reason to.
    #[error("the chat template was stopped after {} ms; it may loop without end", limit.as_millis())]
    TooSlow {
        /// The budget.
        limit: Duration,
    },
    /// The template wrote more than any template has a reason to.
    #[error("the chat template was stopped after writing {bytes} bytes; it may grow without bound")]
    TooMuchOutput {
        /// The budget.
        bytes: usize,
    },
    /// A template's file could not be read.
    #[error("cannot read the chat template {}: {message}", path.display())]
    Unreadable {
        /// The file, which is not the name of a built-in template either.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A built-in template ends turns with a token that the model does not know.
    #[error("the chat template {template} needs the token {token}, which is not in the model's vocabulary")]
    MissingToken {
        /// The template's name.
        template: &'static str,
        /// The token.
        token: &'static str,
    },
}

fn at(line: Option<usize>) -> String {
    line.map(|l| format!(" line {l}")).unwrap_or_default()
}

impl TemplateError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            Self::Refused { .. } => {
                "change the row so that the model's template accepts it (many want user and assistant in turn, or no \
                 system message)"
                    .into()
            }
            Self::Syntax { .. } | Self::Failed { .. } => remedy![
                "give a corrected template with ", Setting::Template.is("FILE");
                "put it into chat_template.jinja in the model folder"
            ],
            Self::TooManySteps { steps } if *steps == MOST_FUEL => remedy![
                "split the conversation, which is some 10 MB long";
                "give another template with ", Setting::Template
            ],
            Self::TooLong { .. }
            | Self::TooManySteps { .. }
            | Self::TooSlow { .. }
            | Self::TooMuchOutput { .. } => remedy![
                "give another with ", Setting::Template;
                "put it into chat_template.jinja in the model folder"
            ]
            .because("the template is broken or malicious"),
            Self::Unreadable { .. } => {
                "give a Jinja file, or one of chatml, llama-3, mistral, alpaca, which are built in".into()
            }
            Self::MissingToken { .. } => {
                "the model could not learn where to stop; alpaca and mistral need an end-of-sequence token only".into()
            }
        })
    }
}

/// A compiled chat template. A clone shares what was compiled.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    source: String,
    marked: bool,
    /// In its place for conversations with tools.
    tool_use: Option<Box<ChatTemplate>>,
    /// Further variables, of one row.
    variables: serde_json::Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles a template. It sees the present moment as now, until [`Self::at`] says otherwise.
    ///
    /// # Errors
    /// When the template has a syntax error.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        if source.len() > LONGEST_SOURCE {
            return Err(TemplateError::TooLong { bytes: source.len(), limit: LONGEST_SOURCE });
        }
        let prepared = source::prepare(source)?;
        let marked = prepared.marked;
        // Stands where tags begin and end in what the engine compiles.
        let mark = MARK_CHARACTERS.rev().filter_map(char::from_u32).find(|c| !prepared.text.contains(*c));
        let mark = mark.ok_or(TemplateError::Syntax {
            line: None,
            message: "the template has every noncharacter from U+FDD0 to U+FDEF".into(),
        })?;
        let environment = in_time(move || {
            let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
            let parsed = machinery::parse(&prepared.text, NAME, syntax.map_err(syntax_error)?)
                .map_err(syntax_error)?;
            let rewritten = rewrite::rewrite(&parsed, mark, prepared.escapes)?;
            let mut environment = environment();
            environment.set_syntax(rewrite::syntax(mark).map_err(syntax_error)?);
            environment.add_template_owned(NAME, rewritten).map_err(syntax_error)?;
            Ok(environment)
        })?;
        let template = Self {
            environment,
            special: special.clone(),
            source: source.to_string(),
            marked,
            tool_use: None,
            variables: serde_json::Map::new(),
        };
        Ok(template.at(jiff::Timestamp::now().as_second()))
    }

    /// The same template, with another in its place for conversations with tools.
    #[must_use]
    pub fn with_tool_use(self, template: Option<ChatTemplate>) -> Self {
        Self { tool_use: template.map(Box::new), ..self }
    }

    /// The template of a conversation that has tools, or has none; an empty list is one, as in transformers.
    pub fn for_tools(&self, has_tools: bool) -> &ChatTemplate {
        self.tool_use.as_deref().filter(|_| has_tools).unwrap_or(self)
    }

    /// The same template, seeing `unix_seconds` as now (`strftime_now`, in the machine's time zone).
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> Self {
        let environment = &mut self.environment;
        environment.add_function("strftime_now", move |format: String| -> Result<String, Error> {
            let wrong = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, e.to_string());
            let now = jiff::Timestamp::from_second(unix_seconds).map_err(wrong)?;
            let now = now.to_zoned(jiff::tz::TimeZone::system());
            // A width in the format (`%99999999d`) asks for that much memory.
            if format.len() > 256 || format.bytes().filter(u8::is_ascii_digit).count() > 3 {
                return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: unusual format"));
            }
            jiff::fmt::strtime::format(&format, &now).map_err(wrong)
        });
        self
    }

    /// The same template with further variables, as transformers takes them from a row's `chat_template_kwargs`.
    #[must_use]
    pub fn with_variables(&self, variables: &serde_json::Map<String, serde_json::Value>) -> Self {
        Self { variables: variables.clone(), ..self.clone() }
    }

    /// Whether the template's source has a name anywhere. If not, it cannot ask for what is called so by that name.
    pub fn names(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// The text of a conversation; with `add_generation_prompt` followed by what opens the assistant's reply.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or exceeds its budget of steps or output.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        self.render_with_tools(messages, None, add_generation_prompt)
    }

    /// The same with the functions that the assistant may call, each a JSON schema as `transformers` takes them.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.run(messages, tools, add_generation_prompt, None)
    }

    /// Whether the template marks what the assistant says with `{% generation %}`.
    pub fn has_generation_marks(&self) -> bool {
        self.marked
    }

    /// The text of a conversation, and the bytes of it that the template marks as the assistant's, in order.
    ///
    /// # Errors
    /// As [`Self::render`], and when a mark is open at the end.
    pub fn render_marked(
        &self,
        messages: &[Message],
        tools: Option<&[serde_json::Value]>,
    ) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        let failed = |message: String| TemplateError::Failed { line: None, message };
        // The characters must not occur otherwise. They are not in a template either, or it would write them.
        let said = serde_json::to_string(&(messages, tools)).map_err(|e| failed(e.to_string()))?;
        let mut free = MARK_CHARACTERS
            .filter_map(char::from_u32)
            .filter(|&c| !said.contains(c) && !self.source.contains(c));
        let (Some(begin), Some(end)) = (free.next(), free.next()) else {
            return Err(failed(
                "the conversation has nearly every noncharacter from U+FDD0 to U+FDEF".into(),
            ));
        };
        let rendered = self.run(messages, tools, false, Some([begin, end]))?;

        let mut text = String::with_capacity(rendered.len());
        let mut spans = Vec::new();
        // Where the outermost mark began, and how many are open.
        let (mut start, mut depth) = (0, 0_usize);
        for c in rendered.chars() {
            if c == begin {
                start = if depth == 0 { text.len() } else { start };
                depth += 1;
            } else if c == end {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| failed("a generation mark ends before it begins".into()))?;
                if depth == 0 {
                    spans.push(start..text.len());
                }
            } else {
                text.push(c);
            }
        }
        match depth {
            0 => Ok((text, spans)),
            _ => Err(failed("a generation mark has no end".into())),
        }
    }

    fn run(
        &self,
        messages: &[Message],
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
        marks: Option<[char; 2]>,
    ) -> Result<String, TemplateError> {
        let of_tools: usize =
            tools.unwrap_or_default().iter().chain(self.variables.values()).map(json_size_bytes).sum();
        let input = of_tools + messages.iter().map(Message::size_bytes).sum::<usize>();
        let read: Vec<_> = messages.iter().map(with_arguments_read).collect();
        let values = |calls: &[Option<serde_json::Value>]| {
            let calls = calls.iter().map(Option::as_ref).chain(std::iter::repeat(None));
            let odd = || {
                let read = calls.clone().take(messages.len()).flatten();
                let of_messages =
                    messages.iter().flat_map(|message| message.extra.values().chain(&message.in_row.parts));
                of_messages.chain(read).any(has_odd_number)
            };
            let values = messages.iter().zip(calls.clone());
            let values = values.map(|(message, calls)| message_value(message, calls)).collect();
            self.values(numbers::restored(values, odd), tools, add_generation_prompt, marks)
        };
        match self.run_with(values(&read), messages.len(), input) {
            // A template that wants the text of arguments.
            Err(failed @ TemplateError::Failed { .. }) if read.iter().any(Option::is_some) => {
                self.run_with(values(&[]), messages.len(), input).map_err(|_| failed)
            }
            result => result,
        }
    }

    /// What the template sees.
    fn values(
        &self,
        messages: Value,
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
        marks: Option<[char; 2]>,
    ) -> Value {
        let mut values = vec![
            ("messages", messages),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            // Always given by transformers, so templates may test them without `is defined`.
            (
                "tools",
                tools.map_or(Value::from(()), |tools| {
                    numbers::restored(Value::from(Serde(tools)), || tools.iter().any(has_odd_number))
                }),
            ),
            ("documents", Value::from(())),
        ];
        let special = [
            ("bos_token", &self.special.bos),
            ("eos_token", &self.special.eos),
            ("unk_token", &self.special.unk),
            ("pad_token", &self.special.pad),
        ];
        values.extend(special.into_iter().filter_map(|(k, v)| Some((k, Value::from(v.as_ref()?.as_str())))));
        for (name, value) in &self.variables {
            values.push((
                name.as_str(),
                numbers::restored(Value::from(Serde(value)), || has_odd_number(value)),
            ));
        }
        if let Some(characters) = marks {
            values.extend(MARKS.into_iter().zip(characters.map(Value::from)));
        }
        Value::from_pairs(values)
    }

    /// The text that the template gives where it sees these values and nothing else, not even special tokens.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_values(
        &self,
        values: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let given = numbers::restored(Value::from(Serde(values)), || values.values().any(has_odd_number));
        self.run_with(given, 0, values.values().map(json_size_bytes).sum())
    }

    fn run_with(&self, values: Value, messages: usize, input: usize) -> Result<String, TemplateError> {
        let steps = BASE_FUEL
            .saturating_add(FUEL_PER_MESSAGE.saturating_mul(messages as u64))
            .saturating_add(input as u64 / BYTES_PER_FUEL)
            .min(MOST_FUEL);
        let bytes = BASE_OUTPUT.saturating_add(input.saturating_mul(OUTPUT_PER_BYTE));

        // Fuel belongs to the environment, and a render must not change it for others: a clone shares the rest.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(steps));
        in_time(move || {
            let template = environment.get_template(NAME).map_err(syntax_error)?;
            let mut output = Capped { text: Vec::new(), room: bytes, full: false };
            let result = template.render_captured_to(values, &mut output);
            if output.full {
                return Err(TemplateError::TooMuchOutput { bytes });
            }
            result.map_err(|e| render_error(&e, steps))?;
            // Only text is ever written.
            String::from_utf8(output.text)
                .map_err(|e| TemplateError::Failed { line: None, message: e.to_string() })
        })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// What `work` does within [`LONGEST_RUN`].
fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, TemplateError> {
    deadline::run(LONGEST_RUN, work).unwrap_or_else(|failure| {
        Err(match failure {
            deadline::Failure::TooSlow => TemplateError::TooSlow { limit: LONGEST_RUN },
            deadline::Failure::Crashed => {
                TemplateError::Failed { line: None, message: "the template engine crashed".into() }
            }
        })
    })
}

/// What `raise_exception` was given, carried through the template engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Output that stops at a limit.
struct Capped {
    text: Vec<u8>,
    room: usize,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if text.len() > self.room {
            self.full = true;
            return Err(io::Error::other("output limit"));
        }
        self.room -= text.len();
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn describe(error: &Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let mut source = std::error::Error::source(error);
    // A chain is as long as templates nest, which a hostile one decides.
    for _ in 0..4 {
        let Some(cause) = source else { break };
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    shortened(&text)
}

/// A message no longer than one reads: the template decides what is in it.
fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

fn syntax_error(error: Error) -> TemplateError {
    TemplateError::Syntax { line: error.line(), message: describe(&error) }
}

fn render_error(error: &Error, steps: u64) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(now) = cause {
        if let Some(Raised(message)) = now.downcast_ref() {
            return TemplateError::Refused { message: shortened(message) };
        }
        if now.downcast_ref().map(Error::kind) == Some(ErrorKind::OutOfFuel) {
            return TemplateError::TooManySteps { steps };
        }
        cause = now.source();
    }
    TemplateError::Failed { line: error.line(), message: describe(error) }
}

/// A message as templates see it, perhaps with other calls. What is none is not there, as in transformers (`apply_chat_template` drops it): many
/// templates write "None" for it and do well without it.
fn message_value(message: &Message, calls: Option<&serde_json::Value>) -> Value {
    let role = Some(("role", Value::from(message.role.name())));
    let content = match message.in_row.for_template {
        true => Some(Value::from(Serde(&message.in_row.parts))),
        false => message.content.as_deref().map(Value::from),
    };
    let content = content.map(|content| ("content", content));
    let extra = message.extra.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
        let value = calls.filter(|_| key == TOOL_CALLS).unwrap_or(value);
        (key.as_str(), Value::from(Serde(value)))
    });
    Value::from_pairs(role.into_iter().chain(content).chain(extra))
}

/// The engine with Python's values, filters, tests and functions.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // So that errors name the variable that is undefined, in release builds too.
    environment.set_debug(true);
    environment.set_formatter(printing::write);
    environment.set_unknown_method_callback(methods::call);
    filters::add_to(&mut environment);
    tests::add_to(&mut environment);
    operators::add_to(&mut environment);
    functions::add_to(&mut environment);
    environment
}
