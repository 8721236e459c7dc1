//! Decoding a generation id by id.
//!
//! A token need not be whole characters, and how a token reads can depend on the one before it (SentencePiece drops
//! the first space). So each step decodes a short window that begins with what was last shown, and shows only what
//! was added to it, once that is whole characters.

use super::{Tokenizer, TokenizerError};

/// After so many ids without a whole character the bytes are no UTF-8 and never will be: no character takes more
/// than four, and a few special tokens may stand between.
const LONGEST_WAIT: usize = 16;

/// Text of a generation as it arrives, never with half a character. Made by [`Tokenizer::decode_stream`].
#[derive(Debug, Clone)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The window: ids already shown (context), then ids waiting.
    ids: Vec<u32>,
    shown: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), shown: 0 }
    }

    /// Takes the next id and returns the text that became certain with it, which is empty while a character is
    /// incomplete.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        self.advance(false)
    }

    /// Returns what is still held back, bytes that are no UTF-8 as U+FFFD. The stream can go on after it.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        self.advance(true)
    }

    fn advance(&mut self, all: bool) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
        let now = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let waiting = self.ids.len() - self.shown;
        let incomplete = now.ends_with('\u{FFFD}') && !all && waiting < LONGEST_WAIT;
        // A decoder that rewrites what it said before would leave nothing common; then nothing is repeated.
        let added = now.strip_prefix(&before).unwrap_or("");
        if incomplete || (added.is_empty() && waiting < LONGEST_WAIT) {
            return Ok(String::new());
        }
        let added = added.to_string();
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(added)
    }
}
