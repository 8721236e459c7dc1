//! Tensors and the arithmetic of LoRA training. Floor 0: knows no model.
//!
//! An op is a function over tensors ([`ops`]); weights are computed with as their files store them ([`Weight`]). The layer
//! of LoRA, `Y = X W^T + U B^T` with `U = X A^T`, is one product of two terms:
//!
//! ```
//! use lorafit_kernels::ops::matmul::{self, Product, Right, Term, View};
//! use lorafit_kernels::{Device, FrozenWeight, Tensor, Weight};
//!
//! let tensor = |values: &[f32]| Tensor::from_slice(Device::Cpu, values);
//! // One row of two values; a frozen W of three rows, and what a rank of one adds to it.
//! let (x, w) = (tensor(&[1.0, 2.0]), FrozenWeight::from_f32(3, 2, &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
//! let (w, a, b) = (Weight::from(w), tensor(&[0.5, 0.5]), tensor(&[0.0, 0.0, 2.0]));
//!
//! let (mut u, mut y) = (Tensor::zeros(Device::Cpu, 1), Tensor::zeros(Device::Cpu, 3));
//! let through_a = Term { left: View::rows(&x, 2), right: Right::View(View::rows(&a, 2).t()), k: 2 };
//! matmul::run(&mut [Product::new(1, 1, through_a, &mut u)]);
//! let through_w = Term { left: View::rows(&x, 2), right: Right::WeightTransposed(&w), k: 2 };
//! let through_b = Term { left: View::rows(&u, 1), right: Right::View(View::rows(&b, 1).t()), k: 1 };
//! let terms = vec![through_w, through_b];
//! matmul::run(&mut [Product { terms, ..Product::new(1, 3, through_w, &mut y) }]);
//! assert_eq!(y.to_vec(3), [1.0, 2.0, 3.0 + 1.5 * 2.0]);
//! ```

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
pub use tensor::{Bf16Tensor, Device, Half, Placement, Tensor};
pub use weight::{
    ComputeDtype, DeviceWeight, FrozenWeight, RowOrder, TrainedWeight, UnquantizableValue, Weight,
    WeightError,
};
