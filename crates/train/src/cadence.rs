//! How often a run saves a checkpoint.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Between two checkpoints; written `50` (steps), `90s`, `10m`, `2h`, or `0` for none but those asked for by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Written")]
pub enum CheckpointEvery {
    /// Only when asked for, and at the end.
    Never,
    /// So many steps.
    Steps(u64),
    /// So much time.
    Time(Duration),
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        CheckpointEvery::Time(Duration::from_secs(600))
    }
}

/// Units of time with their seconds, the largest first.
const UNITS: [(&str, u64); 3] = [("h", 3600), ("m", 60), ("s", 1)];

impl FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number of steps such as 50 nor a time such as 10m");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        if unit.is_empty() {
            return Ok(if number == 0 { CheckpointEvery::Never } else { CheckpointEvery::Steps(number) });
        }
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let seconds = number.checked_mul(*seconds).filter(|s| *s > 0).ok_or_else(wrong)?;
        Ok(CheckpointEvery::Time(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointEvery::Never => f.write_str("0"),
            CheckpointEvery::Steps(steps) => write!(f, "{steps}"),
            CheckpointEvery::Time(time) => {
                let seconds = time.as_secs();
                let unit = UNITS.into_iter().find(|(_, unit)| seconds.is_multiple_of(*unit));
                let (name, unit) = unit.expect("every number is a multiple of 1");
                write!(f, "{}{name}", seconds / unit)
            }
        }
    }
}

/// As configuration files have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Steps(u64),
    Text(String),
}

impl TryFrom<Written> for CheckpointEvery {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Steps(steps) => steps.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<CheckpointEvery> for String {
    fn from(every: CheckpointEvery) -> Self {
        every.to_string()
    }
}

/// Remembers when the last checkpoint was saved, or tried to be.
#[derive(Debug)]
pub(crate) struct Cadence {
    every: CheckpointEvery,
    last_step: u64,
    last_time: Instant,
}

impl Cadence {
    /// For a run that begins after `step` steps.
    pub(crate) fn new(every: CheckpointEvery, step: u64) -> Self {
        Cadence { every, last_step: step, last_time: Instant::now() }
    }

    /// Whether one is due after `step` steps: also where the run was stopped between that step and what follows it.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        match self.every {
            CheckpointEvery::Never => false,
            CheckpointEvery::Steps(steps) => step > 0 && step.is_multiple_of(steps),
            CheckpointEvery::Time(time) => step > self.last_step && self.last_time.elapsed() >= time,
        }
    }

    /// One was saved, or tried to be, after `step` steps.
    pub(crate) fn saved(&mut self, step: u64) {
        *self = Cadence::new(self.every, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cadences_are_read_as_they_are_written() {
        for text in ["0", "50", "90s", "10m", "2h"] {
            assert_eq!(text.parse::<CheckpointEvery>().expect(text).to_string(), text);
        }
        assert_eq!(CheckpointEvery::default().to_string(), "10m");
        for text in
            ["", "m", "-1", "1.5m", "10 m", "0m", "10d", "99999999999999999999", "18446744073709551615h"]
        {
            assert!(text.parse::<CheckpointEvery>().is_err(), "{text}");
        }
    }

    #[test]
    fn steps_are_counted_from_the_beginning_of_the_run() {
        let cadence = Cadence::new(CheckpointEvery::Steps(5), 7);
        let due: Vec<u64> = (7..21).filter(|&step| cadence.is_due(step)).collect();
        assert_eq!(due, [10, 15, 20]);
        assert!((0..99).all(|step| !Cadence::new(CheckpointEvery::Never, 0).is_due(step)));
    }
}
