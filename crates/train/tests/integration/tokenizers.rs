//! Token ids and decoded texts of awkward strings against the tokenizers that define them
//! (`scripts/make_tokenizer_fixtures.py`), through the paths that training takes from a model's files to its tokenizer.

use std::path::{Path, PathBuf};

use lorafit_data::Tokenizer;
use lorafit_model::weights::{Gguf, ModelFiles};
use lorafit_train::{open_tokenizer, tokenizer_metadata};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn of_model(path: &str) -> Tokenizer {
    let files = ModelFiles::open(&fixtures().join(path)).expect("the fixture opens");
    open_tokenizer(&files).expect("the tokenizer opens")
}

/// A GGUF file that has a vocabulary and no tensors.
fn of_vocabulary(path: &str) -> Tokenizer {
    let gguf = Gguf::open(&fixtures().join(path)).expect("the fixture opens");
    Tokenizer::from_gguf(tokenizer_metadata(&gguf)).expect("the tokenizer opens")
}

struct Case {
    text: String,
    /// Without BOS; special tokens in the text are recognised.
    ids: Vec<u32>,
    /// Special tokens kept.
    decoded: String,
    /// NFC normalisation changes the text.
    decomposed: bool,
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(fixtures().join(format!("tokenizers/{name}.json"))).expect(name);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let case = |case: &Value| Case {
        text: case["text"].as_str().expect("text").to_owned(),
        ids: serde_json::from_value(case["ids"].clone()).expect("ids"),
        decoded: case["decoded"].as_str().expect("decoded").to_owned(),
        decomposed: case["nfc"].as_bool().unwrap_or(false),
    };
    let cases: Vec<Case> = json["cases"].as_array().expect("cases").iter().map(case).collect();
    assert!(cases.len() > 40, "{name}");
    cases
}

/// Every case, so that a failure shows all that differ.
#[track_caller]
fn assert_cases(tokenizer: &Tokenizer, name: &str) {
    let mut wrong = Vec::new();
    for case in cases(name) {
        let ids = tokenizer.encode(&case.text, false).expect("encodes");
        if ids != case.ids {
            wrong.push(format!("{:?}: ids {ids:?}, expected {:?}", case.text, case.ids));
        }
        let decoded = tokenizer.decode(&case.ids, false).expect("decodes");
        if decoded != case.decoded {
            wrong.push(format!("{:?}: decoded {decoded:?}, expected {:?}", case.ids, case.decoded));
        }
    }
    assert!(wrong.is_empty(), "{name}, {} differ:\n{}", wrong.len(), wrong.join("\n"));
}

const PRE_KINDS: [&str; 5] = ["pre-smollm", "pre-llama-bpe", "pre-qwen2", "pre-gpt-2", "pre-default"];

#[test]
fn every_supported_pre_tokenizer_gives_the_ids_of_its_published_splitting() {
    for name in PRE_KINDS {
        assert_cases(&of_vocabulary(&format!("tokenizers/{name}.gguf")), name);
    }
}

/// The fixtures can tell the kinds apart: a reader that took one for another would fail above.
#[test]
fn the_expected_ids_of_the_pre_tokenizers_differ_pairwise() {
    for (i, a) in PRE_KINDS.iter().enumerate() {
        for b in &PRE_KINDS[..i] {
            let differing = cases(a).iter().zip(cases(b)).filter(|(x, y)| x.ids != y.ids).count();
            assert!(differing > 0, "{a} and {b}");
        }
    }
}

#[test]
fn byte_level_bpe_of_a_folder_gives_the_ids_of_its_tokenizer_json() {
    assert_cases(&of_model("models/chat_bpe"), "chat_bpe");
}

#[test]
fn byte_level_bpe_of_a_gguf_gives_the_ids_of_the_folder() {
    assert_cases(&of_model("gguf/chat_bpe-f32.gguf"), "chat_bpe");
}

#[test]
fn sentencepiece_of_a_folder_gives_the_ids_of_its_tokenizer_json() {
    assert_cases(&of_model("models/chat_spm"), "chat_spm");
}

#[test]
fn sentencepiece_of_a_gguf_gives_the_ids_of_the_folder() {
    assert_cases(&of_model("gguf/chat_spm-f32.gguf"), "chat_spm");
}

/// Folder and file of one model agree in everything training asks.
#[test]
fn a_gguf_says_what_its_folder_says() {
    for (folder, file) in
        [("models/chat_bpe", "gguf/chat_bpe-f32.gguf"), ("models/chat_spm", "gguf/chat_spm-f32.gguf")]
    {
        let (a, b) = (of_model(folder), of_model(file));
        assert_eq!(a.vocab_size(), b.vocab_size(), "{folder}");
        assert_eq!((a.bos(), a.eos()), (b.bos(), b.eos()), "{folder}");
        assert_eq!(a.eos_ids(), b.eos_ids(), "{folder}");
        assert_eq!(a.chat_template(), b.chat_template(), "{folder}");
        let text = "Hello, world!";
        assert_eq!(
            a.encode(text, true).expect("encodes"),
            b.encode(text, true).expect("encodes"),
            "{folder}"
        );
        for id in 0..a.vocab_size() as u32 {
            assert_eq!(a.id_to_token(id), b.id_to_token(id), "{folder} {id}");
        }
    }
}

#[test]
fn bos_is_added_where_the_files_say_so_and_once() {
    let plain = |t: &Tokenizer| t.encode("hi", false).expect("encodes");
    for path in ["models/chat_spm", "gguf/chat_spm-f32.gguf"] {
        let tokenizer = of_model(path);
        assert_eq!(tokenizer.encode("hi", true).expect("encodes"), [&[1], &plain(&tokenizer)[..]].concat());
    }
    for path in ["models/chat_bpe", "gguf/chat_bpe-f32.gguf"] {
        let tokenizer = of_model(path);
        assert_eq!(tokenizer.encode("hi", true).expect("encodes"), plain(&tokenizer));
    }
}

/// Which characters a token stands for decides what is trained: offsets go in order, lie in the text and cover all of it. (Where Qwen2's NFC composes a letter and its marks, the tokenizers library counts
/// the letter alone.)
#[test]
fn offsets_cover_every_text_in_order() {
    let chat = ["models/chat_bpe", "gguf/chat_bpe-f32.gguf", "models/chat_spm", "gguf/chat_spm-f32.gguf"];
    let tokenizers =
        chat.map(|path| (path.to_owned(), of_model(path))).into_iter().chain(PRE_KINDS.map(|name| {
            let path = format!("tokenizers/{name}.gguf");
            let tokenizer = of_vocabulary(&path);
            (path, tokenizer)
        }));
    for (path, tokenizer) in tokenizers {
        for case in cases("chat_bpe") {
            let text = &case.text;
            let encoding = tokenizer.encode_with_offsets(text, false).expect("encodes");
            assert_eq!(encoding.ids, tokenizer.encode(text, false).expect("encodes"), "{path} {text:?}");
            assert_eq!(encoding.ids.len(), encoding.offsets.len());
            let composed = case.decomposed && path.contains("qwen2");
            let mut covered = 0;
            let mut last = 0;
            for &(start, end) in &encoding.offsets {
                assert!(start <= end && end <= text.len(), "{path} {text:?}: {start}..{end}");
                assert!(
                    start >= last && (composed || start <= covered),
                    "{path} {text:?}: {start}..{end} after {covered}"
                );
                (last, covered) = (start, covered.max(end));
            }
            assert!(composed || covered == text.len(), "{path} {text:?}: {covered} of {}", text.len());
        }
    }
}

/// What `generate` prints piece by piece is what decoding all at once gives.
#[test]
fn streamed_text_equals_decoded_text() {
    for (path, name) in [("models/chat_bpe", "chat_bpe"), ("gguf/chat_spm-f32.gguf", "chat_spm")] {
        let tokenizer = of_model(path);
        for case in cases(name) {
            let mut stream = tokenizer.decode_stream(false);
            let mut shown = String::new();
            for &id in &case.ids {
                shown += &stream.push(id).expect("decodes");
            }
            shown += &stream.finish().expect("decodes");
            assert_eq!(shown, case.decoded, "{path} {:?}", case.text);
        }
    }
}

/// A vocabulary with a bit flipped is read, or refused; whatever is read encodes and decodes.
#[test]
fn damaged_vocabularies_are_errors_or_tokenizers() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("damaged.gguf");
    for source in ["tokenizers/pre-llama-bpe.gguf", "tokenizers/pre-qwen2.gguf", "gguf/chat_spm-f32.gguf"] {
        let whole = std::fs::read(fixtures().join(source)).expect("the fixture");
        let (mut read, mut refused) = (0, 0);
        // The vocabulary lies in the first bytes; a prime step reaches every bit of a byte.
        for bit in (0..9000 * 8).step_by(37) {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, damaged).expect("written");
            let Ok(gguf) = Gguf::open(&path) else { continue };
            match Tokenizer::from_gguf(tokenizer_metadata(&gguf)) {
                Ok(tokenizer) => {
                    read += 1;
                    let result = tokenizer.encode("Hello <s> world 123\n", true);
                    let ids = result.unwrap_or_else(|e| panic!("{source}, bit {bit}: {e}"));
                    tokenizer.decode(&ids, false).unwrap_or_else(|e| panic!("{source}, bit {bit}: {e}"));
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("GGUF"), "{source}, bit {bit}: {error}");
                }
            }
        }
        assert!(read > 0 && refused > 0, "{source}: {read} read, {refused} refused");
    }
}
