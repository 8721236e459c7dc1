//! Tells the crate the hash of its own code: tokens that other code made are not taken from the cache.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

fn main() -> io::Result<()> {
    let mut files = vec![PathBuf::from("Cargo.toml")];
    find_files(Path::new("src"), &mut files)?;
    // The versions of the tokenizers and template libraries; a published crate has no lock file beside it.
    let lock = PathBuf::from("../../Cargo.lock");
    if lock.exists() {
        files.push(lock);
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file)?.hash(&mut hasher);
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rustc-env=LORAFIT_DATA_CODE={:016x}", hasher.finish());
    Ok(())
}

fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => find_files(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
