//! The shape of a model as plain data, and what follows from it by loops: its weights, its projections, the widths of its
//! buffers.

mod arch;
mod block;
mod config;
mod module;
mod names;
mod part;
mod pattern;
mod quantization;
mod rope;
mod weights;

pub use arch::Arch;
pub(crate) use arch::Architecture;
pub(crate) use block::{Branch, LinearInput, LinearOutput, NormInput, Step, StreamAt, Widths};
pub use config::Config;
pub(crate) use config::INITIALIZER_RANGE;
pub(crate) use module::module_at;
pub use module::{Module, module_shape};
pub use names::Names;
pub(crate) use names::{HEAD, SCORE};
pub(crate) use part::{AddShape, AttendShape, GateShape, LinearShape, Name, NormKind, NormShape, Part};
pub use pattern::LayerPattern;
pub use quantization::BaseQuantization;
pub use rope::{QueryGrowth, Rope, RopeScaling};
pub use weights::{WeightShape, weight_shapes};
pub(crate) use weights::{gguf_name, is_transposed, matrices, stored_less};
