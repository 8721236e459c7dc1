//! Norms, singular values, ranks, angles and overlaps against numpy, which forms each dW whole
//! (scripts/make_analysis_fixtures.py); the adapters are PEFT's, with rank_pattern, alpha_pattern and rslora.

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_model::adapter::AdapterFile;
use lorafit_model::adapter::analysis::{Subspaces, Update};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/adapters")
}

fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join("expected.json")).unwrap()).unwrap()
}

fn read(name: &str) -> AdapterFile {
    AdapterFile::read(&fixtures().join(name)).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Both are f64; what is left is the rounding of values that are zero but for it.
fn close(found: &[f64], expected: &[f64], size: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-9 * size, "{what}: {found}, numpy {expected}");
    }
}

#[test]
fn norms_singular_values_and_ranks_are_numpys() {
    let all = expected();
    for name in ["one", "two"] {
        let adapter = read(name);
        assert_eq!(adapter.factors.len(), all[name].as_object().unwrap().len());
        for factors in &adapter.factors {
            let (update, path) = (Update::of(factors), &factors.path);
            let numpy = &all[name][path];
            let values = numbers(&numpy["singular_values"]);
            let size = values[0];
            close(&update.singular_values, &values, size, path);
            close(&[update.norm()], &[numpy["norm"].as_f64().unwrap()], size, path);
            assert_eq!(update.rank() as u64, numpy["rank"].as_u64().unwrap(), "{path}");
            for (found, key) in
                [(update.effective_rank(), "effective_rank"), (update.stable_rank(), "stable_rank")]
            {
                close(&[found], &[numpy[key].as_f64().unwrap()], 1.0, &format!("{path} {key}"));
            }
        }
    }
}

#[test]
fn angles_and_similarities_of_subspaces_are_numpys() {
    let all = expected();
    for (one, two) in read("one").factors.iter().zip(&read("two").factors) {
        assert_eq!(one.path, two.path);
        let overlap = Update::of(one).overlap(&Update::of(two));
        let hold = |found: &Subspaces, side: &str| {
            let (numpy, what) = (&all["overlap"][&one.path][side], format!("{} {side}", one.path));
            // Of an angle near zero the cosine keeps half the digits: sqrt(2 eps) is 1.2e-6 degrees.
            close(&found.principal_angles(), &numbers(&numpy["angles"]), 1e4, &what);
            let (rows, cols) = found.sizes();
            assert_eq!(rows, numpy["similarity"].as_array().unwrap().len());
            for i in 0..rows {
                let row: Vec<f64> = (0..cols).map(|j| found.similarity(i + 1, j + 1)).collect();
                close(&row, &numbers(&numpy["similarity"][i]), 1.0, &what);
            }
        };
        hold(&overlap.outputs, "left");
        hold(&overlap.inputs, "right");
    }
}

#[test]
fn an_adapter_lies_in_itself() {
    for factors in read("two").factors {
        let update = Update::of(&factors);
        let overlap = update.overlap(&update);
        for found in [overlap.outputs, overlap.inputs] {
            assert!((found.similarity(3, 3) - 1.0).abs() < 1e-12);
            assert!(found.principal_angles().iter().all(|angle| *angle < 1e-5));
        }
    }
}

#[test]
fn what_cannot_be_looked_at_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |file: &str| fs::copy(fixtures().join("two").join(file), folder.path().join(file)).unwrap();
    let error = |what: &str| {
        let error = AdapterFile::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    error("adapter_config.json");
    copy("adapter_config.json");
    error("adapter_model.safetensors");
    copy("adapter_model.safetensors");
    let weights = folder.path().join("adapter_model.safetensors");
    let whole = fs::read(&weights).unwrap();

    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    error("not a whole safetensors file");
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() = 0x7f;
    let before_last = bytes.len() - 2;
    bytes[before_last] = 0xff;
    fs::write(&weights, bytes).unwrap();
    error("is NaN, expected a finite number");
    let lone = String::from_utf8_lossy(&whole).find("lora_B").unwrap();
    let mut bytes = whole;
    bytes[lone..lone + 6].copy_from_slice(b"lora_C");
    fs::write(&weights, bytes).unwrap();
    error("is missing");

    let config = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    fs::write(folder.path().join("adapter_config.json"), config.replace("LORA", "LOHA")).unwrap();
    error("`peft_type` is \"LOHA\", expected \"LORA\"");
}
