//! Jinja's constructs against Python's jinja2 in transformers' environment (`scripts/make_jinja_fixtures.py`).

use lorafit_data::{ChatTemplate, SpecialTokens, TemplateError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Construct {
    name: String,
    template: String,
    context: serde_json::Map<String, serde_json::Value>,
    value: Option<String>,
    error: Option<PythonError>,
}

#[derive(Deserialize)]
struct PythonError {
    class: String,
    message: String,
}

/// Constructs that give something else than in Python, each with the reason.
const DIFFERENT: [(&str, &str); 1] = [(
    "printing: integer of 23 digits from the context",
    "the JSON of a row is read with such an integer as a float, before a template sees it",
)];

#[test]
fn a_construct_gives_what_python_gives_or_is_refused() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/jinja/constructs.json");
    let all: Vec<Construct> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut equal, mut refused, mut different) = (0, Vec::new(), Vec::new());
    for construct in &all {
        let template = ChatTemplate::new(&construct.template, &SpecialTokens::default());
        let found = template.and_then(|template| template.render_values(&construct.context));
        match (&found, &construct.value, &construct.error) {
            (Ok(text), Some(value), _) if text == value => equal += 1,
            (Err(TemplateError::Refused { message }), _, Some(error)) if error.class == "TemplateError" => {
                if *message == error.message {
                    equal += 1;
                } else {
                    different.push(&construct.name);
                }
            }
            (Err(_), _, Some(error)) if error.class != "TemplateError" => equal += 1,
            (Err(error), Some(_), _) => refused.push(format!("{}: {error}", construct.name)),
            _ => {
                println!("{}: {found:?}\n  want {:?}", construct.name, construct.value);
                different.push(&construct.name);
            }
        }
    }
    println!("{}", refused.join("\n"));
    println!("{equal} equal, {} refused, {} different of {}", refused.len(), different.len(), all.len());
    let known: Vec<_> = DIFFERENT.iter().map(|(name, _)| *name).collect();
    assert_eq!(different, known);
}
