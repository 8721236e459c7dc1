//! How the verbs load data: the flags of the cache, and what is shown while a large file is tokenised.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};

use crate::args::flags::Facts;
use crate::args::outputs::{Kind, Output};
use crate::terminal::error::CliError;

/// Where tokenised data is kept.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct CacheArgs {
    /// Folder that keeps tokenised data for the next run [default: lorafit in XDG_CACHE_HOME or ~/.cache]
    ///
    /// Files of 4 MiB and more (of any size, if a folder is given) are tokenised once and mapped from then on: they
    /// may be larger than memory. A change of rows, tokenizer, template or options is noticed. train --objective also
    /// keeps what the reference says of replies, if asking it took 2 seconds or more. When the folder exceeds 32 GiB,
    /// what was unused for longest is removed.
    #[arg(long, value_name = "DIR")]
    #[arg(add = Facts::NO_RESULT)]
    pub cache_dir: Option<PathBuf>,
    /// Tokenise every time, and keep the tokens in memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::NO_RESULT)]
    pub no_cache: bool,
}

impl CacheArgs {
    /// Refuses a folder that would not be used.
    pub fn validate(&self) -> Result<(), CliError> {
        match (&self.cache_dir, self.no_cache) {
            (Some(folder), true) => {
                let text = format!("--cache-dir {} has no meaning with --no-cache", folder.display());
                Err(CliError::usage(text).hint("leave out one of them"))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// The folder that is named, as an output.
    pub fn output(&self) -> Option<Output<'_>> {
        Output::asked("--cache-dir", self.cache_dir.as_ref(), Kind::Files)
    }
}
