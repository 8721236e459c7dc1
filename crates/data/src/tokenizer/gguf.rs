//! The tokenizer that a GGUF file carries in its metadata.
//!
//! GGUF stores vocabulary, scores, types and merges but names the rest: `tokenizer.ggml.model` says byte-level BPE
//! (`gpt2`) or SentencePiece BPE (`llama`), and `tokenizer.ggml.pre` which regular expressions cut the text before
//! byte-level merging. They are those of llama.cpp (`llama-vocab.cpp`), which are those of each model's
//! `tokenizer.json`.
//!
//! SentencePiece has no merge list: merges are derived from the vocabulary and its scores, as transformers does. A
//! piece of higher score is merged first, and every split of it into two known pieces is a merge.
//!
//! Deliberately absent: WordPiece, Unigram and RWKV vocabularies, which no supported architecture uses.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
};

use super::{Parts, Tokenizer, TokenizerError, guarded};
use crate::template::SpecialTokens;

/// The pre-tokenizers (`tokenizer.ggml.pre`) that are supported.
pub const PRE_KINDS: [&str; 5] = ["smollm", "llama-bpe", "qwen2", "gpt-2", "default"];

/// Longer SentencePiece pieces are refused: deriving merges is quadratic in a piece's length.
const LONGEST_PIECE: usize = 1024;
/// Bytes that are hashed for that, about: real vocabularies take some 20 million.
const MOST_HASHED: usize = 1 << 28;
/// More tokens that are found in text as they are than any model has (Gemma 3: six thousand). Each takes part in an
/// automaton.
const MOST_ADDED: usize = 1 << 16;

/// SentencePiece's mark for a space.
const SPACE: &str = "\u{2581}";

/// Tokenizer metadata of a GGUF file, each field one `tokenizer.*` key. Whoever reads GGUF fills it.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`; `default` where absent, as in llama.cpp.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`, each two tokens with a space between.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.tool_use`, for rows with tools.
    pub tool_template: Option<String>,
}

/// What a token is, from `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// When the metadata is incomplete or contradicts itself, or names a tokenizer that is not supported.
    pub fn from_gguf(gguf: GgufTokenizer) -> Result<Self, TokenizerError> {
        gguf.build()
    }
}

impl GgufTokenizer {
    fn build(mut self) -> Result<Tokenizer, TokenizerError> {
        self.check()?;
        let sentencepiece = match self.model.as_str() {
            "llama" => true,
            "gpt2" => false,
            _ => return Err(TokenizerError::UnknownModel { model: self.model }),
        };
        if sentencepiece {
            // llama.cpp's defaults for a vocabulary that doesn't say.
            let known = |id: u32| Some(id).filter(|&id| (id as usize) < self.tokens.len());
            self.bos = self.bos.or(known(1));
            self.eos = self.eos.or(known(2));
            self.unknown = self.unknown.or(known(0));
        }
        let kinds = self.kinds();
        let unused_from = self.unused_from(&kinds);
        let (mut inner, adds_bos) =
            if sentencepiece { (self.sentencepiece(&kinds)?, true) } else { self.byte_level()? };
        self.add_tokens(&mut inner, &kinds, sentencepiece)?;

        let name = |id: Option<u32>| id.and_then(|id| self.tokens.get(id as usize).cloned());
        let once = |add: bool, id: Option<u32>| id.filter(|_| add).into_iter().collect();
        Ok(Tokenizer::assemble(Parts {
            special: SpecialTokens {
                bos: name(self.bos),
                eos: name(self.eos),
                unk: name(self.unknown),
                pad: name(self.padding),
            },
            bos: self.bos,
            eos: self.eos,
            pad: self.padding,
            more_eos: Vec::new(),
            prefix: once(self.add_bos.unwrap_or(adds_bos), self.bos),
            suffix: once(self.add_eos.unwrap_or(false), self.eos),
            vocab_size: self.tokens.len(),
            unused_from,
            chat_template: self.chat_template,
            tool_template: self.tool_template,
            inner,
        }))
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let n = self.tokens.len();
        let wrong = |key, message: String| Err(TokenizerError::Metadata { key, message });
        if n == 0 {
            return wrong("tokenizer.ggml.tokens", "the vocabulary is missing or empty".into());
        }
        for (key, length) in [
            ("tokenizer.ggml.scores", self.scores.as_ref().map(Vec::len)),
            ("tokenizer.ggml.token_type", self.token_types.as_ref().map(Vec::len)),
        ] {
            if let Some(length) = length.filter(|&l| l != n) {
                return wrong(key, format!("has {length} entries for {n} tokens"));
            }
        }
        for (key, id) in [
            ("tokenizer.ggml.bos_token_id", self.bos),
            ("tokenizer.ggml.eos_token_id", self.eos),
            ("tokenizer.ggml.unknown_token_id", self.unknown),
            ("tokenizer.ggml.padding_token_id", self.padding),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return wrong(key, format!("is {id}, but there are {n} tokens"));
            }
        }
        Ok(())
    }

    fn kinds(&self) -> Vec<Kind> {
        if let Some(types) = &self.token_types {
            return types
                .iter()
                .map(|t| match t {
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    _ => Kind::Normal,
                })
                .collect();
        }
        let mut kinds = vec![Kind::Normal; self.tokens.len()];
        for id in [self.bos, self.eos, self.unknown, self.padding].into_iter().flatten() {
            kinds[id as usize] = Kind::Control;
        }
        kinds
    }

    /// The first of the names that converters give the rows behind the last token (`[PAD50258]`), if there are any.
    fn unused_from(&self, kinds: &[Kind]) -> Option<u32> {
        let is_row = |id: usize| kinds[id] == Kind::Unused && self.tokens[id] == format!("[PAD{id}]");
        let rows = (0..self.tokens.len()).rev().take_while(|id| is_row(*id)).count();
        (rows > 0).then(|| u32::try_from(self.tokens.len() - rows).ok()).flatten()
    }

    /// All tokens but the names of rows of none, whose ids are free.
    fn vocab(&self) -> Vocab {
        let tokens = self.unused_from(&self.kinds()).map_or(self.tokens.len(), |first| first as usize);
        self.tokens[..tokens].iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect()
    }

    /// Byte-level BPE; also whether BOS is added where the file doesn't say.
    fn byte_level(&self) -> Result<(tokenizers::Tokenizer, bool), TokenizerError> {
        let pre = Pre::named(self.pre.as_deref().unwrap_or("default"))?;
        let Some(merges) = &self.merges else {
            return Err(TokenizerError::Metadata {
                key: "tokenizer.ggml.merges",
                message: "is missing".into(),
            });
        };
        let vocab = self.vocab();
        let merges = split_merges(merges, &vocab)?;
        let mut inner =
            build_bpe(BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre == Pre::LlamaBpe))?;
        guarded("build", || {
            inner.with_pre_tokenizer(Some(pre.pre_tokenizer()?));
            if pre == Pre::Qwen2 {
                inner.with_normalizer(Some(NFC))?;
            }
            inner.with_decoder(Some(ByteLevel::default()));
            Ok(())
        })?;
        Ok((inner, pre == Pre::LlamaBpe))
    }

    /// SentencePiece BPE with bytes for what the vocabulary lacks.
    fn sentencepiece(&self, kinds: &[Kind]) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let vocab = self.vocab();
        let merges = match (&self.merges, &self.scores) {
            (Some(merges), _) => split_merges(merges, &vocab)?,
            (None, Some(scores)) => self.derive_merges(scores, kinds)?,
            (None, None) => {
                return Err(TokenizerError::Metadata {
                    key: "tokenizer.ggml.scores",
                    message: "is missing, and so are the merges".into(),
                });
            }
        };
        let mut builder = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
        if let Some(token) = self.unknown.and_then(|id| self.tokens.get(id as usize)) {
            builder = builder.unk_token(token.clone());
        }
        let mut inner = build_bpe(builder)?;
        let prefix = self.add_space_prefix.unwrap_or(true);
        guarded("build", || {
            let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
            let mut decoders: Vec<DecoderWrapper> = vec![
                Replace::new(SPACE, " ")?.into(),
                ByteFallback::default().into(),
                Fuse::default().into(),
            ];
            if prefix {
                normalizers.push(Prepend::new(SPACE.to_string()).into());
                decoders.push(Strip::new(' ', 1, 0).into());
            }
            normalizers.push(Replace::new(" ", SPACE)?.into());
            inner.with_normalizer(Some(Normalizers::new(normalizers)))?;
            inner.with_decoder(Some(Decoders::new(decoders)));
            Ok(())
        })?;
        Ok(inner)
    }

    fn derive_merges(&self, scores: &[f32], kinds: &[Kind]) -> Result<Merges, TokenizerError> {
        let mergeable = |id: usize| match kinds[id] {
            Kind::Normal => true,
            Kind::UserDefined => is_blank(&self.tokens[id]),
            Kind::Unknown | Kind::Control | Kind::Unused | Kind::Byte => false,
        };
        let pieces: HashMap<&str, usize> = (0..self.tokens.len())
            .filter(|&id| mergeable(id))
            .map(|id| (self.tokens[id].as_str(), id))
            .collect();
        let mut merges: Vec<(usize, usize, usize)> = Vec::new();
        let mut hashed = 0;
        for (id, piece) in self.tokens.iter().enumerate() {
            if pieces.get(piece.as_str()) != Some(&id) {
                continue;
            }
            if piece.len() > LONGEST_PIECE {
                return Err(TokenizerError::Metadata {
                    key: "tokenizer.ggml.tokens",
                    message: format!(
                        "token {id} has {} bytes, more than the {LONGEST_PIECE} a piece may have",
                        piece.len()
                    ),
                });
            }
            hashed += piece.len().pow(2);
            if hashed > MOST_HASHED {
                return Err(TokenizerError::Metadata {
                    key: "tokenizer.ggml.tokens",
                    message: format!("up to token {id} the pieces are too long to derive merges"),
                });
            }
            let first = merges.len();
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if let (Some(&left), Some(&right)) = (pieces.get(left), pieces.get(right)) {
                    merges.push((left, right, id));
                }
            }
            // Among splits of one piece, the parts that are themselves merged first.
            merges[first..].sort_by(|a, b| {
                scores[b.0].total_cmp(&scores[a.0]).then(scores[b.1].total_cmp(&scores[a.1]))
            });
        }
        merges.sort_by(|a, b| scores[b.2].total_cmp(&scores[a.2]));
        let token = |id: usize| self.tokens[id].clone();
        Ok(merges.into_iter().map(|(left, right, _)| (token(left), token(right))).collect())
    }

    /// Control and user-defined tokens are found in the text before anything else happens to it.
    fn add_tokens(
        &self,
        inner: &mut tokenizers::Tokenizer,
        kinds: &[Kind],
        sentencepiece: bool,
    ) -> Result<(), TokenizerError> {
        let added: Vec<AddedToken> = self
            .tokens
            .iter()
            .zip(kinds)
            .filter(|(token, _)| !token.is_empty())
            .filter_map(|(token, kind)| {
                let special = match kind {
                    Kind::Control | Kind::Unknown => true,
                    // Gemma's runs of spaces and newlines: written with the space mark, so not to be found in raw
                    // text; they are reached through merges.
                    Kind::UserDefined if sentencepiece && is_blank(token) => return None,
                    Kind::UserDefined => false,
                    Kind::Normal | Kind::Unused | Kind::Byte => return None,
                };
                Some(AddedToken::from(token.clone(), special).normalized(false))
            })
            .collect();
        if added.len() > MOST_ADDED {
            return Err(TokenizerError::Metadata {
                key: "tokenizer.ggml.token_type",
                message: format!("has {} control and user-defined tokens, at most {MOST_ADDED}", added.len()),
            });
        }
        guarded("build", || inner.add_tokens(added).map(|_| ()))
    }
}

fn is_blank(token: &str) -> bool {
    token.chars().all(|c| c == '\u{2581}' || c.is_whitespace())
}

/// `"a b"` to `("a", "b")`, every part and the result in the vocabulary: the library would panic or refuse without
/// a place.
fn split_merges(merges: &[String], vocab: &Vocab) -> Result<Merges, TokenizerError> {
    let wrong = |i: usize, message: String| TokenizerError::Metadata {
        key: "tokenizer.ggml.merges",
        message: format!("entry {i}: {message}"),
    };
    merges
        .iter()
        .enumerate()
        .map(|(i, merge)| {
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| wrong(i, format!("`{merge}` is not two tokens")))?;
            for token in [left, right, &format!("{left}{right}")] {
                if !vocab.contains_key(token) {
                    return Err(wrong(i, format!("`{token}` is not in the vocabulary")));
                }
            }
            Ok((left.to_string(), right.to_string()))
        })
        .collect()
}

fn build_bpe(builder: tokenizers::models::bpe::BpeBuilder) -> Result<tokenizers::Tokenizer, TokenizerError> {
    guarded("build", || Ok(tokenizers::Tokenizer::new(builder.build()?)))
}

/// How text is cut into words before byte-level merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pre {
    SmolLm,
    LlamaBpe,
    Qwen2,
    Gpt2,
    Default,
}

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// Llama 3's words: contractions in any case, numbers in groups of up to three digits.
const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's words: as Llama 3's, but every digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pre {
    fn named(name: &str) -> Result<Self, TokenizerError> {
        match name {
            "smollm" => Ok(Self::SmolLm),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::LlamaBpe),
            "qwen2" => Ok(Self::Qwen2),
            "gpt-2" => Ok(Self::Gpt2),
            "default" => Ok(Self::Default),
            _ => Err(TokenizerError::UnknownPre { pre: name.to_string() }),
        }
    }

    fn pre_tokenizer(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let split = |regex: &str| -> tokenizers::Result<PreTokenizerWrapper> {
            let pattern = SplitPattern::Regex(regex.to_string());
            Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
        };
        // `use_regex` is GPT-2's own expression.
        let bytes = |use_regex: bool| PreTokenizerWrapper::from(ByteLevel::new(false, false, use_regex));
        let steps = match self {
            Self::SmolLm => vec![Digits::new(true).into(), bytes(true)],
            Self::LlamaBpe => vec![split(LLAMA_BPE)?, bytes(false)],
            Self::Qwen2 => vec![split(QWEN2)?, bytes(false)],
            Self::Gpt2 => vec![bytes(true)],
            Self::Default => vec![
                split(r"[\p{P}\$\+<=>\^~\|]+")?,
                split(GPT2)?,
                split(r"\p{N}+")?,
                split("[0-9][0-9][0-9]")?,
                bytes(false),
            ],
        };
        Ok(PreTokenizers::new(steps).into())
    }
}
