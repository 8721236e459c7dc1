//! The reference of judged replies: its adapter, if it has one of its own, and where what it says is kept for other runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lorafit_model::adapter::Adapter;
use lorafit_train::{Identity, ReferenceCache, ReferenceRequest, hash_files};

use crate::args::train::TrainArgs;
use crate::session::adapter_folder::adapter_folder;
use crate::session::base::{Base, open_adapter};
use crate::terminal::made;

/// The values of a run's identity on which the log-probabilities of the base depend.
const OF_THE_BASE: [&str; 5] = ["device", "instruction set", "base", "tokenizer", "compute-dtype"];

impl TrainArgs {
    /// The adapter of the reference, if it is one of its own.
    pub fn open_reference(&self, base: &Base) -> anyhow::Result<Option<Adapter>> {
        self.reference_adapter().map(|dir| open_adapter(base, dir)).transpose()
    }

    /// What a reference with this adapter is planned for.
    pub fn reference_request<'a>(&self, adapter: Option<&'a Adapter>) -> Option<ReferenceRequest<'a>> {
        self.preference.reference_request(adapter.map(Adapter::config))
    }

    /// Where what the reference of a run of this identity says is kept; `None` if nowhere.
    pub fn reference_cache(&self, identity: &Identity) -> anyhow::Result<Option<ReferenceCache>> {
        let has_reference = self.preference.options(None).is_some_and(|options| options.has_reference());
        let Some(cache) = self.cache.cache().filter(|_| has_reference) else { return Ok(None) };
        let Some(mut parts) = of_the_base(self, identity)? else { return Ok(None) };
        let adapter = match self.reference_adapter() {
            Some(dir) => hash_files(&adapter_files(&adapter_folder(dir, true)?)?)?,
            None => "none".to_owned(),
        };
        parts.push(("adapter", adapter));
        Ok(Some(ReferenceCache::new(cache, &parts)))
    }
}

/// All that decides what the base of a run computes; `None` if that cannot be told.
pub fn of_the_base(
    args: &TrainArgs,
    identity: &Identity,
) -> anyhow::Result<Option<Vec<(&'static str, String)>>> {
    let Some(program) = program_hash() else { return Ok(None) };
    let mut parts = vec![("program", program), ("quantisation", serde_json::to_string(&args.base)?)];
    for name in OF_THE_BASE {
        parts.push((name, identity.get(name).map(ToString::to_string).unwrap_or_default()));
    }
    Ok(Some(parts))
}

/// The hash of this program: another version may round in another way.
fn program_hash() -> Option<String> {
    hash_files(&[made::program()?]).ok()
}

/// The adapter's files in a folder, in the order of their names.
fn adapter_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("adapter_") && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
