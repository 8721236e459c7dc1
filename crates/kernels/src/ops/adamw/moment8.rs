//! A moment of 8-bit AdamW.

use std::borrow::Cow;

use super::cuda::DeviceMoment8;
use crate::gpu::Buffer;
use crate::tensor::{Device, Placement, Tensor};

/// Values of a block of 8-bit moments, which share a scale.
pub const BLOCK_LEN: usize = 256;

/// One moment of 8-bit AdamW: codes of [`dynamic_map`](crate::quant::dynamic_map), a scale for each block.
#[derive(Debug)]
pub struct Moment8 {
    codes: Codes,
    absmax: Tensor,
}

/// A byte for every parameter.
#[derive(Debug)]
enum Codes {
    Cpu(Vec<u8>),
    Cuda(Buffer),
}

impl Moment8 {
    /// Zeros for `len` parameters.
    pub fn zeros(device: Device, len: usize) -> Self {
        // With a scale of zero every code means zero.
        let codes = match device {
            Device::Cpu => Codes::Cpu(vec![0; len]),
            Device::Cuda(gpu) => Codes::Cuda(gpu.buffer_of(&vec![0; len])),
        };
        Moment8 { codes, absmax: Tensor::zeros(device, len.div_ceil(BLOCK_LEN)) }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        match &self.codes {
            Codes::Cpu(codes) => codes.len(),
            Codes::Cuda(codes) => codes.region().bytes as usize,
        }
    }

    /// True for no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A code for every parameter.
    pub fn codes(&self) -> Cow<'_, [u8]> {
        match &self.codes {
            Codes::Cpu(codes) => Cow::Borrowed(codes),
            Codes::Cuda(codes) => {
                let mut bytes = vec![0; self.len()];
                codes.gpu().download(codes.region(), &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }

    /// Sets the code of every parameter.
    ///
    /// # Panics
    /// When there are more or fewer.
    pub fn write_codes(&mut self, from: &[u8]) {
        match &mut self.codes {
            Codes::Cpu(codes) => codes.copy_from_slice(from),
            Codes::Cuda(codes) => codes.gpu().upload(from, codes.region()),
        }
    }

    /// A scale for every block.
    pub fn absmax(&self) -> &Tensor {
        &self.absmax
    }

    /// As [`Moment8::absmax`], writable.
    pub fn absmax_mut(&mut self) -> &mut Tensor {
        &mut self.absmax
    }

    /// Bytes that it takes for `len` parameters on a device of `placement`.
    pub fn bytes(placement: Placement, len: usize) -> u64 {
        let scales = len.div_ceil(BLOCK_LEN) * size_of::<f32>();
        placement.buffer_bytes(len as u64) + placement.buffer_bytes(scales as u64)
    }

    /// Codes and scales of a moment on the CPU.
    pub(super) fn cpu_mut(&mut self) -> (&mut [u8], &mut [f32]) {
        match &mut self.codes {
            Codes::Cpu(codes) => (codes, self.absmax.cpu_mut()),
            Codes::Cuda(_) => panic!("moments are on another device than what they are of"),
        }
    }

    /// The memory of a moment on a GPU.
    pub(super) fn on_gpu(&self) -> DeviceMoment8 {
        match &self.codes {
            Codes::Cpu(_) => panic!("moments are on another device than what they are of"),
            Codes::Cuda(codes) => DeviceMoment8 { codes: codes.region(), absmax: self.absmax.region() },
        }
    }
}
