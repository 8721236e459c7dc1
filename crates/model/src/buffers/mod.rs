//! Every activation buffer of a run, made once at the size of the largest batch.
//!
//! What blocks leave for backward is in `activations.rs`, what decides sizes in `shape.rs`. The same function lays out the
//! buffers of a run and counts their bytes for the plan ([`BufferBytes`], `allocate.rs`).

mod activations;
mod allocate;
mod shape;

use lorafit_kernels::ops::attention::backward_workspace;
use lorafit_kernels::ops::low_rank::{GradientShape, gradient_workspace};
use lorafit_kernels::ops::rope::Angles;
use lorafit_kernels::{Bf16Tensor, Device, Placement, Tensor};

use crate::adapter::Adapter;
use crate::shape::{Config, Rope};
use activations::{Activations, Sizes};
pub(crate) use activations::{SavedBlock, Wide};
pub use allocate::BufferBytes;
use allocate::{Allocate, Counter, Part};
pub use shape::{ActivationDtype, ActivationPolicy, BufferShape, Recompute};

/// What every block uses in turn, forward and backward.
#[derive(Debug)]
pub(crate) struct Scratch<T = Tensor> {
    /// Rows of its buffers, and width of the residual stream.
    pub tokens: usize,
    pub hidden_size: usize,
    /// Normalised input of a group of projections, `[t, hidden]`; between two of them, backward has the gradient of
    /// the attention's output here, `[t, heads, d]`.
    pub normed: T,
    /// What a half gives, where it does not add itself to the stream, `[t, hidden]`; empty elsewhere.
    pub branch: T,
    /// Queries after norm and rotation, where they do not take the places of those before.
    pub q: T,
    /// Keys likewise.
    pub k: T,
    /// `silu(gate) * up`, `[t, intermediate]`; in backward, its gradient takes its place.
    pub act: T,
    /// See [`crate::block::linear::Work`].
    pub d_u: T,
    /// See [`crate::block::linear::Work`].
    pub dropped: T,
    /// See [`crate::block::linear::Work`].
    pub parts: T,
    /// The output of a matrix that joins several, or its gradient; empty without one.
    pub joined: T,
    /// Outputs that the gradient of magnitudes reads and others overwrite: of the gates, or of a matrix that joins several;
    /// empty without magnitudes.
    pub outputs: [T; 2],
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
    /// Gradient of what a half gives, `[t, hidden]`, where that is not the stream's or magnitudes change it; empty elsewhere.
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
    /// `[rows, outputs]`; the gradient takes its place.
    pub logits: T,
    /// The logits after their cap, which their gradient needs; empty without one, and for evaluation.
    pub capped: T,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_normed: T,
    /// `[rows, hidden]`; empty for evaluation.
    pub d_hidden: T,
    /// The low-rank input of an adapter of the head, scaled, `[rows, rank]`.
    pub u: T,
    /// Its gradient; empty for evaluation.
    pub d_u: T,
    /// Logits of tokens whose rows an adapter has, and their gradient, `[rows, tokens]`.
    pub tokens: T,
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

/// Rows of a chunk of the loss, of a head with so many outputs. Sums of gradients are cut at chunks, and products of few rows may
/// add in another order than those of many: only what cannot change a result decides, and not what is computed again.
fn chunk_rows(outputs: usize, placement: Placement) -> usize {
    let (logits, fewest, most) = match placement {
        // 32 MiB. With fewer rows, decoding the head outweighs the arithmetic; with more, nothing is gained.
        Placement::Cpu => (8 << 20, 64, 352),
        // 128 MiB in bf16, more of a large vocabulary: a large product keeps a large device busy.
        Placement::Cuda(_) => (64 << 20, 1024, 2048),
    };
    (logits / outputs).clamp(fewest, most)
}

impl Buffers {
    /// Zeroed buffers; the system gives their memory when they are first written.
    pub fn new(config: &Config, shape: &BufferShape, mut device: Device) -> Self {
        Buffers::lay_out(config, shape, &mut device)
    }

    /// Buffers for forward only.
    pub fn for_evaluation(config: &Config, adapter: Option<&Adapter>, device: Device, tokens: usize) -> Self {
        Buffers::new(config, &BufferShape::of(config, adapter, tokens), device)
    }

    /// As [`Buffers::for_evaluation`], where at most `targets` of the tokens predict something.
    pub fn for_targets(
        config: &Config,
        adapter: Option<&Adapter>,
        device: Device,
        tokens: usize,
        targets: usize,
    ) -> Self {
        Buffers::new(config, &BufferShape { targets, ..BufferShape::of(config, adapter, tokens) }, device)
    }

    /// The largest batch that fits.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl BufferBytes {
    /// The sizes of [`Buffers::new`] of the same shape on a device of `placement`: both come from one function.
    pub fn of(config: &Config, shape: &BufferShape, placement: Placement) -> Self {
        let mut counter = Counter { bytes: BufferBytes::default(), placement };
        Buffers::lay_out(config, shape, &mut counter);
        counter.bytes
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
        let mut widths = block.widths(hidden);
        let gradients_of_magnitudes = shape.magnitudes && shape.train;
        if shape.magnitudes {
            (widths.attention_out, widths.feed_forward_out) = (hidden, hidden);
        }
        let (outputs, d_branch) = match gradients_of_magnitudes {
            true => ([widths.up.max(widths.joined), widths.gate], hidden),
            false => ([0, 0], widths.d_branch),
        };
        let rank_of_site = |site: usize| shape.ranks.iter().map(|ranks| ranks[site]).max().unwrap_or(0);
        let most: Vec<usize> = (0..block.sites).map(rank_of_site).collect();
        let widest = most.iter().copied().max().unwrap_or(0).max(shape.embedding_rank);

        // Elsewhere what attention reads takes the places of the projections.
        let keeps_heads = gradients_of_magnitudes || shape.activations.dtype == ActivationDtype::Bf16;
        let sizes = Sizes { hidden, widths, stats: &block.stats, keeps_heads };
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
        let of_term = |&(width, rank): &(usize, usize)| {
            gradient_workspace(allocate.placement(), GradientShape { rows: tokens, width, rank })
        };
        let parts = if shape.train { shape.terms.iter().map(of_term).max().unwrap_or(0) } else { 0 };
        let parts = allocate.f32(Part::Scratch, parts);
        let mut values = |len: usize| allocate.activation(Part::Scratch, len);
        let positioned = if keeps_heads || block.normalises_heads() { tokens } else { 0 };
        let scratch = Scratch {
            tokens,
            hidden_size: hidden,
            normed: values(tokens * widths.normed),
            branch: values(tokens * widths.d_branch),
            q: values(positioned * widths.queries),
            k: values(positioned * widths.keys),
            act: values(tokens * widths.up),
            joined: values(tokens * widths.joined),
            outputs: outputs.map(|width| values(tokens * width)),
            d_u: values(tokens * widest),
            dropped: values(tokens * if shape.drops { widths.input } else { 0 }),
            parts,
            query_factors,
            angles,
        };
        let backward = workspace.map(|workspace| BackwardScratch {
            d_hidden: values(tokens * hidden),
            d_branch: values(tokens * d_branch),
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
        let rows = chunk_rows(config.outputs(), allocate.placement()).min(shape.targets.max(1));
        let stats = allocate.f32(Part::Head, rows * config.final_norm().stats());
        let mut tensor = |width: usize| allocate.activation(Part::Head, rows * width);
        let backward = if shape.train { config.hidden_size } else { 0 };
        HeadBuffers {
            rows,
            hidden: tensor(config.hidden_size),
            normed: tensor(config.hidden_size),
            stats,
            logits: tensor(config.outputs()),
            capped: tensor(if shape.train && config.logit_softcap.is_some() { config.outputs() } else { 0 }),
            d_normed: tensor(backward),
            d_hidden: tensor(backward),
            u: tensor(shape.head_rank),
            d_u: tensor(if shape.train { shape.head_rank } else { 0 }),
            tokens: tensor(shape.head_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::LoraConfig;
    use crate::selection::Trainable;
    use lorafit_kernels::gpu::Float;

    /// Chunks of other sizes would give other bits.
    #[test]
    fn what_is_computed_again_does_not_change_the_chunks_of_the_loss() {
        let lora = LoraConfig::new("all-linear".parse().expect("targets"));
        for (name, vocab_size) in
            [("smollm2-135m", 49_152), ("tinyllama-1.1b", 32_000), ("gemma-3-1b", 262_144)]
        {
            let config = Config { vocab_size, ..Config::named(name).expect("a shape that is known") };
            for placement in [Placement::Cpu, Placement::Cuda(Float::F32), Placement::Cuda(Float::Bf16)] {
                let of_policy = |recompute| {
                    let activations = ActivationPolicy { recompute, ..ActivationPolicy::default() };
                    let trainable = Trainable::Adapter(&lora);
                    let shape = BufferShape::for_training(&config, trainable, 4096, 4000, activations);
                    BufferBytes::of(&config, &shape.expect("targets"), placement).head
                };
                let head = of_policy(Recompute::None);
                assert_eq!(head, of_policy(Recompute::Full), "{name}, {placement:?}");
                assert_eq!(head, of_policy(Recompute::Blocks(1)), "{name}, {placement:?}");
            }
        }
    }
}
