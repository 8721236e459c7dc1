//! What runs the work that ops ask of a device: its maker's driver, or in tests whoever checks it.

use std::fmt;

use super::launch::MAX_SHARED_BYTES;
use super::{DeviceError, Float, Launch, Region};

/// A matrix in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// From its first value to its last.
    pub region: Region,
    /// The type of its values.
    pub float: Float,
    /// Values from one stored row to the next.
    pub stride: u64,
    /// Whether stored rows are columns of the matrix.
    pub transposed: bool,
}

/// A factor, which is the same as another if its bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Factor(u32);

impl Factor {
    /// The factor `value`.
    pub fn of(value: f32) -> Self {
        Factor(value.to_bits())
    }

    /// Its value.
    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// `out[m, n] = base[m, n] + scale left[m, k] . right[k, n]`, with f32 sums. The operands are of one type; a result of another
/// than theirs is f32, and one of bf16 is rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of the output.
    pub m: u64,
    /// Columns of the output.
    pub n: u64,
    /// Length of the sums.
    pub k: u64,
    /// `[m, k]`.
    pub left: Matrix,
    /// `[k, n]`.
    pub right: Matrix,
    /// `[m, n]`, not transposed.
    pub out: Matrix,
    /// What the product is multiplied by.
    pub scale: Factor,
    /// What it is added to, laid out as `out`, which it may be.
    pub base: Option<Region>,
}

/// Runs what it is told in order; only [`Driver::download`] waits. Regions are parts of one address range that begins at 0
/// and is as long as [`Driver::map`] made it.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Gives the address range `from..from + bytes` memory; all before it has some.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] when there is not enough.
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError>;

    /// A region is used from now on; its bytes are anything.
    fn allocated(&self, _region: Region) {}

    /// A region is not used any more by what comes next.
    fn released(&self, _region: Region) {}

    /// Runs a kernel.
    ///
    /// # Errors
    /// As all that follow, [`DeviceError::Failed`], maybe of work that was asked for before.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Multiplies matrices.
    #[allow(missing_docs, clippy::missing_errors_doc)]
    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError>;

    /// Sets every byte to zero.
    #[allow(clippy::missing_errors_doc)]
    fn clear(&self, region: Region) -> Result<(), DeviceError>;

    /// Copies a region to another of the same length.
    #[allow(clippy::missing_errors_doc)]
    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError>;

    /// Copies from the host, which may change `bytes` once this returns.
    #[allow(clippy::missing_errors_doc)]
    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError>;

    /// Waits for all that was asked for, and copies to the host.
    #[allow(clippy::missing_errors_doc)]
    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// How its tensor cores multiply.
    fn tensor_cores(&self) -> TensorCores {
        TensorCores::Warps
    }
}

/// By which instructions tensor cores multiply matrices in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TensorCores {
    /// Those of a warp, which every device has (`mma.sync`).
    #[default]
    Warps,
    /// Those of a warpgroup, four warps, of Hopper (`wgmma`).
    Warpgroups,
}

impl TensorCores {
    /// Shared memory that a block can have on every device with such tensor cores.
    pub fn max_shared_bytes(self) -> u32 {
        match self {
            TensorCores::Warps => MAX_SHARED_BYTES,
            TensorCores::Warpgroups => 227 * 1024,
        }
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As its maker calls it.
    pub name: String,
    /// Compute capability: 90 is sm_90.
    pub architecture: u32,
    /// Version of the driver, 12080 for 12.8.
    pub driver_version: u32,
    /// Libraries that it computes with: their versions and files.
    pub libraries: Vec<String>,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Bytes that nobody uses now.
    pub free_bytes: u64,
}
