//! A model as a GGUF file, with an adapter added.
//!
//! From a base that is one, what the adapter does not touch is copied byte for byte; the others are `W + scale B A`, rounded
//! once to the type that the base's tensor has, or to Q8_0 where that has fewer bits. With a [`FileType`] every matrix gets
//! the type that llama.cpp gives it (`llama_tensor_get_type`, without an importance matrix): the head, or an embedding that
//! is the head, Q6_K; of the K mixtures half of the value and down projections Q6_K; where a row has no whole block of 256,
//! a type with blocks of 32.

use std::collections::HashMap;
use std::io::{self, Write};
use std::str::FromStr;

use lorafit_kernels::quant::Format;
use lorafit_kernels::{RowOrder, SharedBytes};

use crate::arch::{gguf_entries, reads_head};
use crate::files::{Gguf, GgufData, GgufEntry, GgufTensor, RowValues, TensorData, TensorSource, write_gguf};
use crate::merge::Merged;
use crate::shape::{Config, Rope, RopeScaling, gguf_name, stored_less};
use crate::weights::{ModelFiles, gguf_row_order};

/// `general.quantization_version` (ggml.h, `GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// What the matrices of a GGUF file are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// All of one format, but for the head.
    Plain(Format),
    /// Q4_K, with Q6_K where it matters most.
    Q4KM,
    /// Q5_K, with Q6_K where it matters most.
    Q5KM,
}

impl FileType {
    /// All, with the names that llama.cpp has for them, in lower case.
    pub const ALL: [(&'static str, FileType); 11] = [
        ("f32", FileType::Plain(Format::F32)),
        ("f16", FileType::Plain(Format::F16)),
        ("bf16", FileType::Plain(Format::BF16)),
        ("q8_0", FileType::Plain(Format::Q8_0)),
        ("q6_k", FileType::Plain(Format::Q6K)),
        ("q5_k_m", FileType::Q5KM),
        ("q5_1", FileType::Plain(Format::Q5_1)),
        ("q5_0", FileType::Plain(Format::Q5_0)),
        ("q4_k_m", FileType::Q4KM),
        ("q4_1", FileType::Plain(Format::Q4_1)),
        ("q4_0", FileType::Plain(Format::Q4_0)),
    ];

    /// `general.file_type` (llama.h, `enum llama_ftype`).
    fn number(self) -> u32 {
        match self {
            FileType::Q4KM => 15,
            FileType::Q5KM => 17,
            FileType::Plain(format) => match format {
                Format::F32 => 0,
                Format::F16 => 1,
                Format::Q4_0 => 2,
                Format::Q4_1 => 3,
                Format::Q8_0 => 7,
                Format::Q5_0 => 8,
                Format::Q5_1 => 9,
                Format::Q4K => 14,
                Format::Q5K => 16,
                Format::Q6K => 18,
                Format::BF16 => 32,
            },
        }
    }

    /// The format of a matrix with rows of `cols` values.
    fn of(self, name: &str, cols: usize, model: &Model) -> Format {
        fitting(self.wanted(name, model), cols)
    }

    /// The format of a matrix whose rows have whole blocks of it.
    fn wanted(self, name: &str, model: &Model) -> Format {
        let format = match self {
            FileType::Plain(format) => format,
            FileType::Q4KM => Format::Q4K,
            FileType::Q5KM => Format::Q5K,
        };
        if matches!(format, Format::F32 | Format::F16 | Format::BF16) {
            return format;
        }
        let is_head = name == "output.weight" || (!model.has_head && name == "token_embd.weight");
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let layer = layer.and_then(|(layer, part)| Some((layer.parse::<usize>().ok()?, part)));
        match (self, layer) {
            _ if is_head && format != Format::Q8_0 => Format::Q6K,
            (FileType::Plain(_), _) => format,
            (_, Some((layer, "attn_v.weight" | "ffn_down.weight"))) if model.gets_more(layer) => Format::Q6K,
            (FileType::Q4KM, Some((_, "attn_qkv.weight"))) => Format::Q5K,
            (FileType::Q5KM, Some((_, "attn_qkv.weight"))) => Format::Q6K,
            _ => format,
        }
    }
}

impl FromStr for FileType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = FileType::ALL.into_iter().find(|(name, _)| *name == text.to_lowercase());
        known.map(|(_, kind)| kind).ok_or_else(|| {
            let names: Vec<&str> = FileType::ALL.iter().map(|(name, _)| *name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// The format, or the one that llama.cpp takes in its place where a row has no whole blocks of it.
fn fitting(format: Format, cols: usize) -> Format {
    let smaller = match format {
        _ if cols.is_multiple_of(format.block_len()) => return format,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        _ => Format::F16,
    };
    fitting(smaller, cols)
}

/// The format of a tensor that an adapter changes, where nothing else is said. In the few bits that its values were rounded to
/// before, a change smaller than half a step would be rounded away: all of it, in practice.
fn of_changed(stored: Format, cols: usize) -> Format {
    match stored {
        Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0 => stored,
        _ => fitting(Format::Q8_0, cols),
    }
}

/// What of a model decides formats.
struct Model {
    has_head: bool,
    layers: usize,
}

impl Model {
    fn of(config: &Config) -> Self {
        Model { has_head: !config.tie_word_embeddings, layers: config.num_hidden_layers }
    }

    /// The first and the last eighth of the layers, and every third between them (`use_more_bits`).
    fn gets_more(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// Why a GGUF file cannot say the shape of a folder's model, with what llama.cpp reads from it: nothing if it can.
pub fn unsaid(config: &Config) -> Option<String> {
    let gguf = config.arch.gguf();
    let own = match gguf_entries(config) {
        Ok(own) => own,
        Err(why) => return Some(why),
    };
    let says_factor = own.iter().any(|(key, _)| *key == "rope.scaling.yarn_log_multiplier");
    let scaling = match &config.rope.scaling {
        RopeScaling::Dynamic { .. } => "dynamic",
        RopeScaling::Yarn { factor, attention_factor, truncate, .. } => {
            let usual = if *factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            if *truncate && (says_factor || (attention_factor - usual).abs() < 1e-6) {
                return None;
            }
            "yarn with a factor or a ramp of its own"
        }
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Long { .. }
        | RopeScaling::Divisors(_) => return None,
    };
    Some(format!("the metadata of {gguf} cannot say `rope_scaling` of type {scaling}"))
}

/// Why a GGUF file cannot hold the head of a model as llama.cpp reads it: nothing if it can.
pub fn unread_head(config: &Config) -> Option<String> {
    let arch = config.arch.gguf();
    (!reads_head(config)).then(|| {
        format!("llama.cpp takes the head of {arch} from the embedding, and this model has one of its own")
    })
}

/// The window of a folder's model, where llama.cpp does not have it for this architecture: it is exact for texts up to it.
pub fn unsaid_window(config: &Config) -> Option<usize> {
    config.sliding_window.filter(|_| !config.arch.gguf_window())
}

/// A GGUF file that is to be written.
pub struct GgufModel<'a> {
    entries: Vec<(String, GgufEntry)>,
    tensors: Vec<GgufTensor<'a>>,
    copied: usize,
    widened: usize,
}

impl<'a> GgufModel<'a> {
    /// The model of `files` with what `merged` (in f32) changes of it, each tensor as `file_type` has it or as it is stored, but
    /// for what is changed and stored in fewer than 8 bits: that is written in Q8_0.
    /// `tokenizer` is the metadata of a folder's tokenizer; of a GGUF file, which has its own, what of that is another.
    pub fn new(
        files: &ModelFiles,
        merged: &'a Merged<'_>,
        file_type: Option<FileType>,
        tokenizer: Vec<(String, GgufEntry)>,
    ) -> Self {
        match files.gguf() {
            Some(gguf) => {
                let mut model = GgufModel::of_gguf(files, gguf, merged, file_type);
                tokenizer.into_iter().for_each(|(key, value)| model.set_entry(&key, value));
                model
            }
            None => GgufModel::of_folder(files, merged, file_type, tokenizer),
        }
    }

    fn of_gguf(files: &ModelFiles, gguf: &Gguf, merged: &'a Merged<'_>, file_type: Option<FileType>) -> Self {
        const HEAD: &str = "output.weight";
        let config = files.config();
        let named = |source: TensorSource<'a>| {
            (gguf_name(config, &source.name).unwrap_or_else(|| source.name.clone()), source)
        };
        let mut adapted: HashMap<String, TensorSource<'a>> = merged.changed_sources().map(named).collect();
        let model = Model::of(config);
        let (mut copied, mut widened) = (0, 0);
        // The head of who has the embedding for it, now that one of them is changed.
        let is_new = model.has_head && gguf.tensor(HEAD).is_none();
        let new_head = gguf.tensor("token_embd.weight").filter(|_| is_new).map(|stored| (HEAD, stored));
        let tensors = gguf.tensors().chain(new_head).map(|(name, stored)| {
            let format = match (file_type, &stored.shape[..]) {
                (Some(file_type), [_, cols]) => file_type.of(name, *cols, &model),
                (None, [_, cols]) if adapted.contains_key(name) => of_changed(stored.format, *cols),
                _ => stored.format,
            };
            widened += usize::from(file_type.is_none() && format != stored.format);
            let mut shape = stored.shape.clone();
            let data = match adapted.remove(name) {
                Some(source) => {
                    let order = gguf_row_order(config, &source.name);
                    let less = stored_less(config, &source.name);
                    // Embedding and head may have rows more.
                    shape.clone_from(&source.shape);
                    GgufData::Values(in_order(whole(values_of(source), less), order, &shape))
                }
                None if format == stored.format => {
                    copied += 1;
                    GgufData::Stored(stored.data.clone())
                }
                None => GgufData::Values(decoded(stored.format, stored.data.clone())),
            };
            GgufTensor { name: name.to_owned(), shape, format, data }
        });
        let tensors = tensors.collect();
        let mut model = GgufModel { entries: entries(gguf, file_type), tensors, copied, widened };
        if files.stored_rows() < config.vocab_size {
            let rows = GgufEntry::U32(config.vocab_size as u32);
            model.set_entry(&format!("{}.vocab_size", config.arch.gguf()), rows);
        }
        model
    }

    fn of_folder(
        files: &ModelFiles,
        merged: &'a Merged<'_>,
        file_type: Option<FileType>,
        tokenizer: Vec<(String, GgufEntry)>,
    ) -> Self {
        let config = files.config();
        let model = Model::of(config);
        let file_type = file_type.unwrap_or(FileType::Plain(merged.dtype().format()));
        let tensor = |source: TensorSource<'a>| {
            let name = gguf_name(config, &source.name).unwrap_or_else(|| source.name.clone());
            let shape = source.shape.clone();
            // Norms and biases are F32 in every file.
            let format = match shape[..] {
                [_, cols] => file_type.of(&name, cols, &model),
                _ => Format::F32,
            };
            let order = gguf_row_order(config, &source.name);
            let less = stored_less(config, &source.name);
            let data = GgufData::Values(in_order(whole(values_of(source), less), order, &shape));
            GgufTensor { name, shape, format, data }
        };
        let mut tensors: Vec<_> = merged.upright_sources().map(tensor).collect();
        tensors.extend(divisors(config));
        let mut entries = shape_entries(files, file_type);
        entries.extend(tokenizer);
        GgufModel { entries, tensors, copied: 0, widened: 0 }
    }

    /// Sets an entry of the metadata, in place of one of that key.
    pub fn set_entry(&mut self, key: &str, value: GgufEntry) {
        self.entries.retain(|(other, _)| other != key);
        self.entries.push((key.to_owned(), value));
    }

    /// Bytes of the tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(GgufTensor::bytes).sum()
    }

    /// All tensors.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Tensors that are copied as they are.
    pub fn copied(&self) -> usize {
        self.copied
    }

    /// Tensors that are written in more bits than the base has them in, since their change would be lost in those.
    pub fn widened(&self) -> usize {
        self.widened
    }

    /// The formats that matrices of the type `file_type` would have and those that they have instead, since their rows are no whole
    /// number of blocks, with how many matrices there are of each.
    pub fn replaced(&self, file_type: FileType, config: &Config) -> Vec<(Format, Format, usize)> {
        let model = Model::of(config);
        let mut replaced: Vec<(Format, Format, usize)> = Vec::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.shape.len() == 2) {
            let wanted = file_type.wanted(&tensor.name, &model);
            let known =
                replaced.iter_mut().find(|(other, format, _)| (*other, *format) == (wanted, tensor.format));
            match known {
                _ if wanted == tensor.format => {}
                Some((.., count)) => *count += 1,
                None => replaced.push((wanted, tensor.format, 1)),
            }
        }
        replaced
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What `out` gives, and a value that its format cannot hold.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write_gguf(out, &self.entries, &self.tensors)
    }
}

/// The metadata that says the shape of a folder's model (llama.cpp, `convert_hf_to_gguf.py`).
fn shape_entries(files: &ModelFiles, file_type: FileType) -> Vec<(String, GgufEntry)> {
    let config = files.config();
    let arch = config.arch.gguf();
    let general = |key: &str, value| (format!("general.{key}"), value);
    let number = |key: &str, value: usize| (format!("{arch}.{key}"), GgufEntry::U32(value as u32));
    let float = |key: &str, value: f32| (format!("{arch}.{key}"), GgufEntry::F32(value));
    let mut entries = vec![
        general("architecture", GgufEntry::Text(arch.to_owned())),
        general("type", GgufEntry::Text("model".to_owned())),
        general("name", GgufEntry::Text(files.name())),
        general("file_type", GgufEntry::U32(file_type.number())),
        general("quantization_version", GgufEntry::U32(QUANTIZATION_VERSION)),
        number("block_count", config.num_hidden_layers),
        number("context_length", config.max_position_embeddings),
        number("embedding_length", config.hidden_size),
        number("feed_forward_length", config.intermediate_size),
        number("attention.head_count", config.num_attention_heads),
        number("attention.head_count_kv", config.num_key_value_heads),
        number("attention.key_length", config.head_dim),
        number("attention.value_length", config.head_dim),
        number("rope.dimension_count", config.rope.rotated(config.head_dim)),
        number("vocab_size", config.vocab_size),
        float("attention.layer_norm_rms_epsilon", config.norm_eps),
        float("rope.freq_base", config.rope.theta as f32),
    ];
    let scaling = |kind: &str| (format!("{arch}.rope.scaling.type"), GgufEntry::Text(kind.to_owned()));
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            entries.extend([scaling("linear"), float("rope.scaling.factor", *factor as f32)]);
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, .. } => {
            entries.extend([
                scaling("yarn"),
                float("rope.scaling.factor", *factor as f32),
                float("rope.scaling.yarn_beta_fast", *beta_fast as f32),
                float("rope.scaling.yarn_beta_slow", *beta_slow as f32),
                number("rope.scaling.original_context_length", *original_max_position_embeddings as usize),
            ]);
        }
        RopeScaling::Long { attention_factor, .. } => {
            entries.push(float("rope.scaling.attn_factor", *attention_factor as f32));
        }
        RopeScaling::None
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Divisors(_) => {}
    }
    // What an architecture says itself stands for what all say.
    let own = gguf_entries(config).unwrap_or_default();
    let own: Vec<_> = own.into_iter().map(|(key, value)| (format!("{arch}.{key}"), value)).collect();
    entries.retain(|(key, _)| !own.iter().any(|(name, _)| name == key));
    entries.extend(own);
    entries
}

/// The tensors that divide the rotary frequencies of Llama 3.1 and later, and of LongRoPE.
fn divisors<'a>(config: &Config) -> Vec<GgufTensor<'a>> {
    let tensor = |name: &str, divisors: &[f32]| GgufTensor {
        name: name.to_owned(),
        shape: vec![divisors.len()],
        format: Format::F32,
        data: GgufData::Stored(SharedBytes::from_vec(
            divisors.iter().flat_map(|d| d.to_le_bytes()).collect(),
        )),
    };
    match &config.rope.scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => {}
        RopeScaling::Long { short, long, .. } => {
            return vec![
                tensor("rope_factors_long.weight", long),
                tensor("rope_factors_short.weight", short),
            ];
        }
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Yarn { .. } => return Vec::new(),
    }
    let plain = Config { rope: Rope { scaling: RopeScaling::None, ..config.rope.clone() }, ..config.clone() };
    let pairs = plain.rope_frequencies().into_iter().zip(config.rope_frequencies());
    let divisors: Vec<f32> = pairs.map(|(plain, scaled)| plain / scaled).collect();
    vec![tensor("rope_freqs.weight", &divisors)]
}

/// The metadata of the base, but for what is about its parts and types.
fn entries(gguf: &Gguf, file_type: Option<FileType>) -> Vec<(String, GgufEntry)> {
    const FILE_TYPE: &str = "general.file_type";
    let own = |key: &str| key.starts_with("split.") || key == "general.alignment";
    let replaced = |key: &str| key == FILE_TYPE && file_type.is_some();
    let kept = gguf.entries().filter(|(key, _)| !own(key) && !replaced(key));
    let mut entries: Vec<_> =
        kept.map(|(key, value)| (key.to_owned(), GgufEntry::Stored(value.clone()))).collect();
    if let Some(file_type) = file_type {
        entries.push((FILE_TYPE.to_owned(), GgufEntry::U32(file_type.number())));
        if gguf.integer("general.quantization_version").is_none() {
            entries.push(("general.quantization_version".to_owned(), GgufEntry::U32(QUANTIZATION_VERSION)));
        }
    }
    entries
}

/// Values of this format and these bytes.
fn decoded<'a>(format: Format, data: SharedBytes) -> RowValues<'a> {
    let (block, bytes) = (format.block_len(), format.block_bytes());
    Box::new(move |range, out| {
        // Pieces begin at whole blocks of the format that is written, which may be within one of this.
        let (first, last) = (range.start / block, range.end.div_ceil(block));
        let stored = &data.as_slice()[first * bytes..last * bytes];
        if range.start == first * block && range.end == last * block {
            return format.decode(stored, out);
        }
        let mut values = vec![0.0; (last - first) * block];
        format.decode(stored, &mut values);
        out.copy_from_slice(&values[range.start - first * block..][..out.len()]);
    })
}

/// The values of a tensor, in checkpoint order.
fn values_of(source: TensorSource<'_>) -> RowValues<'_> {
    match source.data {
        TensorData::Computed(_, values) => values,
        TensorData::Stored(dtype, bytes) => decoded(dtype.format(), bytes),
        TensorData::Floats(..) | TensorData::Bytes(_) => unreachable!("a merged model has none"),
    }
}

/// Values of which a checkpoint has `less` less, and a GGUF file all.
fn whole(values: RowValues<'_>, less: f32) -> RowValues<'_> {
    if less == 0.0 {
        return values;
    }
    Box::new(move |range, out| {
        values(range, out);
        out.iter_mut().for_each(|value| *value += less);
    })
}

/// The values of a tensor of `shape` with its rows, or the values of a vector, in the order that a file has them.
fn in_order<'a>(values: RowValues<'a>, order: RowOrder, shape: &[usize]) -> RowValues<'a> {
    let RowOrder::RotaryPairs { head_dim } = order else { return values };
    let cols = shape.get(1).copied().unwrap_or(1);
    // Rows change places within heads.
    let head = head_dim * cols;
    Box::new(move |range, out| {
        let mut upright = vec![0.0; head];
        let mut stored = vec![0.0; head];
        for start in (range.start / head * head..range.end).step_by(head) {
            values(start..start + head, &mut upright);
            for (row, values) in upright.chunks_exact(cols).enumerate() {
                stored[order.stored_row(row) * cols..][..cols].copy_from_slice(values);
            }
            let (from, to) = (range.start.max(start), range.end.min(start + head));
            out[from - range.start..to - range.start].copy_from_slice(&stored[from - start..to - start]);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_gives_more_bits_to_half_of_some_matrices() {
        let model = Model { has_head: false, layers: 32 };
        let of = |name: &str| FileType::Q4KM.of(name, 4096, &model);
        let more: Vec<usize> =
            (0..32).filter(|layer| of(&format!("blk.{layer}.ffn_down.weight")) == Format::Q6K).collect();
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(of("blk.1.attn_v.weight"), Format::Q6K);
        assert_eq!(of("blk.1.attn_q.weight"), Format::Q4K);
        assert_eq!(of("blk.1.attn_qkv.weight"), Format::Q5K);
        assert_eq!(of("token_embd.weight"), Format::Q6K);
        let model = Model { has_head: true, ..model };
        assert_eq!(FileType::Q4KM.of("token_embd.weight", 4096, &model), Format::Q4K);
        assert_eq!(FileType::Q4KM.of("output.weight", 4096, &model), Format::Q6K);
        let plain = |format| FileType::Plain(format).of("output.weight", 4096, &model);
        assert_eq!(
            [Format::Q4_0, Format::Q8_0, Format::F16].map(plain),
            [Format::Q6K, Format::Q8_0, Format::F16]
        );
    }

    #[test]
    fn short_rows_get_blocks_that_fit() {
        let cases = [
            (Format::Q4K, 576, Format::Q5_0),
            (Format::Q5K, 576, Format::Q5_1),
            (Format::Q6K, 576, Format::Q8_0),
            (Format::Q6K, 512, Format::Q6K),
            (Format::Q4K, 48, Format::F16),
            (Format::Q4_0, 40, Format::F16),
        ];
        for (format, cols, want) in cases {
            assert_eq!(fitting(format, cols), want, "{format} of {cols}");
        }
    }
}
