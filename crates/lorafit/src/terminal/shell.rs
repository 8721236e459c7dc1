//! Words of commands that are shown to be pasted into a shell.

/// A word that a shell takes as one.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:@=+,%".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_blanks_is_quoted() {
        assert_eq!(shell_word("runs/a"), "runs/a");
        assert_eq!(shell_word("my runs/o'clock"), r"'my runs/o'\''clock'");
        // A shell would put a home folder there.
        assert_eq!(shell_word("~runs"), "'~runs'");
    }
}
