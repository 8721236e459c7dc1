//! Machine code of kernels, compiled when it is first wanted and kept in files: compiling takes some seconds a source.
//!
//! A file is named by a hash of all that its code depends on. It begins with a line for each entry, the entry and its name in
//! the module with a tab between; after an empty line comes the module, a cubin or PTX.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::nvrtc::{CompileError, Nvrtc};
use super::{PTX, Source};
use crate::gpu::DeviceError;

impl From<CompileError> for DeviceError {
    fn from(error: CompileError) -> Self {
        DeviceError::Kernel { why: error.to_string(), hint: CompileError::HINT }
    }
}

/// Code of a source for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// A cubin, or PTX with a zero byte at its end: what the driver loads.
    pub(super) module: Vec<u8>,
    /// The name of each entry in it.
    pub(super) names: BTreeMap<String, String>,
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
}

/// The code of `source`: from `folder` if it is there, else compiled, and put there if that can be.
pub(super) fn code(
    nvrtc: &Nvrtc,
    source: &Source,
    architecture: u32,
    folder: Option<&Path>,
) -> Result<Code, CompileError> {
    let path = folder.map(|folder| folder.join(file_name(nvrtc.version(), source, architecture)));
    let kept = path.as_ref().and_then(|path| Code::from_bytes(&fs::read(path).ok()?, source));
    if let Some(code) = kept {
        return Ok(code);
    }
    let compiled = nvrtc.compile(source, architecture)?;
    let names = compiled.entries.into_iter().map(|(entry, (name, _))| (entry.to_owned(), name));
    let code = Code { module: compiled.module, names: names.collect() };
    if let Some(path) = path {
        // A folder that cannot be written to costs time alone.
        let _ = keep(&path, &code);
    }
    Ok(code)
}

fn keep(path: &Path, code: &Code) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&code.to_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// `lorafit/kernels` in the user's folder of caches, if there is one.
pub(super) fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("lorafit/kernels"))
}

/// The hash need not withstand anybody: who may write to the folder may change the code anyway.
fn file_name(compiler: (i32, i32), source: &Source, architecture: u32) -> String {
    let mut hasher = DefaultHasher::new();
    (source.program(PTX), source.entries, compiler, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    format!("{}-sm_{architecture}-{:016x}.module", source.name, hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::SOURCES;

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
        let name = file_name((12, 9), &SOURCES[0], 80);
        let other_text = Source { text: "", ..SOURCES[0] };
        assert_ne!(name, file_name((12, 9), &other_text, 80));
        assert_ne!(name, file_name((12, 9), &SOURCES[0], 90));
        assert_ne!(name, file_name((13, 0), &SOURCES[0], 80));
        assert_eq!(name, file_name((12, 9), &SOURCES[0], 80));
    }
}
