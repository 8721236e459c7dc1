//! Metrics against other programs' numbers (scripts/make_metric_fixtures.py).

use serde_json::Value;

use super::{Answered, Criteria, Metric, Metrics};

fn fixture(name: &str) -> Value {
    let path = format!("{}/../../fixtures/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// Scores and means of a metric, held to those under `key`.
fn equals(name: &str, key: &str, criteria: Criteria, tolerance: f64) {
    let fixture = fixture("texts.json");
    let rows = fixture["rows"].as_array().unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let answered = rows.iter().enumerate().map(|(row, pair)| Answered {
        row,
        prompt: String::new(),
        expected: text(pair, "expected"),
        answer: text(pair, "answer"),
        options: None,
    });
    let metrics = Metrics { list: vec![Metric::named(name).unwrap()], criteria };
    let scored = metrics.score(answered.collect(), &mut || false).unwrap();
    assert!(rows.len() > 40);
    for (row, score) in rows.iter().zip(&scored.scores[0]) {
        match (row[key].as_f64(), score) {
            (Some(want), Ok(found)) => assert!((want - found).abs() <= tolerance, "{found} for {row}"),
            (None, Err(_)) => {}
            _ => panic!("{score:?} for {row}"),
        }
    }
    let (mean, want) = (scored.summaries[0].mean.unwrap(), fixture["means"][key].as_f64().unwrap());
    assert!((mean - want).abs() <= tolerance, "{mean} {want}");
}

#[test]
fn exact_match_equals_the_accuracy_of_scikit_learn() {
    equals("exact_match", "exact", Criteria::default(), 1e-12);
    let ignore_case = true;
    equals("exact_match", "exact_ignoring_case", Criteria { ignore_case, ..Criteria::default() }, 1e-12);
}

/// torchmetrics computes in f32.
#[test]
fn token_f1_equals_squad_of_torchmetrics() {
    equals("token_f1", "f1", Criteria::default(), 2e-7);
}

#[test]
fn rouge_l_equals_rouge_score() {
    equals("rouge_l", "rouge_l", Criteria::default(), 1e-12);
}
