//! Low-rank adapters: which projections, their factors and gradients, PEFT's files, and what an adapter changed.

pub mod analysis;
mod factors;
mod lora;
mod peft;
mod targets;

pub use factors::{AdapterFile, Factors};
pub use lora::module_shape;
pub use lora::{Adapter, Gradients, LoraConfig};
pub(crate) use lora::{GroupGradients, LoraGroup};
pub use peft::{NamedTensor, files, from_bytes, load, named_tensors, save};
pub use targets::{LayerRange, Module, Site, TargetError, Targets};
