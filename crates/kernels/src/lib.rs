//! Tensors and the arithmetic of LoRA training. Floor 0: knows no model.

mod bytes;
pub mod quant;
mod weight;

pub use bytes::SharedBytes;
pub use weight::{RowOrder, Weight, WeightError};
