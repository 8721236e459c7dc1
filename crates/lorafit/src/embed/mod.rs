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

    /// Keeps what it hears, and stops a run after so many steps.
    #[derive(Default)]
    struct Ears {
        results: Mutex<Vec<String>>,
        notes: Mutex<Vec<String>>,
        steps: Mutex<Vec<u64>>,
        stop_after: Option<usize>,
    }

    impl Host for Ears {
        fn result(&self, line: &str) {
            self.results.lock().unwrap().push(line.to_owned());
        }
        fn note(&self, text: &str) {
            self.notes.lock().unwrap().push(text.to_owned());
        }
        fn event(&self, name: &str, record: &Value) {
            if name == "step" {
                self.steps.lock().unwrap().push(record["step"].as_u64().unwrap());
            }
        }
        fn should_stop(&self) -> bool {
            self.stop_after.is_some_and(|most| self.steps.lock().unwrap().len() >= most)
        }
        fn should_save(&self) -> bool {
            false
        }
        fn program(&self) -> Option<PathBuf> {
            None
        }
    }

    fn heard(ears: &Arc<Ears>, words: &[&str]) -> Result<(), Failure> {
        call(ears.clone(), words.iter().map(OsString::from).collect())
    }

    fn called(words: &[&str]) -> (Result<(), Failure>, Vec<String>) {
        let ears = Arc::new(Ears::default());
        let result = heard(&ears, words);
        let lines = ears.results.lock().unwrap().clone();
        (result, lines)
    }

    #[test]
    fn a_run_that_its_host_stops_goes_on_to_the_bits_of_one_that_ran_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let rows: String = (0..8).map(|i| format!("{{\"text\": \"row {i} of eight\"}}\n")).collect();
        std::fs::write(path("rows.jsonl"), rows).unwrap();
        let model = format!("{}/../../fixtures/models/chat_bpe", env!("CARGO_MANIFEST_DIR"));
        let (data, whole, parted) = (path("rows.jsonl"), path("whole"), path("parted"));
        let flags = ["--preset", "off", "--max-steps", "5", "--batch-size", "2", "--lr", "0.01"];
        let train = |out: &str, stop_after: Option<usize>| {
            let ears = Arc::new(Ears { stop_after, ..Ears::default() });
            let words = [&["train", "--model", &model, "--data", &data, "--out", out][..], &flags].concat();
            (heard(&ears, &words), ears)
        };
        let (result, ears) = train(&whole, None);
        assert_eq!((result, ears.steps.lock().unwrap().clone()), (Ok(()), vec![1, 2, 3, 4, 5]));
        assert!(ears.notes.lock().unwrap().iter().any(|note| note.contains("trainable parameters")));
        let (result, ears) = train(&parted, Some(2));
        assert_eq!(result.unwrap_err().failed, Failed::Stopped);
        assert_eq!(*ears.steps.lock().unwrap(), [1, 2]);
        let ears = Arc::new(Ears::default());
        assert_eq!(heard(&ears, &["train", "--resume", &parted]), Ok(()));
        assert_eq!(*ears.steps.lock().unwrap(), [3, 4, 5]);
        let adapter =
            |run: &str| std::fs::read(PathBuf::from(run).join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(&whole), adapter(&parted));
        // A run that is there already is refused in the words of the verb.
        let failure = train(&whole, None).0.unwrap_err();
        assert!(failure.hint.as_deref().unwrap_or_default().contains("--overwrite"), "{failure:?}");
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
