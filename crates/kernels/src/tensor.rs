//! Buffers of `f32` values on a device.
//!
//! A tensor is a flat buffer: the shape is the business of the op that reads it, which says in its
//! contract how the values are laid out (row-major `[tokens, width]` unless it says otherwise).
//! Buffers are made once, before the first step, at the size of the largest batch; a smaller batch uses
//! their beginning.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

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

/// A zeroed host buffer aligned to a cache line (and to the widest vector register).
#[derive(Debug)]
pub(crate) struct AlignedVec {
    allocation: NonNull<u8>,
    /// The first cache line of the allocation.
    values: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer is uniquely owned; `f32` is Send and Sync.
unsafe impl Send for AlignedVec {}
// SAFETY: as above; shared access is read-only through `Deref`.
unsafe impl Sync for AlignedVec {}

impl AlignedVec {
    /// Values of a cache line.
    const LINE: usize = 16;

    pub(crate) fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let allocation = unsafe { alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).unwrap_or_else(|| handle_alloc_error(layout));
        let skip = allocation.as_ptr().align_offset(Self::LINE * size_of::<f32>());
        // SAFETY: the layout has one line more than the values need.
        let values = unsafe { allocation.add(skip) }.cast::<f32>();
        AlignedVec { allocation, values, len }
    }

    /// One line more than asked for, since the system only gives untouched zero pages (memory that costs nothing
    /// until it is written) for its own small alignment.
    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len + Self::LINE).expect("buffer size fits an address")
    }
}

impl Drop for AlignedVec {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with the same layout.
        unsafe { dealloc(self.allocation.as_ptr(), Self::layout(self.len)) }
    }
}

impl Deref for AlignedVec {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised values (zeroed at allocation), uniquely owned.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.len) }
    }
}
