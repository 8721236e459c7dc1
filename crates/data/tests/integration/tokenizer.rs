//! Pre-tokenizers, and tokenizer files that are not what they should be.

use std::fs;

use crate::common::{names, tiny_chatml, tiny_metadata};
use lorafit_data::{GgufTokenizer, Tokenizer, TokenizerError};

fn split(pre: &str, merges: &[&str], text: &str) -> Vec<String> {
    let tokenizer = Tokenizer::from_gguf(tiny_metadata(pre, merges)).unwrap();
    names(&tokenizer, &tokenizer.encode(text, false).unwrap())
}

#[test]
fn digits_are_cut_as_each_model_was_trained() {
    let merges = ["1 2", "12 3", "123 4", "Ġ 1"];
    for (pre, want) in [
        ("smollm", vec!["1", "2", "3", "4"]),
        ("qwen2", vec!["1", "2", "3", "4"]),
        ("llama-bpe", vec!["123", "4"]),
        ("default", vec!["123", "4"]),
        ("gpt-2", vec!["1234"]),
    ] {
        assert_eq!(split(pre, &merges, "1234"), want, "{pre}");
    }
    // Only GPT-2 has a space and a digit in one word.
    assert_eq!(split("gpt-2", &merges, " 1"), ["Ġ1"]);
    for pre in ["smollm", "qwen2", "llama-bpe"] {
        assert_eq!(split(pre, &merges, " 1"), ["Ġ", "1"], "{pre}");
    }
}

#[test]
fn contractions_and_punctuation_are_cut_as_each_model_was_trained() {
    // Upper-case contractions are words of Llama 3 and Qwen2 only.
    let merges = ["' S", "S T"];
    assert_eq!(split("llama-bpe", &merges, "x'ST"), ["x", "'S", "T"]);
    assert_eq!(split("qwen2", &merges, "x'ST"), ["x", "'S", "T"]);
    assert_eq!(split("gpt-2", &merges, "x'ST"), ["x", "'", "ST"]);
    // A sign before letters belongs to the word there, and not in GPT-2.
    assert_eq!(split("llama-bpe", &["( a"], "(a"), ["(a"]);
    assert_eq!(split("qwen2", &["( a"], "(a"), ["(a"]);
    assert_eq!(split("gpt-2", &["( a"], "(a"), ["(", "a"]);
    // Punctuation swallows the line break after it.
    assert_eq!(split("qwen2", &[". Ċ"], ".\n"), [".Ċ"]);
    assert_eq!(split("gpt-2", &[". Ċ"], ".\n"), [".", "Ċ"]);
    // `default` (Falcon's) keeps punctuation and the space before it apart.
    assert_eq!(split("gpt-2", &["Ġ ."], " ."), ["Ġ."]);
    assert_eq!(split("default", &["Ġ ."], " ."), ["Ġ", "."]);
}

#[test]
fn qwen2_composes_characters_and_offsets_still_point_into_the_text() {
    let tokenizer = Tokenizer::from_gguf(tiny_metadata("qwen2", &["Ã ©"])).unwrap();
    let text = "xe\u{301}y";
    let encoding = tokenizer.encode_with_offsets(text, false).unwrap();
    assert_eq!(names(&tokenizer, &encoding.ids), ["x", "Ã©", "y"]);
    // The library counts a composed character as its base letter; what matters is that the next token is in place.
    assert_eq!(&text[encoding.offsets[1].0..encoding.offsets[1].1], "e");
    assert_eq!(&text[encoding.offsets[2].0..encoding.offsets[2].1], "y");
    assert_eq!(split("gpt-2", &["Ã ©"], "é"), ["Ã©"]);
}

#[test]
fn llama_bpe_takes_whole_words_from_the_vocabulary_and_adds_bos() {
    let mut meta = tiny_metadata("llama-bpe", &["a b"]);
    meta.tokens.push("xyz".into());
    meta.token_types.as_mut().unwrap().push(1);
    let tokenizer = Tokenizer::from_gguf(meta.clone()).unwrap();
    assert_eq!(names(&tokenizer, &tokenizer.encode("xyz", true).unwrap()), ["<s>", "xyz"]);
    meta.pre = Some("qwen2".into());
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    assert_eq!(names(&tokenizer, &tokenizer.encode("xyz", true).unwrap()), ["x", "y", "z"]);
}

#[test]
fn user_defined_tokens_are_one_id_and_survive_skip_special() {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.tokens.push("<tool>".into());
    meta.token_types.as_mut().unwrap().push(4);
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    let ids = tokenizer.encode("<|im_start|>a<tool>b<|im_end|>", false).unwrap();
    assert_eq!(names(&tokenizer, &ids), ["<|im_start|>", "a", "<tool>", "b", "<|im_end|>"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<tool>b");
}

#[test]
fn end_of_turn_counts_only_if_the_template_writes_it() {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.eos = Some(2);
    assert_eq!(Tokenizer::from_gguf(meta.clone()).unwrap().eos_ids(), [2]);
    meta.chat_template = Some(crate::common::CHATML.into());
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    assert_eq!(tokenizer.eos_ids(), [1, 2]);
    assert!(tokenizer.is_eos(1) && !tokenizer.is_eos(0));
}

#[test]
fn decoding_ids_outside_the_vocabulary_does_not_fail() {
    let tokenizer = tiny_chatml();
    let a = tokenizer.token_to_id("a").unwrap();
    assert_eq!(tokenizer.decode(&[a, u32::MAX, a], true).unwrap(), "aa");
}

#[test]
fn gguf_metadata_that_contradicts_itself_is_an_error_that_names_the_key() {
    let good = || tiny_metadata("gpt-2", &["a b"]);
    type Change = fn(&mut GgufTokenizer);
    let cases: [(Change, &str); 12] = [
        (|m| m.model = "bert".into(), "GGUF tokenizer model `bert` is not one of gpt2, llama"),
        (
            |m| m.pre = Some("tekken".into()),
            "GGUF pre-tokenizer `tekken` is not one of smollm, llama-bpe, qwen2, gpt-2, default",
        ),
        (|m| m.tokens.clear(), "`tokenizer.ggml.tokens`: the vocabulary is missing or empty"),
        (|m| m.merges = None, "`tokenizer.ggml.merges`: is missing"),
        (|m| m.merges = Some(vec!["ab".into()]), "entry 0: `ab` is not two tokens"),
        (|m| m.merges = Some(vec!["a b".into(), "a c".into()]), "entry 1: `ac` is not in the vocabulary"),
        (|m| m.merges = Some(vec!["zz b".into()]), "entry 0: `zz` is not in the vocabulary"),
        (|m| m.eos = Some(9999), "`tokenizer.ggml.eos_token_id`: is 9999, but there are 107 tokens"),
        (|m| m.token_types = Some(vec![1]), "`tokenizer.ggml.token_type`: has 1 entries for 107 tokens"),
        (|m| m.scores = Some(vec![]), "`tokenizer.ggml.scores`: has 0 entries for 107 tokens"),
        (
            |m| {
                m.model = "llama".into();
                m.merges = None;
            },
            "`tokenizer.ggml.scores`: is missing, and so are the merges",
        ),
        (
            |m| {
                m.model = "llama".into();
                m.merges = None;
                m.tokens[50] = "x".repeat(5000);
                m.scores = Some(vec![f32::NAN; 107]);
            },
            "token 50 has 5000 bytes, more than the 1024 a piece may have",
        ),
    ];
    for (change, want) in cases {
        let mut meta = good();
        change(&mut meta);
        let error = Tokenizer::from_gguf(meta).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn folders_that_are_not_tokenizers_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let load = || Tokenizer::from_folder(folder.path()).unwrap_err();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();

    assert!(load().to_string().ends_with("has no tokenizer.json"));
    write("tokenizer.model", "");
    assert!(load().to_string().ends_with("has no tokenizer.json (only tokenizer.model)"));
    assert!(load().hint().unwrap().to_string().contains("save_pretrained"));

    for bad in [
        "",
        "{",
        "[]",
        "{\"model\": 3}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": [[\"a\", \"b\"]]}}",
    ] {
        write("tokenizer.json", bad);
        let error = load();
        assert!(matches!(error, TokenizerError::Invalid { .. }), "{bad}: {error}");
        assert!(error.to_string().contains("tokenizer.json is not valid: "), "{error}");
    }
    // A merge that is longer than any token makes the library index out of bounds; it must come back as an error.
    write(
        "tokenizer.json",
        r#"{"model": {"type": "BPE", "vocab": {"aa": 0, "bb": 1}, "merges": ["aa bb"]}}"#,
    );
    assert!(matches!(load(), TokenizerError::Invalid { .. }));

    write("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#);
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().encode("ab", true).unwrap(), [0, 1]);
    for (name, text, want) in [
        ("tokenizer_config.json", "{\"eos_token\": 3}", "`eos_token` is neither a token nor an object"),
        ("tokenizer_config.json", "{\"chat_template\": 3}", "`chat_template` is neither text nor a list"),
        ("tokenizer_config.json", "{\"add_bos_token\": \"yes\"}", "`add_bos_token` is not true or false"),
        (
            "generation_config.json",
            "{\"eos_token_id\": [1, -7]}",
            "`eos_token_id` has -7, which is not a token id",
        ),
        ("config.json", "nonsense", "config.json line 1, column 2: "),
        ("generation_config.json", "{\"eos_token_id\": 2,\n}", "generation_config.json line 2, column 1: "),
        (
            "special_tokens_map.json",
            "{\n\n  \"bos_token\": <s>}",
            "special_tokens_map.json line 3, column 16: ",
        ),
        (
            "added_tokens.json",
            "[1]",
            "added_tokens.json line 1, column 1: expected an object, found a sequence",
        ),
        ("chat_template.json", "", "chat_template.json line 1, column 1: it ends where a value is wanted"),
        ("tokenizer_config.json", "{", "tokenizer_config.json line 1, column 1: it ends inside an object"),
    ] {
        write(name, text);
        let (error, hint) = (load().to_string(), load().hint().unwrap().to_string());
        assert!(error.contains(want) && error.contains(name), "{error}");
        assert!(!hint.contains("damaged"), "{error}: {hint}");
        fs::remove_file(folder.path().join(name)).unwrap();
    }
}

#[test]
fn folder_settings_decide_what_is_added_around_text() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let encode = || Tokenizer::from_folder(folder.path()).unwrap().encode("a", true).unwrap();
    // A post-processor as Llama's: BOS in front.
    write(
        "tokenizer.json",
        r#"{"model": {"type": "BPE", "vocab": {"a": 0, "<s>": 1, "</s>": 2}, "merges": []},
            "added_tokens": [
              {"id": 1, "content": "<s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false},
              {"id": 2, "content": "</s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}],
            "post_processor": {"type": "TemplateProcessing",
              "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
              "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}}"#,
    );
    assert_eq!(encode(), [1, 0]);
    write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false}"#);
    assert_eq!(encode(), [1, 0]);
    write(
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": true}"#,
    );
    assert_eq!(encode(), [1, 0]);
}

#[test]
fn the_default_of_several_named_templates_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#);
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#,
    );
    let template = || Tokenizer::from_folder(folder.path()).unwrap().chat_template().unwrap().to_string();
    assert_eq!(template(), "D");
    write("chat_template.json", r#"{"chat_template": "J"}"#);
    assert_eq!(template(), "J");
    write("chat_template.jinja", "F");
    assert_eq!(template(), "F");
}
