//! What the fuzz targets run, one function each. `cargo fuzz` feeds them what it makes up, and the tests of the binary
//! (`crates/lorafit/tests/integration/hostile`) the committed corpora.
//!
//! None may panic, and what is accepted has to be usable: a model that loads is run, a tokenizer encodes and decodes, a
//! template renders, an adapter has the shapes that its model asks for.

use std::path::Path;

use lorafit_data::source::{ReadError, Record, csv::Csv, json_array::JsonArray, jsonl::Lines};
use lorafit_data::source::{paragraphs::Paragraphs, parquet::Parquet, utf16};
use lorafit_data::{
    ChatTemplate, Classes, Labelled, Mapping, Message, Order, Purpose, Role, Shape, SpecialTokens, Steps,
    Tokenizer,
};
use lorafit_kernels::ops::attention::Segments;
use lorafit_kernels::{Device, SharedBytes};
use lorafit_model::adapter::{self, Adapter, named_tensors};
use lorafit_model::weights::{Gguf, ModelFiles, write_tensors};
use lorafit_model::{Buffers, Config, Model, Stream};
use lorafit_train::{Checkpoint, tokenizer_metadata};

/// A target: reads what may be anything.
pub type Target = fn(&[u8]);

/// The targets by name; `fuzz_targets/NAME.rs` runs one, `corpus/NAME/` is its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("tokenizer", tokenizer),
    ("template", template),
    ("rows", rows),
    ("adapter", adapter),
    ("checkpoint", checkpoint),
];

/// The model that the weights of [`safetensors`] and the factors of [`adapter`] are for.
const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 8, "tie_word_embeddings": true}"#;

/// Where files would be.
const HERE: &str = "fuzzed";

/// A `model.safetensors`.
pub fn safetensors(data: &[u8]) {
    let bytes = SharedBytes::from_vec(data.to_vec());
    if let Ok(files) = ModelFiles::from_safetensors(Path::new(HERE), CONFIG, bytes) {
        run(&files);
    }
}

/// A `.gguf` file: a model, if there is one in it.
pub fn gguf(data: &[u8]) {
    let gguf = Gguf::from_bytes(Path::new(HERE), SharedBytes::from_vec(data.to_vec()));
    if let Ok(files) = gguf.and_then(ModelFiles::from_gguf) {
        run(&files);
    }
}

/// Every weight of a model that loads is read.
fn run(files: &ModelFiles) {
    let Ok(model) = Model::load(files, Device::Cpu) else { return };
    let config = model.config();
    let ids = [0, config.vocab_size as u32 - 1];
    let segments = Segments::single(ids.len());
    let stream = Stream { ids: &ids, positions: &[0, 1], segments: &segments, targets: &[], below: 0 };
    let mut buffers = Buffers::for_evaluation(config, None, Device::Cpu, ids.len());
    let logits = model.all_logits(None, stream, &mut buffers);
    assert_eq!(logits.len(), ids.len() * config.vocab_size);
}

/// The tokenizer of a `.gguf` file, or else a `tokenizer.json`.
pub fn tokenizer(data: &[u8]) {
    let tokenizer = if data.starts_with(b"GGUF") {
        let gguf = Gguf::from_bytes(Path::new(HERE), SharedBytes::from_vec(data.to_vec()));
        gguf.ok().and_then(|gguf| Tokenizer::from_gguf(tokenizer_metadata(&gguf)).ok())
    } else {
        let text = std::str::from_utf8(data).ok();
        text.and_then(|text| Tokenizer::from_json(Path::new(HERE), text).ok())
    };
    let Some(tokenizer) = tokenizer else { return };
    let text = "Hello, W\u{f6}rld! <|im_end|>\n\n 12345 \u{1f980}";
    if let Ok(encoding) = tokenizer.encode_with_offsets(text, true) {
        assert_eq!(encoding.ids.len(), encoding.offsets.len());
        let ids_end = tokenizer.vocab_size();
        assert!(encoding.ids.iter().all(|&id| (id as usize) < ids_end), "{:?} of {ids_end}", encoding.ids);
        let _ = tokenizer.decode(&encoding.ids, true);
    }
    let _ = tokenizer.decode(&[0, 1, 2, u32::MAX], false);
    let _ = tokenizer.description();
    let _ = tokenizer.compile_chat_template();
}

/// A chat template, and behind a NUL byte what the user says.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, said) = text.split_once('\0').unwrap_or((text, "2 + 2?"));
    let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Default::default() };
    let Ok(template) = ChatTemplate::new(source, &special) else { return };
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, said),
        Message::new(Role::Assistant, "4"),
    ];
    let tools = [serde_json::json!({"type": "function", "function": {"name": "f", "parameters": {}}})];
    let _ = template.render(&messages[..2], true);
    let _ = template.render_with_tools(&messages, Some(&tools), false);
    if let Ok((text, spans)) = template.render_marked(&messages, None) {
        assert!(spans.iter().all(|span| text.get(span.clone()).is_some()));
    }
}

/// More rows than a small file has, unless it repeats one.
const MOST_ROWS: usize = 1000;

/// A file of rows, in the format that its first letter names.
pub fn rows(data: &[u8]) {
    let Some((format, rest)) = data.split_first() else { return };
    match format {
        b'J' => each_row(Lines::new(rest).records()),
        b'A' => each_row(JsonArray::new(rest)),
        b'C' => each_row(Csv::new(rest, b',')),
        b'T' => each_row(Csv::new(rest, b'\t')),
        b'S' => {
            if let Ok(rows) = Csv::sniffed(rest, b',') {
                each_row(rows);
            }
        }
        b'U' => each_row(Lines::new(utf16::Utf16::new(rest, utf16::Order::Little)).records()),
        b'X' => each_row(Paragraphs::new(rest)),
        b'P' => {
            if let Ok(rows) = Parquet::new(bytes::Bytes::copy_from_slice(rest)) {
                each_row(rows);
            }
        }
        _ => {}
    }
}

fn each_row(records: impl Iterator<Item = Result<Record, ReadError>>) {
    let mapping = Mapping::default();
    let classes = Classes { column: "label".to_owned(), labels: Vec::new() };
    for record in records.take(MOST_ROWS) {
        let Ok(record) = record else { continue };
        let Ok(fields) = record.content.into_fields() else { continue };
        // The row as it is classified, whatever else it is.
        if let Ok(row) = Labelled::read(fields.clone(), &classes, &mapping, &mut Vec::new()) {
            assert!(row.into_documents(Purpose::Replies, true).is_ok_and(|documents| documents.len() == 1));
        }
        let row = mapping.rename(fields).and_then(|fields| {
            let shape = Shape::recognise(&fields)?;
            shape.parse(fields, &mapping)
        });
        if let Ok(row) = row {
            for purpose in [Purpose::Any, Purpose::Pairs, Purpose::Scores, Purpose::Labels] {
                for has_template in [true, false] {
                    let _ = row.clone().into_documents(purpose, has_template);
                }
            }
            let _ = row.into_document(true);
        }
    }
}

/// An `adapter_config.json`, and behind a NUL byte an `adapter_model.safetensors`.
pub fn adapter(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let Ok(config_json) = std::str::from_utf8(&data[..end]) else { return };
    let weights = SharedBytes::from_vec(data[data.len().min(end + 1)..].to_vec());
    let config = Config::from_hf_json(CONFIG).expect("a constant");
    let Ok(adapter) = adapter::from_bytes(Path::new(HERE), config_json, weights, &config, Device::Cpu) else {
        return;
    };
    // What is saved is what was loaded.
    let config_json = String::from_utf8(adapter::config_file(&adapter, HERE)).expect("JSON");
    let mut weights = Vec::new();
    write_tensors(&mut weights, adapter::sources(&adapter)).expect("memory takes it");
    let weights = SharedBytes::from_vec(weights);
    let again = adapter::from_bytes(Path::new(HERE), &config_json, weights, &config, Device::Cpu);
    assert_eq!(bits(&again.expect("what was saved")), bits(&adapter));
}

fn bits(adapter: &Adapter) -> Vec<(String, Vec<usize>, Vec<u32>)> {
    let named = named_tensors(adapter, adapter.tensors()).into_iter();
    named.map(|t| (t.name, t.shape, t.values.iter().map(|v| v.to_bits()).collect())).collect()
}

/// The `state.json` of a checkpoint.
pub fn checkpoint(data: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::from_state(Path::new(HERE), data) {
        assert!(checkpoint.identity.mismatches(&checkpoint.identity).is_empty());
        let (samples, order) = (3, Order::Shuffled { seed: 0 });
        let mut steps = Steps::new(samples, order, 2, 1).resume(checkpoint.state.position);
        assert!(steps.next().is_some_and(|step| step.indices.iter().all(|&i| i < samples)));
    }
}
