//! Transformer language models with explicit forward and backward, adapters, and weight files. Floor 1.
//!
//! [`Source`] finds a model, [`weights::ModelFiles`] opens its files, [`Model`] computes with them as they are stored. An
//! [`adapter::Adapter`] lies beside the model, so that one model serves any number of them:
//!
//! ```
//! use lorafit_kernels::Device;
//! use lorafit_model::adapter::{Adapter, LoraConfig};
//! use lorafit_model::weights::ModelFiles;
//! use lorafit_model::{Model, Prompts, Sampling, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let files = ModelFiles::open("../../fixtures/models/llama".as_ref())?;
//! let model = Model::load(&files, Device::Cpu)?;
//! let lora = LoraConfig { rank: 4, ..LoraConfig::new("q_proj,v_proj".parse()?) };
//! let adapter = Adapter::init(model.config(), &lora, 0, Device::Cpu)?;
//!
//! let (ids, sampling) = ([&[1, 2, 3][..]], Sampling::default());
//! let prompts =
//!     Prompts { ids: &ids, stop: &[], max_new_tokens: 5, sampling, seeds: &[], side_by_side: 1 };
//! let answers = generate(&model, Some(&adapter), prompts, |_, _| true, &mut || false)?;
//! assert_eq!(answers[0].len(), 5);
//! # Ok(())
//! # }
//! ```

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
pub use source::{ShapeSource, Source, SourceError, is_hub_id, models_near};
pub use start::Start;
