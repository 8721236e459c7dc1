//! Answers of a form that is asked for: JSON, JSON of a schema, or a text of a regular expression.
//!
//! A grammar (the crate `llguidance`) says before each token which bytes may follow; every token of the vocabulary whose
//! bytes may not gets the logit minus infinity. Special tokens have no bytes, so none is ever chosen, but those that end an
//! answer once it is complete.
//!
//! A client may send any schema, so all is bounded: its size before it is read, then the steps of reading it, the states of
//! the automaton, the steps for each token, and the time: preparing runs on a thread of its own, whose stack is deep enough
//! for the deepest schema of that size, and has `LONGEST_PREPARATION` of a processor.

mod bytes;
mod clock;
mod fits;
mod limits;
mod schema;
mod wording;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, panic_utils};
use lorafit_data::Tokenizer;
use serde_json::{Value, json};

pub use fits::Checked;

/// How long a constraint may be worked on before it is refused.
const LONGEST_PREPARATION: Duration = Duration::from_millis(150);

/// How long a client waits for it, since a machine that is busy works on it in turns with others.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// So many constraints that were refused for their time may still be worked on, which some patterns that all have to hold are
/// for seconds; then none is begun.
const MOST_LATE: usize = 2;

/// A level of a schema takes a few KiB, and a chain of references has at most one for each of its values.
const STACK: usize = 64 << 20;

/// White space between parts of JSON: a space, or a line break and what indents the next line. More would let a model write
/// white space without end.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,32})";

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(Value),
    /// A text that this regular expression describes as a whole.
    Regex(String),
    /// One of these calls, or a list of such calls.
    Calls {
        /// Calls that there may be.
        calls: Vec<CallText>,
        /// Whether there is a list.
        is_list: bool,
    },
}

/// A call of a tool as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct CallText {
    /// What stands before the arguments, the name of the tool with it.
    pub before: String,
    /// The schema of the arguments.
    pub arguments: Value,
    /// What closes the call; where that is not known, it ends with its arguments, and so does a list.
    pub behind: String,
}

/// Why a constraint is refused, for the client to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be kept.
    Cannot(String),
    /// It takes too long to prepare, here and now.
    TooLong(String),
}

impl Refusal {
    /// In words.
    pub fn why(&self) -> &str {
        match self {
            Refusal::Cannot(why) | Refusal::TooLong(why) => why,
        }
    }
}

/// What every constraint needs of a tokenizer; made once.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    /// How many are still worked on though nobody waits for them.
    late: Arc<AtomicUsize>,
}

/// A constraint on its way through one answer.
pub struct Guide {
    matcher: Matcher,
    /// What may follow, if it was computed already.
    allowed: Option<SimpleVob>,
    /// The tokens that end an answer.
    ends: Vec<u32>,
    is_complete: bool,
}

impl Grammars {
    /// For `tokenizer`, whose model has logits of `vocabulary` tokens.
    ///
    /// # Errors
    /// A tokenizer that constraints cannot be computed of, in words.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self, String> {
        let ends = tokenizer.eos_ids();
        let Some(first) = ends.first() else {
            return Err("the tokenizer has no token that ends an answer".to_owned());
        };
        let words = bytes::of_tokens(tokenizer, vocabulary)?;
        let info = TokRxInfo::new(u32::try_from(words.len()).map_err(|_| "too many tokens")?, *first);
        let factory = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let tokens: TokEnv =
                Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words).with_eos_tokens(ends)));
            ParserFactory::new_simple(&tokens)
        }));
        let mut factory = factory.map_err(|error| format!("the tokens have no tree: {}", line(&error)))?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        Ok(Self { factory: Arc::new(factory), late: Arc::default() })
    }

    /// Begins an answer. This may take some milliseconds, so call it from a thread that may wait.
    ///
    /// # Errors
    /// Why the constraint cannot be kept, for the client to read.
    pub fn begin(&self, constraint: &Constraint) -> Result<Guide, Refusal> {
        let what = match constraint {
            Constraint::Regex(_) => "the regular expression",
            _ => "the schema",
        };
        let refused = |why: String| Refusal::Cannot(format!("{what} {why}"));
        let constraint = &as_kept(constraint).map_err(refused)?;
        let grammar = grammar_of(constraint).map_err(refused)?;
        if self.late.load(Ordering::Relaxed) >= MOST_LATE {
            let why = "too many constraints that take long are being prepared; try again later";
            return Err(Refusal::TooLong(why.to_owned()));
        }
        let prepared = self
            .prepare(grammar)
            .map_err(|error| Refusal::TooLong(format!("no thread to prepare {what}: {error}")))?;
        match prepared {
            Some(Ok(guide)) => Ok(guide),
            Some(Err(why)) => Err(Refusal::Cannot(format!("{what}: {}", limits::explain(&why, constraint)))),
            None => Err(Refusal::TooLong(format!(
                "{what} takes longer than {} ms to prepare; make it simpler",
                LONGEST_PREPARATION.as_millis()
            ))),
        }
    }

    /// Prepares a grammar on a thread of its own; none when that takes too long.
    fn prepare(&self, grammar: TopLevelGrammar) -> std::io::Result<Option<Result<Guide, String>>> {
        let (give, take) = mpsc::sync_channel(1);
        let (name, named) = mpsc::sync_channel(1);
        let (factory, late) = (Arc::clone(&self.factory), Arc::clone(&self.late));
        // Who comes second, the thread at its end or the client that waits no longer, knows that the other was there.
        let was_there = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&was_there);
        let work = move || {
            // Who waits may be gone.
            let _ = name.send(clock::of_this_thread());
            let prepared = panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(prepare(&factory, grammar))));
            let _ = give.send(prepared.unwrap_or_else(|panic| Err(panic.to_string())));
            if end.swap(true, Ordering::SeqCst) {
                late.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let thread = std::thread::Builder::new().name("constraint".to_owned()).stack_size(STACK);
        thread.spawn(work)?;
        let begun = Instant::now();
        let mut clock = None;
        loop {
            if let Ok(prepared) = take.recv_timeout(LONGEST_PREPARATION / 10) {
                return Ok(Some(prepared));
            }
            clock = clock.or_else(|| named.try_recv().ok());
            let waited = begun.elapsed();
            let worked = match &clock {
                // It has not begun.
                None => Duration::ZERO,
                Some(file) => file.as_deref().and_then(clock::time).unwrap_or(waited),
            };
            if worked < LONGEST_PREPARATION && waited < LONGEST_WAIT {
                continue;
            }
            self.late.fetch_add(1, Ordering::SeqCst);
            if !was_there.swap(true, Ordering::SeqCst) {
                return Ok(None);
            }
            self.late.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Guide {
    /// Makes the logits of all that may not follow minus infinity: of all tokens after a [`Self::failure`].
    pub fn mask(&mut self, logits: &mut [f32]) {
        let Some(allowed) = self.allowed.take().or_else(|| self.matcher.compute_mask_or_eos().ok()) else {
            logits.fill(f32::NEG_INFINITY);
            return;
        };
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// The same from its beginning: of a guide that nothing was accepted by.
    #[must_use]
    pub fn again(&self) -> Self {
        Guide {
            matcher: self.matcher.deep_clone(),
            allowed: self.allowed.clone(),
            ends: self.ends.clone(),
            is_complete: self.is_complete,
        }
    }

    /// Whether a token may follow; what may is then known to [`Guide::mask`].
    pub fn can_go_on(&mut self) -> bool {
        if self.allowed.is_none() {
            self.allowed = self.matcher.compute_mask_or_eos().ok();
        }
        self.allowed.as_ref().is_some_and(|allowed| !allowed.is_zero())
    }

    /// Goes on by tokens that were chosen before; says whether they may follow.
    pub fn take(&mut self, tokens: &[u32]) -> bool {
        self.allowed = None;
        self.matcher.try_consume_tokens(tokens).is_ok_and(|taken| taken == tokens.len())
    }

    /// Goes on by a token.
    pub fn accept(&mut self, token: u32) {
        self.allowed = None;
        if self.matcher.is_stopped() || self.ends.contains(&token) {
            return;
        }
        let gone_on = self.matcher.consume_token(token);
        self.is_complete =
            gone_on.is_ok() && (self.is_finished() || self.matcher.is_accepting().unwrap_or(false));
    }

    /// Whether the answer may end here.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether it is complete and nothing can follow, so that no end has to be computed.
    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// Why the answer cannot go on as it has to: a step that would take too long, or a token that was not allowed. The
    /// answer may be incomplete.
    pub fn failure(&self) -> Option<String> {
        let failed = self.matcher.is_stopped() && !self.matcher.stop_reason().is_ok();
        failed
            .then(|| line(self.matcher.get_error().unwrap_or_else(|| self.matcher.stop_reason().to_string())))
    }
}

/// A constraint that is not too large, written so that all of it is kept.
fn as_kept(constraint: &Constraint) -> Result<Constraint, String> {
    let kept = |schema: &Value| {
        limits::check_schema(schema)?;
        schema::prepare(schema)
    };
    match constraint {
        Constraint::JsonObject | Constraint::Regex(_) => Ok(constraint.clone()),
        Constraint::JsonSchema(schema) => kept(schema).map(Constraint::JsonSchema),
        Constraint::Calls { calls, is_list } => {
            let call = |call: &CallText| {
                Ok::<_, String>(CallText { arguments: kept(&call.arguments)?, ..call.clone() })
            };
            let calls = calls.iter().map(call).collect::<Result<_, _>>()?;
            Ok(Constraint::Calls { calls, is_list: *is_list })
        }
    }
}

/// The grammar of a constraint that is kept.
fn grammar_of(constraint: &Constraint) -> Result<TopLevelGrammar, String> {
    let schema = match constraint {
        Constraint::Calls { calls, is_list } => return Ok(grammar_of_calls(calls, *is_list)),
        Constraint::Regex(text) => {
            return Ok(TopLevelGrammar::from_regex(limits::whole_regex(text)?));
        }
        Constraint::JsonObject => json!({"type": "object"}),
        Constraint::JsonSchema(schema) => schema.clone(),
    };
    Ok(TopLevelGrammar::from_json_schema(with_white_space(schema)))
}

/// With the library's own key for how JSON is written; that of a client is unknown to JSON Schema and says nothing.
fn with_white_space(mut schema: Value) -> Value {
    if let Value::Object(keys) = &mut schema {
        keys.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
    }
    schema
}

/// Each call is a rule, and the schema of its arguments a grammar of its own.
fn grammar_of_calls(calls: &[CallText], is_list: bool) -> TopLevelGrammar {
    let quoted = |text: &str| Value::from(text).to_string();
    let optional = |text: &str| if text.is_empty() { String::new() } else { quoted(text) };
    let names: Vec<String> = (0..calls.len()).map(|index| format!("call_{index}")).collect();
    let is_closed = calls.iter().all(|call| !call.behind.is_empty());
    let start = match (is_list, is_closed) {
        (false, _) => "blank? call",
        (true, true) => r#"blank? "[" blank? call (blank? "," blank? call)* blank? "]""#,
        (true, false) => r#"blank? "[" blank? call"#,
    };
    let mut lark = format!("start: {start}\nblank: /[ \\n]{{1,8}}/\ncall: {}\n", names.join(" | "));
    let mut arguments = Vec::with_capacity(calls.len());
    for (index, (name, call)) in names.iter().zip(calls).enumerate() {
        lark += &format!("{name}: {} @arguments_{index} {}\n", quoted(&call.before), optional(&call.behind));
        let mut grammar = GrammarWithLexer::from_json_schema(with_white_space(call.arguments.clone()));
        grammar.name = Some(format!("arguments_{index}"));
        arguments.push(grammar);
    }
    let mut grammar = TopLevelGrammar::from_lark(lark);
    grammar.grammars.extend(arguments);
    grammar
}

/// A guide, with what its first token may be: what cannot begin is refused.
fn prepare(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Guide, String> {
    let mut matcher = Matcher::new(factory.create_parser(grammar));
    let allowed = matcher.compute_mask().map_err(|error| error.to_string())?;
    let is_complete = matcher.is_accepting().map_err(|error| error.to_string())?;
    let ends = factory.tok_env().tok_trie().eos_tokens().to_vec();
    Ok(Guide { matcher, allowed: Some(allowed), ends, is_complete })
}

/// About 20 ms to prepare, 15 ms for a token at the worst, some 20 MB of automaton; patterns that all have to hold may cost
/// some times more.
fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 250_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 16_000,
        max_grammar_size: 50_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// What an error says, on one line.
fn line(error: impl ToString) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next().unwrap_or("no reason is known").to_owned()
}

#[cfg(test)]
mod tests;
