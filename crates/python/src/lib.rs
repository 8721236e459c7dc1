//! The extension module `lorafit._lorafit`: what the Python package calls. It turns Python's values into those of
//! [`lorafit::embed`] and back; what can be written in Python is in `python/lorafit`.

mod call;
mod model;

use std::ffi::OsString;
use std::path::PathBuf;

use lorafit::embed;
use pyo3::prelude::*;

use crate::call::{raised, watched};

/// Runs a verb with the words of its command line. `on_told(kind, name, text)` is called with its results, notes and events; false
/// stops it, "save" has it save a checkpoint.
#[pyfunction]
fn call_verb(
    py: Python<'_>,
    words: Vec<OsString>,
    on_told: Py<PyAny>,
    program: Option<PathBuf>,
) -> PyResult<()> {
    watched(py, Some(on_told), program, move |ears| embed::call(ears, words))
}

/// Runs the command line as the program does; gives its exit code.
#[pyfunction]
fn main(py: Python<'_>, words: Vec<OsString>) -> u8 {
    py.detach(|| lorafit::run(words))
}

/// The flags of every verb, as JSON.
#[pyfunction]
fn parameters() -> String {
    embed::parameters().to_string()
}

/// The figures of how runs went: name, title and SVG of each.
#[pyfunction]
fn figures(py: Python<'_>, runs: Vec<PathBuf>) -> PyResult<Vec<(String, String, String)>> {
    let drawn = py.detach(|| embed::figures(&runs)).map_err(|failure| raised(py, &failure))?;
    Ok(drawn.into_iter().map(|figure| (figure.name, figure.title, figure.svg)).collect())
}

/// The module.
#[pymodule]
fn _lorafit(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(call_verb, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(parameters, module)?)?;
    module.add_function(wrap_pyfunction!(figures, module)?)?;
    module.add_class::<model::Model>()?;
    module.add_class::<model::Answer>()
}
