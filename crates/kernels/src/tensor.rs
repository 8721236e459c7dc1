//! Buffers of `f32` values on a device, and of `bf16` ones for what is only kept.
//!
//! A tensor is a flat buffer: the shape is the business of the op that reads it, which says in its
//! contract how the values are laid out (row-major `[tokens, width]` unless it says otherwise).
//! Buffers are made once, before the first step, at the size of the largest batch; a smaller batch uses
//! their beginning.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use half::bf16;

/// Where tensors live and ops run.
///
/// Ops match on the device of their operands without a wildcard, so that the compiler lists every op that
/// a new device has to provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor; ops run on the current rayon pool.
    Cpu,
}

/// A buffer of `f32` values on a device.
#[derive(Debug)]
pub struct Tensor {
    storage: Storage,
}

/// The memory behind a tensor.
#[derive(Debug)]
enum Storage {
    Cpu(AlignedVec),
}

impl Tensor {
    /// `len` zeros. On the CPU the pages are touched only when they are first written.
    pub fn zeros(device: Device, len: usize) -> Self {
        match device {
            Device::Cpu => Tensor { storage: Storage::Cpu(AlignedVec::zeros(len)) },
        }
    }

    /// A copy of `values` on the device.
    pub fn from_slice(device: Device, values: &[f32]) -> Self {
        let mut tensor = Tensor::zeros(device, values.len());
        tensor.write(0, values);
        tensor
    }

    /// The device the buffer is on.
    pub fn device(&self) -> Device {
        match self.storage {
            Storage::Cpu(_) => Device::Cpu,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Cpu(values) => values.len(),
        }
    }

    /// True for a buffer of no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `values` to position `offset`.
    pub fn write(&mut self, offset: usize, values: &[f32]) {
        match &mut self.storage {
            Storage::Cpu(buffer) => buffer[offset..offset + values.len()].copy_from_slice(values),
        }
    }

    /// Copies the first `len` values to the host.
    pub fn to_vec(&self, len: usize) -> Vec<f32> {
        match &self.storage {
            Storage::Cpu(values) => values[..len].to_vec(),
        }
    }

    /// Copies the values from position `offset` on to `out`.
    pub fn read(&self, offset: usize, out: &mut [f32]) {
        match &self.storage {
            Storage::Cpu(values) => out.copy_from_slice(&values[offset..offset + out.len()]),
        }
    }

    /// Sets the first `len` values to `value`.
    pub fn fill(&mut self, len: usize, value: f32) {
        match &mut self.storage {
            Storage::Cpu(values) => values[..len].fill(value),
        }
    }

    /// The values of a tensor on the CPU, for the CPU version of an op.
    pub(crate) fn cpu(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(values) => values,
        }
    }

    /// As [`Tensor::cpu`], writable.
    pub(crate) fn cpu_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Cpu(values) => values,
        }
    }
}

/// A buffer of `bf16` values on a device: what is kept and not computed with
/// ([`crate::ops::elementwise::narrow`], [`crate::ops::elementwise::widen`]).
#[derive(Debug)]
pub struct Bf16Tensor {
    storage: Bf16Storage,
}

/// The memory behind a tensor of `bf16`.
#[derive(Debug)]
enum Bf16Storage {
    Cpu(AlignedVec<bf16>),
}

impl Bf16Tensor {
    /// As [`Tensor::zeros`].
    pub fn zeros(device: Device, len: usize) -> Self {
        match device {
            Device::Cpu => Bf16Tensor { storage: Bf16Storage::Cpu(AlignedVec::zeros(len)) },
        }
    }

    /// The values of a tensor on the CPU, for the CPU version of an op.
    pub(crate) fn cpu(&self) -> &[bf16] {
        match &self.storage {
            Bf16Storage::Cpu(values) => values,
        }
    }

    /// As [`Bf16Tensor::cpu`], writable.
    pub(crate) fn cpu_mut(&mut self) -> &mut [bf16] {
        match &mut self.storage {
            Bf16Storage::Cpu(values) => values,
        }
    }
}

/// A value that all-zero bytes are a zero of.
///
/// # Safety
/// All-zero bytes are a valid value, and dropping one does nothing.
pub(crate) unsafe trait Zeroed: Copy + Send + Sync {}

// SAFETY: plain numbers.
unsafe impl Zeroed for f32 {}
// SAFETY: as above.
unsafe impl Zeroed for bf16 {}

/// A zeroed host buffer aligned to a cache line (and to the widest vector register).
#[derive(Debug)]
pub(crate) struct AlignedVec<T: Zeroed = f32> {
    allocation: NonNull<u8>,
    /// The first cache line of the allocation.
    values: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer is uniquely owned; its values are Send and Sync.
unsafe impl<T: Zeroed> Send for AlignedVec<T> {}
// SAFETY: as above; shared access is read-only through `Deref`.
unsafe impl<T: Zeroed> Sync for AlignedVec<T> {}

impl<T: Zeroed> AlignedVec<T> {
    /// Bytes of a cache line.
    const LINE_BYTES: usize = 64;

    pub(crate) fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let allocation = unsafe { alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).unwrap_or_else(|| handle_alloc_error(layout));
        let skip = allocation.as_ptr().align_offset(Self::LINE_BYTES);
        // SAFETY: the layout has one line more than the values need.
        let values = unsafe { allocation.add(skip) }.cast::<T>();
        AlignedVec { allocation, values, len }
    }

    /// One line more than asked for, since the system only gives untouched zero pages (memory that costs nothing
    /// until it is written) for its own small alignment.
    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len + Self::LINE_BYTES / size_of::<T>()).expect("buffer size fits an address")
    }
}

impl<T: Zeroed> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with the same layout.
        unsafe { dealloc(self.allocation.as_ptr(), Self::layout(self.len)) }
    }
}

impl<T: Zeroed> Deref for AlignedVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised values (zeroed at allocation), uniquely owned.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.len) }
    }
}
