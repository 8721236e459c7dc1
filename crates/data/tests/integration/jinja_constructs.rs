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

#[test]
fn a_construct_gives_what_python_gives_or_is_refused() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/jinja/constructs.json");
    let text = std::fs::read_to_string(path).unwrap();
    // One a line, read as rows are, so that numbers are Python's.
    let constructs = text.lines().filter(|line| line.starts_with('{')).map(|line| {
        let value = lorafit_data::read_json(line.trim_end_matches(',')).unwrap();
        serde_json::from_value::<Construct>(value).unwrap()
    });
    let all: Vec<Construct> = constructs.collect();
    assert!(all.len() > 900);
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
    assert!(different.is_empty(), "{different:?}");
}
