//! Whole weights that are trained beside the factors, PEFT's `modules_to_save`: embedding, head and norms. The adapter has
//! copies in f32 that stand in for the model's weights, so that models which share a base differ in their adapters alone.
//!
//! PEFT takes a module whose path ends with one of the names. Where the head is the embedding, a copy of one side leaves the
//! other as the base has it, and two copies are trained apart, unless `ensure_weight_tying` says that one copy is both.

use std::str::FromStr;

use lorafit_kernels::{Device, Tensor, Weight};

use super::lora::LoraConfig;
use super::targets::TargetError;
use crate::norm::Norm;
use crate::shape::{Config, HEAD, NormKind, NormShape, SCORE, Step, WeightShape, stored_less, weight_shapes};
use crate::vector::Vector;

/// A weight that is saved whole.
#[derive(Clone, Debug)]
pub(crate) struct SavedWeight {
    pub shape: WeightShape,
    /// What files have less than what is computed with.
    pub less: f32,
}

/// A norm of a block.
#[derive(Debug)]
pub(crate) struct SavedNorm {
    /// Place of its statistics among the block's, by which the block finds it.
    pub stats: usize,
    pub norm: Norm,
}

/// The copies of an adapter, in the order of [`weight_shapes`].
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// What they are copies of.
    pub weights: Vec<SavedWeight>,
    pub embedding: Option<Weight>,
    /// Of each layer; those of heads first.
    pub blocks: Vec<Vec<SavedNorm>>,
    pub norm: Option<Norm>,
    pub head: Option<Weight>,
    /// Whether the copy of the embedding is the head, too.
    pub ties: bool,
    /// Whether the copies are still to be made of the model's weights, or were read.
    pub fresh: bool,
    /// Whether a model can compute with them ([`crate::Model::prepare`]).
    pub prepared: bool,
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The weights of a model, the head even where it is the embedding.
fn with_head(config: &Config) -> Vec<WeightShape> {
    weight_shapes(&Config { tie_word_embeddings: false, ..config.clone() })
}

/// Whether a weight can be trained whole beside factors.
fn can_be_saved(config: &Config, weight: &WeightShape) -> bool {
    weight.of_norm || [config.names.embedding, config.head_path()].contains(&weight.path())
}

/// What is trained whole beside the factors, as `train` takes it: `embed_tokens`, `lm_head`, `norms`, or the name of a norm.
#[derive(Clone, Debug)]
pub struct SaveModules(Vec<String>);

impl FromStr for SaveModules {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let names: Vec<String> =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        match names.is_empty() {
            true => {
                Err(TargetError::new("no modules to save given", "known are embed_tokens, lm_head, norms"))
            }
            false => Ok(SaveModules(names)),
        }
    }
}

impl SaveModules {
    /// The names of modules as PEFT has them in `modules_to_save`.
    ///
    /// # Errors
    /// A name of nothing of the model that can be trained whole beside factors.
    pub fn of(&self, config: &Config) -> Result<Vec<String>, TargetError> {
        let all = with_head(config);
        let norms = || all.iter().filter(|weight| weight.of_norm).map(|weight| last(weight.path()));
        let mut found: Vec<String> = Vec::new();
        for name in &self.0 {
            let of_name: Vec<&str> = match name.as_str() {
                "embed_tokens" | "wte" => vec![last(config.names.embedding)],
                name if name == config.head_path() => vec![config.head_path()],
                "norms" => norms().collect(),
                name => norms().filter(|norm| *norm == name).collect(),
            };
            if of_name.is_empty() {
                return Err(not_saved(config, name));
            }
            for name in of_name {
                if !found.iter().any(|found| found == name) {
                    found.push(name.to_owned());
                }
            }
        }
        Ok(found)
    }
}

fn not_saved(config: &Config, name: &str) -> TargetError {
    let mut norms: Vec<&str> = Vec::new();
    let all = weight_shapes(config);
    for norm in all.iter().filter(|weight| weight.of_norm).map(|weight| last(weight.path())) {
        if !norms.contains(&norm) {
            norms.push(norm);
        }
    }
    TargetError::new(
        format!("`{name}` cannot be trained whole beside an adapter's factors"),
        format!(
            "{}, {}, norms ({}) can; projections get factors as target modules, or are trained by full fine-tuning",
            last(config.names.embedding),
            config.head_path(),
            norms.join(", ")
        ),
    )
}

impl LoraConfig {
    /// Whether a copy of the embedding is the head, too.
    pub(crate) fn saves_tied(&self, config: &Config) -> bool {
        self.ensure_weight_tying && config.tie_word_embeddings
    }

    /// The weights of a model that are trained whole, in the order of [`weight_shapes`].
    ///
    /// # Errors
    /// A name of something else that the model has.
    pub(crate) fn saved_weights(&self, config: &Config) -> Result<Vec<WeightShape>, TargetError> {
        if self.save_modules.is_empty() {
            return Ok(Vec::new());
        }
        let named = |path: &str| self.save_modules.iter().find(|name| path.ends_with(*name));
        let mut weights = with_head(config);
        for weight in &weights {
            let path = weight.path();
            // A module that holds others is saved with all of them.
            let mut holders = path.match_indices('.').map(|(end, _)| &path[..end]);
            if let Some(name) = holders.find_map(named) {
                return Err(not_saved(config, name));
            }
            if let Some(name) = named(path).filter(|_| !can_be_saved(config, weight)) {
                return Err(not_saved(config, name));
            }
        }
        let ties = self.saves_tied(config);
        let head = config.head_path();
        let of_head = named(head).is_some();
        weights.retain(|weight| match weight.path() {
            path if path == head => of_head && !ties,
            path if path == config.names.embedding => named(path).is_some() || (of_head && ties),
            path => named(path).is_some(),
        });
        Ok(weights)
    }

    /// Values of each of them.
    ///
    /// # Errors
    /// A module that does not exist or cannot be saved whole.
    pub fn saved_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        Ok(self.saved_weights(config)?.iter().map(WeightShape::len).collect())
    }

    /// Names of `modules_to_save` that no module of the model has: PEFT passes over them.
    pub(crate) fn saved_by_no_module<'a>(&'a self, config: &Config) -> impl Iterator<Item = &'a str> {
        let (weights, scores) = (with_head(config), config.labels.is_some());
        self.save_modules
            .iter()
            .map(String::as_str)
            // PEFT names all that heads of classifiers are called.
            .filter(move |name| !(scores && *name == "classifier"))
            .filter(move |name| !weights.iter().any(|weight| weight.path().ends_with(name)))
    }

    /// Whether head and embedding of a model that has them as one become two.
    pub fn unties(&self, config: &Config) -> bool {
        let saved = self.saved_weights(config).unwrap_or_default();
        let is_table =
            |weight: &WeightShape| [config.names.embedding, config.head_path()].contains(&weight.path());
        if self.tokens_untie(config) {
            return true;
        }
        let changes_one = saved.iter().any(is_table) || self.adapts_outside(config);
        config.tie_word_embeddings && !self.ensure_weight_tying && changes_one
    }
}

impl Saved {
    /// Zeros for the weights that `lora` names.
    pub(crate) fn zeros(config: &Config, lora: &LoraConfig, device: Device) -> Result<Self, TargetError> {
        let weights = lora.saved_weights(config)?;
        let has = |path: &str| weights.iter().any(|weight| weight.path() == path);
        let table = |path: &str, rows: usize| {
            has(path).then(|| Weight::trained_zeros(device, rows, config.hidden_size))
        };
        let vector = |len| Vector { values: Tensor::zeros(device, len), is_trained: true };
        let norm = |path: &str, shape: &NormShape| {
            has(path).then(|| Norm {
                kind: shape.kind,
                weight: vector(shape.width),
                bias: shape.has_bias().then(|| vector(shape.width)),
                eps: config.norm_eps,
            })
        };
        let of_block = |layer: usize| {
            let steps = config.block(layer).steps;
            let of_heads = steps.iter().filter_map(|step| match step {
                Step::Attend { shape, stats } => Some((shape.norms?, *stats)),
                Step::Norm { .. }
                | Step::Linear { .. }
                | Step::Gate(_)
                | Step::Add { .. }
                | Step::Again(_) => None,
            });
            let of_heads = of_heads.flat_map(|(norms, stats)| norms.into_iter().zip(stats..));
            let others = steps.iter().filter_map(|step| match step {
                Step::Norm { shape, stats, .. } => Some((*shape, *stats)),
                Step::Linear { .. }
                | Step::Attend { .. }
                | Step::Gate(_)
                | Step::Add { .. }
                | Step::Again(_) => None,
            });
            let saved = of_heads.chain(others).filter_map(|(shape, stats)| {
                let norm = norm(&config.names.in_block(layer, shape.name.hf), &shape)?;
                Some(SavedNorm { stats, norm })
            });
            saved.collect()
        };
        Ok(Saved {
            embedding: table(config.names.embedding, config.vocab_size),
            blocks: (0..config.num_hidden_layers).map(of_block).collect(),
            norm: norm(config.names.norm, &config.final_norm()),
            head: table(config.head_path(), config.outputs()),
            ties: lora.saves_tied(config),
            fresh: false,
            prepared: weights.is_empty(),
            weights: weights
                .into_iter()
                .map(|shape| SavedWeight { less: stored_less(config, &shape.name), shape })
                .collect(),
        })
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.blocks.iter().flatten().map(|saved| &saved.norm).chain(&self.norm)
    }

    /// The values of all, in the order of [`LoraConfig::saved_weights`].
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let of_norms = self.norms().flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias));
        self.embedding
            .iter()
            .filter_map(Weight::trained)
            .chain(of_norms.map(|vector| &vector.values))
            .chain(self.head.iter().filter_map(Weight::trained))
    }

    /// As [`Saved::tensors`], writable.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let Saved { embedding, blocks, norm, head, .. } = self;
        let norms = blocks.iter_mut().flatten().map(|saved| &mut saved.norm).chain(norm);
        let of_norms = norms.flat_map(|norm| std::iter::once(&mut norm.weight).chain(&mut norm.bias));
        embedding
            .iter_mut()
            .filter_map(Weight::trained_mut)
            .chain(of_norms.map(|vector| &mut vector.values))
            .chain(head.iter_mut().filter_map(Weight::trained_mut))
    }

    /// Whether a head that scores texts is among them.
    pub(crate) fn scores(&self) -> bool {
        self.weights.iter().any(|weight| weight.shape.path() == SCORE)
    }

    /// Of each of [`Saved::tensors`], whether weight decay applies: to matrices, and not to norms.
    pub(crate) fn decayed(&self) -> impl Iterator<Item = bool> {
        self.weights.iter().map(|weight| weight.shape.dims.len() > 1)
    }

    /// The copy of the weight `name`, with what files have less.
    pub(crate) fn copy_of(&self, name: &str) -> Option<(&Tensor, f32)> {
        let mut copies = self.weights.iter().zip(self.tensors());
        let (weight, values) = copies.find(|(weight, _)| weight.shape.name == name)?;
        Some((values, weight.less))
    }

    /// The copies by the names of the model's weights, each with what files have less; one that is the head, too, a second time.
    pub(super) fn named(&self) -> impl Iterator<Item = (String, &[usize], &Tensor, f32)> {
        let copies = self.weights.iter().zip(self.tensors());
        let tied = self.ties.then(|| self.weights.iter().zip(&self.embedding).next()).flatten();
        let tied = tied.and_then(|(weight, copy)| {
            Some((format!("{HEAD}.weight"), &weight.shape.dims[..], copy.trained()?, weight.less))
        });
        let own = copies
            .map(|(weight, values)| (weight.shape.name.clone(), &weight.shape.dims[..], values, weight.less));
        own.chain(tied)
    }

    /// Brings the weights of norms of which files have one less to values that files can have, so that what is saved and read
    /// is what was trained.
    pub(crate) fn round(&mut self) {
        let norms = self.blocks.iter_mut().flatten().map(|saved| &mut saved.norm).chain(&mut self.norm);
        for norm in norms.filter(|norm| norm.kind == NormKind::RmsPlusOne) {
            let values = norm.weight.to_vec(norm.weight.len());
            let rounded: Vec<f32> = values.iter().map(|value| (value - 1.0) + 1.0).collect();
            norm.weight.values.write(0, &rounded);
        }
    }
}
