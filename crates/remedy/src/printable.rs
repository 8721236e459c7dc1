//! Text of others, such as the names of folders, as a terminal and a page can show it.

use std::borrow::Cow;

/// Whether a character moves the cursor, changes the terminal or the direction of what follows, instead of showing something.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let changes = |character: char| is_control(character) && !stays(character);
    if !text.chars().any(changes) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match changes(character) {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// A name in one line: control characters are written as `\n` or `\u{1b}`.
///
/// ```
/// assert_eq!(lorafit_remedy::printable::name("runs/a\n\u{1b}[2J"), "runs/a\\n\\u{1b}[2J");
/// ```
pub fn name(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Text of several lines, whose line breaks and tabs stay.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

/// Text with colours: as [`text`], but that sequences which only colour (`ESC [ ... m`) stay.
pub fn coloured(text: &str) -> Cow<'_, str> {
    const ESCAPE: char = '\u{1b}';
    if !text.contains(ESCAPE) {
        return self::text(text);
    }
    let mut shown = String::with_capacity(text.len());
    for (i, piece) in text.split(ESCAPE).enumerate() {
        let end =
            piece.strip_prefix('[').and_then(|rest| rest.find(|c: char| !c.is_ascii_digit() && c != ';'));
        let colours = end.is_some_and(|end| piece[1 + end..].starts_with('m'));
        match (i, colours) {
            (0, _) => {}
            (_, true) => shown.push(ESCAPE),
            (_, false) => shown.extend(ESCAPE.escape_default()),
        }
        shown.push_str(&self::text(piece));
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_is_written_out_and_all_else_stays() {
        assert!(matches!(name("größe 漢字 🙂"), Cow::Borrowed("größe 漢字 🙂")));
        assert_eq!(name("a\tb\r\u{7}\u{7f}\u{9b}\u{202e}"), "a\\tb\\r\\u{7}\\u{7f}\\u{9b}\\u{202e}");
        assert_eq!(text("a\tb\nc\u{1b}[31m"), "a\tb\nc\\u{1b}[31m");
        assert_eq!(coloured("a\u{1b}[1;31mb\u{1b}[0m\n"), "a\u{1b}[1;31mb\u{1b}[0m\n");
        assert_eq!(coloured("\u{1b}[2Ja\u{1b}[31\u{1b}m\r"), "\\u{1b}[2Ja\\u{1b}[31\\u{1b}m\\r");
    }
}
