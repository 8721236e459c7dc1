//! When, where and by which command something is made.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::terminal::shell::shell_word;

/// Seconds since 1970.
pub fn seconds() -> i64 {
    Timestamp::now().as_second()
}

/// Now, as `2026-11-28 19:15 UTC`.
pub fn now() -> String {
    at(seconds())
}

/// A time in seconds since 1970, where this machine is.
pub fn at(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

/// The command of this process, as it is typed in a shell.
pub fn command() -> String {
    let words = std::env::args_os().skip(1).map(|word| shell_word(&word.to_string_lossy()));
    std::iter::once("lorafit".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The processor of this machine, by its name where the system tells it.
pub fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    name_of_processor(&told).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The name in the text of `/proc/cpuinfo`.
fn name_of_processor(told: &str) -> Option<String> {
    let line = told.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_with_its_zone() {
        let told = at(1_795_892_400);
        assert!(told.starts_with("2026-11-2") && told.len() >= "2026-11-28 19:00 X".len(), "{told}");
    }

    #[test]
    fn a_processor_has_its_name_without_padding() {
        let told = "processor\t: 0\nmodel name\t: Some  CPU @ 2.00GHz\n";
        assert_eq!(name_of_processor(told).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(name_of_processor("Processor : ARM"), None);
    }
}
