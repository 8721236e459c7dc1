//! What the host says to a device: which kernel, over which grid, on which memory.
//!
//! An op's `cuda.rs` makes launches with sizes checked and every region cut to what the kernel may touch, so that
//! whoever runs them (a device, or the CPU in tests) can hold the kernel to it.

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Threads of a block, unless a kernel says otherwise.
pub const THREADS: u32 = 256;

/// Values that a thread of an elementwise kernel has: 16 bytes of bf16, two times 16 bytes of f32.
pub const UNIT: u32 = 8;

/// Shared memory that a block can have on every device from sm_80 on (sm_86, sm_89 and sm_120 have the least: 99 KiB).
pub const MAX_SHARED_BYTES: u32 = 99 * 1024;

/// A number of rows, heads or values of a row as kernels take it.
///
/// # Panics
/// From 2^32 on, which no buffer has.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2^32 rows")
}

/// The type of activations on a device; sums are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// As on the CPU.
    F32,
    /// Half the memory, and what tensor cores multiply.
    Bf16,
}

impl Float {
    /// Its name in the names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "float",
            Float::Bf16 => "bf16",
        }
    }

    /// Bytes of `values` values.
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            Float::F32 => 4 * values,
            Float::Bf16 => 2 * values,
        }
    }
}

/// A range of device memory, aligned to 16 bytes at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// Its first byte, in the arena.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

impl Region {
    /// The first `bytes` bytes.
    ///
    /// # Panics
    /// When the region is shorter: a buffer was laid out too small.
    pub fn first(self, bytes: u64) -> Region {
        assert!(bytes <= self.bytes, "{bytes} bytes asked of a region of {}", self.bytes);
        Region { bytes, ..self }
    }

    /// `bytes` bytes from byte `offset` on.
    ///
    /// # Panics
    /// As [`Region::first`].
    pub fn part(self, offset: u64, bytes: u64) -> Region {
        assert!(
            offset + bytes <= self.bytes,
            "bytes {offset}..{} asked of a region of {}",
            offset + bytes,
            self.bytes
        );
        Region { offset: self.offset + offset, bytes }
    }

    /// The first `len` f32 or u32.
    pub fn words(self, len: u64) -> Region {
        self.first(4 * len)
    }

    /// The first `len` values of type `float`.
    pub fn floats(self, float: Float, len: u64) -> Region {
        self.first(float.bytes(len))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Memory that is read.
    In(Region),
    /// Memory that is written before it is read.
    Out(Region),
    /// Memory that is read and written over.
    Update(Region),
    /// A pointer to nothing.
    Null,
    /// A number.
    U32(u32),
    /// A number.
    U64(u64),
    /// A number.
    F32(f32),
}

/// One kernel over one grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel, by the name that the driver has for it: of an instance, as C++ names it.
    pub entry: String,
    /// Blocks along each axis; of none there is nothing to run.
    pub grid: [u32; 3],
    /// Threads of a block, along the first axis.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Arguments in order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// `blocks` blocks of `threads` threads along the first axis.
    ///
    /// # Panics
    /// When there are more blocks than a grid has.
    pub fn new(entry: impl Into<String>, blocks: u64, threads: u32, args: Vec<Arg>) -> Self {
        let blocks = i32::try_from(blocks).expect("a grid has fewer than 2^31 blocks") as u32;
        Launch { entry: entry.into(), grid: [blocks, 1, 1], threads, shared_bytes: 0, args }
    }

    /// One unit of eight of `len` values a thread.
    pub fn over_values(entry: impl Into<String>, len: u64, args: Vec<Arg>) -> Self {
        Launch::new(entry, len.div_ceil(u64::from(THREADS * UNIT)), THREADS, args)
    }

    /// One of `len` items a thread.
    pub fn over_items(entry: impl Into<String>, len: u64, args: Vec<Arg>) -> Self {
        Launch::new(entry, len.div_ceil(u64::from(THREADS)), THREADS, args)
    }

    /// One of `rows` rows a warp.
    pub fn over_rows(entry: impl Into<String>, rows: u32, args: Vec<Arg>) -> Self {
        Launch::new(entry, u64::from(rows.div_ceil(THREADS / WARP)), THREADS, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_their_items() {
        let blocks = |launch: Launch| launch.grid;
        assert_eq!(blocks(Launch::over_values("add<float>", 1, vec![])), [1, 1, 1]);
        assert_eq!(blocks(Launch::over_values("add<float>", 2048, vec![])), [1, 1, 1]);
        assert_eq!(blocks(Launch::over_values("add<float>", 2049, vec![])), [2, 1, 1]);
        assert_eq!(blocks(Launch::over_rows("rms_norm_forward<float>", 9, vec![])), [2, 1, 1]);
    }

    #[test]
    #[should_panic(expected = "9 bytes asked of a region of 8")]
    fn a_region_that_is_too_small_is_refused() {
        Region { offset: 0, bytes: 8 }.first(9);
    }
}
