//! Answers of a form, and calls of tools.

use serde_json::{Value, json};

use crate::common::{BASE, Running, chat, completion};

/// A tool by its name.
fn tool(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                            "additionalProperties": false});
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

#[test]
fn an_answer_has_the_form_that_is_asked_for() {
    let server = Running::start();
    let schema = json!({"type": "object", "properties": {"size": {"enum": ["s", "m"]}, "ok": {"type": "boolean"}},
                        "required": ["size", "ok"], "additionalProperties": false});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}});
    for (model, temperature) in [(BASE, 0.0), ("a1", 1.5), ("a8", 1.0)] {
        let more = json!({"response_format": format, "temperature": temperature, "max_tokens": 200});
        let answer = server.post("/v1/chat/completions", &chat(model, "Hello", more)).json();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?} {answer}"));
        assert!(["s", "m"].contains(&value["size"].as_str().unwrap()) && value["ok"].is_boolean(), "{text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");

        let more = json!({"regex": "[a-f]{3}-[0-9]{2}", "temperature": temperature, "max_tokens": 100});
        let answer = server.post("/v1/completions", &completion(model, "Hello", more)).json();
        let text = answer["choices"][0]["text"].as_str().unwrap();
        let (letters, digits) = text.split_once('-').unwrap_or_else(|| panic!("{text:?}"));
        assert!(letters.len() == 3 && letters.chars().all(|c| ('a'..='f').contains(&c)), "{text}");
        assert!(digits.len() == 2 && digits.chars().all(|c| c.is_ascii_digit()), "{text}");
    }
}

#[test]
fn forms_that_cannot_be_kept_are_refused() {
    let server = Running::start();
    for (field, more) in [
        ("regex", json!({"regex": "("})),
        ("regex", json!({"regex": "a", "response_format": {"type": "json_object"}})),
        ("response_format", json!({"response_format": {"type": "yaml"}})),
        ("response_format", json!({"response_format": {"type": "json_schema"}})),
        (
            "response_format",
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}),
        ),
    ] {
        let refused = server.post("/v1/chat/completions", &chat(BASE, "Hello", more));
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.error().contains(field), "{refused:?}");
    }
}

#[test]
fn a_call_that_is_asked_for_is_made() {
    let server = Running::start();
    let tools = json!([tool("light"), tool("door")]);
    for (choice, name) in
        [(json!("required"), None), (json!({"type": "function", "function": {"name": "door"}}), Some("door"))]
    {
        let more =
            json!({"tools": tools, "tool_choice": choice, "max_tokens": 200, "temperature": 1, "seed": 3});
        let mut body = chat("a2", "Hello", more);
        let whole = server.post("/v1/chat/completions", &body).json();
        let call = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
        assert!(name.is_none_or(|name| call["name"] == name), "{whole}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["on"].is_boolean(), "{whole}");
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
        body["stream"] = true.into();
        let events = server.post("/v1/chat/completions", &body).events();
        let streamed =
            events.iter().find(|event| event["choices"][0]["delta"]["tool_calls"].is_array()).unwrap();
        assert_eq!(streamed["choices"][0]["delta"]["tool_calls"][0]["function"], *call);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[test]
fn calls_that_nobody_can_make_are_refused() {
    let server = Running::start();
    let light = tool("light");
    for (field, more) in [
        (
            "tool_choice",
            json!({"tools": [light], "tool_choice": {"type": "function", "function": {"name": "door"}}}),
        ),
        ("tool_choice", json!({"tool_choice": "required"})),
        ("stop", json!({"tools": [light], "tool_choice": "required", "stop": "}"})),
        (
            "stop",
            json!({"tools": [light], "tool_choice": {"type": "function", "function": {"name": "light"}}, "stop": ["x"]}),
        ),
        (
            "tools[0].function.parameters.type",
            json!({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "integer"}}}]}),
        ),
        ("tools[0].type", json!({"tools": [{"type": "web_search"}]})),
        ("tool_choice", json!({"tools": [light], "tool_choice": "maybe"})),
        ("tools[1]", json!({"tools": [light, light]})),
        ("tools[0].function.name", json!({"tools": [{"type": "function"}]})),
        ("tools[0].type", json!({"tools": [{"type": "code", "function": {"name": "x"}}]})),
        ("tools", json!({"tools": [light], "response_format": {"type": "json_object"}})),
        ("functions", json!({"functions": [{"name": "x"}]})),
    ] {
        let refused = server.post("/v1/chat/completions", &chat(BASE, "Hello", more));
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.error().contains(&format!("`{field}`")), "{field} {refused:?}");
    }
    // Tools that may not be called are not there.
    let without = server.post("/v1/chat/completions", &chat(BASE, "Hello", json!({}))).json();
    let none = json!({"tools": [light], "tool_choice": "none"});
    let none = server.post("/v1/chat/completions", &chat(BASE, "Hello", none)).json();
    assert_eq!(none["choices"], without["choices"]);
    assert_eq!(none["usage"]["prompt_tokens"], without["usage"]["prompt_tokens"]);
}

#[test]
fn the_schema_of_a_tool_is_blamed_by_its_place() {
    let server = Running::start();
    let mut wrong = tool("door");
    wrong["function"]["parameters"] = json!({"$ref": "#/$defs/none"});
    let tools = json!([tool("light"), wrong]);
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "door"}})] {
        let more = json!({"tools": tools, "tool_choice": choice});
        let refused = server.post("/v1/chat/completions", &chat(BASE, "Hello", more));
        assert_eq!(refused.status, 400, "{refused:?}");
        let json: Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!(json["error"]["param"], "tools[1].function.parameters", "{json}");
        assert!(refused.error().contains("`$ref` '#/$defs/none' leads to nothing"), "{json}");
    }
    let required =
        server.post("/v1/chat/completions", &chat(BASE, "Hello", json!({"tool_choice": "required"})));
    assert_eq!(required.error(), "`tool_choice` is required, but there are no `tools`");
}

#[test]
fn a_held_call_that_is_cut_is_text_with_the_reason_length() {
    let server = Running::start();
    let more = json!({"tools": [tool("light")], "tool_choice": "required", "max_tokens": 2});
    let answer = server.post("/v1/chat/completions", &chat("a2", "Hello", more)).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length", "{answer}");
    assert!(
        choice["message"]["content"].is_string() && choice["message"]["tool_calls"].is_null(),
        "{answer}"
    );
}

#[test]
fn a_message_that_only_calls_tools_is_written_as_one_that_says_nothing() {
    let server = Running::start();
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "light", "arguments": "{}"}}]);
    let text = |content: Value| {
        let called = json!({"role": "assistant", "content": content, "tool_calls": calls});
        let body = json!({"messages": [{"role": "user", "content": "x"}, called]});
        server.post("/v1/tokenize", &body).json()["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text(Value::Null), text(json!("")));
    assert!(text(Value::Null).contains("light"));
}

#[test]
fn the_schema_of_a_tool_may_refer_to_its_own_places() {
    let server = Running::start();
    let parameters = json!({"$defs": {"s": {"enum": ["on"]}}, "type": "object", "properties": {"const": {"$ref": "#/$defs/s"}},
                            "required": ["const"], "additionalProperties": false});
    let lamp = json!({"type": "function", "function": {"name": "lamp", "parameters": parameters}});
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "lamp"}})] {
        let more =
            json!({"tools": [lamp], "tool_choice": choice, "max_tokens": 200, "temperature": 1, "seed": 3});
        let answer = server.post("/v1/chat/completions", &chat("a2", "Hello", more)).json();
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "lamp", "{answer}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments, json!({"const": "on"}), "{answer}");
    }
}

#[test]
fn a_strict_tool_is_refused_where_its_calls_cannot_be_checked() {
    let server = Running::start();
    let lamp = |parameters: &Value, strict: Value| json!({"type": "function", "function": {"name": "lamp", "parameters": parameters, "strict": strict}});
    let pattern = json!({"type": "object", "properties": {"at": {"type": "string", "pattern": "^[a-z]$"}},
                         "required": ["at"], "additionalProperties": false});
    let plain = json!({"type": "object", "properties": {"at": {"type": "integer"}}});
    for choice in [Value::Null, json!("auto")] {
        let ask = |tool: Value| {
            let more = json!({"tools": [tool], "tool_choice": choice});
            server.post("/v1/chat/completions", &chat(BASE, "Hello", more))
        };
        let error = ask(lamp(&pattern, json!(true))).error();
        assert!(error.contains("`tools[0].function.strict` cannot be kept"), "{error}");
        assert!(error.contains("`pattern` at #/properties/at") && error.contains("`tool_choice`"), "{error}");
        let error = ask(lamp(&json!({"type": "object", "required": "at"}), json!(true))).error();
        assert!(error.contains("`required` \"at\" at #; it has to be a list of strings"), "{error}");
        let error = ask(lamp(&plain, json!("yes"))).error();
        assert!(error.contains("`tools[0].function.strict` is a string"), "{error}");
        for tool in [lamp(&pattern, json!(false)), lamp(&plain, json!(true)), lamp(&pattern, Value::Null)] {
            assert_eq!(ask(tool).status, 200);
        }
    }
    // What the answer is held to needs no check.
    let more = json!({"tools": [lamp(&pattern, json!(true))], "tool_choice": "required", "max_tokens": 200});
    let answer = server.post("/v1/chat/completions", &chat("a2", "Hello", more)).json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "lamp", "{answer}");
}

#[test]
fn messages_that_the_template_leaves_out_are_refused() {
    let server = Running::start();
    let call = json!([{"id": "c1", "type": "function", "function": {"name": "light", "arguments": "{}"}}]);
    let user = json!({"role": "user", "content": "Hello"});
    for (messages, index, role) in [
        (json!([{"role": "system", "content": "Be brief."}, user]), 0, "system"),
        (json!([{"role": "developer", "content": "Be brief."}, user]), 0, "developer"),
        (
            json!([user, {"role": "assistant", "content": "I look.", "tool_calls": call},
                   {"role": "tool", "tool_call_id": "c1", "content": "on"}]),
            2,
            "tool",
        ),
    ] {
        let ask = |path: &str, variables: Value| {
            let mut body = json!({"model": BASE, "messages": messages, "chat_template_kwargs": variables});
            if path.ends_with("completions") {
                body["max_tokens"] = 2.into();
            }
            server.post(path, &body)
        };
        for path in ["/v1/chat/completions", "/v1/tokenize"] {
            assert_eq!(ask(path, json!({})).status, 200, "{messages}");
            let refused = ask(path, json!({"only_dialogue": true}));
            assert_eq!(refused.status, 400, "{refused:?}");
            let error = refused.error();
            assert!(error.contains(&format!("`messages[{index}].role` is ")), "{error}");
            assert!(
                error.contains(role) && error.contains("it writes those of user and assistant"),
                "{error}"
            );
            assert!(refused.body.contains("message_left_out"), "{refused:?}");
        }
    }
}
