//! A sample as text for people to read: which part of it is trained, and which is a special token.

use lorafit_data::{SampleRef, Tokenizer, TokenizerError};

/// A stretch of text that is whole characters: one token, or several of which one character is made.
pub struct Piece {
    /// As it can be shown.
    pub text: String,
    /// The tokens.
    pub ids: Vec<u32>,
    /// Whether they are targets.
    pub trained: bool,
    /// Whether it is a special token.
    pub special: bool,
}

/// The pieces of a sample, in order; together they have all its tokens. A text that is scored has a label behind them, which is
/// none.
pub fn pieces(
    sample: SampleRef,
    is_scored: bool,
    tokenizer: &Tokenizer,
) -> Result<Vec<Piece>, TokenizerError> {
    let ids = if is_scored { sample.label_and_text().1 } else { sample.ids };
    let mut pieces: Vec<Piece> = Vec::new();
    let mut stream = tokenizer.decode_stream(false);
    let mut waiting = Vec::new();
    let mut trained = vec![false; sample.len()];
    sample.supervised().for_each(|run| trained[run].fill(true));
    trained.truncate(ids.len());
    for (&id, &trained) in ids.iter().zip(&trained) {
        waiting.push(id);
        let text = stream.push(id)?;
        if !text.is_empty() {
            let (ids, special) = (std::mem::take(&mut waiting), tokenizer.is_special(id));
            pieces.push(Piece { text: visible(&text), ids, trained, special });
        }
    }
    if !waiting.is_empty() {
        let trained = trained.last().copied().unwrap_or(false);
        pieces.push(Piece { text: visible(&stream.finish()?), ids: waiting, trained, special: false });
    }
    Ok(pieces)
}

/// Line breaks shown and made; other control characters, and those that turn the direction of writing, shown, so that a
/// row cannot write to the terminal or look like another.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\u{23ce}\n"),
            '\t' => shown.push('\t'),
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_write_to_the_terminal_is_shown() {
        assert_eq!(visible("a\n\x1b[2Jb\r"), "a\u{23ce}\n\\u{1b}[2Jb\\u{d}");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
    }
}
