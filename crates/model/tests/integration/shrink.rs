//! Adapters of a smaller rank: what is left out is the least that any matrix of that rank leaves out, by the singular values that
//! numpy finds of each dW (fixtures/adapters); the rest is the same update.

use std::fs;
use std::path::{Path, PathBuf};

use lorafit_model::adapter::{AdapterFile, CONFIG_FILE, Factors, Shrunk, WEIGHTS_FILE, shrink};
use lorafit_model::weights::write_tensors;
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/adapters")
}

/// The adapter as its folder says it.
fn written(shrunk: &Shrunk) -> (AdapterFile, TempDir) {
    let dir = TempDir::new().expect("a folder");
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, shrunk.sources()).expect("in memory");
    fs::write(dir.path().join(WEIGHTS_FILE), bytes).expect("written");
    fs::write(dir.path().join(CONFIG_FILE), &shrunk.config).expect("written");
    (AdapterFile::read(dir.path()).expect("an adapter"), dir)
}

/// `dW` by the definition, `[out, in]`.
fn update(factors: &Factors) -> Vec<f64> {
    let Factors { rank, outputs, inputs, scale, ref a, ref b, .. } = *factors;
    let at = |o: usize, i: usize| {
        (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * inputs + i])).sum::<f64>() * scale
    };
    (0..outputs * inputs).map(|n| at(n / inputs, n % inputs)).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn what_is_left_out_is_the_least_possible() {
    let expected = fs::read_to_string(fixtures().join("expected.json")).expect("there");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    // "one" has rsLoRA and patterns of ranks and alphas.
    for (name, ranks) in [("one", [1, 3, 5, 20]), ("two", [1, 2, 1, 2])] {
        let adapter = AdapterFile::read(&fixtures().join(name)).expect("an adapter");
        for rank in ranks {
            let shrunk = shrink(&adapter, rank).expect("smaller");
            let (small, _dir) = written(&shrunk);
            assert_eq!((small.rank, small.use_rslora, shrunk.rank), (Some(rank), false, rank));
            let (mut all_left_out, mut all) = (0.0, 0.0);
            for ((before, after), told) in adapter.factors.iter().zip(&small.factors).zip(&shrunk.layers) {
                assert_eq!((&before.path, after.rank), (&after.path, rank));
                assert_eq!((&told.path, told.rank), (&before.path, before.rank));
                let values = expected[name][&before.path]["singular_values"].as_array().expect("a list");
                let values: Vec<f64> = values.iter().map(|v| v.as_f64().expect("a number")).collect();
                let least = norm(values.get(rank..).unwrap_or_default());
                let size = norm(&values);
                assert!((told.left_out - least).abs() <= 1e-9 * size, "{name} {} {rank}", before.path);
                assert!((told.norm - size).abs() <= 1e-9 * size);
                // What is written is rounded to f32: some 1e-7 of the update.
                let found = distance(&update(before), &update(after));
                assert!(
                    (found - least).abs() <= 1e-6 * size,
                    "{name} {} {rank}: {found} {least}",
                    before.path
                );
                all_left_out += least * least;
                all += size * size;
            }
            let relative = (all_left_out / all).sqrt();
            assert!((shrunk.relative_error() - relative).abs() < 1e-9, "{name} {rank}");
        }
    }
}

#[test]
fn nothing_is_left_out_where_the_rank_is_enough() {
    let one = AdapterFile::read(&fixtures().join("one")).expect("an adapter");
    let largest = one.factors.iter().map(|factors| factors.rank).max().expect("some");
    // Ranks from 4 to 40 become one.
    let shrunk = shrink(&one, 1000).expect("one rank for all");
    assert_eq!(shrunk.rank, largest);
    assert!(shrunk.relative_error() < 1e-12);
    let (same, _dir) = written(&shrunk);
    for (before, after) in one.factors.iter().zip(&same.factors) {
        let (before, after) = (update(before), update(after));
        assert!(distance(&before, &after) <= 1e-6 * norm(&before));
    }
    let config: Value = serde_json::from_slice(&shrunk.config).expect("JSON");
    for key in ["use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"] {
        assert!(config.get(key).is_none(), "{key}");
    }
    assert_eq!(config["target_modules"].as_array().map(Vec::len), Some(14));
}

#[test]
fn the_scale_stays_that_of_the_adapter() {
    let two = AdapterFile::read(&fixtures().join("two")).expect("an adapter");
    // 16 / 3 of rank 3 gives no whole alpha of rank 2; then it is 1.
    let config: Value = serde_json::from_slice(&shrink(&two, 2).expect("smaller").config).expect("JSON");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(2), &json!(2)));
    let dir = TempDir::new().expect("a folder");
    edited(dir.path(), "two", |config| config["lora_alpha"] = json!(6));
    let six = AdapterFile::read(dir.path()).expect("an adapter");
    let config: Value = serde_json::from_slice(&shrink(&six, 2).expect("smaller").config).expect("JSON");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(2), &json!(4)));
}

/// Readers that know one alpha take `lora_alpha`, whatever a pattern says of all layers.
#[test]
fn a_scale_that_only_a_pattern_says_is_written_as_the_scale_of_all() {
    let dir = TempDir::new().expect("a folder");
    edited(dir.path(), "two", |config| config["alpha_pattern"] = json!({".*": 6}));
    let patterned = AdapterFile::read(dir.path()).expect("an adapter");
    assert!(!patterned.has_one_scale());
    let shrunk = shrink(&patterned, 3).expect("the same rank, and another scale");
    let config: Value = serde_json::from_slice(&shrunk.config).expect("JSON");
    assert_eq!((&config["r"], config.get("alpha_pattern")), (&json!(3), None));
    assert!(AdapterFile::read(&fixtures().join("two")).expect("an adapter").has_one_scale());
}

/// A copy of a fixture with another configuration.
fn edited(dir: &Path, name: &str, edit: impl Fn(&mut Value)) {
    let from = fixtures().join(name);
    fs::copy(from.join(WEIGHTS_FILE), dir.join(WEIGHTS_FILE)).expect("copied");
    let config = fs::read_to_string(from.join(CONFIG_FILE)).expect("there");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    edit(&mut config);
    fs::write(dir.join(CONFIG_FILE), config.to_string()).expect("written");
}

#[test]
fn what_is_more_than_factors_is_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("init_lora_weights", json!("pissa")),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 2]])),
    ] {
        let dir = TempDir::new().expect("a folder");
        edited(dir.path(), "two", |config| config[key] = value.clone());
        let error = shrink(&AdapterFile::read(dir.path()).expect("read"), 2).expect_err(key);
        assert!(error.to_string().contains(&format!("`{key}` is {value}")), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
    // One letter less, and the factors of a layer are no factors.
    let dir = TempDir::new().expect("a folder");
    edited(dir.path(), "two", |_| ());
    let path = dir.path().join(WEIGHTS_FILE);
    let mut bytes = fs::read(&path).expect("there");
    let name = b"layers.0.self_attn.q_proj.lora_";
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(name)).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| bytes[at + name.len() - 1] = b'-');
    fs::write(&path, bytes).expect("written");
    let error = shrink(&AdapterFile::read(dir.path()).expect("read"), 2).expect_err("other tensors");
    assert!(error.to_string().contains("q_proj.lora-A.weight is not a factor of a linear layer"), "{error}");
    // Nothing to do.
    let two = AdapterFile::read(&fixtures().join("two")).expect("an adapter");
    let error = shrink(&two, 3).expect_err("rank 3 already").to_string();
    assert!(error.contains("rank 3 in all layers already"), "{error}");
}
