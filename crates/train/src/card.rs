//! The model card of what a run has trained: `README.md` in its folder. What it says is for who shows it to people; here is where
//! it may be written: in place of an earlier card of this program, never of one that somebody wrote.

use std::io;
use std::path::Path;

use crate::storage::Storage;

/// The name that the hub knows a model card by.
pub(crate) const CARD: &str = "README.md";
/// The line that a card of this program has. Without it, the file is the user's.
pub const CARD_MARK: &str = "<!-- Written by lorafit, and written again with the next run in this folder. To keep your own text, remove this line. -->";
/// A longer file is none of this program.
const MOST_BYTES: u64 = 1 << 20;

/// Writes `text` as the card of the folder `dir`, or removes an earlier one; false if the card there is not of this program,
/// which is left as it is.
///
/// # Errors
/// A file that cannot be written or removed.
pub(crate) fn write(storage: &dyn Storage, dir: &Path, text: Option<&str>) -> io::Result<bool> {
    let path = dir.join(CARD);
    match (std::fs::symlink_metadata(&path).is_ok(), text) {
        (true, _) if !is_own(&path) => Ok(false),
        (_, Some(text)) => storage.replace(&path, text.as_bytes()).map(|()| true),
        (true, None) => storage.remove_file(&path).map(|()| true),
        (false, None) => Ok(true),
    }
}

/// Whether the file `path` is a card that somebody else has written.
pub(crate) fn is_foreign(path: &Path) -> bool {
    path.is_file() && !is_own(path)
}

/// Whether the file `path` is a card of this program; links and folders are none.
fn is_own(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    let small = found.is_ok_and(|found| found.is_file() && found.len() <= MOST_BYTES);
    let text = small.then(|| std::fs::read_to_string(path).ok()).flatten();
    text.is_some_and(|text| text.lines().any(|line| line.trim() == CARD_MARK))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::Disk;

    #[test]
    fn only_a_card_of_this_program_is_written_over_or_removed() {
        let place = tempfile::tempdir().expect("a folder");
        let dir = place.path();
        let there = || fs::read_to_string(dir.join(CARD)).ok();
        let card = |n: u32| format!("---\nlicense: mit\n---\n{CARD_MARK}\n# {n}\n");
        assert!(write(&Disk, dir, None).expect("nothing to do"));
        assert!(write(&Disk, dir, Some(&card(1))).expect("written"));
        assert!(write(&Disk, dir, Some(&card(2))).expect("written"));
        assert_eq!(there(), Some(card(2)));
        assert!(write(&Disk, dir, None).expect("removed"));
        assert_eq!(there(), None);
        fs::write(dir.join(CARD), "# mine\n").expect("written");
        assert!(!write(&Disk, dir, Some(&card(3))).expect("left"));
        assert!(!write(&Disk, dir, None).expect("left"));
        assert_eq!(there().as_deref(), Some("# mine\n"));
        assert_eq!(fs::read_dir(dir).expect("a folder").count(), 1, "nothing else is left");
    }
}
