//! The tokenizer of a Hugging Face model folder.
//!
//! `tokenizer.json` is the tokenizer; the files beside it say what its tokens mean: `tokenizer_config.json` names the
//! special tokens, may add tokens, and may carry chat templates by name (which `chat_template.jinja`,
//! `additional_chat_templates/` or `chat_template.json` replace), and `generation_config.json`, else `config.json`, list the ids that end a generation.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::PostProcessorWrapper;

use super::{Parts, Tokenizer, TokenizerError, added, guarded};
use crate::template::SpecialTokens;

/// The largest tokenizer.json of the field is about 35 MB.
const LIMIT_BYTES: u64 = 64 << 20;

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face model folder. Only `tokenizer.json` must be there.
    ///
    /// # Errors
    /// When a file is missing, unreadable or not what it should be.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let Some(text) = read(&path)? else {
            return Err(TokenizerError::NoTokenizer {
                folder: folder.to_owned(),
                sentencepiece: folder.join("tokenizer.model").exists(),
            });
        };
        let settings = Json::read(folder.join("tokenizer_config.json"))?;
        let beside = Beside {
            templates: templates(folder, &settings)?,
            added: Json::read(folder.join("added_tokens.json"))?,
            settings,
            older: Json::read(folder.join("special_tokens_map.json"))?,
            model: Json::read(folder.join("config.json"))?,
            generation: Json::read(folder.join("generation_config.json"))?,
        };
        Self::from_files(&path, &text, beside)
    }

    /// The tokenizer of a `tokenizer.json` that has no files beside it; errors call it `path`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_json(path: &Path, text: &str) -> Result<Self, TokenizerError> {
        Self::from_files(path, text, Beside::default())
    }

    fn from_files(path: &Path, text: &str, beside: Beside) -> Result<Self, TokenizerError> {
        // Through `FromStr`, which the library has compiled; its generic functions would be compiled here once more.
        let mut inner = guarded("load", || text.parse::<tokenizers::Tokenizer>())
            .map_err(|e| TokenizerError::Invalid { path: path.to_owned(), message: e.to_string() })?;
        // A batch is a token stream: what the file says about padding and cutting is for other uses.
        inner.with_padding(None);
        guarded("load", || inner.with_truncation(None).map(|_| ()))?;

        let Beside { settings, older, added, model, generation, templates } = beside;
        let tokens = added::tokens(&inner, &settings, &older, &added)?;
        guarded("add tokens", || inner.add_tokens(tokens).map(|_| ()))?;
        let named = |key: &str| -> Result<(Option<String>, Option<u32>), TokenizerError> {
            let mut name = settings.token_name(key)?;
            if name.is_none() {
                name = older.token_name(key)?;
            }
            // Some folders name their tokens only by id, in config.json.
            let id = match &name {
                Some(name) => inner.token_to_id(name),
                None => model.ids(&format!("{key}_id"))?.first().copied(),
            };
            Ok((name.or_else(|| id.and_then(|id| inner.id_to_token(id))), id))
        };
        let (bos_name, bos) = named("bos_token")?;
        let (eos_name, eos) = named("eos_token")?;
        let (pad_name, pad) = named("pad_token")?;
        let (unk_name, _) = named("unk_token")?;

        // As transformers does: the generation configuration decides, the model's is for folders without one.
        let mut more_eos = generation.ids("eos_token_id")?;
        if more_eos.is_empty() {
            more_eos = model.ids("eos_token_id")?;
        }

        // `add_bos_token` and `add_eos_token` are read and passed over, as transformers 5 does: the file's post-processor has
        // the last word.
        settings.flag("add_bos_token")?;
        settings.flag("add_eos_token")?;
        let (prefix, suffix) = added_by_post_processor(&inner)?;
        inner.with_post_processor(None::<PostProcessorWrapper>);

        Ok(Self::assemble(Parts {
            inner,
            special: SpecialTokens { bos: bos_name, eos: eos_name, unk: unk_name, pad: pad_name },
            bos,
            eos,
            pad,
            more_eos,
            prefix,
            suffix,
            chat_template: templates.get(DEFAULT).cloned(),
            tool_template: templates.get(TOOL_USE).cloned(),
            vocab_size: 0,
            unused_from: None,
        }))
    }
}

/// What the file's post-processor puts around a text, found by trying it: templates can hold anything.
fn added_by_post_processor(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let with = guarded("encode text", || inner.encode_fast("a", true))?;
    let without = guarded("encode text", || inner.encode_fast("a", false))?;
    let (with, without) = (with.get_ids(), without.get_ids());
    let at = match without.len() {
        // A vocabulary without the letter: what there is was added.
        0 => Some(with.len()),
        n => with.windows(n).position(|w| w == without),
    };
    Ok(match at {
        Some(at) => (with[..at].to_vec(), with[at + without.len()..].to_vec()),
        None => (Vec::new(), Vec::new()),
    })
}

/// The chat templates by their names, as transformers finds them (`get_chat_template`): those of `chat_template.jinja`
/// (called default) and `additional_chat_templates/NAME.jinja`, else of `chat_template.json`, else of
/// `tokenizer_config.json`. Where only further ones have files, the default is that of the settings.
fn templates(folder: &Path, settings: &Json) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut found = BTreeMap::new();
    if let Some(text) = read(&folder.join("chat_template.jinja"))? {
        found.insert(DEFAULT.to_owned(), text);
    }
    let further = folder.join("additional_chat_templates");
    for entry in std::fs::read_dir(&further).into_iter().flatten().flatten().take(MOST_TEMPLATES) {
        let path = entry.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str()))
            && let Some(text) = read(&path)?
        {
            found.insert(name, text);
        }
    }
    if found.contains_key(DEFAULT) {
        return Ok(found);
    }
    let own = Json::read(folder.join("chat_template.json"))?;
    for file in [&own, settings] {
        let Some(value) = file.get("chat_template") else { continue };
        for (name, text) in named_templates(file, value)? {
            found.entry(name).or_insert(text);
        }
        break;
    }
    Ok(found)
}

/// What the transformers call the template for rows that ask for no other.
const DEFAULT: &str = "default";
/// What they call the one for rows with tools.
const TOOL_USE: &str = "tool_use";
/// More than any model has.
const MOST_TEMPLATES: usize = 64;

/// The value of `chat_template`: one template, or a list of them with names, or an object of them by name.
fn named_templates(file: &Json, value: &Value) -> Result<Vec<(String, String)>, TokenizerError> {
    let wrong = || file.invalid("`chat_template` is neither text nor a list with a template named `default`");
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let named: Option<Vec<(String, String)>> = match value {
        Value::String(text) => Some(vec![(DEFAULT.to_owned(), text.clone())]),
        Value::Array(list) => {
            list.iter().map(|entry| Some((text(entry.get("name"))?, text(entry.get("template"))?))).collect()
        }
        Value::Object(map) => {
            map.iter().map(|(name, value)| Some((name.clone(), text(Some(value))?))).collect()
        }
        _ => None,
    };
    named.filter(|named| named.iter().any(|(name, _)| name == DEFAULT)).ok_or_else(wrong)
}

/// The text of a file, `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    let bytes = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => {
            let found = found.map_err(io)?;
            if !found.is_file() {
                // A pipe could keep silent, and a device have no end.
                return Err(io(std::io::Error::other("it is not a plain file")));
            }
            found.len()
        }
    };
    if bytes > LIMIT_BYTES {
        return Err(TokenizerError::TooLarge { path: path.to_owned(), bytes, limit: LIMIT_BYTES });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    match text.starts_with(LFS) {
        false => Ok(Some(text)),
        true => {
            let message = "it is a pointer of git-lfs and not the file itself".to_owned();
            Err(TokenizerError::Invalid { path: path.to_owned(), message })
        }
    }
}

/// How a pointer of git-lfs begins.
const LFS: &str = "version https://git-lfs";

/// The files beside a `tokenizer.json`.
#[derive(Default)]
struct Beside {
    settings: Json,
    older: Json,
    added: Json,
    model: Json,
    generation: Json,
    templates: BTreeMap<String, String>,
}

/// A configuration file; one that is not there has no keys.
#[derive(Default)]
pub(super) struct Json {
    path: std::path::PathBuf,
    pub(super) map: Map<String, Value>,
}

impl Json {
    fn read(path: std::path::PathBuf) -> Result<Self, TokenizerError> {
        let map = match read(&path)? {
            None => Map::new(),
            Some(text) => crate::json::read(&text).map_err(|e| {
                let (line, column, message) = (e.line(), e.column().max(1), crate::json::told(&e));
                TokenizerError::NotJson { path: path.clone(), line, column, message }
            })?,
        };
        Ok(Self { path, map })
    }

    pub(super) fn invalid(&self, message: impl Into<String>) -> TokenizerError {
        TokenizerError::Invalid { path: self.path.clone(), message: message.into() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, TokenizerError> {
        let wrong = || self.invalid(format!("`{key}` is not true or false"));
        self.get(key).map(|v| v.as_bool().ok_or_else(wrong)).transpose()
    }

    /// A special token: its text, or an object with its text under `content`.
    fn token_name(&self, key: &str) -> Result<Option<String>, TokenizerError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get("content").unwrap_or(value).as_str() {
            Some(name) => Ok(Some(name.to_string())),
            None => Err(self.invalid(format!("`{key}` is neither a token nor an object with `content`"))),
        }
    }

    /// One id or a list of ids.
    fn ids(&self, key: &str) -> Result<Vec<u32>, TokenizerError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        // Some old configurations write -1 for none.
        list.iter()
            .filter(|v| v.as_i64() != Some(-1))
            .map(|v| id(v).ok_or_else(|| self.invalid(format!("`{key}` has {v}, which is not a token id"))))
            .collect()
    }
}
