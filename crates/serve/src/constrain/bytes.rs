//! The bytes that constraints know each token of a vocabulary by. The tokenizer's decoder tells how names write them.

use std::collections::HashSet;

use llguidance::toktrie::TokTrie;
use lorafit_data::Tokenizer;
use serde_json::Value;

use crate::vocabulary::Alphabet;

/// A longer token is never allowed: the tree of tokens has a greatest depth.
const LONGEST: usize = 512;

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
            // A name with other letters is of no text.
            alphabet.bytes(&name).unwrap_or_default()
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
