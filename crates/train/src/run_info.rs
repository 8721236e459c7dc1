//! What a run says of itself, and what it is handed on with.

use std::path::PathBuf;

use lorafit_model::weights::SaveDtype;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;

/// What a run says of itself in its checkpoints.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// What its adapter calls the base.
    pub base_model: String,
    /// Every setting, as TOML.
    pub config: String,
    /// What decides its arithmetic.
    pub identity: Identity,
    /// Seconds since 1970 that chat templates see as now.
    pub clock: i64,
    /// What goes beside the weights of a model.
    pub folder: ModelFolder,
    /// How it was begun.
    pub origin: Origin,
}

/// How a run was begun: a part of `run.json`, which runs of older programs lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The command, as it is typed in a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<i64>,
    /// The processor, or the GPU that computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// Threads that compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Processes that trained together, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
}

/// What goes beside the weights of a model, or of an adapter, that is saved.
#[derive(Clone, Debug, Default)]
pub struct ModelFolder {
    /// How a model's weights are stored.
    pub dtype: SaveDtype,
    /// A model's configuration, and the tokenizer and template, by file name.
    pub files: Vec<(String, FolderFile)>,
}

/// A file beside weights.
#[derive(Clone, Debug)]
pub enum FolderFile {
    /// With this content.
    Content(Vec<u8>),
    /// As that of another folder.
    Copy(PathBuf),
}
