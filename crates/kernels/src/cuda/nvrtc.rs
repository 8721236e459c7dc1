//! Kernels compiled for a device by NVRTC, NVIDIA's compiler as a library, which is found when it is first asked for
//! (`libnvrtc.so.12` on the library path). No header of the toolkit is read.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr;

use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::{result, sys};

use super::{PTX, Source};

/// Compute capabilities, ten times: Ampere (80, 86), Ada (89), Hopper (90), Blackwell (100, 120).
pub const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// Why there is no machine code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The library is not on this machine.
    #[error("libnvrtc.so.12 was not found on the library path (LD_LIBRARY_PATH)")]
    Missing,
    /// The compiler does not take the program; the library's own log says where.
    #[error("{path} for sm_{architecture}: {error}\n{log}")]
    Refused {
        /// The kernel's file.
        path: &'static str,
        /// What it was compiled for.
        architecture: u32,
        /// The library's error.
        error: String,
        /// The compiler's messages.
        log: String,
    },
}

impl CompileError {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            CompileError::Missing => {
                "pip install nvidia-cuda-nvrtc-cu12, and put its nvidia/cuda_nvrtc/lib on LD_LIBRARY_PATH"
            }
            CompileError::Refused { .. } => {
                "this is a bug of lorafit: kernels compile on every supported device"
            }
        }
    }
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
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// Machine code of a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The cubin, to be loaded as a module.
    pub cubin: Vec<u8>,
    /// Of each entry, the name it has in the module and what it takes.
    pub entries: BTreeMap<&'static str, (String, Resources)>,
}

/// Whether the library is there.
pub fn is_present() -> bool {
    // SAFETY: loading the library runs its initialisers only.
    unsafe { sys::is_culib_present() }
}

/// Version of the library, (12, 9) for 12.9; zeros where it is missing or does not tell.
pub(super) fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    if is_present() {
        // SAFETY: where the numbers go.
        let _ = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    }
    (major, minor)
}

/// Destroys its program.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `nvrtcCreateProgram`, destroyed once. An error leaves nothing to be done.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Compiles all entries of `source` for one architecture.
///
/// # Errors
/// [`CompileError`].
pub fn compile(source: &Source, architecture: u32) -> Result<Compiled, CompileError> {
    if !is_present() {
        return Err(CompileError::Missing);
    }
    let text = CString::new(source.program(PTX)).expect("sources have no zero byte");
    let refused = |error: NvrtcError, log: String| CompileError::Refused {
        path: source.path,
        architecture,
        error: error.to_string(),
        log,
    };
    let program =
        Program(result::create_program(&text, None).map_err(|error| refused(error, String::new()))?);
    let code = build(&program, source, architecture);
    let log = log(&program);
    let (cubin, names) = code.map_err(|error| refused(error, log.clone()))?;
    let resources = resources(&log);
    let entries = source.entries.iter().zip(names).map(|(entry, name)| {
        let of_entry = resources.get(&name).copied().unwrap_or_default();
        (*entry, (name, of_entry))
    });
    Ok(Compiled { cubin, entries: entries.collect() })
}

/// The cubin, and the name each entry has in it.
fn build(
    program: &Program,
    source: &Source,
    architecture: u32,
) -> Result<(Vec<u8>, Vec<String>), NvrtcError> {
    let entries: Vec<CString> =
        source.entries.iter().map(|name| CString::new(*name).expect("no zero byte")).collect();
    for entry in &entries {
        // SAFETY: program and name are alive; nothing is kept of the name.
        unsafe { sys::nvrtcAddNameExpression(program.0, entry.as_ptr()).result()? };
    }
    let options =
        [format!("--gpu-architecture=sm_{architecture}"), "--std=c++17".into(), "--ptxas-options=-v".into()];
    // SAFETY: a program that was not compiled yet.
    unsafe { result::compile_program(program.0, &options)? };

    let mut names = Vec::new();
    for entry in &entries {
        let mut name = ptr::null();
        // SAFETY: the name belongs to the program and is copied.
        names.push(unsafe {
            sys::nvrtcGetLoweredName(program.0, entry.as_ptr(), &mut name).result()?;
            CStr::from_ptr(name).to_string_lossy().into_owned()
        });
    }
    let mut len = 0;
    // SAFETY: `len` is where the size goes.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &mut len).result()? };
    let mut cubin = vec![0u8; len];
    // SAFETY: the buffer has the size that the library asked for.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()).result()? };
    Ok((cubin, names))
}

/// The compiler's messages.
fn log(program: &Program) -> String {
    // SAFETY: the program is alive.
    let bytes = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
    let bytes: Vec<u8> = bytes.iter().map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// What `ptxas -v` says of each kernel.
fn resources(log: &str) -> BTreeMap<String, Resources> {
    let mut found = BTreeMap::new();
    let mut current = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().unwrap_or_default().to_owned();
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
        let expected = Resources { registers: 34, stack_bytes: 8, spill_bytes: 28, shared_bytes: 256 };
        assert_eq!(resources(log)["k"], expected);
    }

    #[test]
    fn a_source_compiles_and_all_its_entries_are_in_the_module() {
        let source = &SOURCES[0];
        match compile(source, 80) {
            Err(CompileError::Missing) => println!("skipped: no NVRTC library here"),
            Err(error) => panic!("{error}"),
            Ok(compiled) => {
                assert!(compiled.cubin.starts_with(b"\x7fELF"));
                for (entry, (name, resources)) in &compiled.entries {
                    assert!(resources.registers > 0, "{entry}: no report");
                    let holds = compiled.cubin.windows(name.len()).any(|bytes| bytes == name.as_bytes());
                    assert!(holds, "{entry}: {name} is not in the cubin");
                }
            }
        }
    }
}
