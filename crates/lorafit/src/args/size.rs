//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use crate::args::options::serde_as_text;

/// A number of bytes, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as 6GiB, 1.5GB or 800MB");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let unit = unit.trim();
        let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * *factor as f64;
        // Beyond this f64 does not count single bytes any more.
        if (1.0..9e15).contains(&bytes) { Ok(ByteSize(bytes as u64)) } else { Err(wrong()) }
    }
}

/// Exactly: what is kept of a run is what a resumed one may take.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = |(_, factor): &&(&str, u64)| self.0.is_multiple_of(*factor) && self.0 >= *factor;
        let (unit, factor) =
            UNITS.iter().filter(is_whole).max_by_key(|(_, factor)| *factor).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

serde_as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("6GiB", 6 << 30), ("1.5 gb", 1_500_000_000), ("800MB", 800_000_000)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["6", "GiB", "0GiB", "-1GiB", "1e99GiB", "6GiBs", ""] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for bytes in [1, 999, 1000, 37_500 << 10, 1_500_000_000, 3 << 29, 6 << 30, (6 << 30) + 1] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)), "{bytes}");
        }
        assert_eq!([6 << 30, 3 << 29].map(|bytes| ByteSize(bytes).to_string()), ["6GiB", "1536MiB"]);
    }
}
