//! Buffers of values on a device: of `f32`, and of `bf16` where that is what is kept or what a device computes with.
//!
//! A tensor is a flat buffer: the shape is the business of the op that reads it, which says in its
//! contract how the values are laid out (row-major `[tokens, width]` unless it says otherwise).
//! Buffers are made once, before the first step, at the size of the largest batch; a smaller batch uses
//! their beginning.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use half::bf16;
use memmap2::MmapMut;

use crate::gpu::{Float, Gpu, Region, taken};

mod gpu_values;
mod halves;

use crate::quant::UnencodableValue;
use gpu_values::GpuValues;
pub use halves::Half;
use halves::HalfValues;
pub(crate) use halves::Halves;

/// Where tensors live and ops run.
///
/// Ops match on the device of their operands without a wildcard, so that the compiler lists every op that
/// a new device has to provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor; ops run on the current rayon pool.
    Cpu,
    /// A GPU; ops are asked for in order, and wait only where values are read.
    Cuda(Gpu),
}

impl Device {
    /// `cpu`, or what the GPU's maker calls it.
    pub fn name(self) -> String {
        match self {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(gpu) => gpu.info().name,
        }
    }

    /// What decides the sizes of buffers there.
    pub fn placement(self) -> Placement {
        match self {
            Device::Cpu => Placement::Cpu,
            Device::Cuda(gpu) => Placement::Cuda(gpu.float()),
        }
    }
}

/// What of a device decides the sizes of buffers, so that they can be planned where the device is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The processor.
    Cpu,
    /// A GPU with activations of this type.
    Cuda(Float),
}

impl Placement {
    /// The type of activations: `f32` on the processor.
    pub fn activation_float(self) -> Float {
        match self {
            Placement::Cpu => Float::F32,
            Placement::Cuda(float) => float,
        }
    }

    /// Bytes of memory that [`Tensor::zeros_together`] takes.
    pub fn bytes_together(self, lens: &[usize], for_products: bool) -> u64 {
        match self {
            Placement::Cpu => lens.iter().map(|len| Float::F32.bytes(*len as u64)).sum(),
            Placement::Cuda(float) => {
                let bytes = taken(gpu_values::bytes_together(lens));
                bytes + if for_products && float == Float::Bf16 { taken(bytes / 2) } else { 0 }
            }
        }
    }

    /// Bytes of memory that a buffer of `bytes` bytes takes.
    pub fn buffer_bytes(self, bytes: u64) -> u64 {
        match self {
            Placement::Cpu => bytes,
            Placement::Cuda(_) => taken(bytes),
        }
    }
}

/// A buffer of values on a device: `f32`, but for activations on a GPU that computes with `bf16`, and for matrices on the processor
/// that are only read ([`Tensor::narrow`]). The host sees `f32` always.
#[derive(Debug)]
pub struct Tensor {
    storage: Storage,
}

/// The memory behind a tensor.
#[derive(Debug)]
enum Storage {
    Cpu(AlignedVec),
    /// On the processor too.
    Halves(HalfValues),
    Cuda(GpuValues),
}

impl Tensor {
    /// `len` zeros in `f32`. On the CPU the pages are touched only when they are first written.
    pub fn zeros(device: Device, len: usize) -> Self {
        match device {
            Device::Cpu => Tensor { storage: Storage::Cpu(AlignedVec::zeros(len)) },
            Device::Cuda(gpu) => Tensor { storage: Storage::Cuda(GpuValues::zeros(gpu, Float::F32, len)) },
        }
    }

    /// `len` zeros of the device's type of activations ([`Placement::activation_float`]).
    pub fn activation(device: Device, len: usize) -> Self {
        match device {
            Device::Cpu => Tensor::zeros(device, len),
            Device::Cuda(gpu) => Tensor { storage: Storage::Cuda(GpuValues::zeros(gpu, gpu.float(), len)) },
        }
    }

    /// Zeros in `f32` for each of `lens`. On a GPU they lie together, so that one launch reaches all of them
    /// ([`crate::ops::adamw::step_all`], [`crate::ops::elementwise::sum_squares`]); with `for_products` beside a copy of the type that
    /// the device computes with.
    pub fn zeros_together(device: Device, lens: &[usize], for_products: bool) -> Vec<Self> {
        match device {
            Device::Cpu => lens.iter().map(|len| Tensor::zeros(device, *len)).collect(),
            Device::Cuda(gpu) => {
                let values = GpuValues::zeros_together(gpu, lens, for_products).into_iter();
                values.map(|values| Tensor { storage: Storage::Cuda(values) }).collect()
            }
        }
    }

    /// As many zeros in `f32` on the same device.
    pub fn zeros_like(&self) -> Self {
        Tensor::zeros(self.device(), self.len())
    }

    /// A copy of `values` on the device.
    pub fn from_slice(device: Device, values: &[f32]) -> Self {
        let mut tensor = Tensor::zeros(device, values.len());
        tensor.write(0, values);
        tensor
    }

    /// Keeps the values in 16 bits from now on, the nearest to each, if they are on the processor. Then they can be the right operand
    /// of a product and factors of [`crate::ops::low_rank`], and nothing else; they cannot be changed.
    ///
    /// # Errors
    /// A value that is too large; then all stay as they are.
    pub fn narrow(&mut self, half: Half) -> Result<(), UnencodableValue> {
        if let Storage::Cpu(values) = &self.storage {
            self.storage = Storage::Halves(HalfValues::nearest(values, half)?);
        }
        Ok(())
    }

    /// The type of the values, if they are kept in 16 bits for being read ([`Tensor::narrow`]).
    pub fn half(&self) -> Option<Half> {
        self.halves().map(|halves| halves.half())
    }

    /// The device the buffer is on.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) | Storage::Halves(_) => Device::Cpu,
            Storage::Cuda(values) => Device::Cuda(values.gpu()),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Cpu(values) => values.len(),
            Storage::Halves(values) => values.len(),
            Storage::Cuda(values) => values.len,
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
            Storage::Halves(_) => panic!("{ONLY_READ}"),
            Storage::Cuda(buffer) => buffer.write(offset, values),
        }
    }

    /// Copies the first `len` values to the host.
    pub fn to_vec(&self, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        self.read(0, &mut values);
        values
    }

    /// Copies the values from position `offset` on to `out`.
    pub fn read(&self, offset: usize, out: &mut [f32]) {
        match &self.storage {
            Storage::Cpu(values) => out.copy_from_slice(&values[offset..offset + out.len()]),
            Storage::Halves(values) => values.view().decode(offset..offset + out.len(), out),
            Storage::Cuda(values) => values.read(offset, out),
        }
    }

    /// Sets the first `len` values to zero.
    pub fn clear(&mut self, len: usize) {
        match &mut self.storage {
            Storage::Cpu(values) => values[..len].fill(0.0),
            Storage::Halves(_) => panic!("{ONLY_READ}"),
            Storage::Cuda(values) => {
                values.changes();
                values.gpu().clear(values.part(0, len));
            }
        }
    }

    /// The values of a tensor on the CPU, for the CPU version of an op.
    pub(crate) fn cpu(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(values) => values,
            Storage::Halves(_) => panic!("{ONLY_READ}"),
            Storage::Cuda(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// The values that are kept in 16 bits, if they are.
    pub(crate) fn halves(&self) -> Option<Halves<'_>> {
        match &self.storage {
            Storage::Halves(values) => Some(values.view()),
            Storage::Cpu(_) | Storage::Cuda(_) => None,
        }
    }

    /// As [`Tensor::cpu`], writable.
    pub(crate) fn cpu_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Cpu(values) => values,
            Storage::Halves(_) => panic!("{ONLY_READ}"),
            Storage::Cuda(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// The type of the values.
    pub(crate) fn float(&self) -> Float {
        match &self.storage {
            Storage::Cpu(_) => Float::F32,
            Storage::Halves(_) => panic!("{ONLY_READ}"),
            Storage::Cuda(values) => values.float(),
        }
    }

    /// The type of the values, which those of `others` have, too.
    pub(crate) fn float_with(&self, others: &[&Tensor]) -> Float {
        let float = self.float();
        assert!(others.iter().all(|other| other.float() == float), "operands of one op are of one type");
        float
    }

    /// The memory of a tensor on a GPU, for the GPU's version of an op.
    pub(crate) fn region(&self) -> Region {
        self.part(0, self.len())
    }

    /// As [`Tensor::region`], to be written to.
    pub(crate) fn region_mut(&mut self) -> Region {
        self.on_gpu().changes();
        self.region()
    }

    /// The copy for products of values `offset..offset + len` of a tensor on a GPU, if there is one.
    pub(crate) fn rounded(&self, offset: usize, len: usize) -> Option<Region> {
        self.on_gpu().rounded(offset, len)
    }

    /// Whether the values of `next` lie right behind these, in one buffer of a GPU.
    pub(crate) fn goes_on_in(&self, next: &Tensor) -> bool {
        self.on_gpu().goes_on_in(next.on_gpu())
    }

    /// The memory from the first of these values to the last of `last`, of tensors that go on in each other. Between tensors
    /// are zeros.
    pub(crate) fn up_to(&self, last: &Tensor) -> Region {
        self.on_gpu().up_to(last.on_gpu())
    }

    fn on_gpu(&self) -> &GpuValues {
        match &self.storage {
            Storage::Cpu(_) | Storage::Halves(_) => panic!("{ELSEWHERE}"),
            Storage::Cuda(values) => values,
        }
    }

    /// The memory of values `offset..offset + len` of a tensor on a GPU.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Region {
        self.on_gpu().part(offset, len)
    }
}

/// A mistake of ours: an op's operands are on one device.
const ELSEWHERE: &str = "an operand is on another device than the op's others";
/// The same: values of 16 bits are right operands of products alone.
const ONLY_READ: &str = "values of 16 bits that are only read, in an op that takes f32 or changes them";

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
    Cuda(GpuValues),
}

impl Bf16Tensor {
    /// As [`Tensor::zeros`].
    pub fn zeros(device: Device, len: usize) -> Self {
        match device {
            Device::Cpu => Bf16Tensor { storage: Bf16Storage::Cpu(AlignedVec::zeros(len)) },
            Device::Cuda(gpu) => {
                Bf16Tensor { storage: Bf16Storage::Cuda(GpuValues::zeros(gpu, Float::Bf16, len)) }
            }
        }
    }

    /// The values of a tensor on the CPU, for the CPU version of an op.
    pub(crate) fn cpu(&self) -> &[bf16] {
        match &self.storage {
            Bf16Storage::Cpu(values) => values,
            Bf16Storage::Cuda(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// As [`Bf16Tensor::cpu`], writable.
    pub(crate) fn cpu_mut(&mut self) -> &mut [bf16] {
        match &mut self.storage {
            Bf16Storage::Cpu(values) => values,
            Bf16Storage::Cuda(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// The memory of the first `len` values of a tensor on a GPU.
    pub(crate) fn region(&self, len: usize) -> Region {
        match &self.storage {
            Bf16Storage::Cpu(_) => panic!("{ELSEWHERE}"),
            Bf16Storage::Cuda(values) => values.part(0, len),
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
// SAFETY: as above.
unsafe impl Zeroed for u16 {}

/// A zeroed host buffer aligned to a cache line (and to the widest vector register). Its memory costs nothing until it is written.
#[derive(Debug)]
pub(crate) struct AlignedVec<T: Zeroed = f32> {
    memory: HostMemory,
    /// The first cache line of the memory.
    values: NonNull<T>,
    len: usize,
}

/// What an [`AlignedVec`] lies in.
#[derive(Debug)]
enum HostMemory {
    /// The allocator's.
    Allocated(NonNull<u8>),
    /// Pages of its own. An allocator that has freed memory writes zeros to all of what it gives again, so that a later run of the
    /// process would take the whole of buffers of which an earlier one took a part; and it keeps what lies between other
    /// things.
    Mapped { _pages: MmapMut },
}

/// Buffers of so many bytes have pages of their own, at least: what is left of the last page is little beside them.
const MAPPED_BYTES: usize = 1 << 16;

// SAFETY: the buffer is uniquely owned; its values are Send and Sync.
unsafe impl<T: Zeroed> Send for AlignedVec<T> {}
// SAFETY: as above; shared access is read-only through `Deref`.
unsafe impl<T: Zeroed> Sync for AlignedVec<T> {}

impl<T: Zeroed> AlignedVec<T> {
    /// Bytes of a cache line.
    const LINE_BYTES: usize = 64;

    pub(crate) fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        if layout.size() >= MAPPED_BYTES {
            let mut pages = MmapMut::map_anon(layout.size()).unwrap_or_else(|_| handle_alloc_error(layout));
            let values = NonNull::from(&mut pages[..]).cast::<T>();
            return AlignedVec { memory: HostMemory::Mapped { _pages: pages }, values, len };
        }
        // SAFETY: the layout has a non-zero size.
        let allocation = unsafe { alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).unwrap_or_else(|| handle_alloc_error(layout));
        let skip = allocation.as_ptr().align_offset(Self::LINE_BYTES);
        // SAFETY: the layout has one line more than the values need.
        let values = unsafe { allocation.add(skip) }.cast::<T>();
        AlignedVec { memory: HostMemory::Allocated(allocation), values, len }
    }

    /// One line more than asked for, since the system only gives untouched zero pages (memory that costs nothing
    /// until it is written) for its own small alignment.
    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len + Self::LINE_BYTES / size_of::<T>()).expect("buffer size fits an address")
    }
}

impl<T: Zeroed> Default for AlignedVec<T> {
    fn default() -> Self {
        AlignedVec::zeros(0)
    }
}

impl<T: Zeroed> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        match self.memory {
            // SAFETY: allocated in `zeros` with the same layout.
            HostMemory::Allocated(allocation) => unsafe {
                dealloc(allocation.as_ptr(), Self::layout(self.len));
            },
            HostMemory::Mapped { .. } => {}
        }
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
