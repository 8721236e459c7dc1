//! Log-probabilities of options, held to transformers' (scripts/make_metric_fixtures.py).

use std::path::{Path, PathBuf};

use lorafit_data::{Choices, Part, Source, generation_rows};
use lorafit_kernels::Device;
use lorafit_model::Model;
use lorafit_model::adapter;
use lorafit_model::weights::ModelFiles;
use lorafit_train::{open_tokenizer, option_scores, option_tokens};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

#[test]
fn options_are_as_likely_as_transformers_finds_them() {
    let text = std::fs::read_to_string(fixtures().join("metrics/choices.json")).expect("the fixture");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let text = |key: &str| case[key].as_str().expect("a text");
        let folder = fixtures().join("models").join(text("model"));
        let files = ModelFiles::open(&folder).expect("a model");
        let model = Model::load(&files, Device::Cpu).expect("weights");
        let adapter = case["adapter"].as_bool().expect("true or false");
        let adapter = adapter
            .then(|| adapter::load_over(&folder.join("adapter"), &files, Device::Cpu).expect("an adapter"));
        let location = fixtures().join("metrics").join(text("rows")).display().to_string();
        let mut source = Source::new(vec![Part { location, weight: 1.0 }]);
        source.choices = Some("options".to_owned());
        let rows = generation_rows(source, &open_tokenizer(&files).expect("a tokenizer")).expect("rows");
        // All options of a row at once, and one after the other.
        for budget in [512, 1] {
            let found = option_scores(&model, adapter.as_ref(), &rows, budget, |_| (), &mut || false);
            let found = found.expect("numbers").expect("not stopped");
            let wanted: Vec<Vec<f64>> =
                serde_json::from_value(case["log_probabilities"].clone()).expect("lists");
            assert_eq!(found.len(), wanted.len());
            for (row, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(found.len(), wanted.len(), "row {row}");
                for (found, wanted) in found.iter().zip(wanted) {
                    // Sums of up to 50 log-probabilities whose logits both sides compute in f32.
                    let off = (found - wanted).abs();
                    assert!(off < 2e-5 * wanted.abs(), "{case} row {row}: {found}, transformers {wanted}");
                }
            }
        }
        let longest = |choices: &Choices| choices.options.iter().map(|option| option.ids.len()).max();
        let longest = rows.iter().filter_map(|row| longest(row.choices.as_ref()?)).max();
        assert_eq!(Some(option_tokens(model.config(), &rows, 1) + 1), longest, "one option at a time");
    }
}
