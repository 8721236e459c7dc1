//! Every activation buffer of a run, made once at the size of the largest batch.
//!
//! Blocks at or above the lowest adapted layer keep what backward reads ([`SavedBlock`]); the blocks below it
//! share one set, since nothing of theirs is needed again.

use lorafit_kernels::ops::attention::{Heads, backward_workspace};
use lorafit_kernels::ops::rope::Angles;
use lorafit_kernels::{Device, Tensor};

use crate::adapter::{Adapter, Site};
use crate::config::Config;

/// What the forward pass of a block leaves for its backward pass. `t` is the number of tokens.
#[derive(Debug)]
pub(crate) struct SavedBlock {
    /// Input of the block, `[t, hidden]`.
    pub x: Tensor,
    /// Of the first norm, `[t]`.
    pub rstd_in: Tensor,
    /// Queries before norm and rotation, `[t, heads, d]`.
    pub q: Tensor,
    /// Keys before norm and rotation, `[t, kv_heads, d]`.
    pub k: Tensor,
    /// Values, `[t, kv_heads, d]`.
    pub v: Tensor,
    /// Of the query norm, `[t, heads]`; empty without one.
    pub q_rstd: Tensor,
    /// Of the key norm, `[t, kv_heads]`; empty without one.
    pub k_rstd: Tensor,
    /// Output of the attention, `[t, heads, d]`.
    pub attended: Tensor,
    /// Log of the softmax denominators, `[t, heads]`.
    pub lse: Tensor,
    /// The residual stream between attention and feed-forward, `[t, hidden]`.
    pub mid: Tensor,
    /// Of the second norm, `[t]`.
    pub rstd_mid: Tensor,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub gate: Tensor,
    /// `[t, intermediate]`; backward overwrites it with its gradient.
    pub up: Tensor,
    /// Low-rank inputs of the four sites, `[t, total rank of the site]`.
    pub u: [Tensor; 4],
}

impl SavedBlock {
    fn new(device: Device, config: &Config, t: usize, ranks: [usize; 4]) -> Self {
        let tensor = |width: usize| Tensor::zeros(device, t * width);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let norms = usize::from(config.qk_norm);
        SavedBlock {
            x: tensor(config.hidden_size),
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
pub(crate) struct Scratch {
    /// Normalised input of a group of projections, `[t, hidden]`.
    pub normed: Tensor,
    /// Queries after norm and rotation.
    pub q: Tensor,
    /// Keys after norm and rotation.
    pub k: Tensor,
    /// `silu(gate) * up`, `[t, intermediate]`.
    pub act: Tensor,
    /// See [`crate::layers::linear::Work`].
    pub d_u: Tensor,
    /// See [`crate::layers::linear::Work`].
    pub dropped: Tensor,
    /// Cosines and sines of the batch's positions.
    pub angles: Angles,
}

/// What only backward uses.
#[derive(Debug)]
pub(crate) struct BackwardScratch {
    /// Gradient of the residual stream, `[t, hidden]`.
    pub d_hidden: Tensor,
    /// Gradient of a normalised input, `[t, hidden]`.
    pub d_normed: Tensor,
    pub d_q: Tensor,
    pub d_k: Tensor,
    pub d_v: Tensor,
    pub d_attended: Tensor,
    pub d_act: Tensor,
    /// Of the attention.
    pub workspace: Tensor,
}

/// Buffers of the final norm, the head and the loss, for a chunk of supervised rows.
#[derive(Debug)]
pub(crate) struct HeadBuffers {
    /// Rows of a chunk.
    pub rows: usize,
    /// `[rows, hidden]`.
    pub hidden: Tensor,
    /// `[rows, hidden]`.
    pub normed: Tensor,
    /// `[rows]`.
    pub rstd: Tensor,
    /// `[rows, vocab]`; the gradient takes its place.
    pub logits: Tensor,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_normed: Tensor,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_hidden: Tensor,
}

/// The activation buffers of a model for batches of up to `tokens` tokens.
#[derive(Debug)]
pub struct Buffers {
    pub(crate) tokens: usize,
    /// The residual stream, `[t, hidden]`.
    pub(crate) hidden: Tensor,
    /// Blocks from [`Buffers::first_saved`] on.
    pub(crate) saved: Vec<SavedBlock>,
    pub(crate) first_saved: usize,
    pub(crate) shared: SavedBlock,
    pub(crate) scratch: Scratch,
    pub(crate) backward: Option<BackwardScratch>,
    pub(crate) head: HeadBuffers,
}

/// Logits a chunk of the loss holds at most (64 MiB), unless one row needs more.
const CHUNK_LOGITS: usize = 16 << 20;

impl Buffers {
    /// Buffers for forward only.
    pub fn for_evaluation(config: &Config, adapter: Option<&Adapter>, device: Device, tokens: usize) -> Self {
        Buffers::new(config, adapter, device, tokens, false)
    }

    /// Buffers for training `adapter`.
    pub fn for_training(config: &Config, adapter: &Adapter, device: Device, tokens: usize) -> Self {
        Buffers::new(config, Some(adapter), device, tokens, true)
    }

    fn new(config: &Config, adapter: Option<&Adapter>, device: Device, tokens: usize, train: bool) -> Self {
        let layers = config.num_hidden_layers;
        let ranks = |layer: usize| {
            let sites = adapter.map(|a| &a.layers[layer]);
            Site::ALL.map(|site| sites.and_then(|s| s[site as usize].as_ref()).map_or(0, |g| g.rank))
        };
        let most = (0..layers).map(ranks).fold([0; 4], |a, b| std::array::from_fn(|i| a[i].max(b[i])));
        let lowest = adapter.and_then(Adapter::lowest).map_or(layers, |(layer, _)| layer);
        let first_saved = if train { lowest } else { layers };
        // A run in which every block is saved has no use for the shared set.
        let shared_tokens = if first_saved == 0 { 0 } else { tokens };
        let drops = train && adapter.is_some_and(|a| a.config().dropout > 0.0);

        let tensor = |width: usize| Tensor::zeros(device, tokens * width);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let heads = config.heads();
        Buffers {
            tokens,
            hidden: tensor(hidden),
            saved: (first_saved..layers).map(|l| SavedBlock::new(device, config, tokens, ranks(l))).collect(),
            first_saved,
            shared: SavedBlock::new(device, config, shared_tokens, most),
            scratch: Scratch {
                normed: tensor(hidden),
                q: tensor(queries),
                k: tensor(keys),
                act: tensor(inner),
                d_u: tensor(adapter.map_or(0, Adapter::max_group_rank)),
                dropped: tensor(if drops { hidden.max(queries).max(inner) } else { 0 }),
                angles: Angles::new(device, tokens, config.head_dim / 2),
            },
            backward: train.then(|| BackwardScratch {
                d_hidden: tensor(hidden),
                d_normed: tensor(hidden),
                d_q: tensor(queries),
                d_k: tensor(keys),
                d_v: tensor(keys),
                d_attended: tensor(queries),
                d_act: tensor(inner),
                workspace: Tensor::zeros(device, backward_workspace(tokens, heads)),
            }),
            head: HeadBuffers::new(config, device, tokens, train),
        }
    }

    /// The largest batch that fits.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl HeadBuffers {
    fn new(config: &Config, device: Device, tokens: usize, train: bool) -> Self {
        let rows = (CHUNK_LOGITS / config.vocab_size).clamp(1, tokens.max(1));
        let tensor = |width: usize| Tensor::zeros(device, rows * width);
        let backward = if train { config.hidden_size } else { 0 };
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
