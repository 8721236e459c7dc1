//! Uniform noise on embeddings while training (NEFTune, Jain et al. 2023, as transformers adds it).
//!
//! `x[row, i] += bounds[row] (2 u - 1)`, `u` uniform in [0, 1) as a function of a seed and the position, so that it is the same on
//! any number of threads and whenever it is computed. The gradient passes unchanged.

use crate::gpu::count;
use crate::tensor::{Device, Tensor};

mod cpu;
pub mod cuda;
#[cfg(test)]
mod tests;

/// Adds noise to the first rows of `x`, `[rows, width]`, one for each of `bounds`.
pub fn add(x: &mut Tensor, width: usize, bounds: &[f32], seed: u64) {
    match x.device() {
        Device::Cpu => cpu::add(&mut x.cpu_mut()[..bounds.len() * width], width, bounds, seed),
        Device::Cuda(gpu) => {
            let on_gpu =
                gpu.buffer_of(&bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect::<Vec<u8>>());
            let shape = (count(bounds.len()), count(width));
            gpu.run(&cuda::add(x.float(), x.region(), shape, on_gpu.region(), seed));
        }
    }
}
