//! Every activation buffer of a run, made once at the size of the largest batch.
//!
//! What blocks leave for backward is in `activations.rs`. The same function lays out the buffers of a run and counts
//! their bytes for the plan ([`BufferBytes`]).

use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::attention::backward_workspace;
use lorafit_kernels::ops::rope::Angles;
use lorafit_kernels::{Bf16Tensor, Device, Placement, Tensor};

use crate::activations::{Activations, Sizes};
use crate::adapter::{Adapter, LoraConfig, LoraGroup, TargetError};
use crate::gradients::{Gradients, Place};
use crate::model::Model;
use crate::parameters::Trainable;
use crate::shape::{Config, Rope};

/// What every block uses in turn, forward and backward.
#[derive(Debug)]
pub(crate) struct Scratch<T = Tensor> {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Normalised input of a group of projections, `[t, hidden]`; between two of them, backward has the gradient of
    /// the attention's output here, `[t, heads, d]`.
    pub normed: T,
    /// What a half gives, where it does not add itself to the stream, `[t, hidden]`; empty elsewhere.
    pub branch: T,
    /// Queries after norm and rotation.
    pub q: T,
    /// Keys after norm and rotation.
    pub k: T,
    /// `silu(gate) * up`, `[t, intermediate]`; in backward, its gradient takes its place.
    pub act: T,
    /// See [`crate::block::linear::Work`].
    pub d_u: T,
    /// See [`crate::block::linear::Work`].
    pub dropped: T,
    /// The output of a matrix that joins several, or its gradient; empty without one.
    pub joined: T,
    /// What queries of the batch's positions are multiplied by, `[t]` in f32; empty where they do not grow.
    pub query_factors: T,
    /// Cosines and sines of the batch's positions, of each of the model's rotations.
    pub angles: Vec<Angles<T>>,
}

/// What only backward uses.
#[derive(Debug)]
pub(crate) struct BackwardScratch<T = Tensor> {
    /// Gradient of the residual stream, `[t, hidden]`.
    pub d_hidden: T,
    /// Gradient of what a half gives, `[t, hidden]`, where that is not the stream's; empty elsewhere.
    pub d_branch: T,
    pub d_q: T,
    pub d_k: T,
    pub d_v: T,
    /// Of the attention.
    pub workspace: T,
}

/// Buffers of the final norm, the head and the loss, for a chunk of supervised rows.
#[derive(Debug)]
pub(crate) struct HeadBuffers<T = Tensor> {
    /// Rows of a chunk.
    pub rows: usize,
    /// `[rows, hidden]`.
    pub hidden: T,
    /// `[rows, hidden]`.
    pub normed: T,
    /// Statistics of the norm, `[rows]` or `[rows, 2]`.
    pub stats: T,
    /// `[rows, vocab]`; the gradient takes its place.
    pub logits: T,
    /// The logits after their cap, which their gradient needs; empty without one, and for evaluation.
    pub capped: T,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_normed: T,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_hidden: T,
}

/// Which activations are kept from forward to backward. Gradients are the same bits either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// All of them.
    #[default]
    None,
    /// Only the input of every block; backward runs each block again (Chen et al. 2016).
    Full,
    /// Only the input of this many blocks, the lowest that are trained; all of the others.
    Blocks(usize),
}

/// How activations that are kept are stored. On the CPU blocks compute in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationDtype {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to 16 bits, but for the residual stream that blocks begin with and what is narrow: the forward pass is
    /// that of f32, and backward reads what is rounded.
    Bf16,
}

/// What is kept from forward to backward, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivationPolicy {
    /// What backward computes again.
    pub recompute: Recompute,
    /// How the rest is stored.
    pub dtype: ActivationDtype,
}

/// What decides the size of the buffers.
#[derive(Clone, Debug)]
pub struct BufferShape {
    /// Tokens of the largest batch.
    pub tokens: usize,
    /// Rows of the largest batch that predict something: logits are computed of no others.
    pub targets: usize,
    /// Total rank of the adapter at each site of each layer.
    pub(crate) ranks: Vec<Vec<usize>>,
    /// The lowest block that backward reaches; the number of blocks if it reaches none.
    pub(crate) first_trained: usize,
    /// Whether the adapter's input is dropped at random.
    pub(crate) drops: bool,
    /// Backward too, or forward only.
    pub train: bool,
    /// What is kept for backward.
    pub activations: ActivationPolicy,
}

impl BufferShape {
    /// For training on batches of up to `tokens` tokens, `targets` of which predict something.
    ///
    /// # Errors
    /// A selection of layers or modules that the model does not have.
    pub fn for_training(
        config: &Config,
        trainable: Trainable<'_>,
        tokens: usize,
        targets: usize,
        activations: ActivationPolicy,
    ) -> Result<Self, TargetError> {
        let layers = config.num_hidden_layers;
        let (ranks, first_trained, drops) = match trainable {
            Trainable::Adapter(lora) => {
                let ranks = ranks_of(config, lora)?;
                let first =
                    ranks.iter().position(|ranks| ranks.iter().any(|rank| *rank > 0)).unwrap_or(layers);
                (ranks, first, lora.dropout > 0.0)
            }
            Trainable::Weights(selection) => {
                let selected = selection.of(config)?;
                let names = config.names;
                let embedding =
                    selected.iter().any(|w| [names.embedding, names.positions].contains(&w.path()));
                let first = match embedding {
                    true => 0,
                    false => selected.iter().filter_map(|w| w.layer).min().unwrap_or(layers),
                };
                (no_ranks(config), first, false)
            }
        };
        Ok(BufferShape { tokens, targets, ranks, first_trained, drops, train: true, activations })
    }

    /// For computing batches of up to `tokens` tokens forward only, with an adapter of `lora` if there is one.
    ///
    /// # Errors
    /// As [`BufferShape::for_training`].
    pub fn for_evaluation(
        config: &Config,
        lora: Option<&LoraConfig>,
        tokens: usize,
    ) -> Result<Self, TargetError> {
        let ranks = lora.map(|lora| ranks_of(config, lora)).transpose()?;
        let ranks = ranks.unwrap_or_else(|| no_ranks(config));
        Ok(BufferShape::forward_only(ranks, tokens))
    }

    fn forward_only(ranks: Vec<Vec<usize>>, tokens: usize) -> Self {
        let activations = ActivationPolicy::default();
        let first_trained = ranks.len();
        BufferShape { tokens, targets: tokens, ranks, first_trained, drops: false, train: false, activations }
    }

    fn of(config: &Config, adapter: Option<&Adapter>, tokens: usize) -> Self {
        let ranks = match adapter {
            Some(adapter) => {
                let rank = |group: &Option<LoraGroup>| group.as_ref().map_or(0, |group| group.rank);
                adapter.layers.iter().map(|sites| sites.iter().map(rank).collect()).collect()
            }
            None => no_ranks(config),
        };
        BufferShape::forward_only(ranks, tokens)
    }

    /// The lowest block that backward reaches, and the lowest whose activations are all kept.
    pub(crate) fn first_trained_and_kept(&self) -> (usize, usize) {
        let layers = self.ranks.len();
        if !self.train {
            return (layers, layers);
        }
        let lowest = self.first_trained;
        let kept = match self.activations.recompute {
            Recompute::None => lowest,
            Recompute::Full => layers,
            Recompute::Blocks(blocks) => lowest.saturating_add(blocks).min(layers),
        };
        (lowest, kept)
    }

    /// Blocks that backward reaches: the most that can be computed again.
    pub fn trained_blocks(&self) -> usize {
        self.ranks.len() - self.first_trained_and_kept().0
    }
}

/// Total rank of an adapter at each site of each layer.
fn ranks_of(config: &Config, lora: &LoraConfig) -> Result<Vec<Vec<usize>>, TargetError> {
    let mut ranks = no_ranks(config);
    for part in lora.parts(config)? {
        ranks[part.layer][part.module.site()] += part.rank;
    }
    Ok(ranks)
}

fn no_ranks(config: &Config) -> Vec<Vec<usize>> {
    vec![vec![0; config.block(0).sites]; config.num_hidden_layers]
}

/// Bytes of the buffers of a run, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferBytes {
    /// What forward leaves for backward.
    pub activations: u64,
    /// What blocks use in turn, forward and backward.
    pub scratch: u64,
    /// The final norm, the logits of a chunk and their gradients.
    pub head: u64,
}

impl BufferBytes {
    /// The sizes of [`Buffers::new`] of the same shape on a device of `placement`: both come from one function.
    pub fn of(config: &Config, shape: &BufferShape, placement: Placement) -> Self {
        let mut counter = Counter { bytes: BufferBytes::default(), placement };
        Buffers::lay_out(config, shape, &mut counter);
        counter.bytes
    }

    fn of_part(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Activations => &mut self.activations,
            Part::Scratch => &mut self.scratch,
            Part::Head => &mut self.head,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.activations + self.scratch + self.head
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Activations,
    Scratch,
    Head,
}

/// Gives a buffer of so many values, or counts its bytes.
pub(crate) trait Allocate {
    type Values;
    type Bf16;
    /// Where the buffers are.
    fn placement(&self) -> Placement;
    /// Of the type that is computed with.
    fn activation(&mut self, part: Part, len: usize) -> Self::Values;
    /// In f32 everywhere: statistics and angles.
    fn f32(&mut self, part: Part, len: usize) -> Self::Values;
    /// Of what is only kept.
    fn bf16(&mut self, part: Part, len: usize) -> Self::Bf16;
}

/// Zeros; the system gives their memory when they are first written.
impl Allocate for Device {
    type Values = Tensor;
    type Bf16 = Bf16Tensor;

    fn placement(&self) -> Placement {
        Device::placement(*self)
    }

    fn activation(&mut self, _: Part, len: usize) -> Tensor {
        Tensor::activation(*self, len)
    }

    fn f32(&mut self, _: Part, len: usize) -> Tensor {
        Tensor::zeros(*self, len)
    }

    fn bf16(&mut self, _: Part, len: usize) -> Bf16Tensor {
        Bf16Tensor::zeros(*self, len)
    }
}

/// Counts what it gives.
struct Counter {
    bytes: BufferBytes,
    placement: Placement,
}

impl Counter {
    fn add(&mut self, part: Part, float: Float, len: usize) {
        *self.bytes.of_part(part) += self.placement.buffer_bytes(float.bytes(len as u64));
    }
}

impl Allocate for Counter {
    type Values = ();
    type Bf16 = ();

    fn placement(&self) -> Placement {
        self.placement
    }

    fn activation(&mut self, part: Part, len: usize) {
        self.add(part, self.placement.activation_float(), len);
    }

    fn f32(&mut self, part: Part, len: usize) {
        self.add(part, Float::F32, len);
    }

    fn bf16(&mut self, part: Part, len: usize) {
        self.add(part, Float::Bf16, len);
    }
}

/// The buffers of a model for batches of up to `tokens` tokens.
#[derive(Debug)]
pub struct Buffers<T = Tensor, N = Bf16Tensor> {
    pub(crate) tokens: usize,
    /// The residual stream, `[t, hidden]`; in backward, the gradient of a normalised input.
    pub(crate) hidden: T,
    pub(crate) activations: Activations<T, N>,
    pub(crate) scratch: Scratch<T>,
    pub(crate) backward: Option<BackwardScratch<T>>,
    pub(crate) head: HeadBuffers<T>,
}

/// Logits a chunk of the loss holds (64 MiB), within the bounds of [`CHUNK_ROWS`].
const CHUNK_LOGITS: usize = 16 << 20;
/// The same in a run that recomputes, and so trades time for memory (8 MiB).
const SMALL_CHUNK_LOGITS: usize = 2 << 20;
/// Rows of a chunk: with fewer, decoding the head outweighs the arithmetic; with more, nothing is gained.
const CHUNK_ROWS: std::ops::RangeInclusive<usize> = 64..=352;

impl Buffers {
    /// Zeroed buffers; the system gives their memory when they are first written.
    pub fn new(config: &Config, shape: &BufferShape, mut device: Device) -> Self {
        Buffers::lay_out(config, shape, &mut device)
    }

    /// Buffers for forward only.
    pub fn for_evaluation(config: &Config, adapter: Option<&Adapter>, device: Device, tokens: usize) -> Self {
        Buffers::new(config, &BufferShape::of(config, adapter, tokens), device)
    }

    /// Buffers for computing `gradients` of `model` and `adapter` on batches of up to `tokens` tokens, `targets` of which
    /// predict something.
    pub fn for_training(
        model: &Model,
        adapter: Option<&Adapter>,
        gradients: &Gradients,
        tokens: usize,
        targets: usize,
        activations: ActivationPolicy,
    ) -> Self {
        let (config, layers) = (model.config(), model.config().num_hidden_layers);
        let first_trained = match gradients.lowest() {
            Some(Place::Embedding) => 0,
            Some(Place::Block(block, _)) => block,
            Some(Place::Norm | Place::Head) | None => layers,
        };
        let shape = BufferShape {
            train: true,
            targets,
            first_trained,
            drops: adapter.is_some_and(|adapter| adapter.config().dropout > 0.0),
            activations,
            ..BufferShape::of(config, adapter, tokens)
        };
        Buffers::new(config, &shape, model.device())
    }

    /// The largest batch that fits.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl<T, N> Buffers<T, N> {
    /// Every buffer of a run: the one place that knows their sizes.
    fn lay_out(
        config: &Config,
        shape: &BufferShape,
        allocate: &mut impl Allocate<Values = T, Bf16 = N>,
    ) -> Self {
        let tokens = shape.tokens;
        // Every block has the same widths.
        let (hidden, block) = (config.hidden_size, config.block(0));
        let widths = block.widths(hidden);
        let rank_of_site = |site: usize| shape.ranks.iter().map(|ranks| ranks[site]).max().unwrap_or(0);
        let most: Vec<usize> = (0..block.sites).map(rank_of_site).collect();
        let widest = most.iter().copied().max().unwrap_or(0);

        let sizes = Sizes { hidden, widths, stats: &block.stats };
        let activations = Activations::lay_out(&sizes, shape, &most, allocate);
        let mut of_rope = |rope: &Rope| {
            Angles::for_rotation(tokens, rope.rotation(config.head_dim), |len| {
                allocate.f32(Part::Scratch, len)
            })
        };
        let angles = config.ropes().into_iter().map(&mut of_rope).collect();
        let query_factors =
            allocate.f32(Part::Scratch, if config.query_growth.is_some() { tokens } else { 0 });
        let workspace = backward_workspace(allocate.placement(), tokens, config.heads());
        let workspace = shape.train.then(|| allocate.f32(Part::Scratch, workspace));
        let mut values = |len: usize| allocate.activation(Part::Scratch, len);
        let scratch = Scratch {
            hidden_size: hidden,
            normed: values(tokens * widths.normed),
            branch: values(tokens * widths.d_branch),
            q: values(tokens * widths.queries),
            k: values(tokens * widths.keys),
            act: values(tokens * widths.up),
            joined: values(tokens * widths.joined),
            d_u: values(tokens * widest),
            dropped: values(tokens * if shape.drops { widths.input } else { 0 }),
            query_factors,
            angles,
        };
        let backward = workspace.map(|workspace| BackwardScratch {
            d_hidden: values(tokens * hidden),
            d_branch: values(tokens * widths.d_branch),
            d_q: values(tokens * widths.queries),
            d_k: values(tokens * widths.keys),
            d_v: values(tokens * widths.keys),
            workspace,
        });
        Buffers {
            tokens,
            hidden: values(tokens * hidden),
            activations,
            scratch,
            backward,
            head: HeadBuffers::lay_out(config, shape, allocate),
        }
    }
}

impl<T> HeadBuffers<T> {
    fn lay_out(config: &Config, shape: &BufferShape, allocate: &mut impl Allocate<Values = T>) -> Self {
        let logits = match shape.activations.recompute {
            Recompute::None => CHUNK_LOGITS,
            Recompute::Full | Recompute::Blocks(_) => SMALL_CHUNK_LOGITS,
        };
        let rows = (logits / config.vocab_size).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end());
        let rows = rows.min(shape.targets.max(1));
        let stats = allocate.f32(Part::Head, rows * config.final_norm().stats());
        let mut tensor = |width: usize| allocate.activation(Part::Head, rows * width);
        let backward = if shape.train { config.hidden_size } else { 0 };
        HeadBuffers {
            rows,
            hidden: tensor(config.hidden_size),
            normed: tensor(config.hidden_size),
            stats,
            logits: tensor(config.vocab_size),
            capped: tensor(if shape.train && config.logit_softcap.is_some() { config.vocab_size } else { 0 }),
            d_normed: tensor(backward),
            d_hidden: tensor(backward),
        }
    }
}
