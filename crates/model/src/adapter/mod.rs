//! Low-rank adapters: which projections, their factors and gradients, and PEFT's files.

mod lora;
mod peft;
mod targets;

pub use lora::module_shape;
pub use lora::{Adapter, LoraConfig};
pub(crate) use lora::{GroupGradients, LoraGroup};
pub use peft::{CONFIG_FILE, NamedTensor, WEIGHTS_FILE, config_file, load, named_tensors, save, sources};
pub use targets::{LayerRange, Module, Site, TargetError, Targets};
