//! The bytes that tokens stand for. Vocabularies write bytes in alphabets of their own.

use lorafit_data::Tokenizer;

/// How the names of tokens write bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// A letter for each byte, as `Ġ` for a blank: GPT-2's `bytes_to_unicode`.
    ByteLevel,
    /// Text with `▁` (U+2581) for a blank, and `<0x0A>` for bytes that are no text.
    SentencePiece,
}

impl Alphabet {
    /// The bytes of the token `name`; none where it has a letter that no byte has.
    pub fn bytes(self, name: &str) -> Option<Vec<u8>> {
        match self {
            Alphabet::ByteLevel => name.chars().map(byte_of_letter).collect(),
            Alphabet::SentencePiece => {
                Some(byte_token(name).unwrap_or_else(|| name.replace('▁', " ").into_bytes()))
            }
        }
    }
}

/// The bytes of token `id`, as they are shown; none for one that the vocabulary does not have.
///
/// The vocabulary tells the alphabet: one of SentencePiece may have `Ġ` as the letter that it is, but one of byte-level BPE never has
/// `▁`, whose bytes it writes by three letters.
pub fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(name) = tokenizer.id_to_token(id) else { return Vec::new() };
    let has = |token: &str| tokenizer.token_to_id(token).is_some();
    let alphabet = match has("Ġ") && !has("▁") {
        true => Alphabet::ByteLevel,
        false => Alphabet::SentencePiece,
    };
    alphabet.bytes(&name).unwrap_or_else(|| name.into_bytes())
}

/// A token as `/v1/completions` lists it: its text, or `bytes:\xe2\x80` where its bytes are a part of a letter, as OpenAI writes
/// those.
pub fn listed(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

/// How many characters end within the bytes `before` a token of these bytes: one that the token goes on does not, one that it leaves
/// incomplete does, as U+FFFD.
pub fn characters_before(before: &[u8], token: &[u8]) -> usize {
    let all = [before, token].concat();
    let characters = all.utf8_chunks().flat_map(|chunk| {
        let invalid = Some(chunk.invalid().len()).filter(|bytes| *bytes > 0);
        chunk.valid().chars().map(char::len_utf8).chain(invalid)
    });
    let ends = characters.scan(0, |at, bytes| {
        *at += bytes;
        Some(*at)
    });
    ends.take_while(|end| *end <= before.len()).count()
}

/// The byte of a letter of the byte-level alphabet: printable bytes of Latin-1 are themselves, the others follow from U+0100 on in
/// order.
fn byte_of_letter(letter: char) -> Option<u8> {
    let is_itself = |code: u32| matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(letter) {
        code if is_itself(code) => u8::try_from(code).ok(),
        code => (0..=255_u8)
            .filter(|byte| !is_itself(u32::from(*byte)))
            .nth(usize::try_from(code).ok()?.checked_sub(0x100)?),
    }
}

/// The byte of `<0x0A>`.
fn byte_token(name: &str) -> Option<Vec<u8>> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    Some(vec![u8::from_str_radix(digits, 16).ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn letters_stand_for_every_byte_once() {
        let mut found: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of_letter).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=255).collect::<Vec<u8>>());
        assert_eq!(['Ġ', 'Ċ', 'a'].map(byte_of_letter), [Some(b' '), Some(b'\n'), Some(b'a')]);
        assert_eq!([' ', '▁', '\u{144}'].map(byte_of_letter), [None, None, None]);
    }

    #[test]
    fn tokens_that_are_parts_of_a_letter_are_listed_by_their_bytes() {
        let cases: [(&[u8], &str); 5] = [
            (b"a b", "a b"),
            ("é".as_bytes(), "é"),
            (b"\xe2\x80", "bytes:\\xe2\\x80"),
            (b"\x94", "bytes:\\x94"),
            (b" \xf0", "bytes:\\x20\\xf0"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(listed(bytes), expected);
        }
    }

    #[test]
    fn characters_end_where_no_token_goes_on_with_them() {
        let cases: [(&[u8], &[u8], usize); 8] = [
            (b"", b"a", 0),
            (b"", b"\xe2\x80", 0),
            // The rest of it.
            (b"\xe2\x80", b"\x94", 0),
            (b"\xe2", b"\x80", 0),
            // Never whole.
            (b"\xe2\x80", b"a", 1),
            (b"\xe2\x80", b"\xe2", 1),
            (b"\xff\xc3", b"\xa9", 1),
            ("aé".as_bytes(), b"\xa9", 2),
        ];
        for (before, token, expected) in cases {
            assert_eq!(characters_before(before, token), expected, "{before:?} {token:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_have_two_digits() {
        assert_eq!(["<0x0A>", "<0x100>", "<s>"].map(byte_token), [Some(vec![10]), None, None]);
    }

    #[test]
    fn bytes_of_tokens_are_those_of_their_text() {
        for model in ["chat_bpe", "chat_spm"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(model);
            let tokenizer = Tokenizer::from_folder(folder).expect("a tokenizer");
            let text = "What is the größte 日本 number?\n";
            let ids = tokenizer.encode(text, false).expect("encodes");
            let bytes: Vec<u8> = ids.iter().flat_map(|id| bytes_of(&tokenizer, *id)).collect();
            // SentencePiece writes a blank before the first word.
            let found = String::from_utf8(bytes).expect("UTF-8");
            assert_eq!(found.trim_start(), text, "{model}");
        }
    }
}
