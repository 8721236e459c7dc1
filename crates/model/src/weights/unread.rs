//! Tensors of a model's files that no part of the model takes. A model with them would be computed by others with what they
//! say, so all but those that are known to change nothing are refused.

use std::collections::HashSet;

use lorafit_remedy::{Remedy, Setting, remedy};
use rayon::prelude::*;

use super::{ModelFiles, Source};
use crate::error::{FileError, unquantised};
use crate::shape::{Config, gguf_name, weight_shapes};

/// What names end with that older versions saved although it is computed from the configuration.
const COMPUTED: [&str; 7] = [
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "attn.masked_bias",
    "attn.bias",
    "position_ids",
    "attn_rot_embd.weight",
];
/// What names of other parts of a model of several have in them: they read images and sounds, and text does not pass them.
const TOWERS: [&str; 8] =
    ["vision", "visual", "audio", "image", "video", "speech", "projector", "multi_modal"];
/// What bitsandbytes has beside a matrix: endings of its name.
const QUANTISED: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];

/// Refuses `files` with a tensor that nothing takes. Files that lack one are for who asks for it.
pub(super) fn check(files: &ModelFiles) -> Result<(), FileError> {
    let taken = weight_shapes(&files.config).into_iter().map(|shape| shape.name);
    match &files.source {
        Source::Folder { shards, .. } => {
            let taken: HashSet<String> = taken.collect();
            let names = shards.stored_names();
            let found: HashSet<&str> = names.iter().map(|(canonical, _)| canonical.as_str()).collect();
            if !taken.iter().all(|name| found.contains(name.as_str())) {
                return Ok(());
            }
            let decoder = files.config.names.decoder;
            let mut unread = names.iter().filter(|(name, _)| {
                !(is_taken(name, &taken) || is_said_twice(name) || is_beside(name, decoder))
            });
            match unread.next() {
                Some((name, stored)) => Err(refused(files, name, stored)),
                None => Ok(()),
            }
        }
        Source::Gguf(gguf) => {
            let taken: HashSet<String> = taken.filter_map(|name| gguf_name(&files.config, &name)).collect();
            if !taken.iter().all(|name| gguf.tensor(name).is_some()) {
                return Ok(());
            }
            let harmless = |name: &str| {
                name.starts_with("rope_f")
                    || COMPUTED.iter().any(|end| name.ends_with(end))
                    || ["v.", "mm.", "a."].iter().any(|tower| name.starts_with(tower))
            };
            let unread = gguf.tensor_names().filter(|name| !taken.contains(*name) && !harmless(name)).min();
            unread.map_or(Ok(()), |name| Err(refused(files, name, name)))
        }
    }
}

/// Whether the tensor with the checkpoint name `name` is `taken`, or belongs to one that is.
fn is_taken(name: &str, taken: &HashSet<String>) -> bool {
    if taken.contains(name) {
        return true;
    }
    let matrix = QUANTISED.iter().find_map(|end| name.strip_suffix(end));
    let matrix = matrix.or_else(|| Some(name.split_once(".quant_state.bitsandbytes__")?.0));
    if matrix.is_some_and(|matrix| taken.contains(matrix)) {
        return true;
    }
    let module = [".SCB", ".weight_format"].iter().find_map(|end| name.strip_suffix(end));
    module.is_some_and(|module| taken.contains(&format!("{module}.weight")))
}

/// Whether the tensor says nothing that the model does not have otherwise.
fn is_said_twice(name: &str) -> bool {
    // Of a tied model it equals the embedding: one that does not is a head of its own.
    name == "lm_head.weight" || COMPUTED.iter().any(|end| name.ends_with(end))
}

/// Whether the tensor belongs to a part that text does not pass.
fn is_beside(name: &str, decoder: &str) -> bool {
    match name.strip_prefix(decoder) {
        Some(rest) => {
            let part = rest.split('.').next().unwrap_or_default();
            part.starts_with("mm_") || TOWERS.iter().any(|tower| part.contains(tower))
        }
        // Beside the decoder: heads of other tasks. An adapter would be meant for the decoder.
        None => !name.starts_with("lm_head.") && !name.contains(".lora_") && !name.contains(".base_layer."),
    }
}

impl ModelFiles {
    /// Names of tensors of a folder that belong to parts which the model here does not have: towers, heads of other tasks.
    pub fn unused_tensors(&self) -> Vec<String> {
        let Source::Folder { shards, .. } = &self.source else { return Vec::new() };
        let taken: HashSet<String> =
            weight_shapes(&self.config).into_iter().map(|shape| shape.name).collect();
        let names = shards.stored_names().into_iter().map(|(name, _)| name);
        names.filter(|name| !is_taken(name, &taken) && !is_said_twice(name)).collect()
    }

    /// The first weight with a value that is no finite number, and the value. Reads all weights: for after the fact.
    ///
    /// # Errors
    /// As [`crate::Model::load`].
    pub fn non_number(&self) -> Result<Option<(String, f32)>, FileError> {
        for shape in weight_shapes(&self.config) {
            let wrong = |values: &[f32]| values.iter().copied().find(|value| !value.is_finite());
            let found = match shape.dims[..] {
                [rows, cols] => {
                    let weight = self.weight(&shape.name, rows, cols)?;
                    let of_row = |row: usize| {
                        let mut values = vec![0.0; cols];
                        weight.decode(row, 0..cols, &mut values);
                        wrong(&values)
                    };
                    let found = (0..rows).into_par_iter().find_map_first(of_row);
                    weight.release();
                    found
                }
                _ => wrong(&self.vector(&shape.name, shape.len())?),
            };
            if let Some(value) = found {
                return Ok(Some((shape.name, value)));
            }
        }
        Ok(None)
    }
}

fn refused(files: &ModelFiles, name: &str, stored: &str) -> FileError {
    let (why, hint) = why(&files.config, name, matches!(files.source, Source::Gguf(_)));
    let problem = format!("the file has {stored}, which no part of the model takes: {why}");
    files.error(problem).with_hint(hint)
}

/// What the tensor `name` is, and the way out.
fn why(config: &Config, name: &str, gguf: bool) -> (String, Remedy) {
    let merge = || {
        remedy![
            "merge the adapter in PEFT (merge_and_unload), save the model with save_pretrained, and pass that";
            "keep base and adapter apart and pass ", Setting::Model, " and ", Setting::Adapter
        ]
    };
    const OTHERS: &str = "config.json and the weights belong to different models, or the model is of a type that is not supported";
    let layer = name.strip_prefix(config.names.blocks).or_else(|| name.strip_prefix("blk."));
    let layer = layer.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let layers = config.num_hidden_layers;
    if name.contains(".lora_") || name.contains(".base_layer.") {
        return ("it is of an adapter".to_owned(), merge());
    }
    if let Some(layer) = layer.filter(|layer| *layer >= layers) {
        let key = if gguf { "block_count" } else { "num_hidden_layers" };
        let why = format!("it is of layer {layer}, and `{key}` is {layers}");
        return (
            why,
            "the weights belong to a model of more layers: set the number right, or take the file again"
                .into(),
        );
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if matches!(last, "scales" | "biases") {
        return ("the weights are those of MLX, quantised".to_owned(), unquantised());
    }
    if last.contains("scale") || matches!(last, "qzeros" | "g_idx" | "qweight" | "weight_shape") {
        return ("it is of weights that are quantised in another way".to_owned(), unquantised());
    }
    if matches!(last, "absmax" | "quant_map" | "SCB") || name.contains(".quant_state.") {
        return ("it is of a matrix that is quantised, and not in the file".to_owned(), unquantised());
    }
    if last == "bias" && !gguf {
        let why = format!("for `model_type` {:?} config.json says no such bias", config.arch.model_type());
        return (
            why,
            "set `attention_bias` or `mlp_bias` right, or take the config.json that belongs to the weights"
                .into(),
        );
    }
    if gguf {
        let why = format!("`{}` as it is computed here has no such part", config.arch.model_type());
        return (why, "the file is of another kind of model: take a plain model of a supported type".into());
    }
    (format!("`model_type` {:?} has no such part", config.arch.model_type()), OTHERS.into())
}
