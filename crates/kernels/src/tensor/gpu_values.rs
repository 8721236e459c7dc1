//! Values in the memory of a GPU. Tensors that are read and written at the same times lie together in one buffer, so that one
//! launch reaches them all; of those that products read the device has a copy in its own type, made again after a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use crate::gpu::{Buffer, Float, Gpu, Region};
use crate::ops::elementwise::cuda::narrow;

/// Tensors that lie together begin at multiples of this many bytes, so that those of a copy in 16 bits are aligned, too.
const ALIGNMENT: u64 = 512;

/// A copy of a whole buffer of f32, rounded to bf16.
#[derive(Debug)]
struct Rounded {
    buffer: Buffer,
    /// Whether the values changed since.
    stale: AtomicBool,
}

/// Values of one type.
#[derive(Debug)]
pub(super) struct GpuValues {
    buffer: Arc<Buffer>,
    /// First byte in the buffer.
    first: u64,
    float: Float,
    pub(super) len: usize,
    rounded: Option<Arc<Rounded>>,
}

/// Bytes that tensors of f32 with these lengths take together.
pub(super) fn bytes_together(lens: &[usize]) -> u64 {
    lens.iter().map(|len| Float::F32.bytes(*len as u64).next_multiple_of(ALIGNMENT)).sum()
}

impl GpuValues {
    pub(super) fn zeros(gpu: Gpu, float: Float, len: usize) -> Self {
        let buffer = gpu.buffer(float.bytes(len as u64));
        gpu.clear(buffer.region());
        GpuValues { buffer: Arc::new(buffer), first: 0, float, len, rounded: None }
    }

    /// Zeros in f32 for each of `lens`, together; with `for_products` with a copy that products read, if the device computes
    /// in 16 bits.
    pub(super) fn zeros_together(gpu: Gpu, lens: &[usize], for_products: bool) -> Vec<Self> {
        let bytes = bytes_together(lens);
        let buffer = Arc::new(gpu.buffer(bytes));
        gpu.clear(buffer.region());
        let rounded = (for_products && gpu.float() == Float::Bf16)
            .then(|| Arc::new(Rounded { buffer: gpu.buffer(bytes / 2), stale: AtomicBool::new(true) }));
        let mut next = 0;
        let values = lens.iter().map(|&len| {
            let first = next;
            next += Float::F32.bytes(len as u64).next_multiple_of(ALIGNMENT);
            let (buffer, rounded) = (buffer.clone(), rounded.clone());
            GpuValues { buffer, first, float: Float::F32, len, rounded }
        });
        values.collect()
    }

    pub(super) fn gpu(&self) -> Gpu {
        self.buffer.gpu()
    }

    pub(super) fn float(&self) -> Float {
        self.float
    }

    /// The region of values `offset..offset + len`. Whoever writes to it calls [`Self::changes`], so that the copy for products is
    /// made anew.
    pub(super) fn part(&self, offset: usize, len: usize) -> Region {
        assert!(offset + len <= self.len, "values {offset}..{} of {}", offset + len, self.len);
        let first = self.first + self.float.bytes(offset as u64);
        self.buffer.region().part(first, self.float.bytes(len as u64))
    }

    /// The copy for products of values `offset..offset + len`, if there is one, as the values are now.
    pub(super) fn rounded(&self, offset: usize, len: usize) -> Option<Region> {
        let Rounded { buffer, stale } = self.rounded.as_deref()?;
        let all = self.buffer.region();
        if stale.swap(false, Ordering::Relaxed) {
            self.gpu().run(&narrow(all, all.bytes / 4, buffer.region()));
        }
        let values = self.part(offset, len);
        Some(buffer.region().part((values.offset - all.offset) / 2, values.bytes / 2))
    }

    /// Says that the values change.
    pub(super) fn changes(&self) {
        if let Some(rounded) = &self.rounded {
            rounded.stale.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn write(&self, offset: usize, values: &[f32]) {
        let bytes: Vec<u8> = match self.float {
            Float::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Float::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        self.changes();
        self.gpu().upload(&bytes, self.part(offset, values.len()));
    }

    pub(super) fn read(&self, offset: usize, out: &mut [f32]) {
        let mut bytes = vec![0; self.float.bytes(out.len() as u64) as usize];
        self.gpu().download(self.part(offset, out.len()), &mut bytes);
        match self.float {
            Float::F32 => {
                let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
            Float::Bf16 => {
                let values = bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32());
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
        }
    }

    /// Whether `next` lies right behind, in the same buffer.
    pub(super) fn goes_on_in(&self, next: &GpuValues) -> bool {
        let end = self.first + self.float.bytes(self.len as u64).next_multiple_of(ALIGNMENT);
        Arc::ptr_eq(&self.buffer, &next.buffer) && next.first == end
    }

    /// The region from the first value to the last of `last`, in the same buffer. Between tensors are zeros.
    pub(super) fn up_to(&self, last: &GpuValues) -> Region {
        let end = last.first + last.float.bytes(last.len as u64);
        self.buffer.region().part(self.first, end - self.first)
    }
}
