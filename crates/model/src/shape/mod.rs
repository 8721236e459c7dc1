//! The shape of a model as plain data, and what follows from it by loops: its weights, its projections, the widths of its
//! buffers.

mod block;
mod config;
mod module;
mod part;
mod weights;

pub(crate) use block::{Branch, LinearInput, LinearOutput, NormInput, Step, StreamAt, Widths};
pub use config::{Config, Rope, RopeScaling};
pub(crate) use module::module_at;
pub use module::{Module, module_shape};
pub(crate) use part::{AddShape, AttendShape, GateShape, LinearShape, Name, NormShape, Part};
pub use weights::{WeightShape, weight_shapes};
pub(crate) use weights::{block_path, gguf_name, in_block, matrices};
