//! The bytes that each token of a vocabulary stands for.
//!
//! Two kinds are known: byte-level BPE, whose alphabet has a letter for each byte (GPT-2's `bytes_to_unicode`), and
//! SentencePiece, whose tokens are text with U+2581 for a space, and bytes as `<0x0A>`.

use std::collections::HashSet;

use llguidance::toktrie::TokTrie;
use lorafit_data::Tokenizer;
use serde_json::Value;

/// A longer token is never allowed: the tree of tokens has a greatest depth.
const LONGEST: usize = 512;

/// How the names of tokens say bytes.
enum Alphabet {
    ByteLevel,
    SentencePiece,
}

/// The bytes of every token of a vocabulary of at least `vocabulary`; none for those that must not be chosen, and for special
/// tokens a name behind a byte that no text has.
///
/// # Errors
/// A tokenizer of another kind.
pub(super) fn of_tokens(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Vec<Vec<u8>>, String> {
    let files = tokenizer.folder_files().map_err(|error| error.to_string())?;
    let (_, text) =
        files.iter().find(|(name, _)| name == "tokenizer.json").ok_or("the tokenizer has no description")?;
    let description: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let alphabet = alphabet(&description["decoder"])
        .ok_or("answers of a form need a byte-level or SentencePiece tokenizer; this one is neither")?;
    let added = description["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let added: HashSet<u64> = added.iter().filter_map(|token| token["id"].as_u64()).collect();
    let mut words = vec![Vec::new(); vocabulary.max(tokenizer.vocab_size())];
    for (id, word) in (0_u32..).zip(&mut words) {
        let Some(name) = tokenizer.id_to_token(id) else { continue };
        *word = if tokenizer.is_special(id) || tokenizer.is_eos(id) {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
        } else if added.contains(&u64::from(id)) {
            name.into_bytes()
        } else {
            match alphabet {
                // A name with other letters is of no text.
                Alphabet::ByteLevel => name.chars().map(byte_of).collect::<Option<_>>().unwrap_or_default(),
                Alphabet::SentencePiece => {
                    byte_token(&name).unwrap_or_else(|| name.replace('▁', " ").into_bytes())
                }
            }
        };
        if word.len() > LONGEST {
            word.clear();
        }
    }
    Ok(words)
}

/// What a decoder, which may be a sequence of decoders, reads.
fn alphabet(decoder: &Value) -> Option<Alphabet> {
    let parts = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    let has = |kind: &str| parts.iter().any(|part| part["type"] == kind);
    if has("ByteLevel") {
        Some(Alphabet::ByteLevel)
    } else if has("ByteFallback") || has("Metaspace") {
        Some(Alphabet::SentencePiece)
    } else {
        None
    }
}

/// The byte of a letter of the byte-level alphabet: printable ones of Latin-1 are themselves, the other bytes follow U+0100
/// in order.
fn byte_of(letter: char) -> Option<u8> {
    let is_itself = |c: u32| matches!(c, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(letter) {
        c if is_itself(c) => u8::try_from(c).ok(),
        c => (0..=255_u8)
            .filter(|byte| !is_itself(u32::from(*byte)))
            .nth(usize::try_from(c).ok()?.checked_sub(0x100)?),
    }
}

/// The byte of `<0x0A>`.
fn byte_token(name: &str) -> Option<Vec<u8>> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    Some(vec![u8::from_str_radix(digits, 16).ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter() {
        let mut letters: Vec<u8> = (0..0x180).filter_map(char::from_u32).filter_map(byte_of).collect();
        letters.sort_unstable();
        assert_eq!(letters, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
        assert_eq!((byte_of(' '), byte_of('▁'), byte_of('\u{144}')), (None, None, None));
        assert_eq!(
            (byte_token("<0x0A>"), byte_token("<0x100>"), byte_token("<s>")),
            (Some(vec![10]), None, None)
        );
    }
}
