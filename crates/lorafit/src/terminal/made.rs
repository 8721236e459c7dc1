//! When and by which command something is made.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::terminal::host;
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

/// The command that this thread works for, as it is typed in a shell.
pub fn command() -> String {
    let call = host::current();
    let words = call.words().iter().map(|word| shell_word(&word.to_string_lossy()));
    std::iter::once("lorafit".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The file of this program.
pub fn program() -> Option<PathBuf> {
    match host::host() {
        Some(host) => host.program(),
        None => std::env::current_exe().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_with_its_zone() {
        let told = at(1_795_892_400);
        assert!(told.starts_with("2026-11-2") && told.len() >= "2026-11-28 19:00 X".len(), "{told}");
    }
}
