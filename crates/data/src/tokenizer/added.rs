//! Tokens that the files beside a `tokenizer.json` add to it, in the order and with the ids that transformers 5 gives them
//! (`TokenizersBackend.__init__`, `PreTrainedTokenizerBase._from_pretrained`).
//!
//! `added_tokens_decoder` of `tokenizer_config.json` comes first; folders without it may have `added_tokens.json`. Special
//! tokens that are named and not added yet follow: bos, eos, unk, sep, pad, cls, mask, other keys that end in `_token`, and
//! `additional_special_tokens`. A token that the vocabulary has keeps its id; others get the next free ones.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use tokenizers::AddedToken;

use super::TokenizerError;
use super::folder::Json;

/// Keys of special tokens, in the order in which they are added.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokens to add to `inner`.
///
/// # Errors
/// An entry that is no token.
pub(super) fn tokens(
    inner: &tokenizers::Tokenizer,
    settings: &Json,
    older: &Json,
    legacy: &Json,
) -> Result<Vec<AddedToken>, TokenizerError> {
    let decoder = settings.get("added_tokens_decoder");
    let own = decoder.and_then(Value::as_object);
    if decoder.is_some() && own.is_none() {
        return Err(settings.invalid("`added_tokens_decoder` is not an object"));
    }
    let special = named(settings, older, own.is_none())?;
    let mut by_id = BTreeMap::new();
    for (id, value) in own.into_iter().flatten() {
        let wrong =
            || settings.invalid(format!("`added_tokens_decoder` has {id}: {value}, which is not a token"));
        let id: u32 = id.parse().map_err(|_| wrong())?;
        by_id.insert(id, token(value).ok_or_else(wrong)?);
    }
    if own.is_none() {
        for (content, id) in &legacy.map {
            let wrong = || legacy.invalid(format!("`{content}` is {id}, which is not an id"));
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
            let is_special = special.iter().any(|token| token.content == *content);
            by_id.insert(id, AddedToken::from(content.clone(), is_special));
        }
    }
    let names: HashSet<&str> = special.iter().map(|token| token.content.as_str()).collect();
    let present = inner.get_added_tokens_decoder();
    let present: HashSet<&str> = present.values().map(|token| token.content.as_str()).collect();
    let mut added: Vec<AddedToken> = by_id.into_values().collect();
    for token in &mut added {
        token.special |= names.contains(token.content.as_str());
    }
    let mut known: HashSet<String> = added.iter().map(|token| token.content.clone()).collect();
    for token in &special {
        if !present.contains(token.content.as_str()) && known.insert(token.content.clone()) {
            added.push(token.clone());
        }
    }
    Ok(added)
}

/// The special tokens that the settings name. `with_older` looks into `special_tokens_map.json`, too.
fn named(settings: &Json, older: &Json, with_older: bool) -> Result<Vec<AddedToken>, TokenizerError> {
    let mut found = Vec::new();
    let files: &[&Json] = if with_older { &[older, settings] } else { &[settings] };
    let get = |key: &str| files.iter().find_map(|file| Some((*file, file.get(key)?)));
    for key in NAMED {
        if let Some((file, value)) = get(key) {
            let wrong = || file.invalid(format!("`{key}` is neither a token nor an object with `content`"));
            found.push(token(value).ok_or_else(wrong)?);
        }
    }
    // A model's own: `image_token` and such.
    for (key, value) in &settings.map {
        if key.ends_with("_token") && !NAMED.contains(&key.as_str()) && value.is_string() {
            found.extend(token(value));
        }
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let Some((file, value)) = get(key) else { continue };
        let wrong = || file.invalid(format!("`{key}` is not a list of tokens"));
        let list: Vec<&Value> = match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => return Err(wrong()),
        };
        for value in list {
            found.push(token(value).ok_or_else(wrong)?);
        }
    }
    for token in &mut found {
        token.special = true;
    }
    found.retain(|token| !token.content.is_empty());
    Ok(found)
}

/// A token: its text, or an object as `tokenizer.json` has them.
fn token(value: &Value) -> Option<AddedToken> {
    if let Value::String(content) = value {
        return Some(AddedToken::from(content.clone(), true));
    }
    let flag = |key: &str| match value.get(key) {
        None | Some(Value::Null) => Some(false),
        Some(value) => value.as_bool(),
    };
    let special = flag("special")?;
    let normalized = match value.get("normalized") {
        None | Some(Value::Null) => !special,
        Some(value) => value.as_bool()?,
    };
    let token = AddedToken::from(value.get("content")?.as_str()?.to_owned(), special);
    let token = token.single_word(flag("single_word")?).lstrip(flag("lstrip")?).rstrip(flag("rstrip")?);
    Some(token.normalized(normalized))
}
