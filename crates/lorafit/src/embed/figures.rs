//! The figures of how runs went, as `lorafit report` draws them.

use std::path::PathBuf;

use crate::pages::figure::{Figure, Place};
use crate::pages::report::Report;
use crate::pages::report::training::{self, NamedRun};
use crate::terminal::error::Failure;

/// A figure that is drawn.
pub struct Drawn {
    /// Its name as a file, without an ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// It as SVG on white.
    pub svg: String,
}

/// The figures of how the runs in these folders went: losses, learning rates, memory and others.
///
/// # Errors
/// A folder without a run.
pub fn figures(runs: &[PathBuf]) -> Result<Vec<Drawn>, Failure> {
    let runs = NamedRun::read_all(runs).map_err(|error| Failure::of(&error.into()))?;
    let mut report = Report::default();
    training::add(&mut report, &runs);
    let drawn = |figure: &Figure| Drawn {
        name: figure.name.clone(),
        title: figure.title.clone(),
        svg: figure.svg(Place::File),
    };
    Ok(report.all_figures().iter().map(drawn).collect())
}
