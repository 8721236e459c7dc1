//! A tokenizer as the metadata of a GGUF file, for one that came from a folder.
//!
//! GGUF names how text is cut into words (`tokenizer.ggml.pre`) instead of saying it. Which name is right is tried: with
//! it, what the metadata is read back as must give the ids that this tokenizer gives, for texts in which the known ways
//! differ. A tokenizer that none fits is an error.

use serde_json::Value;

use super::gguf::{GgufTokenizer, PRE_KINDS};
use super::{Tokenizer, TokenizerError, guarded};

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// What the ways of cutting text differ in: digits, contractions, blanks, line breaks, punctuation, scripts, what NFC joins.
const PROBES: [&str; 16] = [
    "Hello, world! How's it going? I'LL be there; they'Ve left, can't we'd.",
    "1 12 123 1234 12345 123456789 3.14159 0x1F 1,000,000 ٣٤٥ ½²",
    "  leading, two  inside and trailing   ",
    "tab\tand\n\nline breaks\r\n  \n mixed \n",
    "def f(x):\n    return x**2  # a comment\n\n\n\tif x == 1_000: pass",
    "punctuation...!!! --- ((nested)) [x] {y} <z> $5 + 3 = 8 ^ ~ | \\ / \"quoted\" 'single'",
    "naïve café e\u{301}te\u{301} ﬁn Ångström Å",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم",
    "emoji 👍🏽 👨‍👩‍👧 🇩🇪 ☃️",
    "\u{a0}no-break\u{2003}em\u{200b}zero",
    "aaaaaaaaaaaaaaaaaaaa bbbbbbbb 000000000000",
    "CamelCase snake_case kebab-case ALLCAPS2024v1.2.3-rc4",
    "http://example.org/a?b=c&d=%20#e user@example.org",
    "x1y2z3 9a8b7c A1 B22 C333 D4444",
    "\n",
];

impl Tokenizer {
    /// The metadata that GGUF files have of this tokenizer, padded with unused tokens to `rows`, those of the embedding.
    ///
    /// # Errors
    /// A tokenizer that is no BPE, that GGUF has no name for, or that has more tokens than the embedding.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufTokenizer, TokenizerError> {
        let no_form = |why: String| TokenizerError::NoGguf { why };
        if self.vocab_size > rows {
            return Err(no_form(format!("it has {} tokens, and the embedding {rows} rows", self.vocab_size)));
        }
        let text = guarded("write the tokenizer", || self.inner.to_string(false))?;
        let json: Value = serde_json::from_str(&text).expect("the library writes JSON");
        let kind = json.pointer("/model/type").and_then(Value::as_str).unwrap_or_default();
        if kind != "BPE" {
            return Err(no_form(format!("its model is {kind}, and only BPE is written")));
        }
        let sentencepiece = json.pointer("/model/byte_fallback") == Some(&Value::Bool(true));
        let mut gguf = self.without_pre(&json, sentencepiece, rows);
        if sentencepiece {
            gguf.add_space_prefix = Some(self.writes_space_first(&gguf)?);
            return match self.reads_as(&gguf)? {
                true => Ok(gguf),
                false => Err(no_form("the tokenizer read back from GGUF gives other ids".to_owned())),
            };
        }
        for pre in PRE_KINDS {
            gguf.pre = Some(pre.to_owned());
            if self.reads_as(&gguf)? {
                return Ok(gguf);
            }
        }
        let known = PRE_KINDS.join(", ");
        Err(no_form(format!("it cuts text in none of the ways that are known ({known})")))
    }

    /// All but how text is cut.
    fn without_pre(&self, json: &Value, sentencepiece: bool, rows: usize) -> GgufTokenizer {
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows];
        for (token, id) in self.inner.get_vocab(true) {
            let id = id as usize;
            let is_byte =
                sentencepiece && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            types[id] = if is_byte { BYTE } else { NORMAL };
            tokens[id] = token;
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            types[id as usize] = if token.special { CONTROL } else { USER_DEFINED };
        }
        let unknown = self.special.unk.as_ref().and_then(|token| self.inner.token_to_id(token));
        if let Some(id) = unknown.filter(|_| sentencepiece) {
            types[id as usize] = UNKNOWN;
        }
        let merges = json.pointer("/model/merges").and_then(Value::as_array);
        let merges: Vec<String> = merges.into_iter().flatten().filter_map(merge_text).collect();
        let scores = sentencepiece.then(|| scores(&tokens, &types, &merges));
        let adds = |ids: &[u32]| Some(!ids.is_empty());
        GgufTokenizer {
            model: if sentencepiece { "llama" } else { "gpt2" }.to_owned(),
            pre: sentencepiece.then(|| "default".to_owned()),
            tokens,
            scores,
            token_types: Some(types),
            merges: (!sentencepiece).then_some(merges),
            bos: self.bos,
            eos: self.eos,
            unknown,
            padding: self.pad,
            add_bos: adds(&self.prefix),
            add_eos: adds(&self.suffix),
            add_space_prefix: None,
            chat_template: self.chat_template.clone(),
            tool_template: self.tool_template.clone(),
        }
    }

    /// Whether a text begins with a space that it does not have.
    fn writes_space_first(&self, gguf: &GgufTokenizer) -> Result<bool, TokenizerError> {
        let with = GgufTokenizer { add_space_prefix: Some(true), ..gguf.clone() };
        self.reads_as(&with)
    }

    /// Whether the metadata is read as a tokenizer that gives the same ids.
    fn reads_as(&self, gguf: &GgufTokenizer) -> Result<bool, TokenizerError> {
        let again = Tokenizer::from_gguf(gguf.clone())?;
        for text in PROBES {
            if self.encode(text, true)? != again.encode(text, true)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// `a b` of a merge, however the file has it.
fn merge_text(merge: &Value) -> Option<String> {
    match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

/// Scores by which SentencePiece merges in the order of `merges`: a piece's is the less, the later it is merged. Characters,
/// which are not merged, come last, as in files of SentencePiece; what is no piece has none.
fn scores(tokens: &[String], types: &[i32], merges: &[String]) -> Vec<f32> {
    let mut first = std::collections::HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        first.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    let mut last = merges.len();
    let score = |(token, kind): (&String, &i32)| match (*kind, first.get(token)) {
        (NORMAL, Some(rank)) => -(*rank as f32),
        (NORMAL, None) => {
            last += 1;
            -(last as f32)
        }
        _ => 0.0,
    };
    tokens.iter().zip(types).map(score).collect()
}
