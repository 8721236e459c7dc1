//! Products of matrices by cuBLASLt, which has matrices by columns: it is asked for the transposed product.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Debug;

use cudarc::cublaslt::{result, sys};

use crate::gpu::{DeviceError, Float, Gemm, Matrix, Region};

/// Bytes that algorithms may use beside operands: what NVIDIA recommends for Hopper.
pub const WORKSPACE_BYTES: u64 = 32 << 20;

/// What an algorithm is chosen for: a product without its addresses but for how they are aligned.
type Key = (Gemm, [u32; 3]);

/// The library, with the algorithms it chose so far.
pub(super) struct Cublas {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    algorithms: HashMap<Key, sys::cublasLtMatmulAlgo_t>,
}

// SAFETY: handles belong to the context, not to a thread.
unsafe impl Send for Cublas {}

fn failed(error: impl Debug, gemm: &Gemm) -> DeviceError {
    DeviceError::Failed { doing: format!("a product ({gemm:?})"), error: format!("{error:?}") }
}

/// Ends the life of a description when it is dropped.
struct Owned<T: Copy>(T, unsafe fn(T) -> Result<(), result::CublasError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library, destroyed once. An error leaves nothing to be done.
        let _ = unsafe { (self.1)(self.0) };
    }
}

fn data_type(float: Float) -> sys::cudaDataType {
    match float {
        Float::F32 => sys::cudaDataType::CUDA_R_32F,
        Float::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// The description of a matrix of `rows` x `cols`, whose stored rows are columns to the library.
fn layout(
    matrix: Matrix,
    rows: u64,
    cols: u64,
) -> Result<Owned<sys::cublasLtMatrixLayout_t>, result::CublasError> {
    let (stored_rows, stored_cols) = if matrix.transposed { (cols, rows) } else { (rows, cols) };
    let made = result::create_matrix_layout(
        data_type(matrix.float),
        stored_cols,
        stored_rows,
        matrix.stride as i64,
    )?;
    Ok(Owned(made, result::destroy_matrix_layout))
}

/// The largest power of two, up to 256, that an address is a multiple of.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Cublas {
    /// In the current context, with a workspace of [`WORKSPACE_BYTES`] at an address of the device.
    pub(super) fn new(workspace: u64) -> Result<Self, DeviceError> {
        let handle = result::create_handle()
            .map_err(|e| DeviceError::Failed { doing: "cuBLASLt".to_owned(), error: format!("{e:?}") })?;
        Ok(Cublas { handle, workspace, algorithms: HashMap::new() })
    }

    /// Multiplies on `stream`; regions count from the address `base`.
    pub(super) fn multiply(
        &mut self,
        gemm: &Gemm,
        base: u64,
        stream: sys::cudaStream_t,
    ) -> Result<(), DeviceError> {
        self.try_multiply(gemm, base, stream).map_err(|error| failed(error, gemm))
    }

    fn try_multiply(
        &mut self,
        gemm: &Gemm,
        base: u64,
        stream: sys::cudaStream_t,
    ) -> Result<(), result::CublasError> {
        let Gemm { m, n, k, left, right, out, accumulate } = *gemm;
        let address = |matrix: Matrix| base + matrix.region.offset;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = Owned(
            result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?,
            result::destroy_matmul_desc,
        );
        // out^T = right^T . left^T, and a matrix by rows is its transpose by columns.
        for (which, matrix) in [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, right),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, left),
        ] {
            // CUBLAS_OP_T and CUBLAS_OP_N of cublasOperation_t.
            let how = i32::from(matrix.transposed);
            // SAFETY: the library copies the four bytes.
            unsafe {
                result::set_matmul_desc_attribute(operation.0, which, (&raw const how).cast::<c_void>(), 4)?;
            }
        }
        let (a, b, c) = (layout(right, k, n)?, layout(left, m, k)?, layout(out, m, n)?);

        let key = key(gemm, base);
        let algorithm = match self.algorithms.get(&key) {
            Some(algorithm) => *algorithm,
            None => {
                let chosen = self.choose(operation.0, [a.0, b.0, c.0], key.1)?;
                self.algorithms.insert(key, chosen);
                chosen
            }
        };
        let (one, sum) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        let constant = |value: *const f32| value.cast::<c_void>();
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: descriptions are alive, the constants are read by the call itself, operands lie in device memory that is
        // in use until work behind this one on the stream.
        unsafe {
            result::matmul(
                self.handle,
                operation.0,
                constant(&raw const one),
                constant(&raw const sum),
                pointer(address(right)),
                a.0,
                pointer(address(left)),
                b.0,
                pointer(address(out)),
                c.0,
                pointer(address(out)).cast_mut(),
                c.0,
                &raw const algorithm,
                pointer(self.workspace).cast_mut(),
                WORKSPACE_BYTES as usize,
                stream,
            )
        }
    }

    /// The algorithm that the library expects to be the fastest of those that give the same bits every time.
    fn choose(
        &self,
        operation: sys::cublasLtMatmulDesc_t,
        [a, b, c]: [sys::cublasLtMatrixLayout_t; 3],
        [align_a, align_b, align_c]: [u32; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Owned(result::create_matmul_pref()?, result::destroy_matmul_pref);
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the library copies the value.
            unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, bytes) }
        };
        set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const WORKSPACE_BYTES_VALUE).cast(),
            size_of::<u64>(),
        )?;
        set(
            Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const ORDERED_REDUCTIONS).cast(),
            size_of::<u32>(),
        )?;
        for (attribute, bytes) in [
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_a),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_b),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_c),
        ] {
            set(attribute, (&raw const bytes).cast(), size_of::<u32>())?;
        }
        // SAFETY: all descriptions are alive.
        let found =
            unsafe { result::get_matmul_algo_heuristic(self.handle, operation, a, b, c, c, preference.0)? };
        Ok(found.algo)
    }
}

static WORKSPACE_BYTES_VALUE: u64 = WORKSPACE_BYTES;

/// Sums that several blocks have parts of are added in the compute type (2) or the output's (4), in a fixed order; not in
/// place (1), as they come.
static ORDERED_REDUCTIONS: u32 = 2 | 4;

/// What the choice of an algorithm depends on.
fn key(gemm: &Gemm, base: u64) -> Key {
    let aligned = |matrix: Matrix| alignment(base + matrix.region.offset);
    let nowhere = |matrix: Matrix| Matrix { region: Region { offset: 0, bytes: 0 }, ..matrix };
    let Gemm { left, right, out, .. } = *gemm;
    let alike = Gemm { left: nowhere(left), right: nowhere(right), out: nowhere(out), ..*gemm };
    (alike, [aligned(right), aligned(left), aligned(out)])
}
