//! A device with its memory, as tensors and ops use it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::arena::{ALIGNMENT, Arena};
use super::{DeviceError, DeviceInfo, Driver, Float, Gemm, Launch, Region, TensorCores};

/// A device that ops run on; a copy is the same device, which stays open until the process ends.
///
/// What fails on it in the middle of a computation unwinds with a [`DeviceError`] ([`DeviceError::raise`]).
#[derive(Clone, Copy)]
pub struct Gpu(&'static Shared);

struct Shared {
    driver: Box<dyn Driver>,
    arena: Mutex<Arena>,
    float: Float,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({:?}, {})", self.0.driver, self.0.float.name())
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Gpu {}

/// The arena grows by multiples of this: the granularity of device memory.
const GROWTH: u64 = 2 << 20;

impl Gpu {
    /// The device behind `driver`, with activations, and so the operands of products, in `float`.
    pub fn over(driver: impl Driver + 'static, float: Float) -> Self {
        Gpu(Box::leak(Box::new(Shared { driver: Box::new(driver), arena: Mutex::default(), float })))
    }

    /// The type of activations.
    pub fn float(&self) -> Float {
        self.0.float
    }

    /// What the device is.
    pub fn info(&self) -> DeviceInfo {
        self.0.driver.info()
    }

    /// How its tensor cores multiply.
    pub(crate) fn tensor_cores(&self) -> TensorCores {
        self.0.driver.tensor_cores()
    }

    /// Takes memory for all that is planned before any of it is made, so that a run that does not fit ends here.
    ///
    /// # Errors
    /// [`DeviceError::Memory`].
    pub fn reserve(&self, bytes: u64) -> Result<(), DeviceError> {
        let mut arena = self.arena();
        let missing = bytes.next_multiple_of(GROWTH).saturating_sub(arena.size());
        self.grow(&mut arena, missing)
    }

    /// The most bytes that tensors, weights and what ops need in passing took at once.
    pub fn peak_bytes(&self) -> u64 {
        self.arena().peak()
    }

    /// Bytes that are in use now.
    pub fn bytes_in_use(&self) -> u64 {
        self.arena().in_use()
    }

    /// Bytes that the device's memory has given to the arena.
    pub fn reserved_bytes(&self) -> u64 {
        self.arena().size()
    }

    /// Waits for all that was asked for.
    pub fn wait(&self) {
        let one = self.buffer_of(&[0]);
        self.download(one.region(), &mut [0]);
    }

    fn arena(&self) -> std::sync::MutexGuard<'_, Arena> {
        // An arena is whole between its calls, whatever unwound.
        self.0.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, arena: &mut Arena, bytes: u64) -> Result<(), DeviceError> {
        if bytes > 0 {
            self.0.driver.map(arena.size(), bytes)?;
            arena.extend(bytes);
        }
        Ok(())
    }

    /// `bytes` bytes that hold anything.
    pub(crate) fn buffer(&self, bytes: u64) -> Buffer {
        let mut arena = self.arena();
        let region = arena.allocate(bytes).unwrap_or_else(|| {
            let missing = arena.missing(bytes).next_multiple_of(GROWTH);
            if let Err(error) = self.grow(&mut arena, missing) {
                error.raise();
            }
            arena.allocate(bytes).expect("the arena has grown by what was missing")
        });
        debug_assert!(region.offset.is_multiple_of(ALIGNMENT));
        self.0.driver.allocated(region);
        drop(arena);
        Buffer { gpu: *self, region }
    }

    /// A buffer with a copy of `bytes`.
    pub(crate) fn buffer_of(&self, bytes: &[u8]) -> Buffer {
        let buffer = self.buffer(bytes.len() as u64);
        self.upload(bytes, buffer.region());
        buffer
    }

    /// A buffer of 32-bit numbers.
    pub(crate) fn buffer_of_words(&self, words: &[u32]) -> Buffer {
        self.buffer_of(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    /// A buffer of f32.
    pub(crate) fn buffer_of_floats(&self, values: &[f32]) -> Buffer {
        self.buffer_of(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Runs a kernel; of an empty grid nothing.
    pub(crate) fn run(&self, launch: &Launch) {
        if launch.grid.iter().all(|&blocks| blocks > 0) {
            done(self.0.driver.launch(launch));
        }
    }

    /// Multiplies; an empty sum changes nothing that is added to.
    pub(crate) fn multiply(&self, gemm: &Gemm) {
        done(self.0.driver.multiply(gemm));
    }

    /// Sets bytes to zero.
    pub(crate) fn clear(&self, region: Region) {
        if region.bytes > 0 {
            done(self.0.driver.clear(region));
        }
    }

    /// Copies within the device.
    pub(crate) fn copy(&self, from: Region, to: Region) {
        assert_eq!(from.bytes, to.bytes, "lengths of a copy");
        if from.bytes > 0 {
            done(self.0.driver.copy(from, to));
        }
    }

    /// Copies from the host.
    pub(crate) fn upload(&self, bytes: &[u8], to: Region) {
        assert_eq!(bytes.len() as u64, to.bytes, "lengths of a copy");
        if !bytes.is_empty() {
            done(self.0.driver.upload(bytes, to));
        }
    }

    /// Copies to the host, when all that was asked for is done.
    pub(crate) fn download(&self, from: Region, bytes: &mut [u8]) {
        assert_eq!(bytes.len() as u64, from.bytes, "lengths of a copy");
        if !bytes.is_empty() {
            done(self.0.driver.download(from, bytes));
        }
    }
}

fn done(result: Result<(), DeviceError>) {
    if let Err(error) = result {
        error.raise();
    }
}

/// A part of a device's memory, its owner's alone.
#[derive(Debug)]
pub(crate) struct Buffer {
    gpu: Gpu,
    region: Region,
}

impl Buffer {
    pub(crate) fn gpu(&self) -> Gpu {
        self.gpu
    }

    pub(crate) fn region(&self) -> Region {
        self.region
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu.0.driver.released(self.region);
        self.gpu.arena().release(self.region);
    }
}
