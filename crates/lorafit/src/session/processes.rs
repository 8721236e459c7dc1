//! The processes of a run that `mpirun` started together: who joins, that all have the same run before them, and who says what
//! went wrong.

use std::env;
use std::fs;

use lorafit_remedy::amounts::counted;
use lorafit_train::{ALONE, GroupError, Identity, Mismatch, ProcessGroup, TrainError};
use serde_json::Value;

use crate::args::common::Common;
use crate::args::flags;
use crate::args::options::DeviceChoice;
use crate::args::train::TrainArgs;
use crate::terminal::error::{self, CliError, Said, Stopped};
use crate::terminal::host;

/// Flags that take paths. Paths may differ from machine to machine; the files are compared by their hashes.
const PATHS: [&str; 3] = ["model", "data", "eval-data"];

/// The processes that train together; this one alone, if it was not started with others.
pub struct Processes {
    group: Box<dyn ProcessGroup>,
    /// How many of them are on this machine.
    here: usize,
}

impl Processes {
    /// Joins those that were started together. A call of a program that embeds the library joins nobody.
    pub fn join() -> anyhow::Result<Self> {
        let launched = Launched::find(|name| env::var(name).ok());
        // One process has nobody to join.
        let is_with_others = |launched: &Launched| launched.count.is_none_or(|(_, count)| count > 1);
        let launched = launched.filter(is_with_others).filter(|_| host::host().is_none());
        let group: Box<dyn ProcessGroup> = match launched {
            Some(launched) => join(launched)?,
            None => Box::new(ALONE),
        };
        let here = machine().unwrap_or_default();
        let machines = group.gather(here.as_bytes())?;
        let here = machines.iter().filter(|other| **other == here.as_bytes()).count();
        Ok(Processes { group, here })
    }

    /// As the loop takes them.
    pub fn group(&self) -> &dyn ProcessGroup {
        &*self.group
    }

    /// How many of them share this machine.
    pub fn on_this_machine(&self) -> usize {
        self.here
    }

    /// In words; nothing of one process.
    pub fn in_words(&self) -> Option<String> {
        if self.group.is_alone() {
            return None;
        }
        let threads = counted(rayon::current_num_threads(), "thread", "threads");
        let all = self.group.size();
        Some(format!(
            "{all} processes train together, {} of them on this machine; this one has {threads}",
            self.here
        ))
    }

    /// Threads of this process, if they are not asked for: its share of the cores, of which the launcher may have given it fewer.
    pub fn threads(&self, common: &Common) -> Common {
        let share = || cores().map(|cores| (cores / self.here).max(1));
        let own = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match self.group.is_alone() {
            true => common.threads,
            false => common.threads.or_else(|| Some(share().unwrap_or(1).min(own()))),
        };
        Common { threads, ..common.clone() }
    }

    /// Does work that leaves something for the others, such as rows that are tokenised, in the first process before them.
    pub fn first_first<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        match (self.group.is_alone(), self.group.is_first()) {
            (true, _) => work(),
            (false, true) => {
                let done = work()?;
                self.group.gather(b"")?;
                Ok(done)
            }
            (false, false) => {
                self.group.gather(b"")?;
                work()
            }
        }
    }

    /// Refuses what several processes do not do.
    pub fn check(&self, args: &TrainArgs) -> Result<(), CliError> {
        match (self.group.is_alone(), args.common.device) {
            (true, _) | (false, DeviceChoice::Auto | DeviceChoice::Cpu) => Ok(()),
            (false, DeviceChoice::Cuda(_)) => {
                let text =
                    format!("--device {}: several processes train on processors only", args.common.device);
                Err(CliError::usage(text).hint("leave --device out, or start one process without mpirun"))
            }
        }
    }

    /// Parts from the others at the end of a run, which came to `result`. An error that all have is said by the first process, an
    /// error of one by that one; then all end.
    pub fn part(self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        let group = &*self.group;
        if group.is_alone() {
            return result;
        }
        let result = match result {
            // Its end is not the others'.
            Err(error) if group_error(&error).is_some() => Err(error),
            result => self.end(result),
        };
        let Err(error) = result else { return Ok(()) };
        let speaks = match group_error(&error) {
            None if error.is::<Stopped>() => return Err(error),
            Some(GroupError::Lost(_)) => return Err(self.named(error)),
            Some(GroupError::Failed { .. }) => false,
            Some(GroupError::Differs { .. }) => group.is_first(),
            None => !error.is::<Said>(),
        };
        // A launcher ends all processes when the first of them ends with an error: it is said before.
        let code = if speaks { error::exit_code(Err(self.named(error))) } else { 1 };
        group.wait_for_all().map_err(GroupError::from)?;
        Err(Said { code }.into())
    }

    /// Says to the others how this process ends, and hears how they do.
    fn end(&self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        let failed = result.as_ref().err().filter(|error| !error.is::<Stopped>()).map(error::message);
        let ends = self.group.end(failed.as_deref()).map_err(GroupError::from)?;
        let is_first = || ends.iter().position(|end| *end == failed) == Some(self.group.rank());
        match ends.iter().any(Option::is_some) {
            false => result,
            true if failed.is_some() && is_first() => result,
            true => Err(Said { code: 1 }.into()),
        }
    }

    /// An error with the process that it is of; the first speaks for all.
    fn named(&self, error: anyhow::Error) -> anyhow::Error {
        let (rank, size) = (self.group.rank(), self.group.size());
        if rank == 0 {
            return error;
        }
        error.context(format!("process {rank} of {size} (they are counted from 0)"))
    }
}

/// The error of the group that `error` holds, if it holds one.
fn group_error(error: &anyhow::Error) -> Option<&GroupError> {
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Group(error)) => Some(error),
        Some(_) => None,
        None => error.downcast_ref(),
    }
}

/// Refuses processes that are not all about to do the same: what decides the bits of the run, and what decides when they
/// exchange something.
pub fn compare(
    group: &dyn ProcessGroup,
    args: &TrainArgs,
    identity: &Identity,
    after: Option<u64>,
) -> anyhow::Result<()> {
    if group.is_alone() {
        return Ok(());
    }
    let mut own = identity.clone().with("step of the checkpoint", after);
    if let Value::Object(values) = serde_json::to_value(args)? {
        let decides = |name: &str| flags::is(name, |facts| facts.is_searched) && !PATHS.contains(&name);
        for (name, value) in values.into_iter().filter(|(name, _)| decides(name)) {
            own = own.with(&name, value);
        }
    }
    let all = group.gather(&serde_json::to_vec(&own)?)?;
    let read = |message: &Vec<u8>| serde_json::from_slice::<Identity>(message).unwrap_or_default();
    let first = all.first().map(read).unwrap_or_default();
    for (rank, message) in all.iter().enumerate() {
        let mismatches = first.mismatches(&read(message));
        if !mismatches.is_empty() {
            let what = mismatches.iter().map(in_words).collect::<Vec<_>>().join("; ");
            return Err(GroupError::Differs { rank, what }.into());
        }
    }
    Ok(())
}

/// What differs, by the flag where it is one.
fn in_words(mismatch: &Mismatch) -> String {
    let Mismatch { name, expected, found } = mismatch;
    let dashes = if flags::is(name, |_| true) { "--" } else { "" };
    format!("{dashes}{name} is {found}, and {expected} there")
}

/// What a launcher says of the processes that it starts.
#[derive(Debug, PartialEq)]
struct Launched {
    /// The variable that says how many there are, and what it says.
    count: Option<(&'static str, usize)>,
}

impl Launched {
    /// What Open MPI's, MPICH's and Slurm's launchers set; `None` where none started this process.
    fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let count = |name: &'static str| Some((name, variable(name)?.parse().ok()?));
        let is_of_pmix = || variable("PMIX_RANK").is_some();
        let of_slurm = || count("SLURM_STEP_NUM_TASKS").filter(|_| is_of_pmix());
        let count = count("OMPI_COMM_WORLD_SIZE").or_else(|| count("PMI_SIZE")).or_else(of_slurm);
        (count.is_some() || is_of_pmix()).then_some(Launched { count })
    }
}

/// The MPI that this program is built with, in its own words.
pub fn mpi() -> Option<String> {
    #[cfg(feature = "mpi")]
    {
        // Open MPI goes on with when and where it was built, MPICH with how.
        let said = lorafit_mpi::Mpi::library();
        let name = said.split([',', '\n']).next().unwrap_or_default();
        Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
    }
    #[cfg(not(feature = "mpi"))]
    {
        None
    }
}

#[cfg(feature = "mpi")]
fn join(_launched: Launched) -> anyhow::Result<Box<dyn ProcessGroup>> {
    let joined = lorafit_mpi::Mpi::join(crate::terminal::interrupt::asked);
    Ok(Box::new(joined.map_err(|error| CliError::new(error.to_string()))?))
}

/// Without MPI each process would train the whole run, into one folder.
#[cfg(not(feature = "mpi"))]
fn join(launched: Launched) -> anyhow::Result<Box<dyn ProcessGroup>> {
    match launched.count {
        Some((variable, count)) => {
            let text = format!(
                "this is one of {count} processes that were started together ({variable}), and this lorafit is built without MPI: \
                 each would train the whole run"
            );
            Err(CliError::new(text)
                .hint("build it with `cargo build --release -p lorafit --features mpi`, or start one process without mpirun")
                .into())
        }
        None => Ok(Box::new(ALONE)),
    }
}

/// The name of this machine; `None` where the system has no file that says it.
fn machine() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/hostname").ok()
}

/// Cores of this machine, whichever of them this process may use.
fn cores() -> Option<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    cores_in(&text)
}

/// How many cores lists as `0-3,8` have.
fn cores_in(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last + 1).checked_sub(first)
    };
    list.trim().split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<Launched> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Launched::find(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        let with = |name, count| Some(Launched { count: Some((name, count)) });
        assert_eq!(
            found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "0")]),
            with("OMPI_COMM_WORLD_SIZE", 4)
        );
        assert_eq!(found(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), with("PMI_SIZE", 2));
        let slurm = [("PMIX_RANK", "3"), ("SLURM_STEP_NUM_TASKS", "8")];
        assert_eq!(found(&slurm), with("SLURM_STEP_NUM_TASKS", 8));
        assert_eq!(found(&slurm[..1]), Some(Launched { count: None }));
        // A shell in a job of Slurm, where nothing was started together.
        assert_eq!(found(&slurm[1..]), None);
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "many")]), None);
    }

    #[test]
    fn cores_are_counted_in_ranges() {
        for (list, cores) in
            [("0\n", Some(1)), ("0-15", Some(16)), ("0-3,8,10-11\n", Some(7)), ("", None), ("3-1", None)]
        {
            assert_eq!(cores_in(list), cores, "{list:?}");
        }
    }

    #[test]
    fn what_differs_is_said_with_both_values() {
        let mismatch =
            |name: &str| Mismatch { name: name.to_owned(), expected: "1".to_owned(), found: "2".to_owned() };
        assert_eq!(in_words(&mismatch("lr")), "--lr is 2, and 1 there");
        assert_eq!(in_words(&mismatch("data")), "--data is 2, and 1 there");
        assert_eq!(in_words(&mismatch("instruction set")), "instruction set is 2, and 1 there");
    }
}
