//! Adapters in the forms of other readers: GGUF files of llama.cpp, folders of mlx-lm.
//!
//! Each form has the factors of a projection with one factor of scale for all, or one for each; what a form has no place for
//! is folded into `B`, and only then: a plain adapter comes out with the bits it has.

mod gguf;
mod mlx;

use std::collections::BTreeMap;
use std::path::Path;

use lorafit_kernels::Device;
use lorafit_remedy::amounts::counted;
use regex::Regex;

use super::lora::{Adapter, LoraConfig};
use super::peft::exact_pattern;
use super::targets::Targets;
use crate::error::FileError;
use crate::shape::{Config, Module, module_shape};

pub use gguf::{gguf_lora_bytes, is_gguf_lora, load_gguf_lora};
pub use mlx::{MLX_CONFIG, MLX_WEIGHTS, MlxAdapter, is_mlx, load_mlx};

/// The factors of one projection, upright.
#[derive(Clone, Debug, PartialEq)]
struct Projection {
    layer: usize,
    module: Module,
    rank: usize,
    /// What the update `B A` is multiplied by.
    scale: f64,
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
}

/// The projections of an adapter, in forward order.
fn projections(adapter: &Adapter) -> Vec<Projection> {
    let of_part =
        |(layer, module, group, part): (usize, Module, &super::LoraGroup, &super::lora::LoraPart)| {
            let (inputs, outputs) = (group.a.len() / group.rank, part.b_t.len() / part.rank);
            let mut a = vec![0.0; part.rank * inputs];
            group.a.read(part.first * inputs, &mut a);
            let b_t = part.b_t.to_vec(part.b_t.len());
            let b = (0..b_t.len()).map(|i| b_t[i % part.rank * outputs + i / part.rank]).collect();
            let scale = adapter.config().scale(&module.path(layer), part.rank);
            Projection { layer, module, rank: part.rank, scale, a, b }
        };
    adapter.parts().map(of_part).collect()
}

/// `B` with what of its projection's scale `scale` does not say.
fn folded(projection: &Projection, scale: f64) -> Vec<f32> {
    match projection.scale / scale {
        1.0 => projection.b.clone(),
        more => projection.b.iter().map(|b| (f64::from(*b) * more) as f32).collect(),
    }
}

/// An adapter of these projections, in any order. `alpha` is the same for all.
///
/// # Errors
/// A projection that the model does not have or that has another shape there, one that is there twice, or none at all.
fn adapter_of(
    path: &Path,
    config: &Config,
    mut projections: Vec<Projection>,
    alpha: f64,
) -> Result<Adapter, FileError> {
    let fail = |problem: String| FileError::new(path, problem);
    projections.sort_by_key(|projection| (projection.layer, projection.module));
    let mut pairs = projections.windows(2);
    if let Some(twice) = pairs.find(|pair| (pair[0].layer, pair[0].module) == (pair[1].layer, pair[1].module))
    {
        return Err(fail(format!("{} is there twice", twice[0].module.path(twice[0].layer))));
    }
    let mut ranks = BTreeMap::new();
    for Projection { layer, module, rank, a, b, .. } in &projections {
        let name = module.path(*layer);
        let (outputs, inputs) = module_shape(config, *module);
        if *layer >= config.num_hidden_layers {
            let problem =
                format!("{name}: the model has {}", counted(config.num_hidden_layers, "layer", "layers"));
            return Err(fail(problem).with_hint("the adapter was made for another model"));
        }
        if (a.len(), b.len()) != (rank * inputs, outputs * rank) {
            let found = [a.len() / rank, b.len() / rank];
            let problem =
                format!("{name} is for {found:?} values in and out, the model has {:?}", [inputs, outputs]);
            return Err(fail(problem).with_hint("the adapter was made for another model"));
        }
        *ranks.entry(*rank).or_insert(0) += 1;
    }
    let Some((&rank, _)) = ranks.iter().max_by_key(|(rank, count)| (**count, **rank)) else {
        return Err(fail("it has no factors of a projection".to_owned()));
    };
    let other_rank = |projection: &&Projection| projection.rank != rank;
    let pattern = |projection: &Projection| -> Result<(Regex, usize), FileError> {
        let pattern = exact_pattern(&projection.module.path(projection.layer));
        Ok((pattern.map_err(|e| fail(e.to_string()))?, projection.rank))
    };
    let lora = LoraConfig {
        rank,
        alpha,
        rank_pattern: projections.iter().filter(other_rank).map(pattern).collect::<Result<_, _>>()?,
        ..LoraConfig::new(targets(config, &projections))
    };
    let parts = lora.parts(config).map_err(|e| fail(e.to_string()))?;
    let mut adapter = Adapter::zeros(config, &lora, &parts, Device::Cpu);
    for (part, projection) in parts.iter().zip(&projections) {
        debug_assert_eq!((part.layer, part.module), (projection.layer, projection.module));
        let (outputs, inputs) = module_shape(config, part.module);
        adapter.write_a(part, inputs, &projection.a);
        adapter.write_b(part, outputs, &projection.b);
    }
    Ok(adapter)
}

/// The projections by the names of their modules where every layer has the same, else by their paths.
fn targets(config: &Config, projections: &[Projection]) -> Targets {
    let names: Vec<&str> = config
        .modules()
        .into_iter()
        .filter(|module| projections.iter().any(|projection| projection.module == *module))
        .map(Module::name)
        .collect();
    match names.len() * config.num_hidden_layers == projections.len() {
        true => Targets::Names(names.into_iter().map(str::to_owned).collect()),
        false => Targets::Names(projections.iter().map(|p| p.module.path(p.layer)).collect()),
    }
}

/// The module of a path in a layer, `self_attn.q_proj`.
fn module_of(config: &Config, path: &str) -> Option<Module> {
    config.modules().into_iter().find(|module| module.in_block() == path)
}
