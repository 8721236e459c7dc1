//! Kernels compiled for a device by NVRTC, NVIDIA's compiler as a library. No header of the toolkit is read.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::path::Path;
use std::ptr;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ffi::{self, Handle, Status};
use super::library::{self, Opened, Wanted};
use super::{PTX, Source};
use crate::gpu::DeviceError;

/// Compute capabilities, ten times: Ampere (80, 86), Ada (89), Hopper (90), Blackwell (100, 120).
pub const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// Machine code of devices whose warpgroups multiply, which no other device runs: "sm_90a" for the compiler.
pub const HOPPER: Target = Target::Machine(90);

/// Compute capabilities of modules for cars and robots, whose machine code no other device runs.
pub(super) const TEGRA: [u32; 5] = [72, 87, 88, 101, 110];

/// The compiler does not take a program; its own log says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} for {target}: {error} ({compiler})\n{log}")]
pub struct CompileError {
    /// The kernel's file.
    pub path: &'static str,
    /// What it was compiled for.
    pub target: Target,
    /// The library's error.
    pub error: String,
    /// The library.
    pub compiler: String,
    /// The compiler's messages.
    pub log: String,
}

impl CompileError {
    /// What the user can do.
    pub const HINT: &'static str = "this is a bug of lorafit: kernels compile on every supported device";
}

/// What a kernel takes of a multiprocessor, as `ptxas` reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread.
    pub stack_bytes: u32,
    /// Bytes that a thread stores because registers did not suffice, and loads again.
    pub spill_bytes: u32,
    /// Whether the compiler lets one product of a warpgroup wait for the other.
    pub serialized: bool,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// A [`Source`] as a driver loads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// A cubin, or PTX with a zero byte at its end.
    pub module: Vec<u8>,
    /// Of each entry, the name it has in the module and what it takes.
    pub entries: BTreeMap<&'static str, (String, Resources)>,
}

/// What the compiler has to produce, written `sm_90` or `compute_90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code.
    Machine(u32),
    /// PTX, which the driver compiles.
    Ptx(u32),
}

impl Target {
    /// For a device of `architecture`, of a compiler that knows `known`. One that is older than the device compiles for the
    /// newest of its generation that it knows, whose machine code the device runs as well, else PTX.
    fn of_device(known: &[u32], architecture: u32) -> Self {
        if known.is_empty() || known.contains(&architecture) {
            return Target::Machine(architecture);
        }
        let older = known.iter().copied().filter(|sm| *sm < architecture && !TEGRA.contains(sm));
        match older.max() {
            Some(sm) if sm / 10 == architecture / 10 && !TEGRA.contains(&architecture) => Target::Machine(sm),
            Some(sm) => Target::Ptx(sm),
            // The compiler no longer knows the device, which it says itself.
            None => Target::Machine(architecture),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Machine(sm) => write!(f, "sm_{sm}"),
            Target::Ptx(sm) => write!(f, "compute_{sm}"),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse().ok().filter(|sm| *sm >= ARCHITECTURES[0]);
        let machine = text.strip_prefix("sm_").and_then(number).map(Target::Machine);
        let target = machine.or_else(|| text.strip_prefix("compute_").and_then(number).map(Target::Ptx));
        target.ok_or_else(|| format!("expected sm_N or compute_N, N from {} on", ARCHITECTURES[0]))
    }
}

/// The compiler.
pub struct Nvrtc {
    library: Opened<ffi::Nvrtc>,
    version: (i32, i32),
    /// What it compiles for; nothing if it does not tell.
    architectures: Vec<u32>,
}

impl fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "NVRTC {major}.{minor} ({})", self.library.path.display())
    }
}

/// Destroys its program.
struct Program<'a>(&'a ffi::Nvrtc, Handle);

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by the library, destroyed once. An error leaves nothing to be done.
        let _ = unsafe { (self.0.nvrtcDestroyProgram)(&mut self.1) };
    }
}

impl Nvrtc {
    /// The library for a driver of version `driver`, 12080 for 12.8, or for any driver.
    ///
    /// # Errors
    /// [`DeviceError::Library`].
    pub fn open(driver: Option<u32>) -> Result<Self, DeviceError> {
        Ok(Nvrtc::with(library::open(&Wanted::nvrtc(driver))?))
    }

    /// The library at `path`, a file or the folder that it is in.
    ///
    /// # Errors
    /// [`DeviceError::Library`].
    pub fn open_at(path: &Path) -> Result<Self, DeviceError> {
        Ok(Nvrtc::with(library::open_at(&Wanted::nvrtc(None), path)?))
    }

    fn with(library: Opened<ffi::Nvrtc>) -> Self {
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: where the numbers go.
        unsafe {
            (library.functions.nvrtcVersion)(&mut major, &mut minor);
            (library.functions.nvrtcGetNumSupportedArchs)(&mut count);
        }
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        if !known.is_empty() {
            // SAFETY: there is room for as many as the library has counted.
            unsafe { (library.functions.nvrtcGetSupportedArchs)(known.as_mut_ptr()) };
        }
        let architectures = known.into_iter().map(|sm| sm as u32).collect();
        Nvrtc { library, version: (major, minor), architectures }
    }

    /// (12, 9) for 12.9.
    pub(super) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What it compiles for; nothing if it does not tell.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// What it can compile that a device of `architecture` runs: machine code of the device or of an older one of its
    /// generation, else PTX.
    pub fn target(&self, architecture: u32) -> Target {
        Target::of_device(&self.architectures, architecture)
    }

    /// Compiles sources side by side, on as many threads as there are in the current pool of rayon, but not on those: whoever
    /// waits here may hold what other work of the pool wants. Results are in the order of the jobs.
    pub fn compile_all(&self, jobs: &[(&Source, Target)]) -> Vec<Result<Compiled, CompileError>> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Option<_>>> = Mutex::new(jobs.iter().map(|_| None).collect());
        let work = || {
            while let Some((i, (source, target))) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, jobs.get(i)?)))
            {
                let compiled = self.compile(source, *target);
                done.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(compiled);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..rayon::current_num_threads().min(jobs.len()) {
                scope.spawn(work);
            }
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.into_iter().map(|compiled| compiled.expect("every job was taken")).collect()
    }

    /// Compiles all entries of `source`.
    ///
    /// # Errors
    /// [`CompileError`].
    pub fn compile(&self, source: &Source, target: Target) -> Result<Compiled, CompileError> {
        let refused = |status: Status, log: String| CompileError {
            path: source.path,
            target,
            error: self.meaning(status),
            compiler: self.to_string(),
            log,
        };
        let nvrtc = &self.library.functions;
        let text = CString::new(source.program(PTX)).expect("sources have no zero byte");
        let mut program = Program(nvrtc, ptr::null_mut());
        let no_names = ptr::null::<*const c_char>();
        // SAFETY: a text that lives as long as the program, which has no headers.
        let created = unsafe {
            (nvrtc.nvrtcCreateProgram)(&mut program.1, text.as_ptr(), ptr::null(), 0, no_names, no_names)
        };
        checked(created).map_err(|status| refused(status, String::new()))?;
        let built = build(&program, source, target);
        let log = log(&program);
        let (module, names) = built.map_err(|status| refused(status, log.clone()))?;
        let resources = resources(&log);
        let entries = source.entries.iter().zip(names).map(|(entry, name)| {
            let of_entry = resources.get(&name).copied().unwrap_or_default();
            (*entry, (name, of_entry))
        });
        Ok(Compiled { module, entries: entries.collect() })
    }

    fn meaning(&self, status: Status) -> String {
        // SAFETY: the library has a text for every number, which it keeps.
        let text = unsafe { CStr::from_ptr((self.library.functions.nvrtcGetErrorString)(status)) };
        text.to_string_lossy().into_owned()
    }
}

fn checked(status: Status) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}

/// The module, and the name each entry has in it.
fn build(program: &Program, source: &Source, target: Target) -> Result<(Vec<u8>, Vec<String>), Status> {
    let &Program(nvrtc, program) = program;
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let entries: Vec<CString> = source.entries.iter().map(|name| text(name)).collect();
    for entry in &entries {
        // SAFETY: program and name are alive; nothing is kept of the name.
        checked(unsafe { (nvrtc.nvrtcAddNameExpression)(program, entry.as_ptr()) })?;
    }
    // What Hopper alone has is not in the set that later devices run.
    let own = if target == HOPPER { "a" } else { "" };
    let options =
        [format!("--gpu-architecture={target}{own}"), "--std=c++17".into(), "--ptxas-options=-v".into()];
    let options = options.map(|option| text(&option));
    let pointers = options.each_ref().map(|option| option.as_ptr());
    // SAFETY: a program that was not compiled yet, and options that live until it is.
    checked(unsafe { (nvrtc.nvrtcCompileProgram)(program, pointers.len() as c_int, pointers.as_ptr()) })?;

    let mut names = Vec::new();
    for entry in &entries {
        let mut name = ptr::null();
        // SAFETY: the name belongs to the program and is copied.
        names.push(unsafe {
            checked((nvrtc.nvrtcGetLoweredName)(program, entry.as_ptr(), &mut name))?;
            CStr::from_ptr(name).to_string_lossy().into_owned()
        });
    }
    let (size, get) = match target {
        Target::Machine(_) => (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
        Target::Ptx(_) => (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX),
    };
    let mut len = 0;
    // SAFETY: `len` is where the size goes.
    checked(unsafe { size(program, &mut len) })?;
    let mut module = vec![0u8; len];
    // SAFETY: the buffer has the size that the library asked for.
    checked(unsafe { get(program, module.as_mut_ptr().cast()) })?;
    Ok((module, names))
}

/// The compiler's messages; nothing where it does not tell.
fn log(&Program(nvrtc, program): &Program) -> String {
    let mut len = 0;
    // SAFETY: `len` is where the size goes.
    let told = unsafe { (nvrtc.nvrtcGetProgramLogSize)(program, &mut len) } == 0;
    let mut bytes = vec![0u8; len];
    // SAFETY: the buffer has the size that the library asked for.
    if told && unsafe { (nvrtc.nvrtcGetProgramLog)(program, bytes.as_mut_ptr().cast()) } != 0 {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// What `ptxas -v` says of each kernel.
fn resources(log: &str) -> BTreeMap<String, Resources> {
    let mut found: BTreeMap<String, Resources> = BTreeMap::new();
    let mut current = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().unwrap_or_default().to_owned();
        }
        // "... are serialized due to ... in the function 'NAME'", before the function's own lines.
        if let Some((_, function)) =
            line.split_once("serialized").and_then(|(_, rest)| rest.split_once("function '"))
        {
            let name = function.split('\'').next().unwrap_or_default();
            found.entry(name.to_owned()).or_default().serialized = true;
            continue;
        }
        // Functions that are not inlined have lines of their own, which belong to whoever calls them.
        let kernel: &mut Resources = found.entry(current.clone()).or_default();
        let number = |what: &str| {
            let before = line.split_once(what)?.0;
            before
                .rsplit(|c: char| !c.is_ascii_digit())
                .find(|digits| !digits.is_empty())?
                .parse::<u32>()
                .ok()
        };
        kernel.registers = kernel.registers.max(number(" registers").unwrap_or(0));
        kernel.stack_bytes = kernel.stack_bytes.max(number(" bytes stack frame").unwrap_or(0));
        kernel.spill_bytes += number(" bytes spill stores").unwrap_or(0);
        kernel.spill_bytes += number(" bytes spill loads").unwrap_or(0);
        kernel.shared_bytes = kernel.shared_bytes.max(number(" bytes smem").unwrap_or(0));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::SOURCES;

    #[test]
    fn resources_are_those_of_the_log() {
        let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
                   ptxas info    : Function properties for k\n\
                   ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
                   ptxas info    : Used 34 registers, used 1 barriers, 256 bytes smem, 364 bytes cmem[0]\n";
        let (registers, stack_bytes, spill_bytes, shared_bytes) = (34, 8, 28, 256);
        let expected = Resources { registers, stack_bytes, spill_bytes, shared_bytes, serialized: false };
        assert_eq!(resources(log)["k"], expected);
        let warning = "ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized \
                       due to non wgmma instructions reading accumulator registers of  a wgmma between start and end \
                       of the pipeline stage in the function 'k'\n";
        let found = resources(&format!("{warning}{log}"));
        assert_eq!(found["k"], Resources { serialized: true, ..expected });
    }

    #[test]
    fn a_source_compiles_and_all_its_entries_are_in_the_module() {
        let source = &SOURCES[0];
        let nvrtc = match Nvrtc::open(None) {
            Ok(nvrtc) => nvrtc,
            Err(error) => return println!("skipped: {error}"),
        };
        let compiled = nvrtc.compile(source, Target::Machine(80)).expect("kernels compile");
        assert!(compiled.module.starts_with(b"\x7fELF"));
        for (entry, (name, resources)) in &compiled.entries {
            assert!(resources.registers > 0, "{entry}: no report");
            let holds = compiled.module.windows(name.len()).any(|bytes| bytes == name.as_bytes());
            assert!(holds, "{entry}: {name} is not in the cubin");
        }
        // A device of a generation that no compiler knows yet.
        let ptx = nvrtc.compile(source, nvrtc.target(990)).expect("kernels compile").module;
        assert!(ptx.starts_with(b"//") && ptx.ends_with(b"\0"), "PTX as a text with its end");
    }

    #[test]
    fn a_compiler_that_is_older_than_the_device_gives_what_the_device_runs() {
        use Target::{Machine, Ptx};
        let of_12_4 = [50, 60, 70, 72, 75, 80, 86, 87, 89, 90];
        let of_12_8 = [75, 80, 86, 87, 89, 90, 100, 101, 120];
        for (known, architecture, expected) in [
            (&of_12_4[..], 86, Machine(86)),
            (&of_12_8, 100, Machine(100)),
            // The newest device of the same generation.
            (&[75, 80], 86, Machine(80)),
            (&of_12_8, 103, Machine(100)),
            (&of_12_8, 121, Machine(120)),
            // Of another.
            (&of_12_4, 100, Ptx(90)),
            (&of_12_4, 120, Ptx(90)),
            // Modules for cars and robots run no machine code but their own.
            (&of_12_8, 110, Ptx(100)),
            (&[80, 86], 87, Ptx(86)),
            (&[80, 86, 87], 87, Machine(87)),
            (&[80, 86, 87], 89, Machine(86)),
            // A compiler that does not tell, and one that has forgotten.
            (&[], 90, Machine(90)),
            (&[100, 120], 80, Machine(80)),
        ] {
            assert_eq!(Target::of_device(known, architecture), expected, "sm_{architecture} of {known:?}");
        }
    }
}
