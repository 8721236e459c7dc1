//! Machine code of kernels: compiled ahead and shipped beside the program, else compiled when it is first wanted and kept in
//! files. Compiling takes some seconds a source, so that all that may be wanted are compiled side by side.
//!
//! A file is named by a hash of all that its code depends on. It begins with a line for each entry, the entry and its name in
//! the module with a tab between; after an empty line comes the module, a cubin or PTX.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::nvrtc::{CompileError, Compiled, HOPPER, Nvrtc, TEGRA, Target};
use super::user_cache::{self, Existing};
use super::{PTX, SOURCES, Source};
use crate::gpu::{DeviceError, TensorCores};

impl From<CompileError> for DeviceError {
    fn from(error: CompileError) -> Self {
        DeviceError::Kernel { why: error.to_string(), hint: CompileError::HINT }
    }
}

/// The folder of modules that are compiled ahead, beside the program.
pub const FOLDER: &str = "kernels";

/// Code of a source for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// A cubin, or PTX with a zero byte at its end: what the driver loads.
    pub(super) module: Vec<u8>,
    /// The name of each entry in it.
    pub(super) names: BTreeMap<String, String>,
}

impl From<Compiled> for Code {
    fn from(compiled: Compiled) -> Self {
        let names = compiled.entries.into_iter().map(|(entry, (name, _))| (entry.to_owned(), name));
        Code { module: compiled.module, names: names.collect() }
    }
}

impl Code {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.names.iter().flat_map(|(entry, name)| format!("{entry}\t{name}\n").into_bytes()).collect();
        bytes.push(b'\n');
        bytes.extend(&self.module);
        bytes
    }

    /// `None` for what is not such a file, or not of `source`.
    fn from_bytes(bytes: &[u8], source: &Source) -> Option<Self> {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let lines = std::str::from_utf8(&bytes[..end]).ok()?.lines();
        let names: BTreeMap<String, String> = lines
            .map(|line| line.split_once('\t').map(|(e, n)| (e.to_owned(), n.to_owned())))
            .collect::<Option<_>>()?;
        let module = bytes[end + 2..].to_vec();
        let whole = source.entries.iter().all(|entry| names.contains_key(*entry));
        let loads = module.starts_with(b"\x7fELF") || (module.starts_with(b"//") && module.ends_with(b"\0"));
        (whole && loads).then_some(Code { module, names })
    }

    fn read(path: &Path, source: &Source) -> Option<Self> {
        Code::from_bytes(&fs::read(path).ok()?, source)
    }
}

/// The code of a device's kernels, and where it comes from.
pub(super) struct Modules {
    /// Compute capability of the device.
    architecture: u32,
    /// Version of the driver.
    driver: u32,
    /// The folder of modules that `lorafit kernels` compiled ahead.
    ahead: Option<PathBuf>,
    /// The cache of modules that this machine compiled.
    kept: Option<PathBuf>,
    /// Opened when it is first wanted.
    nvrtc: OnceLock<Result<Nvrtc, DeviceError>>,
    /// Modules that were compiled together with a wanted one, by their source, and are not loaded yet.
    compiled: Mutex<HashMap<&'static str, Result<Code, CompileError>>>,
}

impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nvrtc.get(), &self.ahead) {
            (Some(Ok(nvrtc)), _) => nvrtc.fmt(f),
            (Some(Err(_)) | None, Some(folder)) => {
                write!(f, "kernels compiled ahead ({})", folder.display())
            }
            (Some(Err(_)) | None, None) => f.write_str("no kernels"),
        }
    }
}

impl Modules {
    /// For a device of `architecture` with a driver of version `driver`. The compiler is opened only if a source was not compiled
    /// ahead.
    ///
    /// # Errors
    /// As [`Nvrtc::open`].
    pub(super) fn open(architecture: u32, driver: u32) -> Result<Self, DeviceError> {
        let program = std::env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join(FOLDER));
        let modules = Modules {
            architecture,
            driver,
            ahead: beside.filter(|folder| folder.is_dir()),
            kept: user_cache::folder("kernels"),
            nvrtc: OnceLock::new(),
            compiled: Mutex::default(),
        };
        let all_ahead = |source: &Source| source.by_warpgroups() || modules.is_ahead(source);
        if !SOURCES.iter().all(all_ahead) {
            modules.nvrtc()?;
        }
        Ok(modules)
    }

    /// Whether code of `source` was compiled ahead.
    fn is_ahead(&self, source: &Source) -> bool {
        self.paths_ahead(source).any(|path| path.is_file())
    }

    /// How the device's tensor cores multiply in the kernels that there are.
    pub(super) fn tensor_cores(&self) -> TensorCores {
        let compiles =
            || matches!(self.nvrtc.get(), Some(Ok(nvrtc)) if nvrtc.target(self.architecture) == HOPPER);
        let there = |source: &Source| !source.by_warpgroups() || self.is_ahead(source) || compiles();
        match Target::Machine(self.architecture) == HOPPER && SOURCES.iter().all(there) {
            true => TensorCores::Warpgroups,
            false => TensorCores::Warps,
        }
    }

    fn nvrtc(&self) -> Result<&Nvrtc, DeviceError> {
        self.nvrtc.get_or_init(|| Nvrtc::open(Some(self.driver))).as_ref().map_err(Clone::clone)
    }

    /// The code of `source`.
    ///
    /// # Errors
    /// Without code that was compiled ahead, as [`Nvrtc::open`] and [`Nvrtc::compile`].
    pub(super) fn code(&self, source: &'static Source) -> Result<Code, DeviceError> {
        if let Some(code) = self.paths_ahead(source).find_map(|path| Code::read(&path, source)) {
            return Ok(code);
        }
        let nvrtc = self.nvrtc()?;
        let path = self.path_kept(nvrtc, source);
        if let Some(code) = path.and_then(|path| Code::read(&path, source)) {
            return Ok(code);
        }
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if !compiled.contains_key(source.name) {
            let jobs = self.missing(nvrtc, source, &compiled);
            let targets: Vec<_> =
                jobs.iter().map(|source| (*source, nvrtc.target(self.architecture))).collect();
            for (source, result) in jobs.iter().zip(nvrtc.compile_all(&targets)) {
                let code = result.map(Code::from);
                if let (Ok(code), Some(path)) = (&code, self.path_kept(nvrtc, source)) {
                    // A folder that cannot be written to costs time alone.
                    let _ = user_cache::write(&path, &code.to_bytes(), Existing::Replace);
                }
                compiled.insert(source.name, code);
            }
        }
        Ok(compiled.remove(source.name).expect("was compiled")?)
    }

    /// `wanted`, and the sources that may be wanted after it and have no code yet.
    fn missing(
        &self,
        nvrtc: &Nvrtc,
        wanted: &'static Source,
        compiled: &HashMap<&'static str, Result<Code, CompileError>>,
    ) -> Vec<&'static Source> {
        let is_there = |source: &Source| {
            compiled.contains_key(source.name)
                || self.is_ahead(source)
                || self.path_kept(nvrtc, source).is_some_and(|path| path.is_file())
        };
        let after_it = |source: &&'static Source| {
            let wanted_too = source.is_special() == wanted.is_special();
            *source != wanted
                && wanted_too
                && source.is_for(nvrtc.target(self.architecture))
                && !is_there(source)
        };
        [wanted].into_iter().chain(SOURCES.iter().filter(after_it)).collect()
    }

    /// Where code of `source` may be that was compiled ahead and that the device runs, the best first: its own machine code, that
    /// of an older device of its generation, PTX.
    fn paths_ahead(&self, source: &Source) -> impl Iterator<Item = PathBuf> {
        let architecture = self.architecture;
        let is_of_generation =
            move |sm: &u32| *sm == architecture || !(TEGRA.contains(sm) || TEGRA.contains(&architecture));
        let machine = (architecture / 10 * 10..=architecture).rev().filter(is_of_generation);
        let ptx = (OLDEST_PTX..=architecture).rev().map(Target::Ptx);
        let hash = hash(source, None);
        let targets = machine.map(Target::Machine).chain(ptx);
        let names = targets.map(move |target| file_name(source.name, target, hash));
        self.ahead.iter().flat_map(move |folder| names.clone().map(|name| folder.join(name)))
    }

    fn path_kept(&self, nvrtc: &Nvrtc, source: &Source) -> Option<PathBuf> {
        let hash = hash(source, Some(nvrtc.version()));
        let name = file_name(source.name, Target::Machine(self.architecture), hash);
        self.kept.as_ref().map(|folder| folder.join(name))
    }
}

/// PTX of an older architecture has not what kernels use.
const OLDEST_PTX: u32 = 80;

/// Writes code of `source` for `target` to `folder`, as a program finds it there.
///
/// # Errors
/// Where it cannot be written; the path is that of the file.
pub fn write_ahead(
    folder: &Path,
    source: &Source,
    target: Target,
    compiled: Compiled,
) -> Result<PathBuf, (PathBuf, io::Error)> {
    let path = folder.join(file_name(source.name, target, hash(source, None)));
    match user_cache::write(&path, &Code::from(compiled).to_bytes(), Existing::Replace) {
        Ok(()) => Ok(path),
        Err(error) => Err((path, error)),
    }
}

fn file_name(source: &str, target: Target, hash: u64) -> String {
    format!("{source}-{target}-{hash:016x}.module")
}

/// Of all that code depends on but its architecture. Code that was compiled ahead is of whatever compiler. The hash need not
/// withstand anybody: who may write to the folder may change the code anyway.
fn hash(source: &Source, compiler: Option<(i32, i32)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source.program(PTX), source.entries, compiler, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comes_back_from_its_file_and_damage_is_not_code() {
        let source = &SOURCES[0];
        let names = source.entries.iter().map(|entry| ((*entry).to_owned(), format!("_Z{}", entry.len())));
        let code = Code { module: b"\x7fELF\n\n\0rest".to_vec(), names: names.collect() };
        let bytes = code.to_bytes();
        assert_eq!(Code::from_bytes(&bytes, source), Some(code));
        assert_eq!(Code::from_bytes(&bytes[3..], source), None, "without its first entry");
        assert_eq!(Code::from_bytes(&bytes[..bytes.len() - 9], source), None, "with half a cubin's mark");
        assert_eq!(Code::from_bytes(&bytes, &SOURCES[1]), None, "of another source");
    }

    #[test]
    fn what_decides_the_code_decides_the_file() {
        let of = |source: &Source, compiler| hash(source, compiler);
        let expected = of(&SOURCES[0], Some((12, 9)));
        assert_eq!(expected, of(&SOURCES[0], Some((12, 9))));
        assert_ne!(expected, of(&Source { text: "", ..SOURCES[0] }, Some((12, 9))));
        assert_ne!(expected, of(&SOURCES[0], Some((13, 0))));
        assert_ne!(file_name("a", Target::Machine(80), 1), file_name("a", Target::Machine(90), 1));
        assert_ne!(file_name("a", Target::Ptx(90), 1), file_name("a", Target::Machine(90), 1));
    }

    #[test]
    fn a_device_takes_the_best_of_what_was_compiled_ahead() {
        let names = |architecture: u32| -> Vec<String> {
            let (driver, ahead, kept) = (13_000, Some(PathBuf::new()), None);
            let (nvrtc, compiled) = (OnceLock::new(), Mutex::default());
            let modules = Modules { architecture, driver, ahead, kept, nvrtc, compiled };
            let paths = modules.paths_ahead(&SOURCES[0]).map(|path| path.display().to_string());
            paths.map(|path| path.split('-').nth(1).expect("a target").to_owned()).collect()
        };
        assert_eq!(names(82), ["sm_82", "sm_81", "sm_80", "compute_82", "compute_81", "compute_80"]);
        assert_eq!(names(87)[..2], ["sm_87", "compute_87"], "a module for cars runs its own alone");
        assert!(!names(89).contains(&"sm_87".to_owned()));
    }
}
