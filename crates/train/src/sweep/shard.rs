//! `2/4`: the part of the trials that one job of an array runs.

use std::fmt;
use std::str::FromStr;

/// Part `index` of `of`, from 1. Trials are dealt out in turn, so that parts are disjoint and together are all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All trials.
    pub const WHOLE: Shard = Shard { index: 1, of: 1 };

    /// Whether trial `number`, counted from 0, belongs to it.
    pub fn contains(self, number: usize) -> bool {
        number % self.of == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Shard { index, of }),
            _ => Err(format!("`{text}` is not a part such as 1/4 (the first of four)")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_are_disjoint_and_together_all_trials() {
        for of in 1..6 {
            for number in 0..20 {
                let shards = (1..=of).map(|index| Shard { index, of });
                assert_eq!(shards.filter(|shard| shard.contains(number)).count(), 1, "{number} of {of}");
            }
        }
    }

    #[test]
    fn shards_are_read_as_they_are_written() {
        assert_eq!("2/4".parse::<Shard>().expect("a shard").to_string(), "2/4");
        for text in ["", "1", "0/4", "5/4", "1/0", "-1/2", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
