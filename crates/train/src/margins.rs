//! `margins.json`: the margins of held-out pairs, at the start of a run and at its latest evaluation.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file.
pub(crate) const MARGINS: &str = "margins.json";

/// The margins of held-out pairs: of each, the reward of its chosen reply above that of its rejected one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairMargins {
    /// Before the first step.
    pub start: Option<Margins>,
    /// At the last evaluation after a step.
    pub latest: Option<Margins>,
}

/// The margins of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// Steps done before it.
    pub step: u64,
    /// By pair, in the order of the rows.
    pub margins: Vec<f64>,
}

impl PairMargins {
    /// Those of the run in `dir`, if it has some.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(dir.join(MARGINS)).ok()?).ok()
    }

    /// With the margins after `step`.
    pub(crate) fn with(self, step: u64, margins: Vec<f64>) -> Self {
        let found = Some(Margins { step, margins });
        match step {
            0 => PairMargins { start: found, latest: None },
            _ => PairMargins { latest: found, ..self },
        }
    }

    /// Without what was found after `step`, from which the run goes on.
    pub(crate) fn until(self, step: u64) -> Self {
        PairMargins { latest: self.latest.filter(|latest| latest.step <= step), ..self }
    }
}
