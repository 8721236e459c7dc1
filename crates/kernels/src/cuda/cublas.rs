//! Products of matrices by cuBLASLt, which has matrices by columns: it is asked for the transposed product.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;

use super::ffi::{self, Algorithm, CublasLt, Handle, HeuristicResult, Status};
use super::library::{self, Opened, Wanted};
use crate::gpu::{DeviceError, Factor, Float, Gemm, Matrix, Region};

/// Bytes that algorithms may use beside operands: what NVIDIA recommends for Hopper.
pub const WORKSPACE_BYTES: u64 = 32 << 20;

/// What an algorithm is chosen for: a product without its addresses but for how they are aligned.
type Key = (Gemm, [u32; 3]);

/// The library, with the algorithms it chose so far.
pub(super) struct Cublas {
    library: &'static Opened<CublasLt>,
    handle: Handle,
    workspace: u64,
    algorithms: HashMap<Key, Algorithm>,
}

// SAFETY: handles belong to the context, not to a thread.
unsafe impl Send for Cublas {}

impl fmt::Display for Cublas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it takes nothing and answers a number.
        let version = unsafe { (self.library.functions.cublasLtGetVersion)() };
        // 120803 is 12.8.3.
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        write!(f, "cuBLASLt {major}.{minor}.{patch} ({})", self.library.path.display())
    }
}

/// What the library answers unless it is success.
struct Refused(Status);

fn checked(status: Status) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "not initialized",
            3 => "allocation failed",
            7 => "invalid value",
            8 => "architecture mismatch",
            11 => "mapping error",
            13 => "execution failed",
            14 => "internal error",
            ffi::CUBLAS_STATUS_NOT_SUPPORTED => "not supported",
            _ => "an error without a name here",
        };
        write!(f, "{name} (cublasStatus_t {})", self.0)
    }
}

/// Ends the life of a description when it is dropped.
struct Owned(Handle, unsafe extern "C" fn(Handle) -> Status);

impl Owned {
    fn new(
        create: impl FnOnce(*mut Handle) -> Status,
        destroy: unsafe extern "C" fn(Handle) -> Status,
    ) -> Result<Self, Refused> {
        let mut made = ptr::null_mut();
        checked(create(&mut made))?;
        Ok(Owned(made, destroy))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the library, destroyed once. An error leaves nothing to be done.
        let _ = unsafe { (self.1)(self.0) };
    }
}

fn data_type(float: Float) -> c_int {
    match float {
        Float::F32 => ffi::CUDA_R_32F,
        Float::Bf16 => ffi::CUDA_R_16BF,
    }
}

/// The description of a matrix of `rows` x `cols`, whose stored rows are columns to the library.
fn layout(lt: &CublasLt, matrix: Matrix, rows: u64, cols: u64) -> Result<Owned, Refused> {
    let (stored_rows, stored_cols) = if matrix.transposed { (cols, rows) } else { (rows, cols) };
    let (float, stride) = (data_type(matrix.float), matrix.stride as i64);
    // SAFETY: where the description goes.
    let create =
        |made| unsafe { (lt.cublasLtMatrixLayoutCreate)(made, float, stored_cols, stored_rows, stride) };
    Owned::new(create, lt.cublasLtMatrixLayoutDestroy)
}

/// The largest power of two, up to 256, that an address is a multiple of.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Cublas {
    /// In the current context of a driver of version `driver`, with a workspace of [`WORKSPACE_BYTES`] at an address of the
    /// device.
    pub(super) fn new(driver: u32, workspace: u64) -> Result<Self, DeviceError> {
        let library = library::open(&Wanted::cublas_lt(driver))?;
        let library: &'static Opened<CublasLt> = Box::leak(Box::new(library));
        let mut handle = ptr::null_mut();
        // SAFETY: where the handle goes.
        checked(unsafe { (library.functions.cublasLtCreate)(&mut handle) }).map_err(|refused| {
            let doing = format!("starting cuBLASLt ({})", library.path.display());
            DeviceError::Failed { doing, error: refused.to_string() }
        })?;
        Ok(Cublas { library, handle, workspace, algorithms: HashMap::new() })
    }

    /// Multiplies on `stream`; regions count from the address `base`.
    pub(super) fn multiply(&mut self, gemm: &Gemm, base: u64, stream: Handle) -> Result<(), DeviceError> {
        self.try_multiply(gemm, base, stream).map_err(|refused| {
            let error = format!("{refused}, {self}");
            DeviceError::Failed { doing: format!("a product ({gemm:?})"), error }
        })
    }

    fn try_multiply(&mut self, gemm: &Gemm, base: u64, stream: Handle) -> Result<(), Refused> {
        let Gemm { m, n, k, left, right, out, scale, base: added } = *gemm;
        let lt = &self.library.functions;
        let address = |matrix: Matrix| base + matrix.region.offset;
        // SAFETY: where the description goes.
        let create =
            |made| unsafe { (lt.cublasLtMatmulDescCreate)(made, ffi::CUBLAS_COMPUTE_32F, ffi::CUDA_R_32F) };
        let operation = Owned::new(create, lt.cublasLtMatmulDescDestroy)?;
        // out^T = right^T . left^T, and a matrix by rows is its transpose by columns.
        for (which, matrix) in
            [(ffi::CUBLASLT_MATMUL_DESC_TRANSA, right), (ffi::CUBLASLT_MATMUL_DESC_TRANSB, left)]
        {
            // CUBLAS_OP_T and CUBLAS_OP_N of cublasOperation_t.
            let how = c_int::from(matrix.transposed);
            // SAFETY: the library copies the four bytes.
            checked(unsafe {
                (lt.cublasLtMatmulDescSetAttribute)(operation.0, which, (&raw const how).cast(), 4)
            })?;
        }
        let (a, b, c) = (layout(lt, right, k, n)?, layout(lt, left, m, k)?, layout(lt, out, m, n)?);

        let key = key(gemm, base);
        let algorithm = match self.algorithms.get(&key) {
            Some(algorithm) => *algorithm,
            None => {
                let chosen = self.choose(operation.0, [a.0, b.0, c.0], key.1)?;
                self.algorithms.insert(key, chosen);
                chosen
            }
        };
        let (factor, sum) = (scale.value(), if added.is_some() { 1.0f32 } else { 0.0 });
        let added = base + added.unwrap_or(out.region).offset;
        let constant = |value: *const f32| value.cast::<c_void>();
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: descriptions are alive, the constants are read by the call itself, operands lie in device memory that is
        // in use until work behind this one on the stream.
        checked(unsafe {
            (lt.cublasLtMatmul)(
                self.handle,
                operation.0,
                constant(&raw const factor),
                pointer(address(right)),
                a.0,
                pointer(address(left)),
                b.0,
                constant(&raw const sum),
                pointer(added),
                c.0,
                pointer(address(out)).cast_mut(),
                c.0,
                &raw const algorithm,
                pointer(self.workspace).cast_mut(),
                WORKSPACE_BYTES as usize,
                stream,
            )
        })
    }

    /// The algorithm that the library expects to be the fastest of those that give the same bits every time.
    fn choose(
        &self,
        operation: Handle,
        [a, b, c]: [Handle; 3],
        [align_a, align_b, align_c]: [u32; 3],
    ) -> Result<Algorithm, Refused> {
        let lt = &self.library.functions;
        // SAFETY: where the description goes.
        let create = |made| unsafe { (lt.cublasLtMatmulPreferenceCreate)(made) };
        let preference = Owned::new(create, lt.cublasLtMatmulPreferenceDestroy)?;
        let set = |attribute: c_int, value: *const c_void, bytes| {
            // SAFETY: the library copies the value.
            checked(unsafe {
                (lt.cublasLtMatmulPreferenceSetAttribute)(preference.0, attribute, value, bytes)
            })
        };
        set(
            ffi::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const WORKSPACE_BYTES_VALUE).cast(),
            size_of::<u64>(),
        )?;
        set(
            ffi::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const ORDERED_REDUCTIONS).cast(),
            size_of::<u32>(),
        )?;
        for (attribute, bytes) in
            (ffi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES..).zip([align_a, align_b, align_c, align_c])
        {
            set(attribute, (&raw const bytes).cast(), size_of::<u32>())?;
        }
        let (mut result, mut count) = (HeuristicResult::default(), 0);
        // SAFETY: all descriptions are alive, and there is room for the one result that is asked for.
        checked(unsafe {
            (lt.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                operation,
                a,
                b,
                c,
                c,
                preference.0,
                1,
                &mut result,
                &mut count,
            )
        })?;
        if count == 0 {
            return Err(Refused(ffi::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        checked(result.state)?;
        Ok(result.algorithm)
    }
}

static WORKSPACE_BYTES_VALUE: u64 = WORKSPACE_BYTES;

/// Sums that several blocks have parts of are added in the compute type (2) or the output's (4), in a fixed order; not in
/// place (1), as they come.
static ORDERED_REDUCTIONS: u32 = 2 | 4;

/// What the choice of an algorithm depends on.
fn key(gemm: &Gemm, base: u64) -> Key {
    let aligned = |region: Region| alignment(base + region.offset);
    const NOWHERE: Region = Region { offset: 0, bytes: 0 };
    let nowhere = |matrix: Matrix| Matrix { region: NOWHERE, ..matrix };
    let Gemm { left, right, out, base: added, .. } = *gemm;
    let alike = Gemm {
        left: nowhere(left),
        right: nowhere(right),
        out: nowhere(out),
        // The factor is no part of the choice.
        scale: Factor::of(1.0),
        base: added.map(|_| NOWHERE),
        ..*gemm
    };
    let of_out = aligned(out.region).min(added.map_or(u32::MAX, aligned));
    (alike, [aligned(right.region), aligned(left.region), of_out])
}
