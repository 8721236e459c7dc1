//! What is known of a flag of `train` beside its help.
//!
//! A flag is declared once: its field has its name, type, default and help, and `#[arg(add = ...)]` on it has these [`Facts`].
//! From them follow what `--resume` may change, what a sweep searches, which flags a method or an adapter leaves without
//! effect, and what a configuration file may hold. No other list of flags is kept; `docs/cli.md` shows this one.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clap::builder::ArgExt;
use clap::{Args, Command};

use crate::args::options::Method;
use crate::args::train::TrainArgs;

/// The facts of one flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Whether `--resume` may change it.
    pub resume: OnResume,
    /// Whether it can stand in a configuration file. What concerns one call only cannot.
    pub is_key: bool,
    /// Whether a sweep can search it. What trials share, such as threads, it cannot.
    pub is_searched: bool,
    /// Whether a sweep may go on although it has changed: no result depends on it.
    pub is_free_in_sweep: bool,
    /// The one method that reads it.
    pub method: Option<Method>,
    /// Whether an adapter that a run starts from brings its own value.
    pub is_brought: bool,
}

/// What becomes of a flag when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnResume {
    /// It may change: the bits of the result stay, or a hash of what it names is compared instead.
    Free,
    /// It is part of the run's identity. `--resume-anyway` can change it.
    Bound,
    /// The checkpoint's parameters or moments depend on it. Nothing changes it.
    Fixed,
    /// It was read when the run began, and is an error now.
    Refused,
}

impl OnResume {
    /// Whether a resumed run has to have the value that the run began with.
    pub fn is_compared(self) -> bool {
        matches!(self, OnResume::Bound | OnResume::Fixed)
    }
}

impl ArgExt for Facts {}

/// Words that a flag takes beside other values, for a shell to offer.
#[derive(Clone, Copy, Debug)]
pub struct Words(pub fn() -> Vec<&'static str>);

impl ArgExt for Words {}

impl Facts {
    /// Of a flag that decides numbers. This is what most are.
    pub const ARITHMETIC: Facts = Facts {
        resume: OnResume::Bound,
        is_key: true,
        is_searched: true,
        is_free_in_sweep: false,
        method: None,
        is_brought: false,
    };
    /// Of a flag that decides the shape of what is trained, or of its moments.
    pub const SHAPE: Facts = Facts { resume: OnResume::Fixed, ..Facts::ARITHMETIC };
    /// Of a flag that a resumed run may change, but not the trials of a sweep.
    pub const FREE: Facts = Facts { resume: OnResume::Free, ..Facts::ARITHMETIC };
    /// Of a flag that changes no result.
    pub const NO_RESULT: Facts = Facts { is_free_in_sweep: true, ..Facts::FREE };
    /// Of a flag of the whole process, which changes no result and is the same for all trials.
    pub const PROCESS: Facts = Facts { is_searched: false, ..Facts::NO_RESULT };
    /// Of a flag that names or describes the run.
    pub const NAME: Facts = Facts { is_searched: false, ..Facts::FREE };
    /// Facts of a flag that is read only when a run begins.
    pub const START: Facts = Facts { resume: OnResume::Refused, ..Facts::NAME };
    /// Of a flag that concerns one call only.
    pub const CALL: Facts = Facts { is_key: false, ..Facts::PROCESS };

    /// The same, of a flag that `method` alone reads.
    pub const fn of(self, method: Method) -> Facts {
        Facts { method: Some(method), ..self }
    }

    /// The same, of a flag whose value an adapter brings.
    pub const fn brought(self) -> Facts {
        Facts { is_brought: true, ..self }
    }
}

/// The flags of `train` by their names without dashes.
pub fn of_train() -> &'static BTreeMap<String, Facts> {
    static TABLE: OnceLock<BTreeMap<String, Facts>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let command = TrainArgs::augment_args(Command::new("train"));
        let flags = command.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag.get::<Facts>()?)));
        flags.map(|(name, facts)| (name.to_owned(), *facts)).collect()
    })
}

/// Whether a flag of `train` is there and `holds`.
pub fn is(name: &str, holds: impl Fn(&Facts) -> bool) -> bool {
    of_train().get(name).is_some_and(holds)
}

/// The names of the flags of `train` of which `holds` is true.
pub fn with(holds: impl Fn(&Facts) -> bool) -> Vec<&'static str> {
    of_train().iter().filter(|(_, facts)| holds(facts)).map(|(name, _)| name.as_str()).collect()
}

/// The names of the flags of some arguments.
pub fn names<T: Args>() -> Vec<String> {
    let command = T::augment_args(Command::new("names"));
    command.get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_train_says_what_becomes_of_it() {
        let all = names::<TrainArgs>();
        let lacking: Vec<&String> = all.iter().filter(|name| !of_train().contains_key(*name)).collect();
        assert!(lacking.is_empty(), "no #[arg(add = Facts::...)]: {lacking:?}");
        assert_eq!(of_train().len(), all.len());
    }

    /// A flag that a configuration file cannot hold is not a field that it is written with.
    #[test]
    fn keys_are_what_is_written() {
        let command = TrainArgs::augment_args(Command::new("train"));
        let matches = command.try_get_matches_from(["train", "--compute-dtype", "f32"]).unwrap();
        let args = <TrainArgs as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let written = crate::args::config_file::object(&args).unwrap();
        for (name, facts) in of_train() {
            assert!(facts.is_key || !written.contains_key(name), "{name} is written, and is no key");
        }
        for name in written.keys() {
            assert!(is(name, |facts| facts.is_key), "{name} is written, and is no key");
        }
    }

    #[test]
    fn a_flag_that_is_fixed_or_bound_is_no_name_of_the_run() {
        for (name, facts) in of_train() {
            let changes_nothing = facts.is_free_in_sweep;
            assert!(
                !changes_nothing || !facts.resume.is_compared(),
                "{name}: free in a sweep, not on --resume"
            );
        }
    }
}
