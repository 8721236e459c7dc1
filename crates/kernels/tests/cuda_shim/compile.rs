//! The kernels compiled as C++ against `shim.h`, by whatever compiler this machine has.

// Each test binary uses a part.
#![allow(dead_code)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use lorafit_kernels::cuda::{SOURCES, Source};
use rayon::prelude::*;

/// A compiler with flags that it takes, and a folder of its own for what it makes.
pub struct Compiler {
    program: &'static str,
    flags: &'static [&'static str],
    folder: PathBuf,
    /// Tests are processes that start together: one builds, the others wait until this is dropped.
    _lock: File,
}

/// A text to compile, and the name of what is made of it.
pub struct Unit {
    pub name: String,
    pub text: String,
}

impl Compiler {
    /// The first that makes programs with `flags` which run.
    pub fn find(folder: &str, flags: &'static [&'static str]) -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        fs::create_dir_all(&folder).expect("a folder for what is compiled");
        let lock = File::create(folder.join("lock")).expect("a lock file");
        lock.lock().expect("the lock");
        let (source, probe) = (folder.join("probe.cpp"), folder.join("probe"));
        fs::write(&source, "int main() { return 0; }\n").expect("a source");
        let program = ["g++", "clang++", "c++"].into_iter().find(|compiler| {
            let made = Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&probe).output();
            made.is_ok_and(|made| made.status.success())
                && Command::new(&probe).status().is_ok_and(|status| status.success())
        })?;
        Some(Compiler { program, flags, folder, _lock: lock })
    }

    /// Makes `target` of units, unless it is there from the same texts; `extra` are arguments of the linker.
    #[track_caller]
    pub fn make(&self, target: &str, mut units: Vec<Unit>, extra: &[&str]) -> PathBuf {
        // Small first ones would leave a large last one alone.
        units.sort_by_key(|unit| std::cmp::Reverse(unit.text.len()));
        let objects: Vec<(PathBuf, bool)> = units.par_iter().map(|unit| self.object(unit)).collect();
        let target = self.folder.join(target);
        if !target.exists() || objects.iter().any(|(_, new)| *new) {
            fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
            let inputs = objects.iter().map(|(path, _)| path.as_os_str());
            let mut command = Command::new(self.program);
            run(command.args(self.flags).args(inputs).args(extra).arg("-o").arg(&target));
        }
        target
    }

    /// The object file of a unit, and whether it was made now.
    fn object(&self, Unit { name, text }: &Unit) -> (PathBuf, bool) {
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (source, made, from) = (file("cpp"), file("o"), file("from"));
        let headers = ["shim.h", "fibers.h"].map(read);
        let identity = format!("{} {:?}\n{}\n{text}", self.program, self.flags, headers.concat());
        if made.exists() && fs::read_to_string(&from).is_ok_and(|known| known == identity) {
            return (made, false);
        }
        fs::write(&source, text).expect("a source");
        let mut command = Command::new(self.program);
        let command = command.args(self.flags).arg("-I").arg(folder());
        run(command.arg("-c").arg(&source).arg("-o").arg(&made));
        fs::write(&from, identity).expect("what it was made from");
        (made, true)
    }
}

/// The kernels of [`SOURCES`] and of `extra`, which a program that they are linked into finds by the names of their entries.
pub fn kernels(extra: &[Source]) -> Vec<Unit> {
    let unit = |source: &Source| {
        let mut text = source.program("#include \"shim.h\"\n");
        for (i, entry) in source.entries.iter().enumerate() {
            writeln!(text, "static const shim::Register register_{i}(\"{entry}\", {entry});").expect("text");
        }
        Unit { name: source.name.to_owned(), text }
    };
    SOURCES.iter().chain(extra).map(unit).collect()
}

/// A file of this folder as a unit.
pub fn unit(file: &str) -> Unit {
    Unit {
        name: Path::new(file).file_stem().expect("a name").to_string_lossy().into_owned(),
        text: read(file),
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// This folder. The manifest is that of whichever crate's test this is a part of.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/cuda_shim")
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("the compiler runs");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
