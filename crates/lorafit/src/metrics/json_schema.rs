//! `json_schema`: 1 where the whole answer is JSON that a schema holds for. The reply does not count.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "json_schema",
    what: "The whole answer is JSON that fits the schema of --schema",
    needs: Some("schema"),
    reads: &[],
    compares: false,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

/// A schema, compiled.
pub struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    /// Compiles the schema `value`, which was read from the file `location`. Other files that it refers to are read; nothing is
    /// fetched.
    ///
    /// # Errors
    /// What is not a schema, in words.
    pub fn new(location: &str, value: Value) -> Result<Self, String> {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let told = |error: boon::CompileError| match &error {
            boon::CompileError::UnsupportedUrlScheme { url }
            | boon::CompileError::LoadUrlError { url, .. }
                if !url.starts_with("file:") =>
            {
                format!(
                    "`$ref` {url}: nothing is fetched from the network; put what it refers to under `$defs` of the schema, and refer to \
                     it by #/$defs/NAME"
                )
            }
            // `:#` prints the causes, too.
            _ => format!("{error:#}"),
        };
        compiler.add_resource(location, value).map_err(told)?;
        let index = compiler.compile(location, &mut schemas).map_err(told)?;
        Ok(Schema { schemas, index })
    }

    /// Whether a value fits.
    pub fn accepts(&self, value: &Value) -> bool {
        self.schemas.validate(value, self.index).is_ok()
    }
}

fn score(criteria: &Criteria, _: &str, answer: &str) -> Score {
    let schema = criteria.schema.as_ref().ok_or("there is no schema")?;
    Ok(f64::from(serde_json::from_str(answer).is_ok_and(|answer: Value| schema.accepts(&answer))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_elsewhere_is_not_fetched_and_what_to_do_is_said() {
        for place in ["http://example.com/point.json", "https://example.com/a#/$defs/point"] {
            let schema = serde_json::json!({ "items": { "$ref": place } });
            let Err(error) = Schema::new("schema.json", schema) else { panic!("{place} is fetched") };
            assert!(error.starts_with("`$ref` http") && error.contains("nothing is fetched"), "{error}");
            assert!(error.contains("`$defs`"), "{error}");
        }
        let inside =
            serde_json::json!({ "$ref": "#/$defs/point", "$defs": { "point": { "type": "array" } } });
        assert!(Schema::new("schema.json", inside).is_ok());
    }

    #[test]
    fn an_answer_fits_its_schema_or_does_not() {
        let schema = serde_json::json!({
            "type": "object",
            "properties": { "action": { "enum": ["light", "timer"] }, "minutes": { "type": "integer", "minimum": 1 } },
            "required": ["action"],
            "additionalProperties": false,
        });
        let schema = Some(Schema::new("schema.json", schema).unwrap());
        let criteria = Criteria { schema, ..Criteria::default() };
        for (answer, want) in [
            (r#"{"action":"light"}"#, 1.0),
            (r#"{"action":"timer","minutes":5}"#, 1.0),
            (r#"{"action":"timer","minutes":0}"#, 0.0),
            (r#"{"action":"door"}"#, 0.0),
            (r#"{"action":"light","room":"x"}"#, 0.0),
            (r#"{"action":"light""#, 0.0),
            ("", 0.0),
        ] {
            assert_eq!(score(&criteria, "", answer), Ok(want), "{answer}");
        }
    }
}
