//! What is wrong with a configuration.

use lorafit_remedy::Remedy;

use super::FAMILIES;
use crate::error::unquantised;

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ConfigError {
    problem: String,
    hint: Option<Remedy>,
}

impl ConfigError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ConfigError { problem: problem.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<Remedy>) -> Self {
        ConfigError { hint: Some(hint.into()), ..self }
    }

    /// The same of a configuration within another, under `key`.
    pub(crate) fn within(self, key: &str) -> Self {
        ConfigError { problem: format!("`{key}`: {}", self.problem), ..self }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        if self.problem.trim_start_matches("`text_config`: ").starts_with("`quantization_config`") {
            return Some(unquantised());
        }
        let of_type = || {
            let known = || FAMILIES.map(|family| family.arch.model_type()).join(", ");
            self.problem.contains("model_type").then(|| format!("supported: {}", known()).into())
        };
        self.hint.clone().or_else(of_type)
    }
}

/// What is said of rotary frequencies that are stretched in a way that is not computed.
pub(super) const OTHER_STRETCHING: &str = "where it was added to reach beyond the context that the model was trained with (YaRN as the cards \
                                of Qwen tell), take the model without it: within that context it is the one that is meant; \
                                otherwise take another model";
/// What is said of keys that change the computation.
pub(super) const OTHER_COMPUTATION: &str =
    "a model that computes with it would be another one here: take a plain model of a supported type";

/// Larger sizes are taken for damage.
pub(super) const MAX_SIZE: u64 = 1 << 24;
