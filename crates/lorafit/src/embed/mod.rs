//! What a program that embeds lorafit calls; the Python package does.
//!
//! [`call`] runs a verb with the words of its command line, as the program `lorafit` does, and tells a [`Host`] what that prints.
//! [`parameters`] are the flags of all verbs, from their declarations. [`Model`] answers from a base that stays open, and
//! [`figures`] draws how runs went. None ends the process, takes its signals, or prints.

mod figures;
mod model;

pub use figures::{Drawn, figures};
pub use model::{Model, Prompt};

pub use crate::terminal::error::{Failed, Failure};
pub use crate::terminal::host::Host;

use std::ffi::OsString;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{args, cli};

/// Runs a verb with its flags: `words` are what is typed behind `lorafit`.
///
/// # Errors
/// What the program would tell on standard error, with its hint.
pub fn call(host: Arc<dyn Host>, words: Vec<OsString>) -> Result<(), Failure> {
    cli::run_for(host, words)
}

/// The flags of every verb as a JSON object: by the verb's name `help` and `parameters`, each of which has
/// `name`, `flag`, `kind`, `choices`, `is_repeated`, `is_switch`, `default` and `help`.
pub fn parameters() -> Value {
    let mut command = cli::command();
    command.build();
    let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help").map(|verb| {
        let help = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let parameters = args::parameters::of(verb);
        (verb.get_name().to_owned(), json!({ "help": help, "parameters": parameters }))
    });
    Value::Object(verbs.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Host for Heard {
        fn result(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn note(&self, _: &str) {}
        fn event(&self, _: &str, _: &Value) {}
        fn should_stop(&self) -> bool {
            false
        }
        fn should_save(&self) -> bool {
            false
        }
        fn program(&self) -> Option<PathBuf> {
            None
        }
    }

    fn called(words: &[&str]) -> (Result<(), Failure>, Vec<String>) {
        let heard = Arc::new(Heard::default());
        let result = call(heard.clone(), words.iter().map(OsString::from).collect());
        let lines = heard.0.lock().unwrap().clone();
        (result, lines)
    }

    #[test]
    fn a_call_gives_its_result_to_its_host_however_often_it_is_made() {
        for _ in 0..2 {
            let (result, lines) = called(&["plan", "--model", "smollm2-135m", "--json"]);
            assert_eq!(result, Ok(()));
            let plan: Value = serde_json::from_str(&lines.concat()).unwrap();
            assert!(plan["model"].is_object() || plan["model"].is_string(), "{plan}");
        }
    }

    #[test]
    fn words_that_are_no_command_line_are_a_failure_and_no_exit() {
        let (result, lines) = called(&["plan", "--modle", "x"]);
        let failure = result.unwrap_err();
        assert_eq!(failure.failed, Failed::Asking);
        assert!(failure.message.contains("--modle"), "{failure:?}");
        assert!(failure.hint.as_deref().unwrap_or_default().contains("--model"), "{failure:?}");
        assert!(lines.is_empty());
        let (result, _) = called(&["plan", "--model", "no-such-model", "--batch-size", "0"]);
        let failure = result.unwrap_err();
        assert!(failure.message.contains("--batch-size 0"), "{failure:?}");
    }

    #[test]
    fn help_is_a_result_and_programs_of_their_own_are_refused() {
        let (result, lines) = called(&["plan", "--help"]);
        assert!(result.is_ok() && lines.concat().contains("--micro-batch-tokens"), "{lines:?}");
        for words in
            [&["serve", "--model", "m"][..], &["chat", "--model", "m"], &["watch", "r"], &["selfcheck"]]
        {
            let failure = called(words).0.unwrap_err();
            assert!(failure.message.contains("a process of its own"), "{failure:?}");
        }
    }

    #[test]
    fn parameters_are_those_of_every_verb() {
        let all = parameters();
        for verb in ["train", "plan", "sweep", "eval", "inspect", "chat"] {
            let listed = all[verb]["parameters"].as_array().unwrap_or_else(|| panic!("{verb}"));
            assert!(listed.iter().all(|one| one["help"].as_str().is_some_and(|help| !help.is_empty())));
        }
    }
}
