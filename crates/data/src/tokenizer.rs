//! Text to ids and back, whatever file the tokenizer came from.
//!
//! The arithmetic is the `tokenizers` crate's; what is here is everything around it that decides whether training
//! sees the ids the model was made for: which special tokens are added and when, which ids end a generation, and
//! that a corrupt file or a panic inside the library becomes an error.
//!
//! Special tokens are added by us and never by the library's post-processor: [`Tokenizer::encode`] with
//! `add_special = false` (rendered chat text) adds nothing, so a template that writes its own BOS gets exactly one.
//!
//! Deliberately absent: truncation and padding (batches are token streams), and token types.

mod added;
mod export;
mod folder;
mod gguf;
mod new_tokens;
mod stream;
mod to_gguf;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lorafit_remedy::{Remedy, Setting, remedy};
use regex::Regex;

use crate::contained::contained;
use crate::template::{Builtin, ChatTemplate, SpecialTokens, TemplateError, read_template};

pub use gguf::{GgufTokenizer, PRE_KINDS};
pub use new_tokens::{NewToken, NewTokenError};
pub use stream::DecodeStream;

/// Tokens that end a turn in the chat templates of the field. One of them ends a generation only if the model's
/// vocabulary has it and its template writes it.
const END_OF_TURN: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
];

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The folder has no `tokenizer.json`.
    #[error("{} has no tokenizer.json{}", folder.display(), if *sentencepiece { " (only tokenizer.model)" } else { "" })]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// A `tokenizer.model` is there, so the tokenizer exists but in SentencePiece's own format.
        sentencepiece: bool,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer file has a reason to be.
    #[error("{} has {bytes} bytes, more than the {limit} a tokenizer file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not valid: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place where known.
        message: String,
    },
    /// A file beside the tokenizer is no JSON object.
    #[error("{} line {line}, column {column}: {message}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// The parser's message.
        message: String,
    },
    /// A metadata entry of a GGUF file is missing, of the wrong length, or points outside the vocabulary.
    #[error("GGUF metadata `{key}`: {message}")]
    Metadata {
        /// The GGUF key.
        key: &'static str,
        /// What was found and what was wanted.
        message: String,
    },
    /// The GGUF names a tokenizer model that is not supported.
    #[error("GGUF tokenizer model `{model}` is not one of gpt2, llama")]
    UnknownModel {
        /// `tokenizer.ggml.model`.
        model: String,
    },
    /// The GGUF names a pre-tokenizer that is not supported.
    #[error("GGUF pre-tokenizer `{pre}` is not one of {}", PRE_KINDS.join(", "))]
    UnknownPre {
        /// `tokenizer.ggml.pre`.
        pre: String,
    },
    /// GGUF has no form for the tokenizer.
    #[error("the tokenizer has no form in GGUF: {why}")]
    NoGguf {
        /// What it has that GGUF does not.
        why: String,
    },
    /// The tokenizers library failed or panicked.
    #[error("tokenizer failed to {action}: {message}")]
    Library {
        /// What it was asked to do.
        action: &'static str,
        /// What it said.
        message: String,
    },
}

impl TokenizerError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            Self::NoTokenizer { sentencepiece: true, .. } => {
                "convert it once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
                    .into()
            }
            Self::NoTokenizer { .. } => {
                "give the folder that has config.json and tokenizer.json, or a .gguf file".into()
            }
            Self::Io { .. } => "check that the path exists and that you may read it".into(),
            Self::Invalid { message, .. } if message.contains("git-lfs") => {
                "run git lfs pull in the folder it was cloned to, or download the file again".into()
            }
            // What names a key is about what somebody wrote there.
            Self::Invalid { message, .. } if message.starts_with('`') => {
                "correct the entry, or take the file from where the model came from".into()
            }
            Self::NotJson { path, .. } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                format!("correct it, or take {name} from where the model came from").into()
            }
            Self::TooLarge { .. } | Self::Invalid { .. } => {
                "the file is damaged or not a tokenizer file; download the model again".into()
            }
            Self::Metadata { .. } => {
                "the GGUF file is damaged or was made by an unusual converter; try another conversion".into()
            }
            Self::UnknownModel { .. } | Self::UnknownPre { .. } => {
                "use the model's Hugging Face folder, whose tokenizer.json says everything".into()
            }
            Self::NoGguf { .. } => remedy![
                "take a .gguf file of the base, whose tokenizer is copied, as ", Setting::Model;
                "convert it with llama.cpp's convert_hf_to_gguf.py, which knows further tokenizers"
            ],
            Self::Library { .. } => return None,
        })
    }
}

/// Token ids with the bytes of the text each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The token ids.
    pub ids: Vec<u32>,
    /// For each token the byte range `(start, end)` of the encoded text. Tokens that were added, or that stand for
    /// nothing in the text, have an empty range. Several tokens of one character each have the character's range
    /// or a part of it.
    pub offsets: Vec<(usize, usize)>,
}

/// A model's tokenizer: text to ids, ids to text, and which ids mean what.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    eos_ids: Vec<u32>,
    /// Those of them that do not depend on the chat template.
    ends: Vec<u32>,
    /// Added in front and behind when special tokens are asked for.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    chat_template: Option<String>,
    /// In its place for rows with tools.
    tool_template: Option<String>,
    vocab_size: usize,
    /// Ascending.
    special_ids: Vec<u32>,
    clock: i64,
    /// From here to the end of the vocabulary are names that stand for rows of no token.
    unused_from: Option<u32>,
    /// Tokens that were added to those of the model, with their ids.
    added: Vec<(u32, String)>,
}

/// What a loader found; [`Tokenizer::assemble`] derives the rest.
struct Parts {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    /// Further ids that end a generation, from the model's configuration.
    more_eos: Vec<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    chat_template: Option<String>,
    /// In its place for rows with tools.
    tool_template: Option<String>,
    /// Lower bound for the vocabulary's size.
    vocab_size: usize,
    /// As of [`Tokenizer`].
    unused_from: Option<u32>,
}

impl Tokenizer {
    fn assemble(parts: Parts) -> Self {
        let Parts {
            inner,
            special,
            bos,
            eos,
            pad,
            more_eos,
            prefix,
            suffix,
            chat_template,
            tool_template,
            vocab_size,
            unused_from,
        } = parts;
        let mut ends = more_eos;
        ends.extend(eos);
        // What is written around a text is named by the file's post-processor and settings, which may know other ids.
        let written = prefix.iter().chain(&suffix).copied().chain(eos);
        let largest =
            inner.get_vocab(true).into_values().chain(written).max().map_or(0, |id| id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let mut special_ids: Vec<u32> = added.iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        special_ids.sort_unstable();
        let clock = jiff::Timestamp::now().as_second();
        let mut tokenizer = Self {
            inner,
            special,
            bos,
            eos,
            pad,
            eos_ids: Vec::new(),
            ends,
            prefix,
            suffix,
            chat_template,
            tool_template,
            vocab_size: vocab_size.max(largest),
            special_ids,
            clock,
            unused_from,
            added: Vec::new(),
        };
        tokenizer.find_eos_ids();
        tokenizer
    }

    /// The sources of the templates that rows may be written by.
    fn templates(&self) -> impl Iterator<Item = &str> {
        [&self.chat_template, &self.tool_template].into_iter().filter_map(Option::as_deref)
    }

    /// [`Self::eos_ids`] for the present chat templates.
    fn find_eos_ids(&mut self) {
        let templates = || self.templates();
        let written = END_OF_TURN.iter().filter(|token| templates().any(|text| text.contains(**token)));
        let written = written.filter_map(|t| self.inner.token_to_id(t));
        self.eos_ids = self.ends.iter().copied().chain(written).collect();
        self.eos_ids.sort_unstable();
        self.eos_ids.dedup();
    }

    /// The ids of `text`. With `add_special` what the model expects around plain text (usually BOS) is added;
    /// rendered chat text is encoded without, since the template wrote what it wants.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let plain = guarded("encode text", || self.inner.encode_fast(text, false))?;
        if !add_special {
            return Ok(plain.get_ids().to_vec());
        }
        Ok([&self.prefix, plain.get_ids(), &self.suffix].concat())
    }

    /// The ids of `text` and the bytes each stands for; `add_special` as in [`Self::encode`].
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        let plain = guarded("encode text", || self.inner.encode(text, false))?;
        let mut encoding = Encoding { ids: plain.get_ids().to_vec(), offsets: plain.get_offsets().to_vec() };
        if add_special {
            encoding.ids.splice(0..0, self.prefix.iter().copied());
            encoding.offsets.splice(0..0, self.prefix.iter().map(|_| (0, 0)));
            encoding.ids.extend(&self.suffix);
            encoding.offsets.extend(self.suffix.iter().map(|_| (text.len(), text.len())));
        }
        Ok(encoding)
    }

    /// The text of `ids`; ids outside the vocabulary stand for nothing. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        guarded("decode ids", || self.inner.decode(ids, skip_special))
    }

    /// Decodes a generation as its ids arrive, see [`DecodeStream`].
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// Largest id + 1: the embedding needs at least this many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of the beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that are added in front when special tokens are asked for.
    pub(crate) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The id of the end-of-sequence token, which text and completions are closed with.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that others fill texts up with: that of padding, else the one that ends texts.
    pub fn filler(&self) -> Option<u32> {
        self.pad.or(self.eos)
    }

    /// The id of the padding token. Training never needs it.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Every id that ends a generation, ascending: the end-of-sequence token, those of the model's configuration,
    /// and the end-of-turn tokens that the chat template writes.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Whether `id` ends a generation.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.binary_search(&id).is_ok()
    }

    /// The id of a token by its exact name, such as `<|im_start|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether a token is one that text does not have by itself, such as `<|im_start|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    /// The name of a token in the vocabulary's own alphabet (`Ġthe`), for showing ids to people.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Source of the chat template: the model's, unless another was put in its place.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Source of the template that the model has for rows with tools (transformers' `tool_use`), where that is another.
    pub fn tool_template(&self) -> Option<&str> {
        self.tool_template.as_deref()
    }

    /// Puts another chat template in the place of the model's own: the name of a [`Builtin`], or a file.
    ///
    /// # Errors
    /// When there is neither a built-in template nor a readable file of that name, when the template has a syntax
    /// error, or when a built-in one writes tokens that the vocabulary has not.
    pub fn use_chat_template(&mut self, name_or_file: &str) -> Result<(), TemplateError> {
        let source = match Builtin::named(name_or_file) {
            Some(builtin) => {
                let template = builtin.name();
                let missing = builtin.tokens().iter().find(|t| self.inner.token_to_id(t).is_none());
                if let Some(token) = missing {
                    return Err(TemplateError::MissingToken { template, token });
                }
                if self.eos.is_none() {
                    return Err(TemplateError::MissingToken { template, token: "end of sequence" });
                }
                builtin.source().to_string()
            }
            None => read_template(Path::new(name_or_file))?,
        };
        ChatTemplate::new(&source, &self.special)?;
        self.chat_template = Some(source);
        self.tool_template = None;
        self.find_eos_ids();
        Ok(())
    }

    /// All that decides which ids a text gets, as text: two tokenizers that are described alike work alike.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn description(&self) -> Result<String, TokenizerError> {
        let json = guarded("describe the tokenizer", || self.inner.to_string(false))?;
        let Self { special, prefix, suffix, eos_ids, chat_template, .. } = self;
        let tools = self.tool_template.iter().map(|text| format!("\n{text:?}")).collect::<String>();
        Ok(format!("{json}\n{special:?}\n{prefix:?}\n{suffix:?}\n{eos_ids:?}\n{chat_template:?}{tools}"))
    }

    /// The special tokens by name, as a chat template sees them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The chat template, compiled; `None` when there is none.
    ///
    /// # Errors
    /// When the template has a syntax error.
    pub fn compile_chat_template(&self) -> Result<Option<ChatTemplate>, TemplateError> {
        let compile = |source: &str| Ok(ChatTemplate::new(source, &self.special)?.at(self.clock));
        let Some(template) = self.chat_template.as_deref().map(compile).transpose()? else { return Ok(None) };
        let of_tools = self.tool_template.as_deref().map(compile).transpose()?;
        Ok(Some(template.with_tool_use(of_tools)))
    }

    /// The time (seconds since 1970) that templates see as now. It is taken when the tokenizer is loaded and does
    /// not move, so that a run does not change its data at midnight.
    pub fn clock(&self) -> i64 {
        self.clock
    }

    /// What of [`Self::clock`] the chat template can tell: nothing if it does not ask, the day if it asks for no more.
    pub fn visible_clock(&self) -> Option<String> {
        static DIRECTIVE: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"%[-_0^#:.\d]*([A-Za-z])").expect("a constant"));
        const OF_A_DAY: &str = "aAbBCdDeFgGhjmuUVwWyY";
        let all: String = self.templates().collect();
        let template = Some(all).filter(|t| t.contains("strftime_now"))?.replace("{%", "");
        let only_days = DIRECTIVE.captures_iter(&template).all(|found| OF_A_DAY.contains(&found[1]));
        let now = jiff::Timestamp::from_second(self.clock).ok().filter(|_| only_days);
        let day = now.map(|now| now.to_zoned(jiff::tz::TimeZone::system()).date().to_string());
        Some(day.unwrap_or_else(|| self.clock.to_string()))
    }

    /// Sets the time that templates see as now; a resumed run sets the time of its first start.
    pub fn set_clock(&mut self, unix_seconds: i64) {
        self.clock = unix_seconds;
    }
}

/// Runs a call into the tokenizers library; its error or panic becomes ours. Tokenizer files are hostile input and
/// the library indexes and unwraps in places that they can reach.
fn guarded<T>(
    action: &'static str,
    call: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    let message = match contained(call) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("the tokenizers library panicked: {panic}"),
    };
    Err(TokenizerError::Library { action, message })
}
