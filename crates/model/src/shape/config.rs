//! The shape of a model: plain data, whatever it was read from. What its architecture makes of it is in [`crate::arch`].

use lorafit_kernels::ops::attention::Heads;

use super::block::BlockShape;
use crate::arch::Arch;

/// A decoder's shape, with the names of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which parts its blocks have, and what files call them.
    pub arch: Arch,
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
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `q_proj`, `k_proj`, `v_proj` have a bias.
    pub attention_bias: bool,
    /// `o_proj` has a bias.
    pub attention_output_bias: bool,
    /// The feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Tokens that attention reaches back, if limited.
    pub sliding_window: Option<usize>,
    /// Standard deviation of matrices that begin random.
    pub initializer_range: f32,
}

/// Rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// Stretching of rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths beyond the original context over this are low.
        low_freq_factor: f64,
        /// Wavelengths below the original context over this are high.
        high_freq_factor: f64,
        /// The context before stretching.
        original_max_position_embeddings: f64,
    },
    /// A divisor for each frequency (the GGUF tensor `rope_freqs.weight`).
    Divisors(Vec<f32>),
}

impl Config {
    /// The rotary frequency of each pair of a head, in f32 as transformers computes it.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        let theta = self.rope.theta as f32;
        let plain = (0..self.head_dim / 2).map(|j| 1.0 / theta.powf(2.0 * j as f32 / self.head_dim as f32));
        match &self.rope.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
            RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => plain
                .map(|f| {
                    let frequency = f64::from(f);
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < context / high {
                        f
                    } else if wavelength > context / low {
                        (frequency / factor) as f32
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                    }
                })
                .collect(),
        }
    }

    /// The block of layer `layer`.
    pub(crate) fn block(&self, layer: usize) -> BlockShape {
        BlockShape::of(self.arch.parts(self, layer))
    }

    /// Heads of the attention.
    pub(crate) fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
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
