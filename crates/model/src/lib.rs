//! Transformer language models with explicit forward and backward, adapters, and weight files. Floor 1.

pub mod adapter;
mod arch;
mod block;
mod buffers;
mod engine;
mod error;
pub mod export;
mod files;
mod generate;
mod gradients;
mod kv_cache;
mod load;
mod magnitudes;
pub mod merge;
mod model;
mod norm;
mod parameters;
mod prepare;
mod reward;
mod selection;
mod shape;
mod source;
mod start;
mod token_rows;
mod vector;
mod weight_list;
pub mod weights;
mod whole_text;

pub use arch::ConfigError;
pub use buffers::{ActivationDtype, ActivationPolicy, BufferBytes, BufferShape, Buffers, Recompute};
pub use engine::{Asked, Engine, EngineLimits, Next, SequenceId};
pub use error::FileError;
pub use files::is_gguf;
pub use generate::{NotNumbers, Prompts, Sampling, generate, most_new_tokens, sequence_logits_bytes};
pub use gradients::Gradients;
pub use kv_cache::KvCache;
pub use load::{Distribution, RandomWeights};
pub use model::{ActiveAdapter, EmbeddingNoise, Losses, Model, Stream};
pub use parameters::Parameters;
pub use selection::{Trainable, WeightModules, WeightSelection};
pub use shape::{
    Arch, BaseQuantization, Config, LayerPattern, Names, QueryGrowth, Rope, RopeScaling, WeightShape,
    weight_shapes,
};
#[cfg(feature = "hub")]
pub use source::Hub;
pub use source::{ShapeSource, Source, SourceError, is_hub_id};
pub use start::Start;
