//! The conversation of `lorafit chat`: lines in, commands obeyed, answers streamed out.
//!
//! It knows no model: whatever answers is a [`ChatEngine`]. The conversation is kept when the adapter
//! changes, so that two adapters can be held against each other in the same context.

use std::fmt;
use std::io::{self, BufRead as _, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::terminal::error::{CliError, render};

/// One turn of the conversation; `role` is `system`, `user` or `assistant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// An adapter with a weight, as `/adapter NAME:0.5` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What its update is multiplied by.
    pub weight: f64,
}

impl Part {
    /// At its own strength.
    pub fn whole(name: &str) -> Self {
        Part { name: name.to_owned(), weight: 1.0 }
    }

    /// Reads `NAME` or `NAME:WEIGHT`; one of the `known` names goes first.
    fn read(word: &str, known: &[String]) -> Result<Self, CliError> {
        let is_known = |name: &str| known.iter().any(|known| known == name);
        let unknown = |name: &str| {
            let names: Vec<&str> = known.iter().map(String::as_str).chain(["none"]).collect();
            CliError::new(format!("no adapter is called `{name}`"))
                .hint(format!("at hand: {}", names.join(", ")))
        };
        match word.rsplit_once(':') {
            _ if is_known(word) => Ok(Part::whole(word)),
            Some((name, weight)) if is_known(name) => match weight.parse::<f64>() {
                Ok(weight) if (weight as f32).is_normal() => Ok(Part { name: name.to_owned(), weight }),
                _ => Err(CliError::new(format!(
                    "`{word}`: the weight `{weight}` must be a number other than 0"
                ))
                .hint(format!("{name}:0.5 is half as strong"))),
            },
            _ => Err(unknown(word)),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            1.0 => f.write_str(&self.name),
            weight => write!(f, "{}:{weight}", self.name),
        }
    }
}

/// Several in a few words.
fn in_words(parts: &[Part]) -> String {
    parts.iter().map(Part::to_string).collect::<Vec<_>>().join(" + ")
}

/// What answers: a model with its adapters.
pub trait ChatEngine {
    /// The names `/adapter` takes.
    fn adapters(&self) -> Vec<String>;

    /// Uses adapters of [`ChatEngine::adapters`] from now on, all together; without any, the base alone.
    fn use_adapters(&mut self, parts: &[Part]) -> anyhow::Result<()>;

    /// Answers the last turn. Each piece of text goes to `piece` as it comes; when that says `Break`,
    /// the answer ends there. Returns the whole answer.
    fn reply(
        &mut self,
        conversation: &[Turn],
        piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<String>;
}

const HELP: &str = "\
/adapter NAME   answer with this adapter; /adapter none with the base alone; /adapter A B:0.5 with both at once
/adapters       the adapters at hand
/system TEXT    set the system message and start over; without TEXT the template's own
/reset          forget the conversation
/quit           leave (also Ctrl-D)
Anything else is said to the model. Ctrl-C stops an answer.";

/// A conversation and what it needs to go on.
pub struct Repl<'a, E> {
    engine: E,
    adapters: Vec<Part>,
    system: Option<String>,
    turns: Vec<Turn>,
    interrupted: &'a AtomicBool,
}

impl<'a, E: ChatEngine> Repl<'a, E> {
    /// Starts with the given adapters, which the engine already uses. A true `interrupted` ends the answer under way.
    pub fn new(engine: E, adapters: Vec<Part>, system: Option<String>, interrupted: &'a AtomicBool) -> Self {
        Repl { engine, adapters, system, turns: Vec::new(), interrupted }
    }

    /// Talks until the input ends or the user leaves. An error of one answer does not end the conversation;
    /// only the loss of the output does.
    pub fn run(&mut self, greeting: Option<&str>) -> anyhow::Result<()> {
        let mut lines = Lines::of_stdin()?;
        let mut out = io::stdout().lock();
        if let (Some(greeting), true) = (greeting, lines.interactive()) {
            writeln!(out, "{greeting}")?;
        }
        while let Some(line) = lines.next(&self.prompt())? {
            if self.line(&line, &mut out)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn prompt(&self) -> String {
        match &self.adapters[..] {
            [] => "base> ".to_owned(),
            used => format!("{}> ", in_words(used)),
        }
    }

    /// Obeys or answers one line; `Break` means the user leaves.
    fn line(&mut self, line: &str, out: &mut dyn Write) -> io::Result<ControlFlow<()>> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if !line.starts_with('/') {
            self.say(line, out)?;
            return Ok(ControlFlow::Continue(()));
        }
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (command, argument.trim()) {
            ("/quit" | "/exit", _) => return Ok(ControlFlow::Break(())),
            ("/help", _) => writeln!(out, "{HELP}")?,
            ("/adapters", _) => self.list_adapters(out)?,
            ("/adapter", "") => self.tell_adapters(out)?,
            ("/adapter", names) => self.switch(names, out)?,
            ("/reset", _) => {
                self.turns.clear();
                writeln!(out, "conversation forgotten")?;
            }
            ("/system", text) => {
                self.turns.clear();
                self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                writeln!(out, "system message {}", if text.is_empty() { "removed" } else { "set" })?;
            }
            _ => complain(
                out,
                &CliError::new(format!("unknown command {command}")).hint("/help lists them").into(),
            )?,
        }
        out.flush()?;
        Ok(ControlFlow::Continue(()))
    }

    fn list_adapters(&self, out: &mut dyn Write) -> io::Result<()> {
        for name in self.engine.adapters() {
            match self.adapters.iter().find(|used| used.name == name) {
                Some(used) => writeln!(out, "* {used}")?,
                None => writeln!(out, "  {name}")?,
            }
        }
        writeln!(out, "{} none", if self.adapters.is_empty() { "*" } else { " " })
    }

    fn tell_adapters(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.adapters[..] {
            [] => writeln!(out, "adapter: none"),
            used => writeln!(out, "adapter: {}", in_words(used)),
        }
    }

    fn switch(&mut self, names: &str, out: &mut dyn Write) -> io::Result<()> {
        let wanted = match self.read_parts(names) {
            Ok(wanted) => wanted,
            Err(error) => return complain(out, &error.into()),
        };
        match self.engine.use_adapters(&wanted) {
            Ok(()) => {
                self.adapters = wanted;
                self.tell_adapters(out)
            }
            Err(error) => complain(out, &error),
        }
    }

    fn read_parts(&self, names: &str) -> Result<Vec<Part>, CliError> {
        if names == "none" {
            return Ok(Vec::new());
        }
        let known = self.engine.adapters();
        let mut wanted: Vec<Part> = Vec::new();
        for word in names.split_whitespace() {
            let part = Part::read(word, &known)?;
            if wanted.iter().any(|earlier| earlier.name == part.name) {
                return Err(CliError::new(format!("`{}` is named twice", part.name))
                    .hint(format!("/adapter {}:2 is twice as strong", part.name)));
            }
            wanted.push(part);
        }
        Ok(wanted)
    }

    /// Says a line to the model and streams the answer. A failed answer leaves the conversation as it was.
    fn say(&mut self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        self.turns.push(Turn { role: "user", content: text.to_owned() });
        let system = self.system.iter().map(|text| Turn { role: "system", content: text.clone() });
        let conversation: Vec<Turn> = system.chain(self.turns.iter().cloned()).collect();
        self.interrupted.store(false, Ordering::SeqCst);
        let mut lost_output = None;
        let answer = self.engine.reply(&conversation, &mut |piece| {
            if let Err(error) = out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
                lost_output = Some(error);
            }
            match lost_output.is_some() || self.interrupted.load(Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        self.interrupted.store(false, Ordering::SeqCst);
        if let Some(error) = lost_output {
            return Err(error);
        }
        writeln!(out)?;
        match answer {
            Ok(content) => self.turns.push(Turn { role: "assistant", content }),
            Err(error) => {
                self.turns.pop();
                complain(out, &error)?;
            }
        }
        out.flush()
    }
}

fn complain(out: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    out.write_all(render(error, false).as_bytes())
}

/// Where lines come from: an editor with history on a terminal, else standard input as it is.
enum Lines {
    Editor(Box<DefaultEditor>),
    Plain,
}

impl Lines {
    fn of_stdin() -> anyhow::Result<Self> {
        Ok(match io::stdin().is_terminal() && io::stdout().is_terminal() {
            true => Lines::Editor(Box::new(DefaultEditor::new()?)),
            false => Lines::Plain,
        })
    }

    fn interactive(&self) -> bool {
        matches!(self, Lines::Editor(_))
    }

    /// None at the end of the input.
    fn next(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        let editor = match self {
            Lines::Editor(editor) => editor,
            Lines::Plain => {
                let mut line = String::new();
                return Ok((io::stdin().lock().read_line(&mut line)? > 0).then_some(line));
            }
        };
        match editor.readline(prompt) {
            Ok(line) => {
                // Without it only the convenience of going back to the line is lost.
                let _ = editor.add_history_entry(&line);
                Ok(Some(line))
            }
            // Ctrl-C at the prompt drops the line; Ctrl-D leaves.
            Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the adapter's name and the number of turns it was shown.
    #[derive(Default)]
    struct Echo {
        adapter: Option<String>,
    }

    impl ChatEngine for Echo {
        fn adapters(&self) -> Vec<String> {
            vec!["butler".into(), "pirate".into()]
        }

        fn use_adapters(&mut self, parts: &[Part]) -> anyhow::Result<()> {
            self.adapter = (!parts.is_empty()).then(|| in_words(parts));
            Ok(())
        }

        fn reply(
            &mut self,
            conversation: &[Turn],
            piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> anyhow::Result<String> {
            if conversation.last().unwrap().content == "fail" {
                return Err(CliError::new("too long").hint("/reset").into());
            }
            let roles: Vec<&str> = conversation.iter().map(|turn| turn.role).collect();
            let mut answer = String::new();
            for text in [self.adapter.as_deref().unwrap_or("base"), ": ", &roles.join(" ")] {
                answer.push_str(text);
                if piece(text).is_break() {
                    break;
                }
            }
            Ok(answer)
        }
    }

    fn talk(lines: &[&str]) -> String {
        let interrupted = AtomicBool::new(false);
        let mut repl = Repl::new(Echo::default(), Vec::new(), None, &interrupted);
        let mut out = Vec::new();
        for line in lines {
            if repl.line(line, &mut out).unwrap().is_break() {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_conversation_grows_and_reset_forgets_it() {
        assert_eq!(
            talk(&["a", "b", "/reset", "c"]),
            "base: user\nbase: user assistant user\nconversation forgotten\nbase: user\n"
        );
    }

    #[test]
    fn adapters_are_swapped_in_the_same_conversation() {
        assert_eq!(
            talk(&["/adapter pirate", "a", "/adapter none", "b", "/adapter"]),
            "adapter: pirate\npirate: user\nadapter: none\nbase: user assistant user\nadapter: none\n"
        );
    }

    #[test]
    fn several_adapters_answer_together_by_their_weights() {
        assert_eq!(
            talk(&["/adapter butler pirate:0.5", "a", "/adapters"]),
            "adapter: butler + pirate:0.5\nbutler + pirate:0.5: user\n* butler\n* pirate:0.5\n  none\n"
        );
        for (line, told) in [
            ("/adapter butler pirate:inf", "the weight `inf` must be a number other than 0"),
            ("/adapter butler:0", "the weight `0` must be"),
            ("/adapter butler:half", "the weight `half` must be"),
            ("/adapter butler butler:0.5", "`butler` is named twice"),
            ("/adapter butler none", "no adapter is called `none`"),
        ] {
            let said = talk(&[line, "a"]);
            assert!(said.contains(told) && said.ends_with("base: user\n"), "{line}: {said}");
        }
    }

    #[test]
    fn an_unknown_adapter_is_told_with_those_at_hand() {
        assert_eq!(
            talk(&["/adapter pirat", "a"]),
            "error: no adapter is called `pirat`\nhint: at hand: butler, pirate, none\nbase: user\n"
        );
        assert_eq!(talk(&["/adapter butler", "/adapters"]), "adapter: butler\n* butler\n  pirate\n  none\n");
    }

    #[test]
    fn a_failed_answer_is_taken_back() {
        assert_eq!(talk(&["fail", "a"]), "\nerror: too long\nhint: /reset\nbase: user\n");
    }

    #[test]
    fn a_system_message_comes_first_and_can_be_removed() {
        assert_eq!(
            talk(&["/system Be brief", "a", "/system", "a"]),
            "system message set\nbase: system user\nsystem message removed\nbase: user\n"
        );
    }

    #[test]
    fn an_unknown_command_is_not_said_to_the_model() {
        assert!(talk(&["/adaptor x"]).starts_with("error: unknown command /adaptor\nhint: /help"));
    }

    #[test]
    fn quitting_ends_the_conversation() {
        assert_eq!(talk(&["/quit", "a"]), "");
    }

    #[test]
    fn an_interrupt_before_a_line_does_not_cut_its_answer() {
        let interrupted = AtomicBool::new(true);
        let mut out = Vec::new();
        assert!(
            Repl::new(Echo::default(), Vec::new(), None, &interrupted)
                .line("a", &mut out)
                .unwrap()
                .is_continue()
        );
        assert_eq!(out, b"base: user\n");
    }
}
