//! The factors of an adapter, laid out for the products of [`crate::block::linear`].
//!
//! The `A` factors of projections that share an input are stacked in one `[total rank, in]` matrix; `B` is
//! kept transposed, `[rank, out]`. Files have them apart and upright (see [`super::peft`]).

use std::collections::BTreeSet;

use lorafit_kernels::gpu::Float;
use lorafit_kernels::{Device, Half, Placement, Tensor, Weight, random};
use regex::Regex;

use super::held::FactorDtype;
use super::saved::Saved;
use super::targets::{TargetError, Targets};
use super::token_rows::{TokenAdapter, TokenIndices, TokenRows};
use crate::shape::{Config, HEAD, Module, module_shape};

/// What an adapter is made of: the part of PEFT's `LoraConfig` that is supported.
#[derive(Clone, Debug)]
pub struct LoraConfig {
    /// Rank of the update, `r`.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Scale by `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Dropout on the adapter's input while training.
    pub dropout: f32,
    /// Which projections.
    pub targets: Targets,
    /// Which of them not; as PEFT's `exclude_modules`.
    pub exclude: Option<Targets>,
    /// The projections themselves, where the tensors of a file say them and a pattern of its configuration cannot be
    /// matched: they stand for `targets` and `exclude`.
    pub sites: Option<BTreeSet<(usize, Module)>>,
    /// In which layers; all when absent.
    pub layers: Option<Vec<usize>>,
    /// Other ranks for projections whose path ends with a match of the pattern.
    pub rank_pattern: Vec<(Regex, usize)>,
    /// Other alphas, likewise.
    pub alpha_pattern: Vec<(Regex, f64)>,
    /// DoRA (Liu et al. 2024): a magnitude is trained for each output, and what remains of the rows of `W + BA` is direction.
    pub use_dora: bool,
    /// Modules that are trained whole beside the factors, as PEFT's `modules_to_save`: a path that ends with one of these names.
    pub save_modules: Vec<String>,
    /// Tokens whose rows of embedding and head are trained by themselves, as PEFT's `trainable_token_indices`.
    pub tokens: TokenIndices,
    /// Whether one copy is embedding and head, where the model has them as one; as PEFT's option of this name.
    pub ensure_weight_tying: bool,
}

impl LoraConfig {
    /// Rank 8, alpha 16 on the attention projections, without dropout.
    pub fn new(targets: Targets) -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            use_rslora: false,
            dropout: 0.0,
            targets,
            exclude: None,
            sites: None,
            layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_dora: false,
            save_modules: Vec::new(),
            tokens: TokenIndices::default(),
            ensure_weight_tying: false,
        }
    }

    /// Parameters of such an adapter for a model: `rank * (in + out)` for every adapted projection, with DoRA `out` more, all of
    /// the weights that are saved whole, and rows of tokens.
    ///
    /// # Errors
    /// As [`Adapter::init`].
    pub fn parameters(&self, config: &Config) -> Result<u64, TargetError> {
        Ok(self.tensor_lens(config)?.into_iter().map(|len| len as u64).sum())
    }

    /// Parameters of each of an adapter's tensors, in the order of [`Adapter::tensors`].
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn tensor_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        let mut lens = self.factor_lens(config)?;
        lens.extend(self.table_lens(config)?);
        Ok(lens)
    }

    /// Of [`LoraConfig::tensor_lens`] those that are tables of rows or norms, each with memory of its own: `A` of the embedding, rows of
    /// tokens, and the weights that are saved whole.
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn table_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        let of_embedding = self.embedding(config).map(|shape| shape.rank * config.vocab_size);
        let sides = self.token_sides(config)?;
        let of_tokens = [sides.embedding.len(), sides.head.len()].into_iter().filter(|tokens| *tokens > 0);
        let of_tokens = of_tokens.map(|tokens| tokens * config.hidden_size);
        Ok(of_embedding.into_iter().chain(of_tokens).chain(self.saved_lens(config)?).collect())
    }

    /// Bytes of them, and of their gradients.
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn table_bytes(&self, config: &Config, placement: Placement) -> Result<u64, TargetError> {
        Ok(self.table_lens(config)?.into_iter().map(|len| placement.buffer_bytes(4 * len as u64)).sum())
    }

    /// As [`LoraConfig::tensor_lens`], without [`LoraConfig::table_lens`].
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn factor_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        let mut lens = Vec::new();
        // The projections of a site read the same input, so their `A` are one tensor.
        for group in
            self.parts(config)?.chunk_by(|a, b| (a.layer, a.module.site()) == (b.layer, b.module.site()))
        {
            lens.push(group.iter().map(|part| part.rank * module_shape(config, part.module).1).sum());
            lens.extend(group.iter().map(|part| part.rank * module_shape(config, part.module).0));
            lens.extend(
                group.iter().filter(|_| self.use_dora).map(|part| module_shape(config, part.module).0),
            );
        }
        if let Some(OutsideShape { rank, .. }) = self.head() {
            lens.extend([rank * config.hidden_size, rank * config.vocab_size]);
        }
        lens.extend(self.embedding(config).map(|shape| shape.rank * config.hidden_size));
        Ok(lens)
    }

    /// Bytes of what an adapter with magnitudes keeps beside its tensors: the squares of the rows of the frozen weights, what
    /// outputs are multiplied by, and where both are computed.
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn norm_bytes(&self, config: &Config, placement: Placement) -> Result<u64, TargetError> {
        if !self.use_dora {
            return Ok(0);
        }
        let parts = self.parts(config)?;
        let (gram, products) = Norms::lens(config, &parts);
        let in_f32 = |len: usize| placement.buffer_bytes(Float::F32.bytes(len as u64));
        let of_part = |part: &PartShape| 2 * in_f32(module_shape(config, part.module).0);
        let products = placement.buffer_bytes(placement.activation_float().bytes(products as u64));
        Ok(parts.iter().map(of_part).sum::<u64>() + in_f32(gram) + products)
    }

    fn selects(&self, layer: usize, module: Module) -> bool {
        match &self.sites {
            Some(sites) => sites.contains(&(layer, module)),
            None => {
                let excluded = self.exclude.as_ref().is_some_and(|exclude| exclude.contains(layer, module));
                self.targets.contains(layer, module) && !excluded
            }
        }
    }

    /// What the update of the projection at `path` is multiplied by, `alpha / rank` or `alpha / sqrt(rank)`.
    pub(crate) fn scale(&self, path: &str, rank: usize) -> f64 {
        let alpha = override_for(&self.alpha_pattern, path).unwrap_or(self.alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        alpha / divisor
    }

    /// The pattern of a configuration that cannot be matched here, if there is one.
    pub(crate) fn unmatched(&self) -> Option<&str> {
        self.targets.unmatched().or_else(|| self.exclude.as_ref()?.unmatched())
    }

    /// The projections of a model that get an adapter, in forward order.
    ///
    /// # Errors
    /// A layer the model does not have, or no projection at all.
    pub(crate) fn parts(&self, config: &Config) -> Result<Vec<PartShape>, TargetError> {
        let layers = config.num_hidden_layers;
        if let Some(outside) = self.layers.iter().flatten().find(|&&l| l >= layers) {
            return Err(TargetError::no_such_layer(*outside, layers));
        }
        let selected = |layer: usize| self.layers.as_ref().is_none_or(|l| l.contains(&layer));
        let modules = config.modules();
        let parts: Vec<PartShape> = (0..layers)
            .filter(|&layer| selected(layer))
            .flat_map(|layer| modules.iter().map(move |module| (layer, *module)))
            .filter(|&(layer, module)| self.selects(layer, module))
            .map(|(layer, module)| {
                let path = module.path(layer);
                let rank = override_for(&self.rank_pattern, &path).unwrap_or(self.rank);
                PartShape { layer, module, rank, scale: self.scale(&path, rank) as f32 }
            })
            .collect();
        self.token_sides(config)?;
        if parts.is_empty() && !self.adapts_outside(config) {
            return Err(TargetError::nothing_selected());
        }
        for path in [HEAD, config.names.embedding] {
            if self.outside(path).is_some() {
                self.check_outside(config, path)?;
            }
        }
        Ok(parts)
    }

    /// Rank and scale of the factors of the embedding or head at `path`, if it gets some. They belong to no layer, so that a choice
    /// of layers leaves them out, as in PEFT.
    fn outside(&self, path: &str) -> Option<OutsideShape> {
        let excluded = self.exclude.as_ref().is_some_and(|exclude| exclude.contain_outside(path));
        let selected = self.targets.contain_outside(path) && !excluded && self.layers.is_none();
        let rank = override_for(&self.rank_pattern, path).unwrap_or(self.rank);
        selected.then(|| OutsideShape { rank, scale: self.scale(path, rank) as f32 })
    }

    /// Those of the head.
    pub(crate) fn head(&self) -> Option<OutsideShape> {
        self.outside(HEAD)
    }

    /// Those of the embedding.
    pub(crate) fn embedding(&self, config: &Config) -> Option<OutsideShape> {
        self.outside(config.names.embedding)
    }

    /// Whether the embedding or the head gets factors.
    pub fn adapts_outside(&self, config: &Config) -> bool {
        self.head().is_some() || self.embedding(config).is_some()
    }

    /// Rank of the factors of the embedding, if it gets some.
    pub fn embedding_rank(&self, config: &Config) -> Option<usize> {
        self.embedding(config).map(|shape| shape.rank)
    }

    /// Whether the head gets factors.
    pub fn adapts_head(&self) -> bool {
        self.head().is_some()
    }

    /// Refuses what factors of the embedding or head at `path` do not go together with.
    fn check_outside(&self, config: &Config, path: &str) -> Result<(), TargetError> {
        let problem = if path == HEAD && config.labels.is_some() {
            "is not there, since the model scores texts by a head of its own"
        } else if self.use_dora {
            "has no magnitudes (DoRA) here"
        } else if self.saves_tied(config) {
            "is to stay one with the other side (`ensure_weight_tying`)"
        } else if self.saved_weights(config)?.iter().any(|weight| weight.path() == path) {
            "is trained whole already (`modules_to_save`)"
        } else {
            return Ok(());
        };
        let name = path.rsplit('.').next().unwrap_or(path);
        let hint = format!("take {name} from the target modules, or leave out what it does not go with");
        Err(TargetError::new(format!("no factors for {name}: it {problem}"), hint))
    }
}

pub(super) fn override_for<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(path)).map(|(_, value)| *value)
}

/// The adapter of one projection inside a group.
#[derive(Debug)]
pub(crate) struct LoraPart {
    /// Index of the projection in its group.
    pub projection: usize,
    /// First row of the stacked `A` and first column of `U`.
    pub first: usize,
    pub rank: usize,
    pub scale: f32,
    /// `B` transposed, `[rank, out]`.
    pub b_t: Tensor,
    /// With DoRA.
    pub magnitude: Option<Magnitude>,
}

/// The magnitudes of a projection's outputs.
#[derive(Debug)]
pub(crate) struct Magnitude {
    /// `m`, `[out]`.
    pub values: Tensor,
    /// `|W_j|^2`, `[out]`: of the rows of the frozen weight.
    pub squares: Tensor,
    /// `m / n`, `[out]`, where `n` are the norms of the rows of `W + scale B A`: what outputs are multiplied by.
    pub factors: Tensor,
}

/// How far the factors of an adapter's magnitudes are ([`crate::Model::prepare`]), and where norms are computed.
#[derive(Debug)]
pub(crate) struct Norms {
    pub state: NormState,
    /// `scale / 2 A A^T` of a projection, `[rank, rank]`.
    pub gram: Tensor,
    /// `T` of a projection ([`lorafit_kernels::ops::magnitude`]), `[rank, out]`.
    pub products: Tensor,
}

/// What of an adapter's magnitudes is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormState {
    /// Nothing: they are to be the norms of the weights, so that training starts from the base model.
    Fresh,
    /// The magnitudes, but nothing of the weights.
    Loaded,
    /// All but the factors, since something was changed.
    Stale,
    /// All.
    Current,
}

impl Norms {
    fn new(config: &Config, parts: &[PartShape], device: Device) -> Self {
        let (gram, products) = Norms::lens(config, parts);
        let (gram, products) = (Tensor::zeros(device, gram), Tensor::activation(device, products));
        Norms { state: NormState::Loaded, gram, products }
    }

    /// Values of `gram` and `products`, of the projections that have the most.
    fn lens(config: &Config, parts: &[PartShape]) -> (usize, usize) {
        let most = |len: &dyn Fn(&PartShape) -> usize| parts.iter().map(len).max().unwrap_or(0);
        let products = |part: &PartShape| part.rank * module_shape(config, part.module).0;
        (most(&|part| part.rank * part.rank), most(&products))
    }
}

/// The adapters of the projections that read one input.
#[derive(Debug)]
pub(crate) struct LoraGroup {
    /// Stacked `A`, `[rank, in]`.
    pub a: Tensor,
    /// Sum of the parts' ranks.
    pub rank: usize,
    pub parts: Vec<LoraPart>,
}

impl LoraGroup {
    /// What all parts are scaled by, if it is the same.
    pub(crate) fn scale_of_all(&self) -> Option<f32> {
        let first = self.parts.first()?.scale;
        self.parts.iter().all(|part| part.scale == first).then_some(first)
    }

    pub(crate) fn part_of(&self, projection: usize) -> Option<&LoraPart> {
        self.parts.iter().find(|p| p.projection == projection)
    }

    /// The magnitudes of its projections that have some.
    pub(crate) fn magnitudes(&self) -> impl Iterator<Item = &Magnitude> {
        self.parts.iter().filter_map(|part| part.magnitude.as_ref())
    }

    /// All that is trained, in the order of [`Adapter::tensors`].
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let factors = std::iter::once(&self.a).chain(self.parts.iter().map(|part| &part.b_t));
        factors.chain(self.magnitudes().map(|magnitude| &magnitude.values))
    }

    pub(super) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let of_parts = self.parts.iter_mut().map(|part| (&mut part.b_t, part.magnitude.as_mut()));
        let (b_t, magnitudes): (Vec<_>, Vec<_>) = of_parts.unzip();
        let magnitudes = magnitudes.into_iter().flatten().map(|magnitude| &mut magnitude.values);
        std::iter::once(&mut self.a).chain(b_t).chain(magnitudes)
    }
}

/// The gradient of a [`LoraGroup`], laid out alike.
#[derive(Debug)]
pub(crate) struct GroupGradients {
    pub a: Tensor,
    pub b_t: Vec<Tensor>,
    /// Of each part, or of none.
    pub magnitudes: Vec<Tensor>,
}

impl GroupGradients {
    /// For the factors of `group`, of zeros that come in the order of [`Adapter::tensors`].
    pub(crate) fn of(group: &LoraGroup, zeros: &mut impl Iterator<Item = Tensor>) -> Self {
        let mut like = |tensor: &Tensor| {
            let zeros = zeros.next().expect("zeros for every factor");
            assert_eq!(zeros.len(), tensor.len(), "a gradient is as long as its factor");
            zeros
        };
        GroupGradients {
            a: like(&group.a),
            b_t: group.parts.iter().map(|p| like(&p.b_t)).collect(),
            magnitudes: group.magnitudes().map(|magnitude| like(&magnitude.values)).collect(),
        }
    }

    /// All, in the order of [`Adapter::tensors`].
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.a).chain(&self.b_t).chain(&self.magnitudes)
    }

    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        std::iter::once(&mut self.a).chain(&mut self.b_t).chain(&mut self.magnitudes)
    }
}

/// Shape and scale of one adapted projection, in the order of the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PartShape {
    pub layer: usize,
    pub module: Module,
    pub rank: usize,
    pub scale: f32,
}

/// Rank and scale of the factors of the embedding or the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OutsideShape {
    pub rank: usize,
    pub scale: f32,
}

/// The factors of the embedding: `W + scale (B A)^T`, `A` `[rank, vocab]`, `B` `[hidden, rank]`.
#[derive(Debug)]
pub(crate) struct EmbeddingFactors {
    pub rank: usize,
    pub scale: f32,
    /// `B` transposed, `[rank, hidden]`.
    pub b_t: Tensor,
    /// `A` transposed, `[vocab, rank]`: a row for each token.
    pub a_t: Weight,
}

impl EmbeddingFactors {
    /// Both, in the order of [`Adapter::tensors`].
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.b_t).chain(self.a_t.trained())
    }
}

/// The factors of an adapter for one model.
#[derive(Debug)]
pub struct Adapter {
    /// Of each layer, those of each group of projections.
    pub(crate) layers: Vec<Vec<Option<LoraGroup>>>,
    /// Those of the head: a group of one.
    pub(crate) head: Option<LoraGroup>,
    pub(crate) embedding: Option<EmbeddingFactors>,
    /// What the model calls its embedding.
    pub(super) embedding_path: &'static str,
    /// The projections of a block.
    modules: Vec<Module>,
    pub(crate) config: LoraConfig,
    pub(crate) notes: Vec<String>,
    /// The type of 16 bits that its file has all factors of blocks in.
    pub(super) stored: Option<Half>,
    /// How its factors were asked to be held.
    pub(super) held: FactorDtype,
    /// With DoRA: what its magnitudes are divided by.
    pub(crate) norms: Option<Norms>,
    /// Whether the second half of each projection's directions is what the first half began with, and stays.
    pub(crate) keeps_start: bool,
    /// Whole weights.
    pub(crate) saved: Saved,
    /// Rows of tokens.
    pub(crate) tokens: TokenAdapter,
}

impl Adapter {
    /// A fresh adapter as PEFT initialises it: `A` Kaiming-uniform with a = sqrt(5), that is uniform in
    /// `+-1/sqrt(in)`, and `B` zero, so that training starts from the base model.
    ///
    /// # Errors
    /// A selection of layers or modules that the model does not have.
    pub fn init(config: &Config, lora: &LoraConfig, seed: u64, device: Device) -> Result<Self, TargetError> {
        let parts = lora.parts(config)?;
        let mut adapter = Adapter::zeros(config, lora, &parts, device);
        adapter.saved = Saved { fresh: true, ..Saved::zeros(config, lora, device)? };
        adapter.tokens = TokenAdapter::fresh(config, lora, device)?;
        for part in &parts {
            let (_, inputs) = module_shape(config, part.module);
            let bound = 1.0 / (inputs as f32).sqrt();
            let stream = random::mix(seed) ^ random::mix((part.layer * 16 + part.module.index()) as u64);
            let values: Vec<f32> = (0..part.rank * inputs)
                .map(|i| (2.0 * random::uniform(stream, i as u64) - 1.0) * bound)
                .collect();
            adapter.write_a(part, inputs, &values);
        }
        if let Some(head) = &mut adapter.head {
            let bound = 1.0 / (config.hidden_size as f32).sqrt();
            let stream = random::mix(seed) ^ random::mix(u64::MAX);
            let values: Vec<f32> =
                (0..head.a.len()).map(|i| (2.0 * random::uniform(stream, i as u64) - 1.0) * bound).collect();
            head.a.write(0, &values);
        }
        // Of an embedding PEFT has `A` zero and `B` normally distributed.
        if let Some(EmbeddingFactors { b_t, .. }) = &mut adapter.embedding {
            let stream = random::mix(seed) ^ random::mix(u64::MAX - 1);
            let values: Vec<f32> = (0..b_t.len()).map(|i| random::normal(stream, i as u64)).collect();
            b_t.write(0, &values);
        }
        if let Some(norms) = &mut adapter.norms {
            norms.state = NormState::Fresh;
        }
        Ok(adapter)
    }

    /// An adapter of the given projections (in forward order) with all factors zero, and neither weights saved whole nor rows of
    /// tokens.
    pub(crate) fn zeros(config: &Config, lora: &LoraConfig, shapes: &[PartShape], device: Device) -> Self {
        let modules = config.modules();
        let mut lens = Vec::new();
        // Only lengths at first.
        let mut count = |len| {
            lens.push(len);
            Tensor::zeros(Device::Cpu, 0)
        };
        Adapter::lay_out(config, &modules, shapes, lora.use_dora, &mut count);
        let of_head = |zeros: &mut dyn FnMut(usize) -> Tensor| {
            let OutsideShape { rank, scale } = lora.head()?;
            let (a, b_t) = (zeros(rank * config.hidden_size), zeros(rank * config.vocab_size));
            let part = LoraPart { projection: 0, first: 0, rank, scale, b_t, magnitude: None };
            Some(LoraGroup { a, rank, parts: vec![part] })
        };
        of_head(&mut count);
        let of_embedding = lora.embedding(config);
        of_embedding.map(|shape| count(shape.rank * config.hidden_size));
        let mut tensors = Tensor::zeros_together(device, &lens, true).into_iter();
        let mut next = |_| tensors.next().expect("a tensor for each length");
        let mut layers = Adapter::lay_out(config, &modules, shapes, lora.use_dora, &mut next);
        let head = of_head(&mut next);
        let embedding = of_embedding.map(|OutsideShape { rank, scale }| EmbeddingFactors {
            rank,
            scale,
            b_t: next(rank * config.hidden_size),
            a_t: Weight::trained_zeros(device, config.vocab_size, rank),
        });
        for part in layers.iter_mut().flatten().flatten().flat_map(|group| &mut group.parts) {
            if let Some(Magnitude { values, squares, factors }) = &mut part.magnitude {
                (*squares, *factors) = (values.zeros_like(), values.zeros_like());
            }
        }
        let norms = lora.use_dora.then(|| Norms::new(config, shapes, device));
        let saved = Saved { prepared: true, ..Saved::default() };
        let embedding_path = config.names.embedding;
        Adapter {
            layers,
            head,
            embedding,
            embedding_path,
            modules,
            config: lora.clone(),
            notes: Vec::new(),
            stored: None,
            held: FactorDtype::F32,
            norms,
            keeps_start: false,
            saved,
            tokens: TokenAdapter::default(),
        }
    }

    /// The groups of all layers, of tensors that are asked for in the order of [`Adapter::tensors`].
    fn lay_out(
        config: &Config,
        modules: &[Module],
        shapes: &[PartShape],
        use_dora: bool,
        mut zeros: impl FnMut(usize) -> Tensor,
    ) -> Vec<Vec<Option<LoraGroup>>> {
        let mut group = |layer: usize, of_site: &[Module]| {
            let of_site: Vec<(&Module, &PartShape)> = of_site
                .iter()
                .filter_map(|module| {
                    Some((module, shapes.iter().find(|s| s.layer == layer && s.module == *module)?))
                })
                .collect();
            let rank = of_site.iter().map(|(_, shape)| shape.rank).sum();
            let (_, inputs) = module_shape(config, *of_site.first()?.0);
            let (a, mut first) = (zeros(rank * inputs), 0);
            let part = |(&module, shape): (&Module, &PartShape)| {
                let (outputs, _) = module_shape(config, module);
                let b_t = zeros(shape.rank * outputs);
                first += shape.rank;
                LoraPart {
                    projection: module.projection(),
                    first: first - shape.rank,
                    rank: shape.rank,
                    scale: shape.scale,
                    b_t,
                    magnitude: None,
                }
            };
            let mut parts: Vec<LoraPart> = of_site.iter().copied().map(part).collect();
            for (part, (module, _)) in parts.iter_mut().zip(&of_site).filter(|_| use_dora) {
                // The others are made where the values are known to be.
                let [squares, factors] = [0; 2].map(|len| Tensor::zeros(Device::Cpu, len));
                let values = zeros(module_shape(config, **module).0);
                part.magnitude = Some(Magnitude { values, squares, factors });
            }
            Some(LoraGroup { a, rank, parts })
        };
        let mut of_layer =
            |layer| modules.chunk_by(|a, b| a.site() == b.site()).map(|site| group(layer, site)).collect();
        (0..config.num_hidden_layers).map(&mut of_layer).collect()
    }

    /// An adapter of no projection, which changes nothing.
    pub fn none(config: &Config) -> Self {
        Adapter::zeros(config, &LoraConfig::new(Targets::Names(Vec::new())), &[], Device::Cpu)
    }

    /// The projections of a block of its model, in forward order.
    pub(crate) fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Whether rows of a batch can have it while others have another ([`crate::Engine`]): it is nothing but factors of blocks, and
    /// those of an input have one scale.
    pub(crate) fn is_of_rows(&self) -> bool {
        let plain = |group: &LoraGroup| group.scale_of_all().is_some() && group.magnitudes().next().is_none();
        let tokens = self.tokens.embedding.is_some() || self.tokens.head().is_some();
        let whole = tokens || !self.saved.weights.is_empty();
        !whole && !self.is_outside() && self.layers.iter().flatten().flatten().all(plain)
    }

    /// Whether it has factors of the embedding or the head.
    pub(crate) fn is_outside(&self) -> bool {
        self.head.is_some() || self.embedding.is_some()
    }

    /// What the adapter is made of.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// What of its file was passed over or could not be checked, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every adapted projection with its group, in forward order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, Module, &LoraGroup, &LoraPart)> {
        self.layers.iter().enumerate().flat_map(move |(layer, sites)| {
            self.modules.iter().filter_map(move |&module| {
                let group = sites[module.site()].as_ref()?;
                Some((layer, module, group, group.part_of(module.projection())?))
            })
        })
    }

    fn part_mut(&mut self, layer: usize, module: Module) -> Option<(&mut Tensor, &mut LoraPart)> {
        let group = self.layers.get_mut(layer)?[module.site()].as_mut()?;
        let part = group.parts.iter_mut().find(|part| part.projection == module.projection())?;
        Some((&mut group.a, part))
    }

    /// The factors of an adapted projection.
    pub(crate) fn factors(&self, layer: usize, module: Module) -> Option<(&LoraGroup, &LoraPart)> {
        let group = self.layers.get(layer)?[module.site()].as_ref()?;
        Some((group, group.part_of(module.projection())?))
    }

    /// Sets `B` of a projection, transposed as it is kept, `[rank, out]`.
    pub(crate) fn write_b_t(&mut self, shape: &PartShape, values: &[f32]) {
        let (_, part) = self.part_mut(shape.layer, shape.module).expect("the projection is adapted");
        part.b_t.write(0, values);
    }

    /// Sets `A` of a projection, `[rank, in]`.
    pub(crate) fn write_a(&mut self, shape: &PartShape, inputs: usize, values: &[f32]) {
        let (a, part) = self.part_mut(shape.layer, shape.module).expect("the projection is adapted");
        a.write(part.first * inputs, values);
    }

    /// Sets the magnitudes of a projection, `[out]`.
    pub(crate) fn write_magnitudes(&mut self, shape: &PartShape, values: &[f32]) {
        let (_, part) = self.part_mut(shape.layer, shape.module).expect("the projection is adapted");
        part.magnitude.as_mut().expect("an adapter with magnitudes").values.write(0, values);
    }

    /// Sets `B` of a projection from its upright form, `[out, rank]`.
    pub(crate) fn write_b(&mut self, shape: &PartShape, outputs: usize, values: &[f32]) {
        let (_, part) = self.part_mut(shape.layer, shape.module).expect("the projection is adapted");
        let mut b_t = vec![0.0; values.len()];
        for (out, row) in values.chunks_exact(part.rank).enumerate() {
            for (r, value) in row.iter().enumerate() {
                b_t[r * outputs + out] = *value;
            }
        }
        part.b_t.write(0, &b_t);
    }

    /// The values of every adapted projection, layer by layer: the name of its module, `A` as `[rank, in]` and `B` transposed,
    /// `[rank, out]`.
    pub fn factor_values(&self) -> impl Iterator<Item = (&'static str, [Vec<f32>; 2])> {
        let of_head = self.head.iter().map(|head| (HEAD, head, &head.parts[0]));
        let all = self.parts().map(|(_, module, group, part)| (module.name(), group, part)).chain(of_head);
        all.map(|(name, group, part)| {
            let inputs = group.a.len() / group.rank;
            let mut a = vec![0.0; part.rank * inputs];
            group.a.read(part.first * inputs, &mut a);
            (name, [a, part.b_t.to_vec(part.b_t.len())])
        })
    }

    /// Number of trainable values.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::len).sum()
    }

    /// All that is trained, in the order of [`Gradients::tensors`](crate::Gradients::tensors).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let rows = self.embedding.iter().filter_map(|factors| factors.a_t.trained());
        let of_tokens = self.tokens.sides().map(TokenRows::tensor);
        self.factor_tensors().chain(rows).chain(of_tokens).chain(self.saved.tensors())
    }

    /// Of each of [`Adapter::tensors`], whether LoRA+ leaves its learning rate as it is: an `A`, rows of tokens (as
    /// PEFT's `create_loraplus_optimizer`), or a whole weight.
    pub(crate) fn take_base_rate(&self) -> impl Iterator<Item = bool> {
        let groups = self.layers.iter().flatten().flatten().chain(&self.head);
        let mut inputs = groups.map(|group| &group.a).peekable();
        let of_factors =
            self.factor_tensors().map(move |tensor| inputs.next_if(|a| std::ptr::eq(*a, tensor)).is_some());
        let rows = self.embedding.iter().map(|_| true);
        let of_tokens = self.tokens.sides().map(|_| true);
        of_factors.chain(rows).chain(of_tokens).chain(self.saved.tensors().map(|_| true))
    }

    /// As [`Adapter::tensors`], without those of [`LoraConfig::table_lens`].
    pub(crate) fn factor_tensors(&self) -> impl Iterator<Item = &Tensor> {
        let groups = self.layers.iter().flatten().flatten().chain(&self.head);
        groups.flat_map(LoraGroup::tensors).chain(self.embedding.iter().map(|factors| &factors.b_t))
    }

    /// As [`Adapter::tensors`], writable. [`crate::Model::prepare`] comes after it.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        if let Some(norms) = self.norms.as_mut().filter(|norms| norms.state == NormState::Current) {
            norms.state = NormState::Stale;
        }
        let groups = self.layers.iter_mut().flatten().flatten().chain(&mut self.head);
        let factors = groups.flat_map(LoraGroup::tensors_mut);
        let of_embedding = self
            .embedding
            .iter_mut()
            .flat_map(|factors| std::iter::once(&mut factors.b_t).chain(factors.a_t.trained_mut()));
        let of_tokens = self.tokens.sides_mut().map(TokenRows::tensor_mut);
        factors.chain(of_embedding).chain(of_tokens).chain(self.saved.tensors_mut())
    }

    /// Of each of [`Adapter::tensors`], whether weight decay applies: not to norms that are saved whole.
    pub(crate) fn decayed(&self) -> impl Iterator<Item = bool> {
        let rows = self.embedding.iter().map(|_| true);
        let of_tokens = self.tokens.sides().map(|_| true);
        self.factor_tensors().map(|_| true).chain(rows).chain(of_tokens).chain(self.saved.decayed())
    }

    /// Whether a model can compute with it: an adapter with magnitudes, whole weights or new rows of tokens has to be prepared.
    pub(crate) fn is_prepared(&self) -> bool {
        self.saved.prepared
            && self.tokens.starts.is_none()
            && self.norms.as_ref().is_none_or(|norms| norms.state == NormState::Current)
    }
}
