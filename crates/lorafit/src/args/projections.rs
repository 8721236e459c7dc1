//! What a new adapter is put on, and where its rank is another: flags of every verb that makes one.

use clap::Args;
use lorafit_model::Config;
use lorafit_model::adapter::{LoraConfig, Override, TargetError};
use serde::{Deserialize, Serialize};

use crate::args::flags::Facts;
use crate::args::options::{Method, TargetModules, Written};
use crate::args::rows::one_or_many;
use crate::terminal::shell::shell_word;

/// `PATTERN=RANK`.
pub type RankPattern = Written<Override<usize>>;
/// `PATTERN=ALPHA`.
pub type AlphaPattern = Written<Override<f64>>;

/// Modules with an adapter, and their ranks where they differ.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProjectionArgs {
    /// Modules that get no adapter although --target-modules selects them: a comma list, or regex:PATTERN
    #[arg(long, value_name = "MODULES", help_heading = "Adapter")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub exclude_modules: Option<TargetModules>,
    /// Another rank for some modules, as PATTERN=RANK; repeat the flag for several
    ///
    /// A pattern is a regular expression that has to match the end of a module path such as model.layers.3.mlp.up_proj, from
    /// behind a dot or from its start, as in PEFT: `q_proj=16`, `layers\.(0|1)\..*=4`. The first pattern that matches counts.
    #[arg(long, value_name = "PATTERN=RANK", help_heading = "Adapter")]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Vec::is_empty")]
    #[arg(add = Facts::SHAPE.of(Method::Lora).brought())]
    pub rank_pattern: Vec<RankPattern>,
}

impl ProjectionArgs {
    /// An adapter as the flags have it.
    pub fn of(&self, lora: LoraConfig) -> LoraConfig {
        LoraConfig {
            exclude: self.exclude_modules.as_ref().map(|modules| modules.value.clone()),
            rank_pattern: self.rank_pattern.iter().map(|written| written.value.clone().into()).collect(),
            ..lora
        }
    }

    /// As [`ProjectionArgs::of`], for a model in which every one of the flags has to have an effect.
    pub fn checked(&self, lora: LoraConfig, config: &Config) -> Result<LoraConfig, TargetError> {
        let lora = self.of(lora);
        lora.check(config).map(|()| lora)
    }

    /// The flags as they are typed, with a blank before each.
    pub fn flags(&self) -> String {
        let excluded = self.exclude_modules.iter().map(|modules| ("exclude-modules", modules.to_string()));
        let ranks = self.rank_pattern.iter().map(|pattern| ("rank-pattern", pattern.to_string()));
        excluded.chain(ranks).map(|(flag, value)| format!(" --{flag} {}", shell_word(&value))).collect()
    }
}

/// What patterns change, for whoever reads a rank or an alpha: nothing, if there are none.
pub fn patterns_in_words<T>(patterns: &[Written<T>]) -> String {
    match patterns {
        [] => String::new(),
        some => {
            let shown: Vec<String> = some.iter().map(|pattern| format!("`{pattern}`")).collect();
            format!(" ({})", shown.join(", "))
        }
    }
}
