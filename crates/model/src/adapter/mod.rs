//! Low-rank adapters: which projections, their factors and gradients, PEFT's files, and what an adapter changed.

pub mod analysis;
pub mod convert;
mod embeddings;
mod factors;
mod held;
mod lora;
mod marks;
mod names;
mod overrides;
mod peft;
mod saved;
mod shrink;
mod targets;
mod token_rows;

pub use crate::shape::{Module, module_shape};
pub use factors::{AdapterFile, Factors};
pub use held::FactorDtype;
pub use lora::{Adapter, LoraConfig};
pub(crate) use lora::{
    EmbeddingFactors, GroupGradients, LoraGroup, LoraPart, Magnitude, NormState, Norms, PartShape,
};
pub use overrides::Override;
pub use peft::{
    COMPUTED_OPTIONS, CONFIG_FILE, NamedTensor, WEIGHTS_FILE, config_file, from_bytes, load, load_over,
    named_tensors, save, score_labels, sources, token_indices, whole_rows,
};
pub use saved::SaveModules;
pub(crate) use saved::{Saved, SavedNorm};
pub use shrink::{Shrunk, ShrunkLayer, shrink};
pub(crate) use targets::path_pattern;
pub use targets::{LayerRange, TargetError, Targets, known_modules};
pub use token_rows::TokenIndices;
pub(crate) use token_rows::{TokenAdapter, TokenRows, TokenRun, TokenSides};
