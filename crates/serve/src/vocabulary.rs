//! The bytes that a token stands for, by itself. Vocabularies write bytes in alphabets of their own: those of GPT-2's kind have a
//! letter for each, as `Ġ` for a blank, those of SentencePiece's kind `▁` for a blank and `<0x0A>` for bytes that are no text. The
//! latter may have `Ġ` as the letter that it is, but the former never have `▁`, whose bytes they write by three letters.

use lorafit_data::Tokenizer;

/// The bytes of token `id`; none for one that the vocabulary does not have.
pub fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(name) = tokenizer.id_to_token(id) else { return Vec::new() };
    if tokenizer.token_to_id("Ġ").is_some() && tokenizer.token_to_id("▁").is_none() {
        let bytes: Option<Vec<u8>> = name.chars().map(byte_of_letter).collect();
        return bytes.unwrap_or_else(|| name.into_bytes());
    }
    let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => name.replace('▁', " ").into_bytes(),
    }
}

/// The byte that a letter of GPT-2's alphabet stands for: those that can be printed for themselves, the others in order from
/// U+0100 on.
fn byte_of_letter(letter: char) -> Option<u8> {
    let for_itself = |code: u32| matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(letter);
    if for_itself(code) {
        return u8::try_from(code).ok();
    }
    let others = (0..=255_u32).filter(|byte| !for_itself(*byte));
    others.zip(0x100..).find(|(_, letter)| *letter == code).and_then(|(byte, _)| u8::try_from(byte).ok())
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
        assert_eq!(byte_of_letter('Ġ'), Some(b' '));
        assert_eq!(byte_of_letter('Ċ'), Some(b'\n'));
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
