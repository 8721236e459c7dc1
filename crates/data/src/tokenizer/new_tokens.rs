//! Tokens that a run or an adapter adds to a model's tokenizer, as transformers' `add_tokens` does: plain ones (`special` false,
//! `normalized` true), with the next free ids. A text that is a token already keeps its id.

use lorafit_remedy::Remedy;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::{GgufTokenizer, Tokenizer, TokenizerError, guarded};

/// A token that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Its text.
    pub text: String,
    /// Its id.
    pub id: u32,
    /// What its text was cut into before; `None` if it was a token already.
    pub pieces: Option<Vec<u32>>,
}

/// Why a token cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum NewTokenError {
    /// The text of a special token.
    #[error("{text:?} is a special token of the model, and its row is not trained as that of a new one")]
    Special {
        /// The text.
        text: String,
    },
    /// A text without characters, or of blanks.
    #[error("{text:?} is no token: it is empty or blank")]
    Blank {
        /// The text.
        text: String,
    },
    /// The same text twice.
    #[error("{text:?} is given twice")]
    Twice {
        /// The text.
        text: String,
    },
    /// The tokenizer changes the text before it looks for tokens.
    #[error("{text:?} would never be found: the tokenizer cuts it into other tokens even when it is added")]
    NotFound {
        /// The text.
        text: String,
    },
    /// Another token has the id.
    #[error("{text:?} would get the id {id}, which the model uses for something else")]
    Taken {
        /// The text.
        text: String,
        /// The id.
        id: u32,
    },
    /// A tokenizer beside an adapter that does not go on from the model's.
    #[error(
        "{text:?} has the id {expected} in the adapter's tokenizer, and would get {found} in the model's"
    )]
    OtherId {
        /// The text.
        text: String,
        /// The id that it has to have.
        expected: u32,
        /// The next free one.
        found: u32,
    },
    /// The tokenizers library failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl NewTokenError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            NewTokenError::Special { .. } | NewTokenError::Twice { .. } | NewTokenError::Blank { .. } => {
                "leave it out".into()
            }
            NewTokenError::NotFound { .. } => {
                "choose a text in lower case, without blanks at its ends".into()
            }
            NewTokenError::Taken { .. } => "give a model whose tokenizer names all of its tokens".into(),
            NewTokenError::OtherId { .. } => {
                "give the model that the adapter was trained over, and one adapter with tokens at a time"
                    .into()
            }
            NewTokenError::Tokenizer(error) => return error.hint(),
        })
    }
}

impl Tokenizer {
    /// Adds the tokens `texts`, and says what became of each.
    ///
    /// # Errors
    /// A text that cannot be a new token; the tokenizer is then not to be used.
    pub fn add_tokens(&mut self, texts: &[String]) -> Result<Vec<NewToken>, NewTokenError> {
        for (i, text) in texts.iter().enumerate() {
            let text = text.clone();
            if text.trim().is_empty() {
                return Err(NewTokenError::Blank { text });
            }
            if texts[..i].contains(&text) {
                return Err(NewTokenError::Twice { text });
            }
            if self.inner.token_to_id(&text).is_some_and(|id| self.is_special(id)) {
                return Err(NewTokenError::Special { text });
            }
        }
        // All texts are cut before any is added: one may be a part of another.
        let before = texts.iter().map(|text| match self.inner.token_to_id(text) {
            Some(id) => Ok((Some(id), Vec::new())),
            None => Ok((None, self.encode(text, false)?)),
        });
        let before: Vec<(Option<u32>, Vec<u32>)> = before.collect::<Result<_, TokenizerError>>()?;
        let mut found = Vec::with_capacity(texts.len());
        for (text, (known, pieces)) in texts.iter().zip(before) {
            let token = match known {
                Some(id) => NewToken { text: text.clone(), id, pieces: None },
                None => NewToken { text: text.clone(), id: self.add_token(text)?, pieces: Some(pieces) },
            };
            found.push(token);
        }
        for NewToken { text, id, pieces } in &found {
            if pieces.is_some() && self.encode(text, false)? != [*id] {
                return Err(NewTokenError::NotFound { text: text.clone() });
            }
        }
        Ok(found)
    }

    /// Adds the tokens that `other`, the tokenizer beside an adapter, has and this one has not, with the same ids.
    ///
    /// # Errors
    /// A token that would get another id.
    pub fn add_tokens_of(&mut self, other: &Tokenizer) -> Result<Vec<NewToken>, NewTokenError> {
        let mut theirs: Vec<(u32, String)> = other
            .inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| {
                !token.content.is_empty() && self.inner.token_to_id(&token.content).is_none()
            })
            .map(|(id, token)| (id, token.content))
            .collect();
        theirs.sort_unstable();
        let mut added = Vec::with_capacity(theirs.len());
        for (expected, text) in theirs {
            let pieces = Some(self.encode(&text, false)?);
            let found = self.add_token(&text)?;
            if found != expected {
                return Err(NewTokenError::OtherId { text, expected, found });
            }
            added.push(NewToken { text, id: found, pieces });
        }
        Ok(added)
    }

    fn add_token(&mut self, text: &str) -> Result<u32, NewTokenError> {
        let token = AddedToken::from(text.to_owned(), false);
        guarded("add a token", || self.inner.add_tokens([token]).map(|_| ()))?;
        let id = self.inner.token_to_id(text).ok_or(NewTokenError::NotFound { text: text.to_owned() })?;
        // Ids that files name beside the vocabulary.
        if (id as usize) < self.vocab_size && self.unused_from.is_none_or(|first| id < first) {
            return Err(NewTokenError::Taken { text: text.to_owned(), id });
        }
        self.vocab_size = self.vocab_size.max(id as usize + 1);
        self.added.push((id, text.to_owned()));
        Ok(id)
    }

    /// Whether tokens were added to those of the model.
    pub fn has_new_tokens(&self) -> bool {
        !self.added.is_empty()
    }

    /// Those of `tokens` that are not found behind a letter: the tokenizer writes a blank before a text that it looks for.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn found_behind_blanks_only<'t>(
        &self,
        tokens: &'t [NewToken],
    ) -> Result<Vec<&'t NewToken>, TokenizerError> {
        let mut found = Vec::new();
        for token in tokens.iter().filter(|token| token.pieces.is_some()) {
            if !self.encode(&format!("a{}", token.text), false)?.contains(&token.id) {
                found.push(token);
            }
        }
        Ok(found)
    }

    /// The first of the added tokens that is found elsewhere in a text by the tokenizer of a GGUF file, which looks for it before it
    /// does anything else.
    ///
    /// # Errors
    /// When the tokenizers library fails, and as [`Tokenizer::from_gguf`].
    pub fn found_otherwise_in_gguf(&self, gguf: &GgufTokenizer) -> Result<Option<&str>, TokenizerError> {
        let again = Tokenizer::from_gguf(gguf.clone())?;
        for (_, text) in &self.added {
            for probe in [format!("a {text} b"), format!("a{text}b"), text.clone()] {
                if self.encode(&probe, false)? != again.encode(&probe, false)? {
                    return Ok(Some(text));
                }
            }
        }
        Ok(None)
    }

    /// The metadata of a GGUF file with the tokens that were added, as such that are found in a text before it is cut.
    pub fn with_new_tokens_in_gguf(&self, mut gguf: GgufTokenizer) -> GgufTokenizer {
        const USER_DEFINED: i32 = 4;
        for (id, text) in &self.added {
            let id = *id as usize;
            if gguf.tokens.len() <= id {
                gguf.tokens.resize(id + 1, String::new());
            }
            gguf.tokens[id].clone_from(text);
            let types = gguf.token_types.get_or_insert_default();
            // Normal tokens, where a file says no types.
            types.resize(gguf.tokens.len(), 1);
            types[id] = USER_DEFINED;
            if let Some(scores) = &mut gguf.scores {
                scores.resize(gguf.tokens.len(), 0.0);
            }
        }
        gguf
    }

    /// The file `name` of a model's folder with the content `bytes`, with the tokens that were added; `None` if it does not name
    /// tokens.
    ///
    /// # Errors
    /// A file that is not what its name says.
    pub fn with_new_tokens(&self, name: &str, bytes: &[u8]) -> Result<Option<Vec<u8>>, TokenizerError> {
        if !["tokenizer.json", "tokenizer_config.json", "added_tokens.json"].contains(&name) {
            return Ok(None);
        }
        let wrong = |message: String| TokenizerError::Invalid { path: name.into(), message };
        let mut file: Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let token = |text: &str| {
            json!({
                "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false
            })
        };
        match name {
            "tokenizer.json" => {
                let list = file.get_mut("added_tokens").and_then(Value::as_array_mut);
                let list = list.ok_or_else(|| wrong("`added_tokens` is not a list".to_owned()))?;
                for (id, text) in &self.added {
                    let mut token = token(text);
                    token["id"] = json!(id);
                    list.push(token);
                }
                list.sort_by_key(|token| token.get("id").and_then(Value::as_u64));
            }
            "tokenizer_config.json" => {
                let Some(decoder) = file.get_mut("added_tokens_decoder").and_then(Value::as_object_mut)
                else {
                    return Ok(None);
                };
                decoder.extend(self.added.iter().map(|(id, text)| (id.to_string(), token(text))));
            }
            _ => {
                let tokens = file.as_object_mut().ok_or_else(|| wrong("it is not an object".to_owned()))?;
                tokens.extend(self.added.iter().map(|(id, text)| (text.clone(), json!(id))));
            }
        }
        Ok(Some(serde_json::to_vec_pretty(&file).expect("plain values")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
    }

    fn tokenizer(name: &str) -> Tokenizer {
        Tokenizer::from_folder(fixture(name)).expect("the fixture")
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn new_tokens_get_the_next_ids_and_known_ones_keep_theirs() {
        for name in ["chat_bpe", "chat_spm"] {
            let mut tokenizer = tokenizer(name);
            let (before, size) = (tokenizer.clone(), tokenizer.vocab_size() as u32);
            let known = before.id_to_token(before.encode("a", false).expect("encodes")[0]).expect("a token");
            let asked = texts(&["<lookup>", &known, "<look>up"]);
            let found = tokenizer.add_tokens(&asked).expect("added");
            assert_eq!(
                found.iter().map(|token| token.id).collect::<Vec<_>>(),
                [size, before.token_to_id(&known).expect("known"), size + 1]
            );
            let pieces = before.encode("<lookup>", false).expect("encodes");
            assert!(pieces.len() > 1);
            assert_eq!((&found[0].pieces, &found[1].pieces), (&Some(pieces), &None), "{name}");
            assert_eq!(tokenizer.encode("<lookup>", false).expect("encodes"), [size]);
            assert_eq!(
                tokenizer.decode(&[size, size + 1], true).expect("decodes").replace(' ', ""),
                "<lookup><look>up"
            );
            assert!(!tokenizer.is_special(size) && tokenizer.vocab_size() == size as usize + 2);
            assert_eq!(before.eos_ids(), tokenizer.eos_ids());
        }
    }

    #[test]
    fn what_cannot_be_a_new_token_is_refused() {
        let special = tokenizer("chat_bpe").special_tokens().eos.clone().expect("a name");
        for (asked, expected) in [
            (texts(&["<a>", "<a>"]), "given twice"),
            (texts(&[" "]), "empty or blank"),
            (texts(&[""]), "empty or blank"),
            (texts(&[&special]), "is a special token"),
        ] {
            let error = tokenizer("chat_bpe").add_tokens(&asked).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn written_files_are_read_as_the_same_tokenizer() {
        for name in ["chat_bpe", "chat_spm"] {
            let mut tokenizer = tokenizer(name);
            tokenizer.add_tokens(&texts(&["<lookup>", "frobnicate"])).expect("added");
            let dir = tempfile::tempdir().expect("a folder");
            for entry in std::fs::read_dir(fixture(name))
                .expect("the fixture")
                .flatten()
                .filter(|e| e.path().is_file())
            {
                let (file, bytes) = (
                    entry.file_name().to_string_lossy().into_owned(),
                    std::fs::read(entry.path()).expect("read"),
                );
                let bytes = tokenizer.with_new_tokens(&file, &bytes).expect("written").unwrap_or(bytes);
                std::fs::write(dir.path().join(file), bytes).expect("written");
            }
            let read = Tokenizer::from_folder(dir.path()).expect("read");
            for text in ["call <lookup> now", "<lookup><lookup>frobnicate", "plain text", " frobnicate"] {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, true).expect("encodes");
                assert_eq!(ids(&read), ids(&tokenizer), "{name} {text}");
            }
            assert_eq!(read.vocab_size(), tokenizer.vocab_size());
            // To a model's own tokenizer they are added with the same ids.
            let mut again = super::tests::tokenizer(name);
            let added = again.add_tokens_of(&read).expect("added");
            assert_eq!(
                added.iter().map(|token| &token.text[..]).collect::<Vec<_>>(),
                ["<lookup>", "frobnicate"]
            );
            assert_eq!(
                again.encode("a <lookup>", false).expect("encodes"),
                tokenizer.encode("a <lookup>", false).expect("encodes")
            );
            assert_eq!(again.add_tokens_of(&read).expect("nothing").len(), 0);
            let mut other = super::tests::tokenizer(name);
            other.add_tokens(&texts(&["<other>"])).expect("added");
            let error = other.add_tokens_of(&read).expect_err("refused").to_string();
            assert!(error.contains("\"<lookup>\" has the id"), "{error}");
        }
    }
}
