//! The CUDA driver: one stream, in which everything runs in the order it is asked for.
//!
//! Its libraries are loaded when a device is opened, so that the program runs where there are none.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::SOURCES;
use super::cublas::{self, Cublas, WORKSPACE_BYTES};
use super::ffi::{self, Cuda, Handle};
use super::library::{self, Wanted};
use super::memory::{Memory, free_and_total};
use super::modules::Modules;
use super::staging::Staging;
use crate::gpu::{Arg, DeviceError, DeviceInfo, Driver, Gemm, Launch, Region, TensorCores};

/// The oldest devices that kernels are compiled for.
const OLDEST: u32 = 80;

/// Shared memory that a kernel has without being asked.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A device.
pub struct CudaDevice {
    cuda: &'static Cuda,
    ordinal: usize,
    context: Handle,
    stream: Handle,
    name: String,
    architecture: u32,
    driver_version: u32,
    modules: Modules,
    /// Decided once: what is compiled later changes no bits of a run.
    tensor_cores: TensorCores,
    memory: Mutex<Memory>,
    kernels: Mutex<HashMap<String, Kernel>>,
    cublas: Mutex<Cublas>,
    staging: Mutex<Staging>,
}

// SAFETY: handles of the driver may be used by any thread that has made the context current, which every call does.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; what is not the driver's own is behind locks.
unsafe impl Sync for CudaDevice {}

#[derive(Clone, Copy)]
struct Kernel(Handle);

// SAFETY: as for the device.
unsafe impl Send for Kernel {}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver, started, or why there is none.
fn driver() -> Result<&'static Cuda, DeviceError> {
    static FOUND: OnceLock<Result<Cuda, DeviceError>> = OnceLock::new();
    let started = FOUND.get_or_init(|| {
        let cuda: Cuda = library::open(&Wanted::driver())?.functions;
        // SAFETY: the first call of the driver.
        cuda.checked("starting the driver", unsafe { (cuda.cuInit)(0) })?;
        Ok(cuda)
    });
    started.as_ref().map_err(Clone::clone)
}

impl CudaDevice {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// What is missing, and where it was looked for.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let cuda = driver()?;
        let what_it_is = "asking what the device is";
        let mut found = 0;
        // SAFETY: where the number goes.
        cuda.checked("counting devices", unsafe { (cuda.cuDeviceGetCount)(&mut found) })?;
        let found = usize::try_from(found).unwrap_or(0);
        if ordinal >= found {
            return Err(DeviceError::Ordinal { ordinal, found });
        }
        let mut device = 0;
        // SAFETY: as above.
        cuda.checked("opening the device", unsafe { (cuda.cuDeviceGet)(&mut device, ordinal as c_int) })?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a device that the driver has given, and where the number goes.
            let asked = unsafe { (cuda.cuDeviceGetAttribute)(&mut value, which, device) };
            cuda.checked(what_it_is, asked).map(|()| value)
        };
        let major = attribute(ffi::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(ffi::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let architecture = (10 * major + minor) as u32;
        let mut name = [0; 256];
        // SAFETY: a device that the driver has given; the name ends inside the array.
        let asked = unsafe { (cuda.cuDeviceGetName)(name.as_mut_ptr(), name.len() as c_int, device) };
        cuda.checked(what_it_is, asked)?;
        // SAFETY: the driver has written a text with its end.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        if architecture < OLDEST {
            return Err(DeviceError::Architecture { ordinal, name, architecture });
        }
        let mut driver_version = 0;
        // SAFETY: where the number goes.
        let asked = unsafe { (cuda.cuDriverGetVersion)(&mut driver_version) };
        cuda.checked("asking for the driver's version", asked)?;
        let driver_version = driver_version as u32;
        if driver_version < library::OLDEST_DRIVER {
            let oldest = library::OLDEST_DRIVER;
            return Err(DeviceError::DriverVersion { version: driver_version, oldest });
        }
        let modules = Modules::open(architecture, driver_version)?;
        let tensor_cores = modules.tensor_cores();

        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a device that the driver has given; its context and the stream live as long as the process.
        unsafe {
            let retained = (cuda.cuDevicePrimaryCtxRetain)(&mut context, device);
            cuda.checked("opening the device", retained)?;
            cuda.checked("opening the device", (cuda.cuCtxSetCurrent)(context))?;
            cuda.checked("a stream", (cuda.cuStreamCreate)(&mut stream, ffi::CU_STREAM_NON_BLOCKING))?;
        }
        let (_, total_bytes) = free_and_total(cuda)?;
        let mapped = attribute(ffi::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)? != 0;
        let mut workspace = 0;
        // SAFETY: where the address goes; the memory is never freed.
        let allocated = unsafe { (cuda.cuMemAlloc_v2)(&mut workspace, WORKSPACE_BYTES as usize) };
        cuda.checked("cuBLASLt's workspace", allocated)?;
        let on = cublas::On { cuda, stream, name: &name, driver: driver_version, workspace };
        let cublas = Mutex::new(Cublas::new(on)?);
        Ok(CudaDevice {
            cuda,
            ordinal,
            context,
            stream,
            name,
            architecture,
            driver_version,
            modules,
            tensor_cores,
            memory: Mutex::new(Memory::new(cuda, device, total_bytes, mapped)?),
            kernels: Mutex::default(),
            cublas,
            staging: Mutex::new(Staging::new(cuda)?),
        })
    }

    /// Makes the context this thread's, and keeps the memory where it is until what is given here is dropped.
    fn enter(&self) -> Result<MutexGuard<'_, Memory>, DeviceError> {
        // SAFETY: the context lives as long as the process.
        self.cuda.checked("entering the context", unsafe { (self.cuda.cuCtxSetCurrent)(self.context) })?;
        Ok(lock(&self.memory))
    }

    /// The kernel of `entry`; loads all that its source has, which may have to be compiled.
    fn kernel(&self, entry: &str) -> Result<Kernel, DeviceError> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(entry) {
            return Ok(*kernel);
        }
        let source = SOURCES.iter().find(|source| source.entries.contains(&entry));
        let source = source.unwrap_or_else(|| panic!("{entry} is not among the kernels"));
        let code = self.modules.code(source)?;
        let (cuda, mut module) = (self.cuda, ptr::null_mut());
        // SAFETY: a whole module, which the driver copies.
        let loaded = unsafe { (cuda.cuModuleLoadData)(&mut module, code.module.as_ptr().cast()) };
        cuda.checked(&format!("loading {}", source.path), loaded)?;
        for (entry, name) in code.names {
            let name = CString::new(name).expect("no zero byte");
            let mut function = ptr::null_mut();
            // SAFETY: the module stays loaded.
            let found = unsafe { (cuda.cuModuleGetFunction)(&mut function, module, name.as_ptr()) };
            cuda.checked(&entry, found)?;
            kernels.insert(entry, Kernel(function));
        }
        Ok(kernels[entry])
    }
}

/// The room of an argument, whatever it is: eight bytes, of which the driver reads as many as the kernel takes.
fn argument(arg: &Arg, address: impl Fn(Region) -> u64) -> u64 {
    match *arg {
        Arg::In(region) | Arg::Out(region) | Arg::Update(region) => address(region),
        Arg::Null => 0,
        Arg::U32(value) => u64::from(value),
        Arg::U64(value) => value,
        Arg::F32(value) => u64::from(value.to_bits()),
    }
}

impl Driver for CudaDevice {
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        self.enter()?.grow(self.cuda, self.stream, from, bytes)
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        let Launch { entry, grid, threads, shared_bytes, args } = launch;
        let (cuda, Kernel(function)) = (self.cuda, self.kernel(entry)?);
        if *shared_bytes > PLAIN_SHARED_BYTES {
            let most = ffi::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a loaded kernel.
            let more = unsafe { (cuda.cuFuncSetAttribute)(function, most, *shared_bytes as c_int) };
            cuda.checked(entry, more)?;
        }
        let mut values: Vec<u64> =
            args.iter().map(|arg| argument(arg, |region| memory.address(region))).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        let &[x, y, z] = grid;
        // SAFETY: arguments of the kernel's signature, which the driver copies; their memory is in use until work behind
        // this on the stream.
        let launched = unsafe {
            (cuda.cuLaunchKernel)(
                function,
                x,
                y,
                z,
                *threads,
                1,
                1,
                *shared_bytes,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        cuda.checked(entry, launched)
    }

    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        lock(&self.cublas).multiply(gemm, memory.base())
    }

    fn clear(&self, region: Region) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        let (at, bytes) = (memory.address(region), region.bytes as usize);
        // SAFETY: a region in use.
        let asked = unsafe { (self.cuda.cuMemsetD8Async)(at, 0, bytes, self.stream) };
        self.cuda.checked("clearing memory", asked)
    }

    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        let (from, to, bytes) = (memory.address(from), memory.address(to), from.bytes as usize);
        // SAFETY: regions in use.
        let asked = unsafe { (self.cuda.cuMemcpyDtoDAsync_v2)(to, from, bytes, self.stream) };
        self.cuda.checked("a copy on the device", asked)
    }

    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        lock(&self.staging).upload(bytes, memory.address(to), self.stream)
    }

    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let memory = self.enter()?;
        let (cuda, from) = (self.cuda, memory.address(from));
        // SAFETY: both ends are as long, and the bytes are borrowed until the copy is done.
        unsafe {
            let asked =
                (cuda.cuMemcpyDtoHAsync_v2)(bytes.as_mut_ptr().cast(), from, bytes.len(), self.stream);
            cuda.checked("a copy to the host", asked)?;
            cuda.checked("waiting for the device", (cuda.cuStreamSynchronize)(self.stream))
        }
    }

    fn tensor_cores(&self) -> TensorCores {
        self.tensor_cores
    }

    fn info(&self) -> DeviceInfo {
        let memory = self.enter().and_then(|_| free_and_total(self.cuda));
        let (free, total) = memory.unwrap_or((0, 0));
        DeviceInfo {
            name: self.name.clone(),
            architecture: self.architecture,
            driver_version: self.driver_version,
            libraries: vec![self.modules.to_string(), lock(&self.cublas).to_string()],
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
