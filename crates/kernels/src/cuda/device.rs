//! The CUDA driver: one stream, in which everything runs in the order it is asked for.
//!
//! Its libraries are loaded when a device is opened, so that the program runs where there are none.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use super::cublas::{Cublas, WORKSPACE_BYTES};
use super::staging::Staging;
use super::{SOURCES, kernel_cache};
use crate::gpu::launch::MAX_SHARED_BYTES;
use crate::gpu::{Arg, DeviceError, DeviceInfo, Driver, Gemm, Launch, Region};

/// The oldest devices that kernels are compiled for.
const OLDEST: u32 = 80;

/// Shared memory that a kernel has without being asked.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A device.
pub struct CudaDevice {
    ordinal: usize,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// The first address of the arena.
    base: u64,
    name: String,
    architecture: u32,
    driver_version: u32,
    kernels: Mutex<HashMap<String, Kernel>>,
    cublas: Mutex<Cublas>,
    staging: Mutex<Staging>,
}

// SAFETY: handles of the driver may be used by any thread that has made the context current, which every call does.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; what is not the driver's own is behind locks.
unsafe impl Sync for CudaDevice {}

#[derive(Clone, Copy)]
struct Kernel(sys::CUfunction);

// SAFETY: as for the device.
unsafe impl Send for Kernel {}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

/// What the driver answers, with what was asked.
pub(super) fn checked<T>(doing: &str, answer: Result<T, result::DriverError>) -> Result<T, DeviceError> {
    answer.map_err(|error| DeviceError::Failed { doing: doing.to_owned(), error: error.to_string() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many devices there are; an error where the driver is missing or does not start.
///
/// # Errors
/// [`DeviceError::Library`] or [`DeviceError::Failed`].
pub fn count() -> Result<usize, DeviceError> {
    // SAFETY: loading the library runs its initialisers only.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::Library {
            library: "the NVIDIA driver",
            looked_for: vec!["libcuda.so".to_owned(), "libcuda.so.1".to_owned()],
            hint: "install NVIDIA's driver (nvidia-smi then lists the device)",
        });
    }
    checked("starting the driver", result::init())?;
    let count = checked("counting devices", result::device::get_count())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl CudaDevice {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// What is missing, and where it was looked for.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let found = count()?;
        if ordinal >= found {
            return Err(DeviceError::Ordinal { ordinal, found });
        }
        // SAFETY: as for the driver.
        if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
            return Err(DeviceError::Library {
                library: "cuBLASLt",
                looked_for: vec!["libcublasLt.so".to_owned(), "libcublasLt.so.12".to_owned()],
                hint: "pip install nvidia-cublas-cu12, and put its nvidia/cublas/lib on LD_LIBRARY_PATH",
            });
        }
        let device = checked("opening the device", result::device::get(ordinal as i32))?;
        let attribute = |which| {
            // SAFETY: a device that the driver has given.
            checked("asking what the device is", unsafe { result::device::get_attribute(device, which) })
        };
        let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let architecture = (10 * major + minor) as u32;
        let name = checked("asking what the device is", result::device::get_name(device))?;
        if architecture < OLDEST {
            return Err(DeviceError::Architecture { ordinal, name, architecture });
        }
        let mut driver_version = 0;
        // SAFETY: where the number goes.
        let version = unsafe { sys::cuDriverGetVersion(&mut driver_version).result() };
        checked("asking for the driver's version", version)?;

        // SAFETY: a device that the driver has given; the context is never released.
        let context = checked("opening the device", unsafe { result::primary_ctx::retain(device) })?;
        // SAFETY: the context was just made.
        checked("opening the device", unsafe { result::ctx::set_current(context) })?;
        let stream = checked("a stream", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        let (_, total) = checked("asking for memory", result::mem_get_info())?;
        let mut base = 0;
        // Addresses alone; all of the device's memory is as much as could ever be mapped.
        let range = total.next_multiple_of(GRANULARITY);
        // SAFETY: where the address goes.
        let reserved = unsafe { sys::cuMemAddressReserve(&mut base, range, 0, 0, 0).result() };
        checked("reserving addresses", reserved)?;
        // SAFETY: device memory of the context, never freed.
        let workspace = unsafe { result::malloc_sync(WORKSPACE_BYTES as usize) };
        let cublas = Cublas::new(checked("cuBLASLt's workspace", workspace)?)?;
        Ok(CudaDevice {
            ordinal,
            context,
            stream,
            base,
            name,
            architecture,
            driver_version: driver_version as u32,
            kernels: Mutex::default(),
            cublas: Mutex::new(cublas),
            staging: Mutex::new(Staging::new()?),
        })
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as the process.
        checked("entering the context", unsafe { result::ctx::set_current(self.context) })
    }

    fn address(&self, region: Region) -> u64 {
        self.base + region.offset
    }

    /// The kernel of `entry`; loads, and the first time compiles, all that its source has.
    fn kernel(&self, entry: &str) -> Result<Kernel, DeviceError> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(entry) {
            return Ok(*kernel);
        }
        let source = SOURCES.iter().find(|source| source.entries.contains(&entry));
        let source = source.unwrap_or_else(|| panic!("{entry} is not among the kernels"));
        let code = kernel_cache::code(source, self.architecture, kernel_cache::folder().as_deref())?;
        // SAFETY: a whole cubin, which the driver copies.
        let module = unsafe { result::module::load_data(code.cubin.as_ptr().cast()) };
        let module = checked(&format!("loading {}", source.path), module)?;
        for (entry, name) in code.names {
            let name = CString::new(name).expect("no zero byte");
            // SAFETY: the module stays loaded.
            let function = unsafe { result::module::get_function(module, name) };
            kernels.insert(entry.clone(), Kernel(checked(&entry, function)?));
        }
        Ok(kernels[entry])
    }
}

/// Unit of mapped memory, on every device so far.
const GRANULARITY: usize = 2 << 20;

/// The room of an argument, whatever it is: eight bytes, of which the driver reads as many as the kernel takes.
fn argument(arg: &Arg, address: impl Fn(Region) -> u64) -> u64 {
    match *arg {
        Arg::In(region) | Arg::Out(region) => address(region),
        Arg::Null => 0,
        Arg::U32(value) => u64::from(value),
        Arg::U64(value) => value,
        Arg::F32(value) => u64::from(value.to_bits()),
    }
}

impl Driver for CudaDevice {
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        self.enter()?;
        let location = sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: self.ordinal as i32,
        };
        // SAFETY: all zeros are valid.
        let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
        properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location = location;
        let (mut handle, at) = (0, self.base + from);
        // SAFETY: where the handle goes.
        let created = unsafe { sys::cuMemCreate(&mut handle, bytes as usize, &properties, 0) };
        if created == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (free, _) = checked("asking for memory", result::mem_get_info())?;
            return Err(DeviceError::Memory { wanted: bytes, free: free as u64, held: from });
        }
        checked("taking device memory", created.result())?;
        let access = sys::CUmemAccessDesc {
            location,
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: addresses that were reserved and are not mapped yet.
        let mapped = unsafe { sys::cuMemMap(at, bytes as usize, 0, handle, 0).result() };
        checked("mapping device memory", mapped)?;
        // SAFETY: addresses that were just mapped.
        checked("mapping device memory", unsafe {
            sys::cuMemSetAccess(at, bytes as usize, &access, 1).result()
        })
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.enter()?;
        let Launch { entry, grid, threads, shared_bytes, args } = launch;
        let Kernel(function) = self.kernel(entry)?;
        if *shared_bytes > PLAIN_SHARED_BYTES {
            // SAFETY: a loaded kernel.
            let more = unsafe {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    MAX_SHARED_BYTES as i32,
                )
            };
            checked(entry, more)?;
        }
        let mut values: Vec<u64> =
            args.iter().map(|arg| argument(arg, |region| self.address(region))).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        let &[x, y, z] = grid;
        // SAFETY: arguments of the kernel's signature, which the driver copies; their memory is in use until work behind
        // this on the stream.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (*threads, 1, 1),
                *shared_bytes,
                self.stream,
                &mut pointers,
            )
        };
        checked(entry, launched)
    }

    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        self.enter()?;
        lock(&self.cublas).multiply(gemm, self.base, self.stream.cast())
    }

    fn clear(&self, region: Region) -> Result<(), DeviceError> {
        self.enter()?;
        let (at, bytes) = (self.address(region), region.bytes as usize);
        // SAFETY: a region in use.
        checked("clearing memory", unsafe { result::memset_d8_async(at, 0, bytes, self.stream) })
    }

    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError> {
        self.enter()?;
        let (from, to, bytes) = (self.address(from), self.address(to), from.bytes as usize);
        // SAFETY: regions in use.
        checked("a copy on the device", unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }

    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError> {
        self.enter()?;
        lock(&self.staging).upload(bytes, self.address(to), self.stream)
    }

    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: both ends are as long, and the bytes are borrowed until the copy is done.
        unsafe {
            checked("a copy to the host", result::memcpy_dtoh_async(bytes, self.address(from), self.stream))?;
            checked("waiting for the device", result::stream::synchronize(self.stream))
        }
    }

    fn info(&self) -> DeviceInfo {
        let memory = self.enter().ok().and_then(|()| result::mem_get_info().ok());
        let (free, total) = memory.unwrap_or((0, 0));
        DeviceInfo {
            name: self.name.clone(),
            architecture: self.architecture,
            driver_version: self.driver_version,
            total_bytes: total as u64,
            free_bytes: free as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_opens_or_says_what_is_missing() {
        match CudaDevice::open(0) {
            Ok(device) => assert!(device.info().total_bytes > 0),
            Err(error) => {
                println!("skipped: {error}");
                assert!(error.hint().is_some());
            }
        }
    }

    #[test]
    fn arguments_are_as_the_kernel_reads_them() {
        let at = |region: Region| 0x1000 + region.offset;
        let region = Region { offset: 256, bytes: 4 };
        assert_eq!(argument(&Arg::In(region), at), 0x1100);
        assert_eq!(argument(&Arg::F32(1.0), at) as u32, 0x3f80_0000);
        assert_eq!(argument(&Arg::U32(7), at).to_le_bytes()[..4], 7u32.to_le_bytes());
        assert_eq!(argument(&Arg::Null, at), 0);
    }
}
