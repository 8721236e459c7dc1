//! The command line as a whole: its verbs. Each verb's own flags stand in its file under `command/`, those of
//! `train` and those that verbs share under `args/`.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::iter;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::args::config_file::Given;
use crate::args::criteria::CriteriaArgs;
use crate::args::flags;
use crate::args::numbers::{finite, in_plain_words};
use crate::args::train::TrainArgs;
use crate::command::{
    bench, chat, compare, completions, data, doctor, eval, export, generate, inspect, kernels, manual, merge,
    pairs, plan, quantize, report, runs, selfcheck, serve, status, sweep, train, watch,
};
use crate::session::at_hand::AtHand;
use crate::terminal::error::{self, CliError, Failure};
use crate::terminal::flow::flowed;
use crate::terminal::host::{self, Call, Host};
use crate::terminal::words;

/// Fine-tune open language models with LoRA on the machine you have.
#[derive(Parser)]
#[command(name = "lorafit", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "A first session:
  lorafit plan     --model M
  lorafit generate --model M --chat --prompt \"Set a timer for ten minutes\"
  lorafit train    --model M --data train.jsonl --out runs/first
  lorafit eval     --model M --adapter runs/first --data test.jsonl --metric exact_match
  lorafit chat     --model M --adapter runs/first

M is a Hugging Face model folder, a .gguf file, or a hub id (org/name or org/name@revision).
`lorafit VERB --help` explains every flag.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show how much memory fine-tuning a model takes, and what fits
    Plan(plan::PlanArgs),
    /// Show your rows exactly as they are trained, token by token, and their statistics
    Data(data::DataArgs),
    /// Train a LoRA adapter, or the whole model, on your rows
    Train(Box<TrainArgs>),
    /// Search for the best training options
    Sweep(sweep::SweepArgs),
    /// Show the progress of a run
    Status(status::StatusArgs),
    /// List the runs of a folder with state, loss and time
    Runs(runs::RunsArgs),
    /// Show runs on a live page of this machine, and stop them or save checkpoints from there
    Watch(watch::WatchArgs),
    /// Measure loss, perplexity and, with --metric, answers on held-out rows
    Eval(Box<eval::EvalArgs>),
    /// Write preference rows from a model's own answers, judged by a rule or a program, for train --objective dpo
    Pairs(Box<pairs::PairsArgs>),
    /// Compare runs on the same rows, side by side
    Compare(Box<compare::CompareArgs>),
    /// Show what an adapter is and what it changed, layer by layer
    Inspect(inspect::InspectArgs),
    /// Write an HTML report of runs, or of a sweep
    Report(report::ReportArgs),
    /// Answer one prompt
    Generate(generate::GenerateArgs),
    /// Chat with a model; adapters are switched without loading it again
    Chat(chat::ChatArgs),
    /// Serve a model and its adapters to other programs, with OpenAI's API
    Serve(Box<serve::ServeArgs>),
    /// Merge adapters into the weights of a model and write it as a folder
    Merge(Box<merge::MergeArgs>),
    /// Export a model or an adapter for llama.cpp, Ollama, PEFT or mlx-lm
    Export(export::ExportArgs),
    /// Quantise a model folder to 4 or 8 bits, for lorafit and for transformers with bitsandbytes
    Quantize(quantize::QuantizeArgs),
    /// Measure training speed and memory of a model shape on this machine; needs no files
    Bench(bench::BenchArgs),
    /// Compare a GPU's results with the processor's, op by op and in whole steps, and measure its speed
    Selfcheck(selfcheck::SelfcheckArgs),
    /// Compile the kernels for GPUs ahead, so that a machine with one needs no compiler
    Kernels(kernels::KernelsArgs),
    /// Show what this machine has and what lorafit makes of it: one screen for a bug report
    Doctor(doctor::DoctorArgs),
    /// Print completions of verbs and flags for a shell
    Completions(completions::CompletionsArgs),
    /// Write this help as man pages or as Markdown
    Manual(manual::ManualArgs),
}

/// The command line. A negative number is read as a value, so that its error names its flag; numbers have to be finite. Paragraphs behind
/// the flags are broken where they are shown, and only there.
pub fn command() -> clap::Command {
    let numbers = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        let arg = arg.allow_negative_numbers(takes_values);
        match arg.get_value_parser().type_id() == TypeId::of::<f64>() {
            true => arg.value_parser(finite),
            false => arg,
        }
    };
    Cli::command().mut_subcommands(|verb| {
        let after = verb.get_after_long_help().map(|after| flowed(&after.to_string()));
        let verb = verb.mut_args(numbers);
        match after {
            Some(after) => verb.after_long_help(after),
            None => verb,
        }
    })
}

/// What hints may refer to where the verb `name` runs.
fn words_of(name: &str) -> words::Verb {
    let flags = command().find_subcommand(name).map_or_else(BTreeSet::new, |verb| {
        let shown = verb.get_arguments().filter(|flag| !flag.is_hide_set());
        shown.filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
    });
    let keys = match name {
        // A sweep file has the options of train and those of metrics.
        "sweep" => {
            let of_train = flags::with(|facts| facts.is_key).into_iter().map(str::to_owned);
            let of_metrics = ["metric", "max-new-tokens"].map(str::to_owned);
            of_train.chain(flags::names::<CriteriaArgs>()).chain(of_metrics).collect()
        }
        _ => BTreeSet::new(),
    };
    let values = if keys.is_empty() { BTreeSet::new() } else { values_of("train") };
    words::Verb { flags, keys, values }
}

/// The words that flags of the verb `name` take.
fn values_of(name: &str) -> BTreeSet<String> {
    let command = command();
    let flags = command.find_subcommand(name).into_iter().flat_map(|verb| verb.get_arguments());
    flags.flat_map(|flag| flag.get_possible_values()).map(|value| value.get_name().to_owned()).collect()
}

/// A command line that was read.
struct Read {
    call: Arc<Call>,
    verb: Verb,
    given: Given,
}

/// What other programs call flags, and what they are called here.
const OTHER_NAMES: [(&str, &str); 16] = [
    ("base-model", "model"),
    ("dataset", "data"),
    ("epoch", "epochs"),
    ("jobs", "trials-at-once"),
    ("learning-rate", "lr"),
    ("lora-alpha", "alpha"),
    ("lora-dropout", "dropout"),
    ("lora-r", "rank"),
    ("lora-rank", "rank"),
    ("num-epochs", "epochs"),
    ("num-train-epochs", "epochs"),
    ("output", "out"),
    ("output-dir", "out"),
    ("parallel", "trials-at-once"),
    ("steps", "max-steps"),
    ("workers", "trials-at-once"),
];

/// Names that are less alike are not meant for each other (Jaro-Winkler).
const LEAST_ALIKE: f64 = 0.8;

/// Names that begin with what was typed, at most: more of them would say nothing.
const MOST_BEGUN: usize = 4;

/// Flags that some verbs lack because `--device` and `--quant` decide, and the tip for each.
const FOLLOWS: [(&str, &str); 1] = [(
    "compute-dtype",
    "the type follows from --device and --quant here: bf16 on a GPU, and with --quant where the processor multiplies bf16; else f32",
)];

/// An error of words that are no command line, with a tip that helps. A tip for a flag that has little in common with what was typed is
/// taken out.
fn with_tip(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = typed.trim_start_matches('-').split('=').next().unwrap_or_default().replace('_', "-");
    if error.kind() != ErrorKind::UnknownArgument || !typed.starts_with("--") {
        return error;
    }
    let verb =
        words.iter().filter_map(|word| word.to_str()).map(words_of).find(|verb| !verb.flags.is_empty());
    let Some(verb) = verb else { return error };
    let meant = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(meant)) => Some(meant.trim_start_matches('-')),
        _ => None,
    };
    let is_alike = meant.is_some_and(|meant| strsim::jaro_winkler(&name, meant) >= LEAST_ALIKE);
    let tip = tip_of_name(&name, &verb).or_else(|| (!is_alike).then(|| tip_of_others(&name, &verb))?);
    if tip.is_some() || (meant.is_some() && !is_alike) {
        error.remove(ContextKind::SuggestedArg);
        // It has the flag that was not meant.
        error.remove(ContextKind::Usage);
    }
    // Nobody means an unknown flag as a file, which is the other tip there is.
    error.remove(ContextKind::Suggested);
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The tip for who typed `name`, which is no flag of `verb`: a flag that other programs call so, a key of a sweep's file, or what begins so.
fn tip_of_name(name: &str, verb: &words::Verb) -> Option<String> {
    let is_known = |name: &str| verb.flags.contains(name) || verb.keys.contains(name);
    let other = OTHER_NAMES.iter().find(|(other, own)| *other == name && is_known(own));
    let own = other.map_or(name, |(_, own)| *own);
    let of_key = |name: &str| format!("set it in the sweep file: {name} = VALUE");
    if verb.flags.contains(own) {
        return (own != name).then(|| format!("the flag is called --{own}"));
    }
    if verb.keys.contains(own) {
        return Some(of_key(own));
    }
    let begun = |names: &BTreeSet<String>| -> Vec<String> {
        names.iter().filter(|known| known.starts_with(name)).cloned().collect()
    };
    match (&begun(&verb.flags)[..], &begun(&verb.keys)[..]) {
        ([one], _) => Some(format!("did you mean --{one}?")),
        ([], [one]) => Some(of_key(one)),
        (several @ [_, _, ..], _) if several.len() <= MOST_BEGUN => {
            Some(format!("did you mean --{}?", several.join(" or --")))
        }
        _ => None,
    }
}

/// The tip for who typed a flag that other verbs have and `verb` has not.
fn tip_of_others(name: &str, verb: &words::Verb) -> Option<String> {
    let follows = FOLLOWS.iter().find(|(flag, _)| *flag == name);
    if let Some((_, tip)) = follows.filter(|_| verb.flags.contains("device") && verb.flags.contains("quant"))
    {
        return Some((*tip).to_owned());
    }
    let command = command();
    let has = |verb: &&clap::Command| {
        verb.get_arguments().any(|flag| flag.get_long() == Some(name) && !flag.is_hide_set())
    };
    let verbs: Vec<&str> = command.get_subcommands().filter(has).map(clap::Command::get_name).collect();
    (!verbs.is_empty()).then(|| format!("it is a flag of lorafit {}", verbs.join(", ")))
}

/// Reads the words behind the program's name, which `host` gives or a process was started with.
fn read(host: Option<Arc<dyn Host>>, words: Vec<OsString>) -> Result<Read, clap::Error> {
    let typed = iter::once("lorafit".into()).chain(words.iter().cloned());
    let matches =
        command().try_get_matches_from(typed).map_err(|error| in_plain_words(with_tip(error, &words)))?;
    let cli = Cli::from_arg_matches(&matches)?;
    let given = Given::new(matches.subcommand().map(|(_, matches)| matches));
    let known = matches.subcommand_name().map(words_of).unwrap_or_default();
    Ok(Read { call: Call::new(host, words, known), verb: cli.verb, given })
}

/// Runs the verb that a process was started with; gives its exit code.
pub fn run(words: Vec<OsString>) -> u8 {
    let Read { call, verb, given } = match read(None, words.clone()) {
        Ok(read) => read,
        Err(error) => return error::exit_code_of_words(&error, &words),
    };
    host::within(call, || error::exit_code(error::with_device_errors(|| work(verb, &given))))
}

/// Runs a verb for a program that embeds the library.
///
/// # Errors
/// What a process would tell, and words that are no command line.
pub fn run_for(host: Arc<dyn Host>, words: Vec<OsString>) -> Result<(), Failure> {
    let Read { call, verb, given } = match read(Some(host.clone()), words) {
        Ok(read) => read,
        // Help, and the version.
        Err(error) if !error.use_stderr() => {
            host.result(error.render().to_string().trim_end());
            return Ok(());
        }
        Err(error) => return Err(Failure::of_words(&error)),
    };
    host::within(call, || {
        check_embedded(&verb).map_err(|error| Failure::of(&error.into()))?;
        let result = error::with_device_errors(|| work(verb, &given));
        result.map_err(|error| Failure::of(&error))
    })
}

/// Refuses verbs that are programs of their own: they take the process's signals, its terminal, or start it again.
fn check_embedded(verb: &Verb) -> Result<(), CliError> {
    let name = match verb {
        Verb::Chat(_) => "chat",
        Verb::Serve(_) => "serve",
        Verb::Watch(_) => "watch",
        Verb::Selfcheck(_) => "selfcheck",
        _ => return Ok(()),
    };
    let text = format!("lorafit {name} runs as a process of its own, and not inside another program");
    Err(CliError::usage(text).hint(format!("start `lorafit {name}` as a process")))
}

/// Opens what `lorafit chat` with these words behind it would answer from.
///
/// # Errors
/// As [`run_for`].
pub fn open_at_hand(host: Arc<dyn Host>, words: Vec<OsString>) -> Result<AtHand, Failure> {
    let words = iter::once("chat".into()).chain(words).collect();
    let Read { call, verb, given } = read(Some(host), words).map_err(|error| Failure::of_words(&error))?;
    let open = || match verb {
        Verb::Chat(args) => {
            args.validate(&given)?;
            args.open()
        }
        _ => unreachable!("the first word is chat"),
    };
    host::within(call, || error::with_device_errors(open).map_err(|error| Failure::of(&error)))
}

/// Does `work` in the words of a verb, of which it is a part.
///
/// # Errors
/// As [`run_for`].
pub fn within_verb<T>(
    host: Arc<dyn Host>,
    verb: &str,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> Result<T, Failure> {
    let call = Call::new(Some(host), vec![verb.into()], words_of(verb));
    host::within(call, || error::with_device_errors(work).map_err(|error| Failure::of(&error)))
}

/// Does the work of a verb.
fn work(verb: Verb, given: &Given) -> anyhow::Result<()> {
    match verb {
        Verb::Plan(args) => plan::run(args, given),
        Verb::Data(args) => data::run(args, given),
        Verb::Train(args) => train::run(*args, given),
        Verb::Sweep(args) => sweep::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Runs(args) => runs::run(args),
        Verb::Watch(args) => watch::run(args),
        Verb::Eval(args) => eval::run(*args, given),
        Verb::Pairs(args) => pairs::run(*args, given),
        Verb::Compare(args) => compare::run(*args, given),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Report(args) => report::run(args, given),
        Verb::Generate(args) => generate::run(args, given),
        Verb::Chat(args) => chat::run(args, given),
        Verb::Serve(args) => serve::run(*args, plan::view),
        Verb::Merge(args) => merge::run(*args),
        Verb::Export(args) => export::run(args),
        Verb::Quantize(args) => quantize::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Selfcheck(args) => selfcheck::run(args),
        Verb::Kernels(args) => kernels::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Completions(args) => completions::run(args, command()),
        Verb::Manual(args) => manual::run(args, command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorafit_remedy::Setting;

    #[test]
    fn every_setting_that_a_hint_may_name_is_a_flag_of_some_verb() {
        let verbs: Vec<words::Verb> =
            Cli::command().get_subcommands().map(|verb| words_of(verb.get_name())).collect();
        for setting in Setting::ALL {
            let flag = words::flag(*setting);
            assert!(verbs.iter().any(|verb| verb.flags.contains(&flag)), "no verb has --{flag}");
        }
    }

    #[test]
    fn a_sweep_is_told_of_the_keys_of_its_file() {
        let (sweep, train) = (words_of("sweep"), words_of("train"));
        assert!(sweep.keys.contains("lr") && sweep.flags.contains("out"), "{sweep:?}");
        // What concerns one call of train stands in no file.
        assert!(!sweep.keys.contains("resume") && train.flags.contains("resume"), "{sweep:?}");
        assert!(train.keys.is_empty() && train.flags.contains("lr"), "{train:?}");
    }

    /// What every flag of every verb says of `value`, by the verb and the flag.
    fn told_of(value: &str) -> Vec<(String, String)> {
        let mut told = Vec::new();
        for verb in command().get_subcommands() {
            for flag in verb.get_arguments().filter_map(|flag| flag.get_long()) {
                let typed = ["lorafit", verb.get_name(), &format!("--{flag}={value}")].map(str::to_owned);
                if let Err(error) = command().try_get_matches_from(typed) {
                    let name = format!("{} --{flag}", verb.get_name());
                    told.push((name, in_plain_words(error).render().to_string()));
                }
            }
        }
        told
    }

    /// Every flag of a number, of every verb, says why a text is none, or takes it.
    #[test]
    fn numbers_are_refused_with_a_reason() {
        let is_number = |(_, told): &(String, String)| {
            ["expected a number", "expected a whole number"].iter().any(|text| told.contains(text))
        };
        let of_words = told_of("many");
        let numbers: Vec<&str> =
            of_words.iter().filter(|found| is_number(found)).map(|(name, _)| name.as_str()).collect();
        assert!(numbers.len() > 60, "{numbers:?}");
        let (mut whole, mut real) = (0, 0);
        let (commas, infinite) = (told_of("1,000"), told_of("inf"));
        for name in numbers {
            let of = |told: &[(String, String)]| {
                told.iter().find(|(other, _)| other == name).map(|(_, told)| told.clone()).unwrap_or_default()
            };
            let is_whole = of(&of_words).contains("a whole number");
            whole += usize::from(is_whole);
            real += usize::from(!is_whole);
            match is_whole {
                true => {
                    let told = of(&commas);
                    assert!(told.contains("a whole number has no commas: write 1000"), "{name}: {told}");
                }
                false => {
                    let told = of(&infinite);
                    assert!(told.contains("the number must be finite"), "{name}: {told}");
                }
            }
        }
        assert!(whole > 40 && real > 20, "{whole} {real}");
        let example =
            told_of("many").into_iter().filter(|(name, _)| name.ends_with("--micro-batches-at-once"));
        let example: Vec<String> = example.map(|(_, told)| told).collect();
        assert!(
            example.len() == 3 && example.iter().all(|told| told.contains("such as 2, or auto")),
            "{example:?}"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_and_verb_is_explained() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
            for arg in verb.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", verb.get_name(), arg.get_id());
            }
        }
    }
}
