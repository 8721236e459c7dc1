//! How long a thread has run on a processor, on systems that say it in a file (Linux).

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that says it of the thread that asks.
pub(super) fn of_this_thread() -> Option<PathBuf> {
    // A link to PROCESS/task/THREAD.
    let thread = std::fs::read_link("/proc/thread-self").ok()?;
    let file = Path::new("/proc").join(thread).join("schedstat");
    time(&file).map(|_| file)
}

/// What the file says now; nothing once the thread has ended.
pub(super) fn time(file: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(file).ok()?;
    // Nanoseconds on a processor, then waiting for one.
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_thread_that_works_has_worked_longer_and_one_that_sleeps_has_not() {
        let Some(file) = of_this_thread() else {
            println!("skipped: the system does not say how long a thread has run");
            return;
        };
        let before = time(&file).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        let slept = time(&file).unwrap() - before;
        assert!(slept < Duration::from_millis(30), "{slept:?}");
        let begun = Instant::now();
        while time(&file).unwrap() - before < Duration::from_millis(40) {
            assert!(begun.elapsed() < Duration::from_secs(20), "work does not count");
        }
        let ended = std::thread::spawn(of_this_thread).join().unwrap().unwrap();
        assert_eq!(time(&ended), None);
    }
}
