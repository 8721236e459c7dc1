//! Where buffers come from: they are made on a device, or only counted.

use lorafit_kernels::gpu::Float;
use lorafit_kernels::{Bf16Tensor, Device, Placement, Tensor};

/// Bytes of the buffers of a run, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferBytes {
    /// What forward leaves for backward.
    pub activations: u64,
    /// What blocks use in turn, forward and backward.
    pub scratch: u64,
    /// The final norm, the logits of a chunk and their gradients.
    pub head: u64,
}

impl BufferBytes {
    fn of_part(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Activations => &mut self.activations,
            Part::Scratch => &mut self.scratch,
            Part::Head => &mut self.head,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.activations + self.scratch + self.head
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Activations,
    Scratch,
    Head,
}

/// Gives a buffer of so many values, or counts its bytes.
pub(crate) trait Allocate {
    type Values;
    type Bf16;
    /// Where the buffers are.
    fn placement(&self) -> Placement;
    /// Of the type that is computed with.
    fn activation(&mut self, part: Part, len: usize) -> Self::Values;
    /// In f32 everywhere: statistics and angles.
    fn f32(&mut self, part: Part, len: usize) -> Self::Values;
    /// Of what is only kept.
    fn bf16(&mut self, part: Part, len: usize) -> Self::Bf16;
}

/// Zeros; the system gives their memory when they are first written.
impl Allocate for Device {
    type Values = Tensor;
    type Bf16 = Bf16Tensor;

    fn placement(&self) -> Placement {
        Device::placement(*self)
    }

    fn activation(&mut self, _: Part, len: usize) -> Tensor {
        Tensor::activation(*self, len)
    }

    fn f32(&mut self, _: Part, len: usize) -> Tensor {
        Tensor::zeros(*self, len)
    }

    fn bf16(&mut self, _: Part, len: usize) -> Bf16Tensor {
        Bf16Tensor::zeros(*self, len)
    }
}

/// Counts what it gives.
pub(super) struct Counter {
    pub bytes: BufferBytes,
    pub placement: Placement,
}

impl Counter {
    fn add(&mut self, part: Part, float: Float, len: usize) {
        *self.bytes.of_part(part) += self.placement.buffer_bytes(float.bytes(len as u64));
    }
}

impl Allocate for Counter {
    type Values = ();
    type Bf16 = ();

    fn placement(&self) -> Placement {
        self.placement
    }

    fn activation(&mut self, part: Part, len: usize) {
        self.add(part, self.placement.activation_float(), len);
    }

    fn f32(&mut self, part: Part, len: usize) {
        self.add(part, Float::F32, len);
    }

    fn bf16(&mut self, part: Part, len: usize) {
        self.add(part, Float::Bf16, len);
    }
}
