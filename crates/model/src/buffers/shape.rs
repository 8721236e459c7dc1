//! What decides the size of the buffers of a run.

use std::collections::BTreeSet;

use crate::adapter::{Adapter, LoraConfig, LoraGroup, TargetError, TokenSides};
use crate::selection::Trainable;
use crate::shape::{Config, WeightShape, module_shape};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferShape {
    /// Tokens of the largest batch.
    pub tokens: usize,
    /// Rows of the largest batch that predict something: logits are computed of no others.
    pub targets: usize,
    /// Total rank of the adapter at each site of each layer.
    pub(crate) ranks: Vec<Vec<usize>>,
    /// Outputs and rank of the adapter's terms, each pair once: of those that are trained.
    pub(crate) terms: Vec<(usize, usize)>,
    /// Rank of the adapter of the embedding, or of the head.
    pub(crate) embedding_rank: usize,
    pub(crate) head_rank: usize,
    /// Tokens whose rows of the head the adapter has.
    pub(crate) head_tokens: usize,
    /// The lowest block that backward reaches; the number of blocks if it reaches none.
    pub(crate) first_trained: usize,
    /// Whether the adapter's input is dropped at random.
    pub(crate) drops: bool,
    /// Whether the adapter has magnitudes.
    pub(crate) magnitudes: bool,
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
        let [embedding_rank, head_rank] = match trainable {
            Trainable::Adapter(lora) => outside_ranks(config, lora),
            Trainable::Weights(_) => [0; 2],
        };
        let sides = match trainable {
            Trainable::Adapter(lora) => lora.token_sides(config)?,
            Trainable::Weights(_) => TokenSides::default(),
        };
        let terms = match trainable {
            Trainable::Adapter(lora) => terms_of(config, lora)?,
            Trainable::Weights(_) => Vec::new(),
        };
        let (ranks, first_trained, drops, magnitudes) = match trainable {
            Trainable::Adapter(lora) => {
                let ranks = ranks_of(config, lora)?;
                let adapted =
                    ranks.iter().position(|ranks| ranks.iter().any(|rank| *rank > 0)).unwrap_or(layers);
                let first = adapted.min(lowest_block(config, &lora.saved_weights(config)?));
                let of_embedding = embedding_rank > 0 || !sides.embedding.is_empty();
                let first = if of_embedding { 0 } else { first };
                (ranks, first, lora.dropout > 0.0, lora.use_dora)
            }
            Trainable::Weights(selection) => {
                (no_ranks(config), lowest_block(config, &selection.of(config)?), false, false)
            }
        };
        Ok(BufferShape {
            tokens,
            targets,
            ranks,
            terms,
            embedding_rank,
            head_rank,
            head_tokens: sides.in_head(),
            first_trained,
            drops,
            magnitudes,
            train: true,
            activations,
        })
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
        let [embedding_rank, head_rank] = lora.map_or([0; 2], |lora| outside_ranks(config, lora));
        let magnitudes = lora.is_some_and(|lora| lora.use_dora);
        let head_tokens = lora.map_or(Ok(0), |lora| Ok(lora.token_sides(config)?.in_head()))?;
        Ok(BufferShape {
            embedding_rank,
            head_rank,
            head_tokens,
            ..BufferShape::forward_only(ranks, magnitudes, tokens)
        })
    }

    fn forward_only(ranks: Vec<Vec<usize>>, magnitudes: bool, tokens: usize) -> Self {
        BufferShape {
            tokens,
            targets: tokens,
            first_trained: ranks.len(),
            ranks,
            terms: Vec::new(),
            embedding_rank: 0,
            head_rank: 0,
            head_tokens: 0,
            drops: false,
            magnitudes,
            train: false,
            activations: ActivationPolicy::default(),
        }
    }

    /// For computing batches of up to `tokens` tokens forward only, with `adapter`.
    pub(crate) fn of(config: &Config, adapter: Option<&Adapter>, tokens: usize) -> Self {
        let ranks = match adapter {
            Some(adapter) => {
                let rank = |group: &Option<LoraGroup>| group.as_ref().map_or(0, |group| group.rank);
                adapter.layers.iter().map(|sites| sites.iter().map(rank).collect()).collect()
            }
            None => no_ranks(config),
        };
        let magnitudes = adapter.is_some_and(|adapter| adapter.config().use_dora);
        let [embedding_rank, head_rank] =
            adapter.map_or([0; 2], |adapter| outside_ranks(config, adapter.config()));
        let head_tokens = adapter.and_then(|adapter| adapter.tokens.head()).map_or(0, |rows| rows.ids.len());
        let parts = adapter.into_iter().flat_map(Adapter::parts);
        let terms = parts.map(|(_, module, _, part)| (module_shape(config, module).0, part.rank));
        let terms = terms.collect::<BTreeSet<_>>().into_iter().collect();
        BufferShape {
            terms,
            embedding_rank,
            head_rank,
            head_tokens,
            ..BufferShape::forward_only(ranks, magnitudes, tokens)
        }
    }

    /// Makes this shape, which is of forward passes, one that has room for what `other` has room for, too.
    pub(crate) fn widen(&mut self, other: &BufferShape) {
        assert!(!self.train && !other.train, "shapes of forward passes");
        (self.tokens, self.targets) = (self.tokens.max(other.tokens), self.targets.max(other.targets));
        for (rank, other) in self.ranks.iter_mut().flatten().zip(other.ranks.iter().flatten()) {
            *rank = (*rank).max(*other);
        }
        self.embedding_rank = self.embedding_rank.max(other.embedding_rank);
        self.head_rank = self.head_rank.max(other.head_rank);
        self.head_tokens = self.head_tokens.max(other.head_tokens);
        self.magnitudes |= other.magnitudes;
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

/// The lowest block that backward reaches where these weights are trained; the number of blocks if it reaches none.
fn lowest_block(config: &Config, trained: &[WeightShape]) -> usize {
    let names = config.names;
    match trained.iter().any(|weight| [names.embedding, names.positions].contains(&weight.path())) {
        true => 0,
        false => trained.iter().filter_map(|weight| weight.layer).min().unwrap_or(config.num_hidden_layers),
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

/// Outputs and ranks of the terms of an adapter.
fn terms_of(config: &Config, lora: &LoraConfig) -> Result<Vec<(usize, usize)>, TargetError> {
    let parts = lora.parts(config)?;
    let terms = parts.iter().map(|part| (module_shape(config, part.module).0, part.rank));
    Ok(terms.collect::<BTreeSet<_>>().into_iter().collect())
}

/// Ranks of an adapter of embedding and head.
fn outside_ranks(config: &Config, lora: &LoraConfig) -> [usize; 2] {
    [lora.embedding(config), lora.head()].map(|shape| shape.map_or(0, |shape| shape.rank))
}

fn no_ranks(config: &Config) -> Vec<Vec<usize>> {
    vec![vec![0; config.block(0).sites]; config.num_hidden_layers]
}
