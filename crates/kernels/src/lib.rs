//! Tensors and the arithmetic of LoRA training. Floor 0: knows no model.

mod bytes;
pub mod cuda;
pub mod gpu;
#[allow(clippy::too_many_arguments, reason = "an op names all its operands")]
pub mod ops;
pub mod quant;
pub mod random;
pub mod selfcheck;
mod tensor;
#[cfg(test)]
mod testing;
mod weight;

pub use bytes::{Owner, SharedBytes};
pub use tensor::{Bf16Tensor, Device, Placement, Tensor};
pub use weight::{
    ComputeDtype, DeviceWeight, FrozenWeight, RowOrder, TrainedWeight, UnquantizableValue, Weight,
    WeightError,
};
