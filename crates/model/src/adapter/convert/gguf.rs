//! LoRA adapters as llama.cpp reads them (`llama_adapter_lora_init_impl`, `convert_lora_to_gguf.py`): a GGUF file of type
//! `adapter` with the factors by the base's tensor names, `blk.0.attn_q.weight.lora_a` `[r, in]` and `.lora_b` `[out, r]`.
//!
//! The update is scaled by `adapter.lora.alpha / r`, with one alpha for all. The rows of queries and keys are in the order
//! that the base's file has, so `B` has them as well.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use lorafit_kernels::quant::Format;
use lorafit_kernels::{RowOrder, SharedBytes};
use lorafit_remedy::{Setting, Task, remedy};

use super::super::lora::Adapter;
use super::{Projection, adapter_of, folded, projections};
use crate::error::FileError;
use crate::files::{Gguf, GgufData, GgufEntry, GgufTensor, StoredTensor, write_gguf};
use crate::shape::{Config, Module, gguf_name, module_shape};
use crate::weights::gguf_row_order;

/// The order of rows and the GGUF name of a projection's weight.
fn in_file(config: &Config, layer: usize, module: Module) -> (RowOrder, String) {
    let name = format!("{}.weight", module.path(layer));
    let stored = gguf_name(config, &name).unwrap_or_else(|| name.clone());
    (gguf_row_order(config, &name), stored)
}

/// Writes an adapter for a model of shape `config`; `base_name` is what the file calls its base.
///
/// # Errors
/// What `out` gives.
fn save_gguf_lora(
    out: &mut dyn Write,
    adapter: &Adapter,
    config: &Config,
    base_name: &str,
) -> std::io::Result<()> {
    // Readers take an alpha of 0 for none that is said: an update that is nothing has factors that are nothing.
    let alpha = match adapter.config().alpha as f32 {
        0.0 => adapter.config().rank as f32,
        alpha => alpha,
    };
    let text = |key: &str, value: &str| (key.to_owned(), GgufEntry::Text(value.to_owned()));
    let entries = [
        text("general.architecture", config.arch.gguf()),
        text("general.type", "adapter"),
        text("general.name", &format!("LoRA of {base_name}")),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), GgufEntry::F32(alpha)),
        // All values are F32.
        ("general.file_type".to_owned(), GgufEntry::U32(0)),
    ];
    let mut tensors = Vec::new();
    for projection in projections(adapter) {
        let Projection { layer, module, rank, .. } = projection;
        let (outputs, inputs) = module_shape(config, module);
        let (order, name) = in_file(config, layer, module);
        let upright = folded(&projection, f64::from(alpha) / rank as f64);
        let mut b = vec![0.0; upright.len()];
        for (row, values) in upright.chunks_exact(rank).enumerate() {
            b[order.stored_row(row) * rank..][..rank].copy_from_slice(values);
        }
        for (factor, shape, values) in [("a", [rank, inputs], projection.a), ("b", [outputs, rank], b)] {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push(GgufTensor {
                name: format!("{name}.lora_{factor}"),
                shape: shape.to_vec(),
                format: Format::F32,
                data: GgufData::Stored(SharedBytes::from_vec(bytes)),
            });
        }
    }
    write_gguf(out, &entries, &tensors)
}

/// The content of a file that [`load_gguf_lora`] and llama.cpp read.
///
/// # Errors
/// An adapter with magnitudes, whole weights, rows of tokens, or of embedding or head.
pub fn gguf_lora_bytes(adapter: &Adapter, config: &Config, base_name: &str) -> Result<Vec<u8>, FileError> {
    if adapter.config().use_dora {
        let problem = "a GGUF adapter has no place for magnitudes (DoRA)".to_owned();
        return Err(FileError::new(Path::new("gguf-lora"), problem)
            .with_hint(remedy!["merge it instead: ", Task::Merge]));
    }
    if !adapter.saved.weights.is_empty() {
        let problem = "a GGUF adapter has no place for whole weights (modules_to_save)".to_owned();
        return Err(FileError::new(Path::new("gguf-lora"), problem)
            .with_hint(remedy!["merge it instead: ", Task::Merge]));
    }
    if !adapter.config().tokens.is_empty() {
        let problem = "a GGUF adapter has no place for rows of tokens (trainable_token_indices)".to_owned();
        return Err(FileError::new(Path::new("gguf-lora"), problem)
            .with_hint(remedy!["merge it instead: ", Task::Merge]));
    }
    if adapter.is_outside() {
        let problem = "an adapter of lm_head or the embedding is not written for llama.cpp".to_owned();
        return Err(FileError::new(Path::new("gguf-lora"), problem)
            .with_hint(remedy!["merge it instead: ", Task::Merge]));
    }
    let mut bytes = Vec::new();
    save_gguf_lora(&mut bytes, adapter, config, base_name).expect("memory takes all");
    Ok(bytes)
}

/// Whether a file is a LoRA adapter of this kind.
pub fn is_gguf_lora(gguf: &Gguf) -> bool {
    gguf.text("general.type") == Some("adapter")
}

/// Reads an adapter of a model of shape `config`.
///
/// # Errors
/// A file that is no adapter of this kind, is for another architecture or another shape, or has more than factors of
/// projections.
pub fn load_gguf_lora(gguf: &Gguf, config: &Config) -> Result<Adapter, FileError> {
    let fail = |problem: String| FileError::new(gguf.path(), problem);
    let wrong = |key: &str, expected: &str| {
        let found = gguf.text(key).map_or("not there".to_owned(), |text| format!("\"{text}\""));
        fail(format!("`{key}` is {found}, expected \"{expected}\""))
    };
    if !is_gguf_lora(gguf) {
        return Err(
            wrong("general.type", "adapter").with_hint(remedy!["a model is passed as ", Setting::Model])
        );
    }
    if gguf.text("adapter.type") != Some("lora") {
        return Err(wrong("adapter.type", "lora").with_hint("of adapters in GGUF only LoRA is read"));
    }
    let architecture = config.arch.gguf();
    if gguf.text("general.architecture") != Some(architecture) {
        return Err(
            wrong("general.architecture", architecture).with_hint("pass the model that it was made for")
        );
    }
    let alpha = match gguf.number("adapter.lora.alpha") {
        Some(alpha) if alpha.is_finite() && alpha != 0.0 => alpha,
        Some(alpha) => {
            return Err(fail(format!("`adapter.lora.alpha` is {alpha}, expected a number other than 0")));
        }
        None => return Err(fail("`adapter.lora.alpha` is missing, expected a number".to_owned())),
    };

    let sites: BTreeMap<String, (usize, Module)> = (0..config.num_hidden_layers)
        .flat_map(|layer| {
            config
                .modules()
                .into_iter()
                .map(move |module| (in_file(config, layer, module).1, (layer, module)))
        })
        .collect();
    let mut found = Vec::new();
    for (name, a) in gguf.tensors() {
        let (weight, factor) = name.rsplit_once(".lora_").unwrap_or((name, ""));
        let Some(&(layer, module)) = sites.get(weight).filter(|_| ["a", "b"].contains(&factor)) else {
            return Err(fail(format!("{name} is not a factor of a projection of this model"))
                .with_hint("adapters of embeddings, heads, norms and experts are not read"));
        };
        let partner = format!("{weight}.lora_{}", if factor == "a" { "b" } else { "a" });
        let Some(b) = gguf.tensor(&partner) else { return Err(fail(format!("{partner} is missing"))) };
        if factor == "b" {
            continue;
        }
        let (&[rank, _], &[outputs, b_rank]) = (&a.shape[..], &b.shape[..]) else {
            return Err(fail(format!(
                "{name} is {:?} and its partner {:?}, expected matrices",
                a.shape, b.shape
            )));
        };
        if rank != b_rank || rank == 0 {
            return Err(fail(format!("{name} has rank {rank} and its partner {b_rank}")));
        }
        let decoded = |tensor: &StoredTensor| {
            let mut values = vec![0.0; tensor.shape.iter().product()];
            tensor.format.decode(tensor.data.as_slice(), &mut values);
            values
        };
        let (order, _) = in_file(config, layer, module);
        let (stored, mut b) = (decoded(b), vec![0.0; outputs * rank]);
        if module_shape(config, module).0 != outputs {
            let problem = format!(
                "{partner} is {:?}, the model needs {} rows",
                [outputs, rank],
                module_shape(config, module).0
            );
            return Err(fail(problem).with_hint("the adapter was made for another model"));
        }
        for (row, values) in b.chunks_exact_mut(rank).enumerate() {
            values.copy_from_slice(&stored[order.stored_row(row) * rank..][..rank]);
        }
        found.push(Projection { layer, module, rank, scale: alpha / rank as f64, a: decoded(a), b });
    }
    adapter_of(gguf.path(), config, found, alpha)
}
