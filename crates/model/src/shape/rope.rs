//! Rotary positions: the frequencies of a head's pairs, and how they are stretched for longer contexts.

use lorafit_kernels::ops::rope::{Pairs, Rotation};

/// How queries and keys are rotated.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched for longer contexts.
    pub scaling: RopeScaling,
    /// Values of a head that are rotated, the first ones; even. The whole head when absent.
    pub dims: Option<usize>,
    /// Which values are turned together.
    pub pairs: Pairs,
}

/// Queries that grow with their position, so that attention stays sharp over long texts: after their rotation they are
/// multiplied by `1 + beta ln(1 + floor(position / context))` (Llama 4, Ministral 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryGrowth {
    /// By how much.
    pub beta: f64,
    /// The positions after which they begin to grow.
    pub context: f64,
}

impl QueryGrowth {
    /// The factor of a position, in f32 as transformers computes it.
    pub(crate) fn factor(&self, position: u32) -> f32 {
        let times = (position as f32 / self.context as f32).floor();
        1.0 + self.beta as f32 * times.ln_1p()
    }
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
    /// Beyond the context that the model was made for, a base that grows with the length (`dynamic` of transformers).
    Dynamic {
        /// The factor.
        factor: f64,
        /// The context before stretching.
        original_max_position_embeddings: f64,
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
    /// YaRN (Peng et al. 2023): as Llama 3.1 by the number of turns in the original context, and a factor for what is rotated.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Turns in the original context above which frequencies are kept.
        beta_fast: f64,
        /// Turns in the original context below which frequencies are divided.
        beta_slow: f64,
        /// The context before stretching.
        original_max_position_embeddings: f64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
        /// What rotated values are multiplied by.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): divisors for texts within the original context, and others beyond.
    Long {
        /// Of each pair, within.
        short: Vec<f32>,
        /// Of each pair, beyond.
        long: Vec<f32>,
        /// The context before stretching.
        original_max_position_embeddings: f64,
        /// What rotated values are multiplied by.
        attention_factor: f64,
    },
    /// A divisor for each frequency (the GGUF tensor `rope_freqs.weight`).
    Divisors(Vec<f32>),
}

impl Rope {
    /// The whole head in halves, with frequencies as they are.
    pub(crate) fn plain(theta: f64) -> Self {
        Rope { theta, scaling: RopeScaling::None, dims: None, pairs: Pairs::Halves }
    }

    /// Values of a head of `head_dim` that are rotated.
    pub(crate) fn rotated(&self, head_dim: usize) -> usize {
        self.dims.unwrap_or(head_dim)
    }

    /// What of it is the same for every length.
    pub(crate) fn rotation(&self, head_dim: usize) -> Rotation {
        let factor = match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Long { attention_factor, .. } => {
                *attention_factor as f32
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Divisors(_) => 1.0,
        };
        Rotation { head_dim, frequencies: self.rotated(head_dim) / 2, pairs: self.pairs, factor }
    }

    /// The frequency of each pair of a head of `head_dim` values in texts of up to `length` tokens, in f32 as transformers
    /// computes it (`modeling_rope_utils.py`).
    pub(crate) fn frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let dims = self.rotated(head_dim);
        let of_base = |theta: f32| (0..dims / 2).map(move |j| 1.0 / theta.powf(2.0 * j as f32 / dims as f32));
        let plain = of_base(self.theta as f32);
        let length = length as f64;
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
            RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Dynamic { factor, original_max_position_embeddings: context } => {
                if length <= *context {
                    return plain.collect();
                }
                let grown = factor * length / context - (factor - 1.0);
                of_base((self.theta * grown.powf(dims as f64 / (dims as f64 - 2.0))) as f32).collect()
            }
            RopeScaling::Long { short, long, original_max_position_embeddings: context, .. } => {
                let divisors = if length > *context { long } else { short };
                plain.zip(divisors).map(|(f, d)| f / d).collect()
            }
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
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings: context,
                truncate,
                ..
            } => {
                // The pair that turns so many times in the original context.
                let pair = |turns: f64| {
                    dims as f64 * (context / (turns * 2.0 * std::f64::consts::PI)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (low, high) = match truncate {
                    true => (pair(*beta_fast).floor(), pair(*beta_slow).ceil()),
                    false => (pair(*beta_fast), pair(*beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let ramp = |j: usize| ((j as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                plain.enumerate().map(|(j, f)| f / *factor as f32 * ramp(j) + f * (1.0 - ramp(j))).collect()
            }
        }
    }

    /// [`Rope::frequencies`] of every text, where the length makes no difference.
    pub(crate) fn fixed_frequencies(&self, head_dim: usize) -> Option<Vec<f32>> {
        (!self.depends_on_length()).then(|| self.frequencies(head_dim, 0))
    }

    /// The tokens of a text beyond which all of it is rotated otherwise.
    pub(crate) fn switches_at(&self) -> Option<usize> {
        matches!(self.scaling, RopeScaling::Long { .. }).then(|| self.original_context()).flatten()
    }

    /// Whether the frequencies depend on the length of the text.
    pub(crate) fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::Long { .. })
    }

    /// The context before stretching, where there is one.
    pub(crate) fn original_context(&self) -> Option<usize> {
        match &self.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings: context, .. }
            | RopeScaling::Llama3 { original_max_position_embeddings: context, .. }
            | RopeScaling::Yarn { original_max_position_embeddings: context, .. }
            | RopeScaling::Long { original_max_position_embeddings: context, .. } => Some(*context as usize),
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Divisors(_) => None,
        }
    }
}
