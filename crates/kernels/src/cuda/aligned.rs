//! Copies of a product's matrices whose rows all begin at multiples of 16 bytes, for products that cuBLASLt refuses as they are.

use super::ffi::{Cuda, Handle};
use crate::gpu::{DeviceError, Gemm, Matrix, Region, taken};

/// What tensor cores load at a time.
const ROW_ALIGNMENT: u64 = 16;

/// Memory of a device beside the arena, as long as it was asked to be so far.
pub(super) struct Room {
    cuda: &'static Cuda,
    address: u64,
    bytes: u64,
}

impl Room {
    /// None yet.
    pub(super) fn new(cuda: &'static Cuda) -> Self {
        Room { cuda, address: 0, bytes: 0 }
    }

    /// Its address, with at least `bytes` bytes. What it held is lost.
    pub(super) fn of(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        if bytes > self.bytes {
            self.release()?;
            // SAFETY: where the address goes.
            let allocated = unsafe { (self.cuda.cuMemAlloc_v2)(&mut self.address, bytes as usize) };
            self.cuda.checked("memory for aligned copies", allocated)?;
            self.bytes = bytes;
        }
        Ok(self.address)
    }

    /// Gives the memory back, once all that uses it is done: the driver waits for that.
    pub(super) fn release(&mut self) -> Result<(), DeviceError> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.bytes = 0;
        // SAFETY: allocated by the driver, freed once.
        let freed = unsafe { (self.cuda.cuMemFree_v2)(self.address) };
        self.cuda.checked("giving memory back", freed)
    }
}

/// The same product over copies of its matrices, whose regions count from the beginning of the copies.
pub(super) fn padded(gemm: &Gemm) -> Gemm {
    let Gemm { m, n, k, .. } = *gemm;
    let mut end = 0;
    let mut copy = |matrix: Matrix, rows, cols| {
        let (rows, cols) = stored(matrix, rows, cols);
        let in_a_row = ROW_ALIGNMENT / matrix.float.bytes(1);
        let stride = if rows == 1 { cols } else { matrix.stride };
        let stride = stride.next_multiple_of(in_a_row);
        let bytes = matrix.float.bytes((rows - 1) * stride + cols);
        let region = Region { offset: end, bytes };
        end += taken(bytes);
        Matrix { region, stride, ..matrix }
    };
    let (left, right, out) = (copy(gemm.left, m, k), copy(gemm.right, k, n), copy(gemm.out, m, n));
    // What the product is added to is copied to where the result will be.
    let base = gemm.base.map(|_| out.region);
    Gemm { left, right, out, base, ..*gemm }
}

/// Bytes of all copies of a product that [`padded`] gave.
pub(super) fn bytes(padded: &Gemm) -> u64 {
    padded.out.region.offset + taken(padded.out.region.bytes)
}

/// Rows and columns of `matrix` as they are stored.
fn stored(matrix: Matrix, rows: u64, cols: u64) -> (u64, u64) {
    if matrix.transposed { (cols, rows) } else { (rows, cols) }
}

/// Copies the values of a `[rows, cols]` matrix to another of the same kind; regions count from the addresses. Rows one by one
/// where strides differ: a driver need not copy rows of any length apart in one call.
pub(super) fn copy(
    cuda: &Cuda,
    stream: Handle,
    (rows, cols): (u64, u64),
    (from, from_base): (Matrix, u64),
    (to, to_base): (Matrix, u64),
) -> Result<(), DeviceError> {
    let (rows, cols) = stored(from, rows, cols);
    let float = from.float;
    let alike = from.stride == to.stride && from.stride == cols;
    let (times, bytes) = if alike { (1, float.bytes(rows * cols)) } else { (rows, float.bytes(cols)) };
    for row in 0..times {
        let at = |matrix: Matrix, base: u64| base + matrix.region.offset + float.bytes(row * matrix.stride);
        let (source, target) = (at(from, from_base), at(to, to_base));
        // SAFETY: both rows lie in memory that is in use until work behind this on the stream.
        let asked = unsafe { (cuda.cuMemcpyDtoDAsync_v2)(target, source, bytes as usize, stream) };
        cuda.checked("a copy on the device", asked)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Factor, Float};

    #[test]
    fn copies_begin_and_have_rows_at_multiples_of_sixteen_bytes() {
        let matrix = |stride, transposed| Matrix {
            region: Region { offset: 2, bytes: 0 },
            float: Float::Bf16,
            stride,
            transposed,
        };
        let gemm = Gemm {
            m: 5,
            n: 3,
            k: 7,
            left: matrix(9, false),
            right: matrix(8, true),
            out: matrix(3, false),
            scale: Factor::of(1.0),
            base: Some(Region { offset: 2, bytes: 0 }),
        };
        let copies = padded(&gemm);
        for (of, rows, cols) in [(copies.left, 5, 7), (copies.right, 3, 7), (copies.out, 5, 3)] {
            assert!(of.region.offset.is_multiple_of(256) && (2 * of.stride).is_multiple_of(16), "{of:?}");
            assert_eq!(of.region.bytes, 2 * ((rows - 1) * of.stride + cols), "{of:?}");
        }
        assert!(copies.right.transposed && copies.base == Some(copies.out.region));
        assert_eq!((copies.left.stride, copies.right.stride, copies.out.stride), (16, 8, 8));
        assert_eq!(bytes(&copies), 768);
    }
}
