//! Answers of a model that says anything at random, but what may not follow.

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use boon::{Compiler, Schemas};
use lorafit_data::{GgufTokenizer, Tokenizer};
use serde_json::{Value, json};

use super::*;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The tokenizer of a small model of the fixtures.
fn small(name: &str) -> Tokenizer {
    Tokenizer::from_folder(fixtures().join("models").join(name)).unwrap()
}

/// The tokenizer of SmolLM2-135M-Instruct, from the metadata of its GGUF file.
fn smollm2() -> Tokenizer {
    let bytes = std::fs::read(fixtures().join("data/smollm2_tokenizer.json.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    let meta: Value = serde_json::from_str(&text).unwrap();
    let get = |key: &str| &meta[format!("tokenizer.ggml.{key}")];
    let texts = |key: &str| -> Vec<String> { serde_json::from_value(get(key).clone()).unwrap() };
    Tokenizer::from_gguf(GgufTokenizer {
        model: get("model").as_str().unwrap().into(),
        pre: get("pre").as_str().map(str::to_string),
        tokens: texts("tokens"),
        token_types: serde_json::from_value(get("token_type").clone()).unwrap(),
        merges: Some(texts("merges")),
        eos: Some(2),
        ..GgufTokenizer::default()
    })
    .unwrap()
}

fn tokenizers() -> [Tokenizer; 3] {
    [small("chat_bpe"), small("chat_spm"), smollm2()]
}

/// Pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Tokens that close something are likelier from this one on, so that answers end.
const HURRIES_FROM: usize = 120;

/// The answer of a model whose logits are random numbers, as bytes.
fn answer(
    tokenizer: &Tokenizer,
    grammars: &Grammars,
    constraint: &Constraint,
    random: &mut Random,
) -> Vec<u8> {
    let vocabulary = tokenizer.vocab_size() + 7;
    let words = bytes::of_tokens(tokenizer, vocabulary).unwrap();
    let closes: Vec<usize> =
        (0..words.len()).filter(|id| [&b"\""[..], b"}", b"]"].contains(&&words[*id][..])).collect();
    let mut guide = grammars.begin(constraint).unwrap();
    let mut said = Vec::new();
    for step in 0..3000 {
        let mut logits: Vec<f32> = (0..vocabulary).map(|_| (random.next() % 1000) as f32).collect();
        if step > HURRIES_FROM {
            closes.iter().for_each(|id| logits[*id] += 2000.0);
            tokenizer.eos_ids().iter().for_each(|id| logits[*id as usize] += 4000.0);
        }
        guide.mask(&mut logits);
        let best = (0..vocabulary).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        assert!(logits[best] > f32::NEG_INFINITY, "nothing may follow {:?}", String::from_utf8_lossy(&said));
        let id = best as u32;
        if tokenizer.is_eos(id) {
            assert!(guide.is_complete() && guide.failure().is_none(), "{:?}", guide.failure());
            return said;
        }
        assert!(!tokenizer.is_special(id) && !words[best].is_empty());
        said.extend_from_slice(&words[best]);
        guide.accept(id);
        assert_eq!(guide.failure(), None, "behind {:?}", String::from_utf8_lossy(&said));
    }
    panic!("no end of {:?}", String::from_utf8_lossy(&said));
}

/// The value of an answer; none where a number is one that JSON can write and a double cannot hold.
fn parsed(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(error) => panic!("{error}: {text}"),
    }
}

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
               "required": ["name", "age"], "additionalProperties": false}),
        json!({"enum": ["Köln 😀 \"x\" \\", null, 3, {"a": [1]}]}),
        json!({"type": "array", "items": {"type": "number", "exclusiveMinimum": -1.5, "maximum": 1e3}, "minItems": 2, "maxItems": 5}),
        json!({"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": false, "minItems": 2}),
        json!({"type": "string", "pattern": "^[A-ZÄÖÜ][a-zß]{2,8}(-[0-9]+)?$"}),
        json!({"type": "string", "minLength": 3, "maxLength": 5}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "object", "properties": {"kind": {"const": "\u{1F600}\n\t"}, "more": {"$ref": "#"}}, "required": ["kind"],
               "additionalProperties": false}),
        json!({"$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 5}}, "required": ["x"]}},
               "type": "object", "properties": {"points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 3}},
               "required": ["points"]}),
        json!({"anyOf": [{"type": "object", "properties": {"t": {"const": "a"}}, "required": ["t"]}, {"type": "integer"}]}),
        json!({"oneOf": [{"type": "object", "properties": {"t": {"const": "a"}, "v": {"type": "integer"}}, "required": ["t", "v"]},
                         {"type": "object", "properties": {"t": {"const": "b"}, "v": {"type": "boolean"}}, "required": ["t", "v"]}]}),
        json!({"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1}),
        json!({"type": ["string", "null"], "description": "says nothing"}),
        json!(true),
    ]
}

#[test]
fn answers_are_json_of_their_schema_whatever_the_model_says() {
    let mut random = Random(88_172_645_463_325_252);
    for tokenizer in tokenizers() {
        let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size() + 7).unwrap();
        let rounds = if tokenizer.vocab_size() > 10_000 { 1 } else { 4 };
        for schema in schemas() {
            let (mut compiled, mut compiler) = (Schemas::new(), Compiler::new());
            compiler.add_resource("schema.json", schema.clone()).unwrap();
            let index = compiler.compile("schema.json", &mut compiled).unwrap();
            for _ in 0..rounds {
                let constraint = Constraint::JsonSchema(schema.clone());
                let text =
                    String::from_utf8(answer(&tokenizer, &grammars, &constraint, &mut random)).unwrap();
                let Some(value) = parsed(&text) else { continue };
                let fits = compiled.validate(&value, index).map_err(|error| error.to_string());
                assert!(fits.is_ok(), "{text} of {schema}: {fits:?}");
            }
        }
        for _ in 0..rounds {
            let text = answer(&tokenizer, &grammars, &Constraint::JsonObject, &mut random);
            assert!(parsed(&String::from_utf8(text).unwrap()).is_none_or(|value| value.is_object()));
        }
    }
}

#[test]
fn answers_match_their_regular_expression_as_a_whole() {
    let mut random = Random(362_436_069);
    for tokenizer in tokenizers() {
        let grammars = Grammars::new(&tokenizer, 0).unwrap();
        for text in [
            r"[0-9]{3}-[0-9]{4}",
            "^(yes|no)$",
            r"a/b\n\tü+😀{1,3}",
            r"\d{1,3}(\.\d{1,3}){3}",
            "(ab|cd)*x",
            r"cost: \$[1-9]\d*\$",
        ] {
            let regex = regex::Regex::new(&format!("^(?:{text})$")).unwrap();
            for _ in 0..3 {
                let constraint = Constraint::Regex(text.to_owned());
                let said =
                    String::from_utf8(answer(&tokenizer, &grammars, &constraint, &mut random)).unwrap();
                assert!(regex.is_match(&said), "{said:?} of {text}");
            }
        }
    }
}

#[test]
fn bytes_of_tokens_are_those_of_their_text() {
    for tokenizer in tokenizers() {
        let words = bytes::of_tokens(&tokenizer, 0).unwrap();
        let text = "Ün {\"key\":\n  [1.5e3, \"\\u00fc\", \"你好 🐈\"]}\t~";
        let ids = tokenizer.encode(text, false).unwrap();
        let joined: Vec<u8> = ids.iter().flat_map(|id| words[*id as usize].clone()).collect();
        let joined = String::from_utf8(joined).unwrap();
        // SentencePiece writes a space before a text.
        assert_eq!(joined.strip_prefix(' ').unwrap_or(&joined), text);
        for id in tokenizer.eos_ids() {
            assert_eq!(words[*id as usize][0], TokTrie::SPECIAL_TOKEN_MARKER);
        }
    }
}

#[test]
fn a_complete_answer_ends_and_an_incomplete_one_does_not() {
    fn needs_send<T: Send>(_: &T) {}
    let tokenizer = smollm2();
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    let mut guide = grammars.begin(&Constraint::JsonSchema(json!({"const": {"a": 1}}))).unwrap();
    needs_send(&guide);
    needs_send(&grammars);
    let end = tokenizer.eos_ids()[0] as usize;
    let allows_end = |guide: &mut Guide| {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        guide.mask(&mut logits);
        logits[end] == 0.0
    };
    for id in tokenizer.encode("{\"a\": 1", false).unwrap() {
        assert!(!guide.is_complete() && !allows_end(&mut guide));
        guide.accept(id);
    }
    assert!(!guide.is_complete() && !guide.is_finished());
    guide.accept(tokenizer.encode("}", false).unwrap()[0]);
    assert!(guide.is_complete() && allows_end(&mut guide) && guide.failure().is_none());
    guide.accept(end as u32);
    assert!(guide.is_complete());
    // A token that was not allowed is a failure, and nothing may follow.
    let mut guide = grammars.begin(&Constraint::Regex("yes".to_owned())).unwrap();
    guide.accept(tokenizer.encode("no", false).unwrap()[0]);
    assert!(guide.failure().is_some() && !guide.is_complete() && !allows_end(&mut guide));
}

/// Why a constraint is refused.
fn refusal(grammars: &Grammars, constraint: Constraint) -> String {
    match grammars.begin(&constraint) {
        Err(Refusal::Cannot(why)) => why,
        Err(Refusal::TooLong(why)) => panic!("{why}"),
        Ok(_) => panic!("{constraint:?} is kept"),
    }
}

/// Schemas are refused in these words, and in none of the library's.
#[track_caller]
fn are_refused(schemas: impl IntoIterator<Item = (Value, &'static str)>) {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    for (schema, words) in schemas {
        let error = refusal(&grammars, Constraint::JsonSchema(schema.clone()));
        println!("{error}");
        assert!(error.contains(words) && error.starts_with("the schema"), "{error} of {schema}");
        for own in [
            "NoExtension",
            "segment",
            "nsatisfiable",
            "panic",
            "Expected",
            "f64",
            "an array",
            "must be",
            "Failed",
            "Regex",
        ] {
            assert!(!error.contains(own), "the library's own words: {error}");
        }
        assert!(!error.contains('\n') && error.chars().count() < 300, "{error}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    are_refused([
        (
            json!({"type": "object", "properties": {"a": {"items": {"not": {}}}}}),
            "`not` at #/properties/a/items",
        ),
        (json!({"type": "array", "uniqueItems": true}), "`uniqueItems` at # is not supported"),
        (json!({"type": "strings"}), "has `type` \"strings\" at #; it has to be string, number,"),
        (
            json!({"$ref": "https://example.com/schema"}),
            "`$ref` 'https://example.com/schema': only places of the schema itself",
        ),
        (
            json!({"$ref": "http://example.com/schema"}),
            "nothing is fetched from the network; put the definition under `$defs`",
        ),
        (json!({"$ref": "#/$defs/none"}), "`$ref` '#/$defs/none' leads to nothing in the schema"),
        (
            json!({"properties": {"a": {"$ref": "#/properties/b"}}}),
            "`$ref` '#/properties/b' leads to nothing",
        ),
        (json!({"allOf": [{"$ref": "#/allOf/7"}]}), "`$ref` '#/allOf/7' leads to nothing"),
        (json!({"$ref": "#"}), "`$ref` at # leads back to itself"),
        (
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            "`$ref` at #/$defs/a leads back to itself",
        ),
        (
            json!({"type": "string", "format": "colour"}),
            "`format` colour is not supported; leave it out, or use one of date-time,",
        ),
        (json!({"type": "string", "pattern": r"\bcat"}), "`\\b` is not supported; leave it out"),
        (json!({"type": "string", "pattern": "("}), "unclosed group"),
        (json!({"enum": []}), "has `enum` [] at #; it has to be a list of one value or more"),
        (json!({"anyOf": [{"$ref": "#"}]}), "`$ref` at #/anyOf/0 leads back to itself"),
        (json!(false), "schema"),
        (json!("text"), "is not a JSON object"),
        (json!({"type": "string", "maxLength": 1e9}), "maxLength"),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}), "nothing fits it: "),
        (json!({"$ref": "ü".repeat(2000)}), "only places of the schema itself"),
        (json!({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "`oneOf` is supported where"),
        (json!({"type": "integer", "multipleOf": 982_451_653}), "it is too complex"),
        // The library cuts such a text inside a letter, and panics, which takes long where names are looked up for it.
        (json!({"$ref": [format!("x{}", "ü".repeat(200))]}), "schema"),
    ]);
}

#[test]
fn values_that_keywords_cannot_have_are_refused_by_name() {
    are_refused([
        (json!({"type": "integer", "multipleOf": 0}), "`multipleOf` 0 at #; it has to be a number above 0"),
        (json!({"type": "number", "multipleOf": 0.123_456_789_012_345}), "`multipleOf` has too many digits"),
        (json!({"type": "integer", "minimum": 1e300}), "its `minimum` or `maximum` is too large"),
        (json!({"type": "number", "minimum": 1e300, "maximum": 1e301}), "is too large"),
        (json!({"type": "integer", "minimum": "x"}), "`minimum` \"x\" at #; it has to be a number"),
        (
            json!({"type": "string", "minLength": -1}),
            "`minLength` -1 at #; it has to be a whole number of 0 or more",
        ),
        (json!({"type": "string", "pattern": 3}), "`pattern` 3 at #; it has to be a string"),
        (json!({"required": 3}), "`required` 3 at #; it has to be a list"),
        (json!({"patternProperties": 3}), "`patternProperties` 3 at #; it has to be an object"),
        (json!({"properties": 3}), "`properties` 3 at #; it has to be an object"),
        (json!({"anyOf": 3}), "`anyOf` 3 at #; it has to be a list"),
        (json!({"$ref": 3}), "`$ref` 3 at #; it has to be a string"),
        (json!({"type": 3}), "`type` 3 at #; it has to be string, number,"),
        (
            json!({"type": ["string", "strings"]}),
            "`type` [\"string\",\"strings\"] at #; it has to be string, number,",
        ),
        (json!({"items": 3}), "`items` 3 at #; it has to be a schema"),
        (json!({"items": {"anyOf": [{}, 3]}}), "has 3 at #/items/anyOf/1, where a schema belongs"),
        (
            json!({"minProperties": 3, "properties": {"a": {}}, "additionalProperties": false}),
            "`minProperties` and `maxProperties` are supported where",
        ),
        (json!({"patternProperties": {"a": {}, "b": {}}}), "/a/ and /b/ can fit the same key"),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": false}}),
            "nothing can be its required property 'a'",
        ),
        (json!({"type": "string", "pattern": "a", "format": "date"}), "exclude each other"),
        (json!({"type": "string", "enum": [1]}), "values of different types"),
    ]);
}

#[test]
fn keywords_that_would_be_passed_over_are_refused_by_place() {
    // Beside another alternative nothing else would say that one of them has a value that nothing can have.
    let within = |schema: Value| json!({"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/x/y"}]}}, "x": {"y": schema}});
    for (schema, words) in [
        (
            json!({"type": "number", "minimum": 0, "exclusiveMinimum": true}),
            "give the number itself as `exclusiveMinimum`, and leave out `minimum`",
        ),
        (
            json!({"type": "number", "exclusiveMaximum": true}),
            "give the number itself as `exclusiveMaximum`, and leave out `maximum`",
        ),
        (
            json!({"type": "number", "multipleOf": -1}),
            "`multipleOf` -1 at #/x/y; it has to be a number above 0",
        ),
        (
            json!({"type": "number", "minimum": 3, "maximum": 2.5}),
            "`minimum` 3 and `maximum` 2.5 at #/x/y, between",
        ),
        (
            json!({"type": "integer", "exclusiveMinimum": 3, "maximum": 3}),
            "`exclusiveMinimum` 3 and `maximum` 3 at",
        ),
        (
            json!({"type": "number", "minimum": -1, "exclusiveMaximum": -1}),
            "`minimum` -1 and `exclusiveMaximum` -1 at",
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-20}),
            "too close together for a number",
        ),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "`minLength` 3 and `maxLength` 2 at #/x/y, between",
        ),
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "`minItems` 3 and `maxItems` 2 at"),
        (json!({"minProperties": 3, "maxProperties": 2}), "`minProperties` 3 and `maxProperties` 2 at"),
        (
            json!({"type": "string", "minLength": "3"}),
            "`minLength` \"3\" at #/x/y; it has to be a whole number",
        ),
        (
            json!({"type": "string", "required": "a"}),
            "`required` \"a\" at #/x/y; it has to be a list of strings",
        ),
        (json!({"type": "object", "required": ["a", 1]}), "it has to be a list of strings"),
        (json!({"enum": []}), "`enum` [] at #/x/y; it has to be a list of one value or more"),
        (json!({"anyOf": []}), "`anyOf` [] at #/x/y; it has to be a list of one schema or more"),
        (json!({"type": []}), "`type` [] at #/x/y"),
        (json!({"uniqueItems": "no"}), "`uniqueItems` \"no\" at #/x/y; it has to be true or false"),
        (json!({"const": 9_007_199_254_740_993_u64}), "a number of too many digits to be kept"),
        (json!({"type": "integer", "minimum": 9_007_199_254_740_993_u64}), "too many digits to be kept"),
    ] {
        are_refused([(within(schema), words)]);
    }
}

#[test]
fn every_schema_of_a_large_one_is_looked_at_once() {
    // A long key before many schemas, and many references, each written otherwise, to the same list.
    let named: serde_json::Map<String, Value> =
        (0..600).map(|number| (format!("k{number}"), json!({"minLength": 1}))).collect();
    let references: Vec<Value> =
        (0..600).map(|number| json!({"$ref": format!("#/allOf/{}0", "0".repeat(number % 80))})).collect();
    let schema =
        json!({"allOf": [{"properties": {"x".repeat(50_000): {"properties": named}}}], "anyOf": references});
    let mut count = 0;
    schema::each(&schema, |_, at| {
        count += 1;
        assert!(count < 2000, "{at}");
        Ok(())
    })
    .unwrap();
    assert_eq!(count, 1 + 1 + 1 + 600 + 600);
}

#[test]
fn keywords_that_say_nothing_are_taken() {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    for schema in [
        json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": false}),
        json!({"type": "object", "propertyNames": {}}),
        json!({"type": "object", "propertyNames": true, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "propertyNames": {"type": "string"}}),
        json!({"type": "number", "minimum": 0, "exclusiveMinimum": false}),
        json!({"type": "object", "properties": {"minLength": {"type": "string"}, "enum": {"const": {"minLength": "3"}}}}),
        json!({"type": "integer", "minimum": -9_007_199_254_740_991_i64, "maximum": 9_007_199_254_740_991_i64}),
        json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
        json!({"default": {"enum": []}, "examples": [{"minimum": "x"}]}),
    ] {
        let kept = grammars.begin(&Constraint::JsonSchema(schema.clone()));
        assert!(kept.is_ok(), "{schema}: {:?}", kept.err());
    }
    // What says something is refused still, by its place.
    are_refused([(
        json!({"type": "object", "uniqueItems": false, "properties": {"a": {"uniqueItems": true}}}),
        "`uniqueItems` at #/properties/a is not supported",
    )]);
}

/// Whether a text is a whole answer by its constraint, in tokens of one byte.
fn is_kept(grammars: &Grammars, tokenizer: &Tokenizer, schema: &Value, text: &str) -> bool {
    let mut guide = grammars.begin(&Constraint::JsonSchema(schema.clone())).unwrap();
    let words = bytes::of_tokens(tokenizer, tokenizer.vocab_size()).unwrap();
    for letter in text.bytes() {
        if guide.is_finished() {
            return false;
        }
        let id = words.iter().position(|word| word[..] == [letter]).expect("a token of one byte");
        guide.accept(id as u32);
    }
    guide.failure().is_none() && guide.is_complete()
}

#[test]
fn numbers_at_a_bound_that_is_excluded_are_never_answers() {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    // The bound in many ways, and numbers that are rounded to it.
    let ways = |bound: f64| -> Vec<String> {
        let mut ways =
            vec![format!("{bound}"), format!("{bound:.1}"), format!("{bound:.3}"), format!("{bound}e0")];
        ways.extend([format!("{:.40}", bound), format!("{bound:e}"), format!("{bound}E-0")]);
        let digits = format!("{bound:.40}");
        ways.push(format!("{digits}1"));
        ways.push(format!("{}{}", format_args!("{bound:.1}"), "0".repeat(330) + "1"));
        if bound == 0.0 {
            ways.extend(["-0", "-0.0", "0e0", "-0e0", "0.0e5"].map(str::to_owned));
            ways.push(format!("-0.{}1", "0".repeat(330)));
        }
        ways
    };
    let below = [
        (1.0, "0.99999999999999999999"),
        (0.5, "0.49999999999999999999999"),
        (-1.0, "-1.00000000000000000001"),
    ];
    for bound in [0.0, -0.0, 1.0, 0.5, -1.0, -0.25, 0.1, 12.75, 100.0, 1e-7] {
        let others: [Value; 4] = [json!({}), json!({"b": 0.3}), json!({"b": 7}), json!({"b": 200.25})];
        for other in others {
            let width = other["b"].as_f64();
            for (open, closed, sign) in
                [("exclusiveMinimum", "maximum", 1.0), ("exclusiveMaximum", "minimum", -1.0)]
            {
                for kind in [json!("number"), json!(["number", "null"]), json!(["integer", "number"])] {
                    let mut schema = json!({"type": kind, open: bound});
                    if let Some(width) = width {
                        schema[closed] = json!(bound + sign * width);
                    }
                    let beyond = match width {
                        Some(width) => format!("{}", bound + sign * width / 2.0),
                        None => format!("{}", bound + sign * 3.25),
                    };
                    assert!(is_kept(&grammars, &tokenizer, &schema, &beyond), "{beyond} of {schema}");
                    let rounded =
                        below.iter().filter(|(b, _)| *b == bound).map(|(_, text)| (*text).to_owned());
                    for text in ways(bound).into_iter().chain(rounded) {
                        let value: f64 = text.parse().unwrap();
                        let fits = value * sign > bound * sign;
                        assert!(
                            fits || !is_kept(&grammars, &tokenizer, &schema, &text),
                            "{text} of {schema}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn no_number_outside_its_bounds_is_an_answer() {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    let mut random = Random(4_101_842_887);
    let bounds =
        [-300.0, -10.0, -9.5, -1.0, -0.05, 0.0, 0.001, 0.1, 0.3, 0.5, 0.55, 1.0, 9.99, 10.0, 99.0, 1234.5];
    let mut kept = 0;
    for _ in 0..150 {
        let mut pick = || bounds[random.next() as usize % bounds.len()];
        let (low, high) = (pick(), pick());
        let kinds = random.next();
        let mut schema = json!({"type": "number"});
        if !kinds.is_multiple_of(8) {
            schema[if kinds & 8 == 0 { "minimum" } else { "exclusiveMinimum" }] = low.into();
        }
        if kinds % 8 != 1 && low < high {
            schema[if kinds & 16 == 0 { "maximum" } else { "exclusiveMaximum" }] = high.into();
        }
        let number = |key: &str| schema[key].as_f64();
        let fits = |value: f64| {
            number("minimum").is_none_or(|bound| value >= bound)
                && number("exclusiveMinimum").is_none_or(|bound| value > bound)
                && number("maximum").is_none_or(|bound| value <= bound)
                && number("exclusiveMaximum").is_none_or(|bound| value < bound)
        };
        for _ in 0..12 {
            let near = bounds[random.next() as usize % bounds.len()];
            let steps = (random.next() % 5) as f64 - 2.0;
            let digits = (random.next() % 20) as usize;
            let value = near + steps * 10_f64.powi(-((random.next() % 18) as i32));
            let text = format!("{value:.digits$}");
            let is_kept = is_kept(&grammars, &tokenizer, &schema, &text);
            assert!(!is_kept || fits(text.parse().unwrap()), "{text} of {schema}");
            kept += usize::from(is_kept);
        }
    }
    assert!(kept > 200, "{kept}");
}

#[test]
fn random_numbers_fit_bounds_that_are_excluded() {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    let mut random = Random(2_463_534_242);
    for schema in [
        json!({"type": "number", "exclusiveMinimum": 0}),
        json!({"type": "number", "exclusiveMaximum": 0}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}),
        json!({"type": "number", "exclusiveMinimum": -0.5, "exclusiveMaximum": 0}),
        json!({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.25, "maximum": 1}),
        json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}),
        json!({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"minimum": 0, "exclusiveMaximum": 0.01}]}),
        json!({"type": "number", "exclusiveMinimum": 2, "minimum": 3, "maximum": 3.5}),
        json!({"exclusiveMinimum": 0, "anyOf": [{"type": "number", "maximum": 0.1}, {"type": "boolean"}]}),
    ] {
        let (mut compiled, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("schema.json", schema.clone()).unwrap();
        let index = compiler.compile("schema.json", &mut compiled).unwrap();
        for _ in 0..25 {
            let constraint = Constraint::JsonSchema(schema.clone());
            let text = String::from_utf8(answer(&tokenizer, &grammars, &constraint, &mut random)).unwrap();
            let Some(value) = parsed(&text) else { continue };
            assert!(compiled.validate(&value, index).is_ok(), "{text} of {schema}");
        }
    }
}

#[test]
fn values_fit_a_schema_as_json_schema_says() {
    let schemas = [
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1, null, [1.0]]}}, "required": ["a"],
               "additionalProperties": false}),
        json!({"type": ["object", "null"], "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 2}}),
        json!({"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "string", "minLength": 1, "maxLength": 2},
               "minItems": 1, "maxItems": 3}),
        json!({"$defs": {"n": {"anyOf": [{"type": "integer", "multipleOf": 2}, {"type": "array", "items": {"$ref": "#/$defs/n"}}]}},
               "$ref": "#/$defs/n"}),
        json!({"oneOf": [{"type": "number", "minimum": 1}, {"type": "integer"}, {"type": "object", "minProperties": 1}]}),
        json!({"allOf": [{"properties": {"a": {"type": "string"}}}, {"required": ["b"]}], "maxProperties": 2}),
        json!({"properties": {"a": {"$ref": "#"}}, "additionalProperties": false}),
        json!({"items": false}),
        json!(true),
    ];
    let mut random = Random(1_181_783_497);
    let mut value = |_: usize| -> Value {
        fn any(random: &mut Random, depth: usize) -> Value {
            let leaves = [
                json!(null),
                json!(true),
                json!(0),
                json!(1),
                json!(1.0),
                json!(2),
                json!(-2.5),
                json!(0.5),
                json!(""),
                json!("x"),
                json!("éé"),
                json!("long"),
                json!([1]),
                json!({}),
            ];
            match random.next() % if depth > 2 { 2 } else { 5 } {
                0 | 1 => leaves[random.next() as usize % leaves.len()].clone(),
                2 => (0..random.next() % 4).map(|_| any(random, depth + 1)).collect::<Vec<_>>().into(),
                _ => {
                    let keys = ["a", "b", "c"]
                        .into_iter()
                        .filter(|_| random.next().is_multiple_of(2))
                        .collect::<Vec<_>>();
                    keys.into_iter()
                        .map(|key| (key.to_owned(), any(random, depth + 1)))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                }
            }
        }
        any(&mut random, 0)
    };
    for schema in schemas {
        let (mut compiled, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("schema.json", schema.clone()).unwrap();
        let index = compiler.compile("schema.json", &mut compiled).unwrap();
        let checked = Checked::new(&schema).unwrap();
        let mut fitting = 0;
        for round in 0..3000 {
            let value = value(round);
            let expected = compiled.validate(&value, index).is_ok();
            assert_eq!(checked.fits(&value), expected, "{value} of {schema}");
            fitting += usize::from(expected);
        }
        assert!(fitting > 0 && (fitting < 3000 || schema == true), "{schema}: {fitting}");
    }
}

#[test]
fn schemas_that_values_cannot_be_checked_by_are_refused_and_steps_are_bounded() {
    for (schema, words) in [
        (json!({"properties": {"a": {"pattern": "x"}}}), "has `pattern` at #/properties/a"),
        (json!({"items": {"format": "date"}}), "has `format` at #/items"),
        (json!({"not": {}}), "has `not` at #"),
        (json!({"items": [{}]}), "has a list as `items` at #"),
        (json!({"minLength": "3"}), "has `minLength` \"3\" at #"),
        (json!({"$ref": "#name"}), "has the `$ref` '#name' at #, which leads to no place"),
        (json!({"items": {"$ref": "other.json"}}), "has the `$ref` 'other.json' at #/items"),
        (json!({"anyOf": [{"$ref": "#/$defs/none"}]}), "has the `$ref` '#/$defs/none' at #/anyOf/0"),
        (json!({"items": {"$id": "x", "$ref": "#"}}), "has `$id` at #/items"),
        (json!("x"), "is not a JSON object"),
    ] {
        let refused = Checked::new(&schema).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
    // Each step is two of the next.
    let mut definitions: serde_json::Map<String, Value> = (0..60)
        .map(|number| {
            let next = json!({"$ref": format!("#/$defs/d{}", number + 1)});
            (format!("d{number}"), json!({"anyOf": [next, next]}))
        })
        .collect();
    definitions.insert("d60".to_owned(), json!({"type": "string"}));
    let checked = Checked::new(&json!({"$defs": definitions, "$ref": "#/$defs/d0"})).unwrap();
    let begun = Instant::now();
    assert!(!checked.fits(&json!(1)));
    assert!(begun.elapsed().as_secs() < 5);
    assert!(!Checked::new(&json!({"$ref": "#"})).unwrap().fits(&json!(1)));
    // A deep value at each level of which many references are followed, on the small stack of a thread.
    let mut definitions: serde_json::Map<String, Value> = (0..60)
        .map(|number| (format!("d{number}"), json!({"$ref": format!("#/$defs/d{}", number + 1)})))
        .collect();
    definitions.insert("d60".to_owned(), json!({"items": {"$ref": "#/$defs/d0"}}));
    let checked = Checked::new(&json!({"$defs": definitions, "$ref": "#/$defs/d0"})).unwrap();
    let deep: Value = (0..120).fold(json!(1), |inner, _| json!([inner]));
    std::thread::spawn(move || {
        assert!(checked.fits(&json!([[1]])));
        assert!(!checked.fits(&deep));
    })
    .join()
    .unwrap();
    // What nobody knows says nothing.
    assert!(Checked::new(&json!({"x-note": 1, "title": "t", "type": "null"})).unwrap().fits(&json!(null)));
}

#[test]
fn regular_expressions_that_cannot_be_kept_are_refused_by_name() {
    let tokenizer = small("chat_bpe");
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    for (regex, words) in [
        ("(", "unclosed group"),
        ("", "is empty"),
        ("a\\", "escapes nothing"),
        ("(?=a)b", "a look-around, such as `(?=...)`, is not supported; leave it out"),
        ("(?<!a)b", "a look-around"),
        (r"a\b", "`\\b` is not supported; leave it out"),
        (r"a\Bb", "`\\B` is not supported; leave it out"),
        ("a$b", "an anchor"),
        ("[^\\s\\S]", "regular expression"),
        (r"(a)\1", "a backreference, such as `\\1`, is not supported; leave it out"),
    ] {
        let error = refusal(&grammars, Constraint::Regex(regex.to_owned()));
        println!("{error}");
        assert!(error.contains(words) && error.starts_with("the regular expression"), "{error} of {regex}");
    }
}

/// Schemas that are as large as they may be, or ask for much in few words.
fn explosive() -> Vec<(&'static str, Constraint)> {
    let wide = |count: usize| -> Value {
        (0..count)
            .map(|number| (format!("k{number}"), json!({"type": "string"})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let strings = |count: usize| -> Vec<Value> {
        (0..count).map(|number| json!({"const": format!("v{number}")})).collect()
    };
    let objects = |count: usize| -> Vec<Value> {
        (0..count).map(|number| json!({"properties": {"a": {"const": number}}})).collect()
    };
    let nest = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"items": inner}));
    let chain: serde_json::Map<String, Value> = (0..600)
        .map(|number| {
            (format!("d{number}"), json!({"items": {"$ref": format!("#/$defs/d{}", (number + 1) % 600)}}))
        })
        .collect();
    let any = |count: usize| json!({"anyOf": objects(count)});
    let schema = Constraint::JsonSchema;
    let regex = |text: &str| Constraint::Regex(text.to_owned());
    vec![
        (
            "a list of a million levels",
            schema((0..100).fold(json!({}), |inner, _| json!({"allOf": [inner]}))),
        ),
        ("levels", schema(nest(40))),
        ("a chain of references", schema(json!({"$defs": chain, "$ref": "#/$defs/d0"}))),
        ("one of many", schema(json!({"oneOf": strings(900)}))),
        ("one of many objects", schema(json!({"oneOf": objects(400)}))),
        ("products of alternatives", schema(json!({"allOf": vec![any(12); 12]}))),
        ("products with a wide object", schema(json!({"allOf": [any(100), {"properties": wide(500)}]}))),
        ("a wide object without an order", schema(json!({"properties": wide(900), "minProperties": 400}))),
        (
            "counts",
            schema(
                json!({"items": {"items": {"items": {}, "minItems": 9999}, "minItems": 9999}, "minItems": 9999}),
            ),
        ),
        ("long texts", schema(json!({"type": "string", "minLength": 9000, "maxLength": 10000}))),
        (
            "many long texts",
            schema(
                json!({"anyOf": (0..500).map(|n| json!({"type": "string", "maxLength": 9000 + n})).collect::<Vec<_>>()}),
            ),
        ),
        (
            "a text of patterns",
            schema(
                json!({"allOf": (0..20).map(|n| json!({"pattern": format!("(a|b){{{n},99}}c.*d[^{n}]*e")})).collect::<Vec<_>>()}),
            ),
        ),
        (
            "patterns of keys",
            schema(
                json!({"patternProperties": (0..50).map(|n| (format!("^{n}.*(a|b)*$"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        ("a large multiple", schema(json!({"type": "integer", "multipleOf": 982_451_653}))),
        (
            "two multiples",
            schema(
                json!({"allOf": [{"type": "number", "multipleOf": 0.000_017}, {"type": "number", "multipleOf": 7919}]}),
            ),
        ),
        ("repeated groups", regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}")),
        ("exponential choices", regex("(a|b)*a(a|b){2000}")),
        ("unicode classes", regex(r"(\p{L}\p{N}|\w{1,50}\W){1,1000}")),
        ("many words", regex(&(0..300).map(|n| format!("w{n}.*")).collect::<Vec<_>>().join("|"))),
        ("deep groups", regex(&format!("{}a{}", "(".repeat(900), ")".repeat(900)))),
    ]
}

#[test]
fn constraints_that_explode_are_refused_or_kept_in_time() {
    let tokenizer = smollm2();
    let grammars = Grammars::new(&tokenizer, 0).unwrap();
    let mut random = Random(521_288_629);
    for (name, constraint) in explosive() {
        let begun = Instant::now();
        let mut guide = grammars.begin(&constraint);
        let took = begun.elapsed();
        assert!(took < LONGEST_WAIT + LONGEST_PREPARATION, "{name}: {took:?}");
        let mut slowest = std::time::Duration::ZERO;
        if let Ok(guide) = &mut guide {
            for _ in 0..40 {
                let mut logits: Vec<f32> =
                    (0..tokenizer.vocab_size()).map(|_| (random.next() % 1000) as f32).collect();
                let begun = Instant::now();
                guide.mask(&mut logits);
                slowest = slowest.max(begun.elapsed());
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                let begun = Instant::now();
                guide.accept(best as u32);
                slowest = slowest.max(begun.elapsed());
            }
        }
        println!("{name}: {took:?}, a step at most {slowest:?}; {:?}", guide.map(|guide| guide.failure()));
        // Some 30 ms alone; more where other tests run beside.
        assert!(slowest.as_millis() < 1000, "{name}: {slowest:?}");
        // Those that are late end, too.
        let waited = Instant::now();
        while grammars.late.load(Ordering::SeqCst) > 0 {
            assert!(waited.elapsed().as_secs() < 20, "{name} goes on without end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
