//! What is called of NVIDIA's libraries, as their headers of CUDA 12 and 13 declare it; in all that is here both are alike.
//!
//! What a function answers is a number, not an enumeration: a library that is newer than this program has answers that no
//! list here would know.

// A function has the name that it has in its library.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use crate::gpu::DeviceError;

/// What a function answers; zero is success.
pub(super) type Status = c_int;

/// What a library hands out and alone can read: a context, a stream, a module, a description of a matrix.
pub(super) type Handle = *mut c_void;

/// Functions of a library, found by their names when it is opened.
pub(super) trait Functions: Sized {
    /// # Errors
    /// The name of the first that the library does not have.
    fn of(library: &Library) -> Result<Self, libloading::Error>;
}

/// A table of functions.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($function:ident($($argument:ty),* $(,)?) -> $result:ty;)* }) => {
        $(#[$doc])*
        pub(super) struct $name {
            $(pub(super) $function: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions for $name {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok($name {
                    // SAFETY: the type is that of the library's header.
                    $($function: unsafe { *library.get(concat!(stringify!($function), "\0").as_bytes())? },)*
                })
            }
        }
    };
}

functions!(
    /// The driver, `libcuda`.
    Cuda {
        cuCtxSetCurrent(Handle) -> Status;
        cuDeviceGet(*mut c_int, c_int) -> Status;
        cuDeviceGetAttribute(*mut c_int, c_int, c_int) -> Status;
        cuDeviceGetCount(*mut c_int) -> Status;
        cuDeviceGetName(*mut c_char, c_int, c_int) -> Status;
        cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> Status;
        cuDriverGetVersion(*mut c_int) -> Status;
        cuEventCreate(*mut Handle, c_uint) -> Status;
        cuEventRecord(Handle, Handle) -> Status;
        cuEventSynchronize(Handle) -> Status;
        cuFuncSetAttribute(Handle, c_int, c_int) -> Status;
        cuGetErrorName(Status, *mut *const c_char) -> Status;
        cuGetErrorString(Status, *mut *const c_char) -> Status;
        cuInit(c_uint) -> Status;
        cuLaunchKernel(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
        ) -> Status;
        cuMemAddressReserve(*mut u64, usize, usize, u64, u64) -> Status;
        cuMemAlloc_v2(*mut u64, usize) -> Status;
        cuMemCreate(*mut u64, usize, *const AllocationProperties, u64) -> Status;
        cuMemFree_v2(u64) -> Status;
        cuMemGetInfo_v2(*mut usize, *mut usize) -> Status;
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint) -> Status;
        cuMemMap(u64, usize, usize, u64, u64) -> Status;
        cuMemSetAccess(u64, usize, *const AccessDescription, usize) -> Status;
        cuMemcpyDtoDAsync_v2(u64, u64, usize, Handle) -> Status;
        cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle) -> Status;
        cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle) -> Status;
        cuMemsetD8Async(u64, u8, usize, Handle) -> Status;
        cuModuleGetFunction(*mut Handle, Handle, *const c_char) -> Status;
        cuModuleLoadData(*mut Handle, *const c_void) -> Status;
        cuStreamCreate(*mut Handle, c_uint) -> Status;
        cuStreamSynchronize(Handle) -> Status;
    }
);

/// Of `CUresult`.
pub(super) const CUDA_ERROR_OUT_OF_MEMORY: Status = 2;
/// Of `CUdevice_attribute`.
pub(super) const CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
/// As above.
pub(super) const CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;
/// As above.
pub(super) const CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: c_int = 102;
/// Of `CUstream_flags`.
pub(super) const CU_STREAM_NON_BLOCKING: c_uint = 1;
/// Of `CUevent_flags`.
pub(super) const CU_EVENT_DISABLE_TIMING: c_uint = 2;
/// Of `CUfunction_attribute`.
pub(super) const CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
/// Of `CUmemAllocationType`.
pub(super) const CU_MEM_ALLOCATION_TYPE_PINNED: c_uint = 1;
/// Of `CUmemLocationType`.
pub(super) const CU_MEM_LOCATION_TYPE_DEVICE: c_uint = 1;
/// Of `CUmemAccess_flags`.
pub(super) const CU_MEM_ACCESS_FLAGS_PROT_READWRITE: c_uint = 3;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Location {
    pub(super) kind: c_uint,
    pub(super) id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub(super) struct AllocationProperties {
    pub(super) kind: c_uint,
    pub(super) handle_types: c_uint,
    pub(super) location: Location,
    pub(super) win32_meta_data: *mut c_void,
    pub(super) flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub(super) struct AccessDescription {
    pub(super) location: Location,
    pub(super) flags: c_uint,
}

impl Cuda {
    /// An error that says what was asked and what the driver answers, unless that is success.
    pub(super) fn checked(&self, doing: &str, status: Status) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        let told = |ask: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = ptr::null();
            // SAFETY: where the address of a text goes, which stays as it is for the life of the process.
            let known = unsafe { ask(status, &mut text) } == 0 && !text.is_null();
            // SAFETY: as above.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let name = told(self.cuGetErrorName).unwrap_or_else(|| format!("error {status}"));
        let error = match told(self.cuGetErrorString) {
            Some(meaning) => format!("{name} ({meaning})"),
            None => name,
        };
        Err(DeviceError::Failed { doing: doing.to_owned(), error })
    }
}

functions!(
    /// cuBLASLt.
    CublasLt {
        cublasLtCreate(*mut Handle) -> Status;
        cublasLtGetVersion() -> usize;
        cublasLtMatmul(
            Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void,
            Handle, *mut c_void, Handle, *const Algorithm, *mut c_void, usize, Handle,
        ) -> Status;
        cublasLtMatmulAlgoGetHeuristic(
            Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut HeuristicResult, *mut c_int,
        ) -> Status;
        cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> Status;
        cublasLtMatmulDescDestroy(Handle) -> Status;
        cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
        cublasLtMatmulPreferenceCreate(*mut Handle) -> Status;
        cublasLtMatmulPreferenceDestroy(Handle) -> Status;
        cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
        cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> Status;
        cublasLtMatrixLayoutDestroy(Handle) -> Status;
    }
);

/// Of `cublasStatus_t`.
pub(super) const CUBLAS_STATUS_NOT_SUPPORTED: Status = 15;
/// Of `cudaDataType`.
pub(super) const CUDA_R_32F: c_int = 0;
/// As above.
pub(super) const CUDA_R_16BF: c_int = 14;
/// Of `cublasComputeType_t`.
pub(super) const CUBLAS_COMPUTE_32F: c_int = 68;
/// Of `cublasLtMatmulDescAttributes_t`.
pub(super) const CUBLASLT_MATMUL_DESC_TRANSA: c_int = 3;
/// As above.
pub(super) const CUBLASLT_MATMUL_DESC_TRANSB: c_int = 4;
/// Of `cublasLtMatmulPreferenceAttributes_t`.
pub(super) const CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: c_int = 1;
/// As above.
pub(super) const CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: c_int = 3;
/// As above; those of B, C and D follow it.
pub(super) const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: c_int = 5;

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Algorithm(pub(super) [u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HeuristicResult {
    pub(super) algorithm: Algorithm,
    pub(super) workspace_bytes: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

functions!(
    /// NVRTC.
    Nvrtc {
        nvrtcAddNameExpression(Handle, *const c_char) -> Status;
        nvrtcCompileProgram(Handle, c_int, *const *const c_char) -> Status;
        nvrtcCreateProgram(
            *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        ) -> Status;
        nvrtcDestroyProgram(*mut Handle) -> Status;
        nvrtcGetCUBIN(Handle, *mut c_char) -> Status;
        nvrtcGetCUBINSize(Handle, *mut usize) -> Status;
        nvrtcGetErrorString(Status) -> *const c_char;
        nvrtcGetLoweredName(Handle, *const c_char, *mut *const c_char) -> Status;
        nvrtcGetNumSupportedArchs(*mut c_int) -> Status;
        nvrtcGetPTX(Handle, *mut c_char) -> Status;
        nvrtcGetPTXSize(Handle, *mut usize) -> Status;
        nvrtcGetProgramLog(Handle, *mut c_char) -> Status;
        nvrtcGetProgramLogSize(Handle, *mut usize) -> Status;
        nvrtcGetSupportedArchs(*mut c_int) -> Status;
        nvrtcVersion(*mut c_int, *mut c_int) -> Status;
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that the headers give, on machines with addresses of 64 bits.
    #[test]
    fn structures_are_as_long_as_the_headers_say() {
        assert_eq!(size_of::<AllocationProperties>(), 32);
        assert_eq!(size_of::<AccessDescription>(), 12);
        assert_eq!(size_of::<Algorithm>(), 64);
        assert_eq!(size_of::<HeuristicResult>(), 96);
    }
}
