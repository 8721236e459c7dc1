//! The gate of a Llama feed-forward layer (Shazeer 2020): `y = silu(gate) * up`, `silu(x) = x sigmoid(x)`.

use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// `y = silu(gate) * up` over the first `len` values.
pub fn forward(gate: &Tensor, up: &Tensor, len: usize, y: &mut Tensor) {
    match gate.device() {
        Device::Cpu => cpu::forward(gate.cpu(), up.cpu(), len, y.cpu_mut()),
        Device::Cuda(gpu) => {
            let float = gate.float_with(&[up, y]);
            gpu.run(&cuda::forward(float, gate.region(), up.region(), len as u64, y.region()));
        }
    }
}

/// Overwrites `gate` and `up` with their gradients, from the gradient `d_y` of the output.
pub fn backward_in_place(d_y: &Tensor, gate: &mut Tensor, up: &mut Tensor, len: usize) {
    match d_y.device() {
        Device::Cpu => cpu::backward_in_place(d_y.cpu(), gate.cpu_mut(), up.cpu_mut(), len),
        Device::Cuda(gpu) => {
            let float = gate.float_with(&[up, d_y]);
            gpu.run(&cuda::backward_in_place(float, d_y.region(), gate.region(), up.region(), len as u64));
        }
    }
}
