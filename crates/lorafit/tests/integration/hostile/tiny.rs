//! The smallest files of each format, since every bit of their headers is tried: a Llama with one layer of width 8 (32 in
//! GGUF, whose blocks have that width), and an adapter of one projection.

use serde_json::{Map, Value, json};

pub const CONFIG: &str = r#"{"model_type":"llama","hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"vocab_size":8,"tie_word_embeddings":true}"#;

/// Checkpoint names and shapes of the model of [`CONFIG`].
fn tensors() -> Vec<(String, Vec<usize>)> {
    let layer = [
        ("input_layernorm", vec![8]),
        ("post_attention_layernorm", vec![8]),
        ("self_attn.q_proj", vec![8, 8]),
        ("self_attn.k_proj", vec![4, 8]),
        ("self_attn.v_proj", vec![4, 8]),
        ("self_attn.o_proj", vec![8, 8]),
        ("mlp.gate_proj", vec![8, 8]),
        ("mlp.up_proj", vec![8, 8]),
        ("mlp.down_proj", vec![8, 8]),
    ];
    let layer = layer.map(|(name, shape)| (format!("model.layers.0.{name}.weight"), shape));
    let whole = [("model.embed_tokens.weight", vec![8, 8]), ("model.norm.weight", vec![8])];
    whole.map(|(name, shape)| (name.to_owned(), shape)).into_iter().chain(layer).collect()
}

/// A safetensors file of these tensors in f16, and the length of its header.
pub fn safetensors(tensors: &[(String, Vec<usize>)]) -> (Vec<u8>, usize) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        // 0.5, 0.5625, ... in f16.
        let values =
            (0..shape.iter().product::<usize>()).flat_map(|i| [(i % 8) as u8 * 0x20, 0x38 + (i % 2) as u8]);
        data.extend(values);
        header.insert(
            name.clone(),
            json!({"dtype": "F16", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    (file, 8 + header.len())
}

/// The `model.safetensors` of [`CONFIG`].
pub fn model() -> (Vec<u8>, usize) {
    safetensors(&tensors())
}

/// The same in two shards, with their index.
pub fn shards() -> ([(Vec<u8>, usize); 2], String) {
    let all = tensors();
    let (first, second) = all.split_at(7);
    let named = |tensors: &[(String, Vec<usize>)], file: &str| -> Vec<(String, Value)> {
        tensors.iter().map(|(name, _)| (name.clone(), json!(file))).collect()
    };
    let weight_map: Map<String, Value> =
        [named(first, SHARDS[0]), named(second, SHARDS[1])].concat().into_iter().collect();
    ([safetensors(first), safetensors(second)], json!({ "weight_map": weight_map }).to_string())
}

pub const SHARDS: [&str; 2] = ["model-1.safetensors", "model-2.safetensors"];

/// The `adapter_config.json` of an adapter of rank 1 on `q_proj`.
pub const ADAPTER_CONFIG: &str = r#"{"peft_type":"LORA","task_type":"CAUSAL_LM","base_model_name_or_path":"b","r":1,"lora_alpha":2,"lora_dropout":0.1,"target_modules":["q_proj"],"bias":"none"}"#;

/// Its `adapter_model.safetensors`.
pub fn adapter() -> (Vec<u8>, usize) {
    let name = |factor| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight");
    safetensors(&[(name("A"), vec![1, 8]), (name("B"), vec![8, 1])])
}

/// A GGUF file being written.
#[derive(Default)]
pub struct Gguf {
    entries: u64,
    metadata: Vec<u8>,
    infos: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

const U32: u32 = 4;
const F32: u32 = 6;
const TEXT: u32 = 8;
const LIST: u32 = 9;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Gguf {
    /// An entry of any type.
    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries += 1;
        self.metadata.extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, TEXT, &text(value))
    }

    pub fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, U32, &value.to_le_bytes())
    }

    pub fn texts(self, key: &str, values: &[&str]) -> Self {
        let list = [&TEXT.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.entry(key, LIST, &values.iter().fold(list, |list, value| [list, text(value)].concat()))
    }

    /// A tensor in F32 (0) or Q8_0 (8), innermost dimension first.
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32) -> Self {
        let values: u64 = dims.iter().product();
        self.tensors += 1;
        self.infos.extend(text(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| self.infos.extend(dim.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        match kind {
            0 => (0..values).for_each(|i| self.data.extend((0.5 + (i % 7) as f32 / 16.0).to_le_bytes())),
            // A scale of 1/16 in f16 and 32 small numbers.
            _ => {
                (0..values / 32).for_each(|i| self.data.extend([&[0, 0x2C][..], &[i as u8 % 5; 32]].concat()))
            }
        }
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    /// The file, and the length of its header.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let counts = [self.tensors.to_le_bytes(), self.entries.to_le_bytes()].concat();
        let mut file = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &self.metadata, &self.infos].concat();
        let header = file.len();
        file.resize(header.next_multiple_of(32), 0);
        file.extend(&self.data);
        (file, header)
    }

    /// What a model says of itself.
    pub fn of_model() -> Self {
        Gguf::default()
            .text("general.architecture", "llama")
            .number("llama.embedding_length", 32)
            .number("llama.feed_forward_length", 32)
            .number("llama.block_count", 1)
            .number("llama.attention.head_count", 2)
            .number("llama.attention.head_count_kv", 1)
            .entry("llama.attention.layer_norm_rms_epsilon", F32, &1e-5f32.to_le_bytes())
    }

    /// Its tensors in Q8_0.
    pub fn with_weights(self) -> Self {
        let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
        let matrices = [
            ("token_embd", 8),
            ("blk.0.attn_q", 32),
            ("blk.0.attn_k", 16),
            ("blk.0.attn_v", 16),
            ("blk.0.attn_output", 32),
            ("blk.0.ffn_gate", 32),
            ("blk.0.ffn_up", 32),
            ("blk.0.ffn_down", 32),
        ];
        let file = norms.iter().fold(self, |file, name| file.tensor(&format!("{name}.weight"), &[32], 0));
        matrices
            .iter()
            .fold(file, |file, (name, rows)| file.tensor(&format!("{name}.weight"), &[32, *rows], 8))
    }
}
