//! SentencePiece vocabularies against SentencePiece itself.

use crate::common::{ids, names, read_json, sentencepiece_metadata};
use lorafit_data::{GgufTokenizer, Tokenizer};

#[test]
fn ids_equal_sentencepiece() {
    let tokenizer = Tokenizer::from_gguf(sentencepiece_metadata()).unwrap();
    let model = read_json("spm_bpe.json.gz");
    let samples = model["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 50);
    for sample in samples {
        let text = sample["text"].as_str().unwrap();
        let got = tokenizer.encode(text, false).unwrap();
        assert_eq!(got, ids(&sample["ids"]), "{text:?}: {:?}", names(&tokenizer, &got));
        assert_eq!(tokenizer.decode(&got, true).unwrap(), text);
    }
}

#[test]
fn bos_is_added_by_default_and_only_when_asked() {
    let tokenizer = Tokenizer::from_gguf(sentencepiece_metadata()).unwrap();
    let plain = tokenizer.encode("Hello", false).unwrap();
    assert_eq!(tokenizer.encode("Hello", true).unwrap(), [&[1], &plain[..]].concat());
    // A template that writes BOS itself gets one.
    assert_eq!(tokenizer.encode("<s>Hello", false).unwrap(), [&[1], &plain[..]].concat());
    let both = GgufTokenizer { add_bos: Some(false), add_eos: Some(true), ..sentencepiece_metadata() };
    let both = Tokenizer::from_gguf(both).unwrap();
    assert_eq!(both.encode("Hello", true).unwrap(), [&plain[..], &[2]].concat());
}

#[test]
fn the_space_prefix_is_honoured() {
    let with = Tokenizer::from_gguf(sentencepiece_metadata()).unwrap();
    let without = GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece_metadata() };
    let without = Tokenizer::from_gguf(without).unwrap();
    assert_eq!(with.encode("a pub", false).unwrap(), without.encode(" a pub", false).unwrap());
    assert!(!names(&without, &without.encode("a pub", false).unwrap())[0].starts_with('\u{2581}'));
    assert_eq!(without.decode(&without.encode(" a pub", false).unwrap(), true).unwrap(), " a pub");
}

#[test]
fn offsets_cover_the_text_in_order() {
    let tokenizer = Tokenizer::from_gguf(sentencepiece_metadata()).unwrap();
    let text = "The Eagle 你好 is near";
    let encoding = tokenizer.encode_with_offsets(text, true).unwrap();
    assert_eq!(encoding.offsets[0], (0, 0));
    assert_eq!(encoding.offsets.last().unwrap().1, text.len());
    assert!(encoding.offsets.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    let covered = (0..text.len()).all(|b| encoding.offsets.iter().any(|&(s, e)| s <= b && b < e));
    assert!(covered, "{:?}", encoding.offsets);
}

#[test]
fn streaming_keeps_spaces_between_words() {
    let tokenizer = Tokenizer::from_gguf(sentencepiece_metadata()).unwrap();
    let text = "The Eagle is near 你好 now";
    let mut stream = tokenizer.decode_stream(true);
    let mut shown = String::new();
    for id in tokenizer.encode(text, true).unwrap() {
        shown += &stream.push(id).unwrap();
    }
    shown += &stream.finish().unwrap();
    assert_eq!(shown, text);
}
