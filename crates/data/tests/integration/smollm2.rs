//! The real model's tokenizer, template and masks against transformers and PEFT.

use crate::common::{fixture, ids, read_json, smollm2};
use lorafit_data::{
    Batch, Dataset, Message, Options, Order, Role, SampleRef, Steps, Tokenizer, TrainOn, generation_rows,
};

fn messages(value: &serde_json::Value) -> Vec<Message> {
    let list = value.as_array().unwrap().iter();
    list.map(|m| {
        Message::new(Role::named(m["role"].as_str().unwrap()).unwrap(), m["content"].as_str().unwrap())
    })
    .collect()
}

#[test]
fn rendered_text_and_ids_equal_transformers() {
    let tokenizer = smollm2();
    let template = tokenizer.compile_chat_template().unwrap().unwrap();
    let cases = read_json("smollm2_forward.json");
    assert_eq!(cases.as_array().unwrap().len(), 3);
    for case in cases.as_array().unwrap() {
        let messages = messages(&case["messages"]);
        // A conversation that ends with a reply was rendered as training sees it, the others as generation does.
        let prompt = messages.last().unwrap().role != Role::Assistant;
        let text = template.render(&messages, prompt).unwrap();
        let want = case["text"].as_str().unwrap();
        assert_eq!(text, want);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(&case["input_ids"]));
        assert_eq!(tokenizer.decode(&ids(&case["greedy_ids"]), false).unwrap(), case["greedy_text"]);
        assert_eq!(tokenizer.decode(&ids(&case["input_ids"]), false).unwrap(), text);
    }
}

#[test]
fn special_ids_are_the_models() {
    let tokenizer = smollm2();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(2)));
    assert_eq!(tokenizer.eos_ids(), [2]);
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!(tokenizer.encode("<|im_start|>user", false).unwrap(), [1, 4093]);
    // The file says that BOS is not added.
    assert_eq!(tokenizer.encode("user", true).unwrap(), [4093]);
    // Digits stand alone, the space before them too.
    assert_eq!(
        crate::common::names(&tokenizer, &tokenizer.encode("in 1234", false).unwrap()),
        ["in", "Ġ", "1", "2", "3", "4"]
    );
}

#[test]
fn masks_of_the_first_64_e2e_rows_equal_peft() {
    let tokenizer = smollm2();
    let dataset = Dataset::load(fixture("e2e_train_64.jsonl"), &tokenizer, Options::default()).unwrap();
    let want = read_json("smollm2_batches.json");
    let mut steps = Steps::new(dataset.samples.len(), Order::File, 4, 1);
    assert_eq!(steps.steps_per_epoch(), 16);
    for want in want.as_array().unwrap() {
        let step = steps.next().unwrap();
        let batch = Batch::pack(step.indices.iter().map(|&i| dataset.samples.sample(i)));
        assert_eq!(batch.targets.len() as u64, want["supervised_tokens"].as_u64().unwrap());
        let tokens: usize = step.indices.iter().map(|&i| dataset.samples.sample(i).len()).sum();
        assert_eq!(tokens as u64, want["real_tokens"].as_u64().unwrap());
        assert_eq!(batch.segments.len(), 4);
    }
    assert_eq!(dataset.report.rows, 64);
    assert_eq!((dataset.report.truncated, dataset.report.dropped), (0, 0));
}

#[test]
fn the_end_of_turn_is_trained_and_the_line_break_after_it_is_not() {
    let tokenizer = smollm2();
    let dataset = Dataset::load(fixture("e2e_train_64.jsonl"), &tokenizer, Options::default()).unwrap();
    let rows = generation_rows(fixture("e2e_train_64.jsonl"), &tokenizer).unwrap();
    for (sample, row) in dataset.samples.iter().map(SampleRef::to_sample).zip(&rows) {
        assert_eq!(sample.row, row.row);
        let supervised: Vec<u32> =
            sample.ids.iter().zip(&sample.supervised).filter(|(_, s)| **s).map(|(id, _)| *id).collect();
        let text = tokenizer.decode(&supervised, false).unwrap();
        assert_eq!(text, format!("{}<|im_end|>", row.reference));
        // The prompt to generate from is exactly what stands before the reply in training.
        let first = sample.supervised.iter().position(|s| *s).unwrap();
        assert_eq!(sample.ids[..first], row.prompt_ids);
        assert_eq!(sample.supervised.last(), Some(&false));
    }
}

#[test]
fn train_on_all_supervises_everything_but_the_first_token() {
    let tokenizer = smollm2();
    let options = Options { train_on: TrainOn::All, ..Options::default() };
    let dataset = Dataset::load(fixture("e2e_train_64.jsonl"), &tokenizer, options).unwrap();
    assert_eq!(dataset.report.supervised_tokens, dataset.report.tokens - 64);
    assert!(
        dataset
            .samples
            .iter()
            .map(SampleRef::to_sample)
            .all(|s| !s.supervised[0] && s.supervised[1..].iter().all(|s| *s))
    );
}

#[test]
fn a_folder_saved_from_the_same_vocabulary_gives_the_same_samples() {
    let gguf = smollm2();
    let meta = crate::common::smollm2_metadata();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let vocab: serde_json::Map<String, serde_json::Value> =
        meta.tokens.iter().enumerate().map(|(id, t)| (t.clone(), id.into())).collect();
    let added: Vec<serde_json::Value> = (0..17)
        .map(|id| {
            serde_json::json!({"id": id, "content": meta.tokens[id], "special": true, "normalized": false,
                               "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    // HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer.json, with padding and cutting that must not matter.
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": {"max_length": 8, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        "padding": {"strategy": {"Fixed": 600}, "direction": "Right", "pad_id": 2, "pad_type_id": 0,
                    "pad_token": "<|im_end|>", "pad_to_multiple_of": null},
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": meta.merges.unwrap()},
    });
    write("tokenizer.json", &json.to_string());
    write(
        "tokenizer_config.json",
        &serde_json::json!({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"},
                            "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
                            "chat_template": "replaced by the file"})
        .to_string(),
    );
    write("chat_template.jinja", gguf.chat_template().unwrap());
    write("generation_config.json", r#"{"eos_token_id": [2, 0]}"#);
    write("config.json", r#"{"eos_token_id": 5}"#);

    let hub = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((hub.bos(), hub.eos(), hub.pad()), (Some(1), Some(2), Some(2)));
    assert_eq!(hub.eos_ids(), [0, 2]);
    assert_eq!(hub.special_tokens(), gguf.special_tokens());
    let load =
        |t: &Tokenizer| Dataset::load(fixture("e2e_train_64.jsonl"), t, Options::default()).unwrap().samples;
    assert_eq!(load(&hub), load(&gguf));
}

#[test]
fn samples_do_not_depend_on_the_number_of_threads() {
    let tokenizer = smollm2();
    let load = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Dataset::load(fixture("e2e_train_64.jsonl"), &tokenizer, Options::default()))
            .unwrap()
            .samples
    };
    assert_eq!(load(1), load(3));
}

#[test]
fn streamed_text_is_whole_and_never_holds_half_a_character() {
    let tokenizer = smollm2();
    let text = "Grüße, 你好 👩‍🚀! naïve €5 \u{1F600}\u{1F600} end";
    let ids = tokenizer.encode(text, false).unwrap();
    let mut stream = tokenizer.decode_stream(true);
    let mut shown = String::new();
    for id in &ids {
        let piece = stream.push(*id).unwrap();
        assert!(!piece.contains('\u{FFFD}'), "{piece:?}");
        shown += &piece;
    }
    shown += &stream.finish().unwrap();
    assert_eq!(shown, text);
    assert!(ids.len() > text.chars().count() / 2);
}

#[test]
fn a_stream_that_ends_inside_a_character_shows_the_rest_when_finished() {
    let tokenizer = smollm2();
    let ids = tokenizer.encode("a\u{1F600}", false).unwrap();
    let mut stream = tokenizer.decode_stream(true);
    let mut shown = String::new();
    for id in &ids[..ids.len() - 1] {
        shown += &stream.push(*id).unwrap();
    }
    assert_eq!(shown, "a");
    assert!(stream.finish().unwrap().contains('\u{FFFD}'));
}
