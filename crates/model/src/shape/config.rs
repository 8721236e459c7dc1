//! The shape of a model: plain data, whatever it was read from. What its architecture makes of it is in [`crate::arch`].

use lorafit_kernels::ops::attention::{Heads, Scores};
use lorafit_kernels::ops::gate::Activation;

use super::arch::Arch;
use super::block::BlockShape;
use super::names::{HEAD, Names, SCORE};
use super::part::{Name, NormShape};
use super::pattern::LayerPattern;
use super::rope::{QueryGrowth, Rope, RopeScaling};

/// The standard deviation that transformers' configurations have unless they say otherwise.
pub(crate) const INITIALIZER_RANGE: f32 = 0.02;

/// A decoder's shape, with the names of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which parts its blocks have, and what files call them.
    pub arch: Arch,
    /// What its parts are called.
    pub names: &'static Names,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Values per head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Of every norm.
    pub norm_eps: f32,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// That of the layers with a window, where it is another.
    pub local_rope: Option<Rope>,
    /// The layers that rotate at all.
    pub rotated: LayerPattern,
    /// How queries grow with their position, if they do.
    pub query_growth: Option<QueryGrowth>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Numbers that the head gives of a text, where it scores texts and has no logits of tokens.
    pub labels: Option<usize>,
    /// `q_proj`, `k_proj`, `v_proj` have a bias.
    pub attention_bias: bool,
    /// `o_proj` has a bias.
    pub attention_output_bias: bool,
    /// The feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// A learned vector is added for each position (GPT-2): beyond the context there are none.
    pub learned_positions: bool,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Tokens that attention reaches back, the token itself included, in the layers of `windowed`.
    pub sliding_window: Option<usize>,
    /// The layers that the window is of.
    pub windowed: LayerPattern,
    /// What products of queries and keys are multiplied by; `1 / sqrt(head_dim)` when absent.
    pub attention_scale: Option<f32>,
    /// Scores `s` of the attention become `c tanh(s / c)`.
    pub attention_softcap: Option<f32>,
    /// Logits become `c tanh(x / c)`.
    pub logit_softcap: Option<f32>,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// What each half of a block is multiplied by when it is added.
    pub residual_scale: f32,
    /// What logits are multiplied by.
    pub logit_scale: f32,
    /// Of the feed-forward half.
    pub activation: Activation,
    /// Standard deviation of matrices that begin random.
    pub initializer_range: f32,
}

impl Config {
    /// Of no size, and without anything that only some architectures have: what they begin with.
    pub(crate) fn plain(arch: Arch) -> Self {
        Config {
            arch,
            names: arch.names(),
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            vocab_size: 0,
            norm_eps: 1e-5,
            rope: Rope::plain(1e4),
            local_rope: None,
            rotated: LayerPattern::all(),
            query_growth: None,
            learned_positions: false,
            tie_word_embeddings: false,
            labels: None,
            attention_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            max_position_embeddings: 0,
            sliding_window: None,
            windowed: LayerPattern::all(),
            attention_scale: None,
            attention_softcap: None,
            logit_softcap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            activation: Activation::Silu,
            initializer_range: INITIALIZER_RANGE,
        }
    }

    /// The same decoder with a head that scores texts by so many labels, as the classes `...ForSequenceClassification` of
    /// transformers have it: a plain product with what the last norm gives, whatever logits of tokens go through.
    #[must_use]
    pub fn scoring(&self, labels: usize) -> Self {
        Config {
            labels: Some(labels),
            tie_word_embeddings: false,
            logit_softcap: None,
            logit_scale: 1.0,
            ..self.clone()
        }
    }

    /// What the head gives numbers of: tokens, or labels.
    pub fn outputs(&self) -> usize {
        self.labels.unwrap_or(self.vocab_size)
    }

    /// The name of the head.
    pub(crate) fn head_path(&self) -> &'static str {
        match self.labels {
            Some(_) => SCORE,
            None => HEAD,
        }
    }

    /// The rotary frequency of each pair of a head, in texts as long as the model was made for.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        self.rope.frequencies(self.head_dim, self.max_position_embeddings)
    }

    /// Every rotation that a layer may have: that of all, or of the layers without a window and of those with one.
    pub(crate) fn ropes(&self) -> Vec<&Rope> {
        std::iter::once(&self.rope).chain(&self.local_rope).collect()
    }

    /// How many positions there are, where each has a vector that was learned: no text can be longer.
    pub fn positions(&self) -> Option<usize> {
        self.learned_positions.then_some(self.max_position_embeddings)
    }

    /// Whether the model is the language model of one of several parts, which reads images, too.
    pub fn is_of_several(&self) -> bool {
        self.names.is_of_several()
    }

    /// The language model by itself, of a model of several parts.
    pub(crate) fn alone(&self) -> Config {
        let names = if self.is_of_several() { Names::USUAL } else { self.names };
        Config { names, ..self.clone() }
    }

    /// Whether tokens are rotated otherwise in longer texts: what texts begin with alike is then not the same.
    pub fn depends_on_length(&self) -> bool {
        self.ropes().into_iter().any(Rope::depends_on_length)
    }

    /// Tokens of the longest text that the model is made for.
    pub fn context(&self) -> usize {
        match self.rope.scaling {
            // It is made to go beyond.
            RopeScaling::Dynamic { factor, .. } => (self.max_position_embeddings as f64 * factor) as usize,
            _ => self.max_position_embeddings,
        }
    }

    /// The norm before the head; of the kind of those in blocks.
    pub(crate) fn final_norm(&self) -> NormShape {
        let block = self.block(0);
        let kind = block.norms().last().expect("every block has a norm").kind;
        NormShape { name: Name { hf: self.names.norm, gguf: "output_norm" }, width: self.hidden_size, kind }
    }

    /// The block of layer `layer`.
    pub(crate) fn block(&self, layer: usize) -> BlockShape {
        BlockShape::of(self.arch.parts(self, layer))
    }

    /// Heads of the attention.
    pub(crate) fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    /// What becomes of the products of queries and keys in layer `layer`.
    pub(crate) fn scores(&self, layer: usize) -> Scores {
        let usual = Scores::of(self.heads());
        Scores {
            scale: self.attention_scale.unwrap_or(usual.scale),
            softcap: self.attention_softcap,
            window: self.sliding_window.filter(|_| self.windowed.contains(layer)),
        }
    }

    /// Which of [`Config::ropes`] layer `layer` has.
    pub(crate) fn rope_of(&self, layer: usize) -> Option<usize> {
        let local = self.local_rope.is_some() && self.windowed.contains(layer);
        self.rotated.contains(layer).then_some(usize::from(local))
    }

    /// Number of weights of the model, biases and norms included; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        super::weights::weight_shapes(self).iter().map(|weight| weight.len() as u64).sum()
    }

    /// Weights of all projections of the blocks: what a token is multiplied with besides the head.
    pub fn projection_parameters(&self) -> u64 {
        let of_layer = |layer| {
            let block = self.block(layer);
            let values = |linear: &super::part::LinearShape| (linear.outputs * linear.inputs) as u64;
            block.linears().flatten().map(values).sum::<u64>()
        };
        (0..self.num_hidden_layers).map(of_layer).sum()
    }
}
