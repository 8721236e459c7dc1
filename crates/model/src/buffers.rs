//! Every activation buffer of a run, made once at the size of the largest batch.
//!
//! Blocks that are kept have a set of what backward reads each ([`SavedBlock`]); the others share one: those below
//! the lowest adapted layer, of which nothing is needed again, and those that backward runs once more
//! ([`Recompute`]).
//!
//! The same function lays out the buffers of a run and counts their bytes for the plan ([`BufferBytes`]).

use lorafit_kernels::ops::attention::{Heads, backward_workspace};
use lorafit_kernels::ops::rope::Angles;
use lorafit_kernels::{Device, Tensor};

use crate::adapter::{Adapter, LoraConfig, LoraGroup, Site, TargetError};
use crate::config::Config;

/// What the forward pass of a block leaves for its backward pass. `t` is the number of tokens.
#[derive(Debug)]
pub(crate) struct SavedBlock<T = Tensor> {
    /// Input of the block, `[t, hidden]`.
    pub x: T,
    /// Of the first norm, `[t]`.
    pub rstd_in: T,
    /// Queries before norm and rotation, `[t, heads, d]`.
    pub q: T,
    /// Keys before norm and rotation, `[t, kv_heads, d]`.
    pub k: T,
    /// Values, `[t, kv_heads, d]`.
    pub v: T,
    /// Of the query norm, `[t, heads]`; empty without one.
    pub q_rstd: T,
    /// Of the key norm, `[t, kv_heads]`; empty without one.
    pub k_rstd: T,
    /// Output of the attention, `[t, heads, d]`.
    pub attended: T,
    /// Log of the softmax denominators, `[t, heads]`.
    pub lse: T,
    /// The residual stream between attention and feed-forward, `[t, hidden]`.
    pub mid: T,
    /// Of the second norm, `[t]`.
    pub rstd_mid: T,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub gate: T,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub up: T,
    /// Low-rank inputs of the four sites, `[t, total rank of the site]`.
    pub u: [T; 4],
}

impl<T> SavedBlock<T> {
    fn lay_out(
        config: &Config,
        t: usize,
        ranks: [usize; 4],
        owns_x: bool,
        make: &mut impl FnMut(usize) -> T,
    ) -> Self {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let norms = usize::from(config.qk_norm);
        let mut tensor = |width: usize| make(t * width);
        SavedBlock {
            x: tensor(if owns_x { config.hidden_size } else { 0 }),
            rstd_in: tensor(1),
            q: tensor(heads * config.head_dim),
            k: tensor(kv_heads * config.head_dim),
            v: tensor(kv_heads * config.head_dim),
            q_rstd: tensor(heads * norms),
            k_rstd: tensor(kv_heads * norms),
            attended: tensor(heads * config.head_dim),
            lse: tensor(heads),
            mid: tensor(config.hidden_size),
            rstd_mid: tensor(1),
            gate: tensor(config.intermediate_size),
            up: tensor(config.intermediate_size),
            u: ranks.map(tensor),
        }
    }
}

/// What every block uses in turn, forward and backward.
#[derive(Debug)]
pub(crate) struct Scratch<T = Tensor> {
    /// Normalised input of a group of projections, `[t, hidden]`; between two of them, backward has the gradient of
    /// the attention's output here, `[t, heads, d]`.
    pub normed: T,
    /// Queries after norm and rotation.
    pub q: T,
    /// Keys after norm and rotation.
    pub k: T,
    /// `silu(gate) * up`, `[t, intermediate]`.
    pub act: T,
    /// See [`crate::layers::linear::Work`].
    pub d_u: T,
    /// See [`crate::layers::linear::Work`].
    pub dropped: T,
    /// Cosines and sines of the batch's positions.
    pub angles: Angles<T>,
}

/// What only backward uses.
#[derive(Debug)]
pub(crate) struct BackwardScratch<T = Tensor> {
    /// Gradient of the residual stream, `[t, hidden]`.
    pub d_hidden: T,
    pub d_q: T,
    pub d_k: T,
    pub d_v: T,
    pub d_act: T,
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
    /// `[rows]`.
    pub rstd: T,
    /// `[rows, vocab]`; the gradient takes its place.
    pub logits: T,
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

/// What decides the size of the buffers.
#[derive(Clone, Debug)]
pub struct BufferShape {
    /// Tokens of the largest batch.
    pub tokens: usize,
    /// Rows of the largest batch that predict something: logits are computed of no others.
    pub targets: usize,
    /// Total rank of the adapter at each site of each layer.
    pub(crate) ranks: Vec<[usize; 4]>,
    /// Whether the adapter's input is dropped at random.
    pub(crate) drops: bool,
    /// Backward too, or forward only.
    pub train: bool,
    /// What backward computes again.
    pub recompute: Recompute,
}

impl BufferShape {
    /// For training an adapter of `lora` on batches of up to `tokens` tokens, `targets` of which predict something.
    ///
    /// # Errors
    /// A selection of layers or modules that the model does not have.
    pub fn for_training(
        config: &Config,
        lora: &LoraConfig,
        tokens: usize,
        targets: usize,
        recompute: Recompute,
    ) -> Result<Self, TargetError> {
        let mut ranks = vec![[0; 4]; config.num_hidden_layers];
        for part in lora.parts(config)? {
            let site = Site::ALL.into_iter().find(|s| s.modules().contains(&part.module));
            ranks[part.layer][site.expect("every module has a site") as usize] += part.rank;
        }
        Ok(BufferShape { tokens, targets, ranks, drops: lora.dropout > 0.0, train: true, recompute })
    }

    /// For training every weight: as for an adapter on all modules, without the adapter.
    pub fn for_full(config: &Config, tokens: usize, targets: usize, recompute: Recompute) -> Self {
        // A rank of one reaches the lowest block and adds a few values a token.
        let ranks = vec![[1; 4]; config.num_hidden_layers];
        BufferShape { tokens, targets, ranks, drops: false, train: true, recompute }
    }

    fn of(config: &Config, adapter: Option<&Adapter>, tokens: usize) -> Self {
        let ranks_of = |sites: &[Option<LoraGroup>; 4]| {
            std::array::from_fn(|i| sites[i].as_ref().map_or(0, |group| group.rank))
        };
        let ranks = match adapter {
            Some(adapter) => adapter.layers.iter().map(ranks_of).collect(),
            None => vec![[0; 4]; config.num_hidden_layers],
        };
        let recompute = Recompute::None;
        BufferShape { tokens, targets: tokens, ranks, drops: false, train: false, recompute }
    }

    /// The lowest block that backward reaches, and the lowest whose activations are all kept.
    fn first_trained_and_kept(&self) -> (usize, usize) {
        let layers = self.ranks.len();
        if !self.train {
            return (layers, layers);
        }
        let lowest = self.ranks.iter().position(|r| *r != [0; 4]).unwrap_or(layers);
        let kept = match self.recompute {
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
    /// The sizes of [`Buffers::new`] of the same shape: both come from one function.
    pub fn of(config: &Config, shape: &BufferShape) -> Self {
        let mut bytes = BufferBytes::default();
        Buffers::lay_out(config, shape, &mut |part, len| {
            let values = 4 * len as u64;
            match part {
                Part::Activations => bytes.activations += values,
                Part::Scratch => bytes.scratch += values,
                Part::Head => bytes.head += values,
            }
        });
        bytes
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.activations + self.scratch + self.head
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Activations,
    Scratch,
    Head,
}

/// The activation buffers of a model for batches of up to `tokens` tokens.
#[derive(Debug)]
pub struct Buffers<T = Tensor> {
    pub(crate) tokens: usize,
    /// The residual stream, `[t, hidden]`; in backward, the gradient of a normalised input.
    pub(crate) hidden: T,
    /// Blocks from `first_kept` on: all that backward reads.
    pub(crate) saved: Vec<SavedBlock<T>>,
    pub(crate) first_kept: usize,
    /// Inputs, `[t, hidden]`, of the blocks from `first_trained` to `first_kept`, which backward runs again.
    pub(crate) inputs: Vec<T>,
    pub(crate) first_trained: usize,
    /// For the blocks that are not kept, in turn. Those that are run again bring their place for `x` from `inputs`.
    pub(crate) shared: SavedBlock<T>,
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
    pub fn new(config: &Config, shape: &BufferShape, device: Device) -> Self {
        Buffers::lay_out(config, shape, &mut |_, len| Tensor::zeros(device, len))
    }

    /// Buffers for forward only.
    pub fn for_evaluation(config: &Config, adapter: Option<&Adapter>, device: Device, tokens: usize) -> Self {
        Buffers::new(config, &BufferShape::of(config, adapter, tokens), device)
    }

    /// Buffers for training `adapter` on batches of up to `tokens` tokens, `targets` of which predict something.
    pub fn for_training(
        config: &Config,
        adapter: &Adapter,
        device: Device,
        tokens: usize,
        targets: usize,
        recompute: Recompute,
    ) -> Self {
        let drops = adapter.config().dropout > 0.0;
        let shape = BufferShape {
            train: true,
            targets,
            drops,
            recompute,
            ..BufferShape::of(config, Some(adapter), tokens)
        };
        Buffers::new(config, &shape, device)
    }

    /// The largest batch that fits.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl<T> Buffers<T> {
    /// Every buffer of a run: the one place that knows their sizes. `make` gives a buffer of so many values.
    fn lay_out(config: &Config, shape: &BufferShape, make: &mut impl FnMut(Part, usize) -> T) -> Self {
        let tokens = shape.tokens;
        let (first_trained, first_kept) = shape.first_trained_and_kept();
        let most = shape.ranks.iter().fold([0; 4], |a, b| std::array::from_fn(|i| a[i].max(b[i])));
        let widest = most.into_iter().max().unwrap_or(0);
        // A run in which every block is kept has no use for the shared set.
        let shared_tokens = if first_kept == 0 { 0 } else { tokens };

        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let heads = config.heads();
        let mut kept = |len| make(Part::Activations, len);
        let saved = shape.ranks.iter().skip(first_kept);
        let saved = saved.map(|ranks| SavedBlock::lay_out(config, tokens, *ranks, true, &mut kept)).collect();
        let inputs = (first_trained..first_kept).map(|_| kept(tokens * hidden)).collect();
        let mut tensor = |width: usize| make(Part::Scratch, tokens * width);
        let scratch = Scratch {
            normed: tensor(hidden.max(queries)),
            q: tensor(queries),
            k: tensor(keys),
            act: tensor(inner),
            d_u: tensor(widest),
            dropped: tensor(if shape.drops { hidden.max(queries).max(inner) } else { 0 }),
            angles: Angles::laid_out(tokens, config.head_dim / 2, |len| make(Part::Scratch, len)),
        };
        let mut scratch_values = |len: usize| make(Part::Scratch, len);
        let backward = shape.train.then(|| BackwardScratch {
            d_hidden: scratch_values(tokens * hidden),
            d_q: scratch_values(tokens * queries),
            d_k: scratch_values(tokens * keys),
            d_v: scratch_values(tokens * keys),
            d_act: scratch_values(tokens * inner),
            workspace: scratch_values(backward_workspace(tokens, heads)),
        });
        Buffers {
            tokens,
            hidden: make(Part::Scratch, tokens * hidden),
            saved,
            first_kept,
            inputs,
            first_trained,
            shared: SavedBlock::lay_out(config, shared_tokens, most, first_trained > 0, &mut |len| {
                make(Part::Scratch, len)
            }),
            scratch,
            backward,
            head: HeadBuffers::lay_out(config, shape, &mut |len| make(Part::Head, len)),
        }
    }
}

impl<T> HeadBuffers<T> {
    fn lay_out(config: &Config, shape: &BufferShape, make: &mut impl FnMut(usize) -> T) -> Self {
        let logits = match shape.recompute {
            Recompute::None => CHUNK_LOGITS,
            Recompute::Full | Recompute::Blocks(_) => SMALL_CHUNK_LOGITS,
        };
        let rows = (logits / config.vocab_size).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end());
        let rows = rows.min(shape.targets.max(1));
        let mut tensor = |width: usize| make(rows * width);
        let backward = if shape.train { config.hidden_size } else { 0 };
        HeadBuffers {
            rows,
            hidden: tensor(config.hidden_size),
            normed: tensor(config.hidden_size),
            rstd: tensor(1),
            logits: tensor(config.vocab_size),
            d_normed: tensor(backward),
            d_hidden: tensor(backward),
        }
    }
}

impl Config {
    /// Heads of the attention.
    pub(crate) fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }
}
