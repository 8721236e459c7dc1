//! Chat templates: Hugging Face's dialect, and templates that mean harm.

use std::time::{Duration, Instant};

use lorafit_data::{ChatTemplate, Message, Role, SpecialTokens, TemplateError};

fn chat(turns: &[(Role, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, text)| Message::new(*role, *text)).collect()
}

fn render(source: &str) -> Result<String, TemplateError> {
    let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Default::default() };
    ChatTemplate::new(source, &special)?.at(1_700_000_000).render(&chat(&[(Role::User, "Hi")]), true)
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source = "{{ bos_token }}\n  {% for m in messages %}\n  {{ m.role }}: {{ m['content'] }}\n  {% endfor %}\nend\n";
    assert_eq!(render(source).unwrap(), "<s>\n  user: Hi\nend");
}

#[test]
fn the_dialect_of_hugging_face_is_understood() {
    for (source, want) in [
        ("{{ 'a,b'.split(',')[-1].upper().strip() }}", "B"),
        ("{{ ' x '.rstrip() }}|{{ 'xay'.lstrip('x') }}", " x|ay"),
        ("{{ messages[0].content.startswith('H') }}", "True"),
        ("{% for m in messages[::-1] %}{{ m.content }}{% endfor %}", "Hi"),
        (
            "{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}{% endif %}{% endfor %}",
            "13",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for i in [1,2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{{ messages[0].items() | list | length }}", "2"),
        ("{{ messages[0].get('name', 'none') }}", "none"),
        ("{% if tools is none and not documents %}no tools{% endif %}", "no tools"),
        ("{{ unk_token }}{{ eos_token }}{% if unk_token is defined %}!{% endif %}", "</s>"),
        ("{{ strftime_now('%Y') }}", "2023"),
        ("{%- generation -%}  a {%- endgeneration -%} b", "ab"),
        ("{% generation %}\nx\n{% endgeneration %}\ny", "x\ny"),
        ("{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x | trim }}", "a"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}", "<a>"),
        ("{{ 'yes' if add_generation_prompt else 'no' }}", "yes"),
    ] {
        assert_eq!(render(source).unwrap(), want, "{source}");
    }
}

#[test]
fn tojson_writes_as_python_does() {
    for (source, want) in [
        (
            "{{ {'b': 1, 'a': [1.0, true, none, 'é<\"\\n']} | tojson }}",
            r#"{"b": 1, "a": [1.0, true, null, "é<\"\n"]}"#,
        ),
        (
            "{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
        ),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=[',', ':']) }}", r#"{"a":2,"b":1}"#),
        ("{{ messages | tojson(ensure_ascii=false) }}", r#"[{"role": "user", "content": "Hi"}]"#),
        ("{{ [1e-05, 1e16, 12345678901234567890] | tojson }}", "[1e-05, 1e+16, 12345678901234567890]"),
    ] {
        assert_eq!(render(source).unwrap(), want, "{source}");
    }
}

#[test]
fn what_a_template_refuses_is_told_in_its_words() {
    let error = render("{{ raise_exception('Roles must alternate!') }}").unwrap_err();
    assert_eq!(error, TemplateError::Refused { message: "Roles must alternate!".into() });
    // From inside a macro too.
    let error = render("{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}").unwrap_err();
    assert_eq!(error, TemplateError::Refused { message: "no".into() });
}

#[test]
fn generation_marks_are_spans_of_the_text_without_them() {
    let special = SpecialTokens::default();
    let marked = |source: &str, text: &str| {
        let template = ChatTemplate::new(source, &special).unwrap();
        assert_eq!(template.has_generation_marks(), source.contains("generation"));
        let plain = template.render(&chat(&[(Role::User, text)]), false).unwrap();
        let (rendered, spans) = template.render_marked(&chat(&[(Role::User, text)]), None).unwrap();
        assert_eq!(rendered, plain);
        spans.into_iter().map(|span| rendered[span].to_string()).collect::<Vec<_>>()
    };
    let twice = "é{% generation %}{{ messages[0].content }}{% endgeneration %}-{%- generation -%} b {%- endgeneration -%} c";
    assert_eq!(marked(twice, "ä"), ["ä", "b"]);
    // Text may have the characters that stand for marks.
    assert_eq!(marked(twice, "\u{FDD0}\u{FDD1}\u{FDD3}"), ["\u{FDD0}\u{FDD1}\u{FDD3}", "b"]);
    assert_eq!(marked("{{ messages[0].content }}", "x"), [""; 0]);
    // A mark inside another is part of it, as in transformers.
    let nested = "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}c";
    assert_eq!(marked(nested, "x"), ["ab"]);
    for (source, line) in [("a\n{% generation %}", None), ("\n{% endgeneration %}", Some(2))] {
        let error = ChatTemplate::new(source, &special).unwrap_err();
        assert!(matches!(error, TemplateError::Syntax { line: found, .. } if found == line), "{error}");
    }
    // Marks that a condition leaves open: jinja2 does not compile them either.
    let open = "{% if 1 %}{% generation %}{% endif %}{% if 0 %}{% endgeneration %}{% endif %}";
    assert!(matches!(ChatTemplate::new(open, &special), Err(TemplateError::Syntax { line: Some(1), .. })));
}

#[test]
fn errors_name_the_line() {
    assert!(matches!(render("a\n{% if %}").unwrap_err(), TemplateError::Syntax { line: Some(2), .. }));
    assert!(matches!(render("a\n\n{{ 1 + 'x' }}").unwrap_err(), TemplateError::Failed { line: Some(3), .. }));
    assert!(render("{% include 'x' %}").is_err());
    assert!(render("{{ {}.a.b }}").is_err());
}

#[test]
fn templates_that_loop_or_grow_without_bound_stop_with_an_error() {
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for source in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_string(),
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}".to_string(),
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}".to_string(),
        "{{ 'x' * 99999999999 }}".to_string(),
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
            .to_string(),
        "{{ range(99999999) | list }}".to_string(),
        "{% macro f(x) %}{% if x %}{{ f(x-1) }}{{ f(x-1) }}{% endif %}{% endmacro %}{{ f(30) }}".to_string(),
        "{% for i in range(99999) %}{% set x = messages | tojson %}{% endfor %}".to_string(),
        "{% for i in range(99999) %}{% set x = messages[0].content.split('H') %}{% endfor %}".to_string(),
        "{% for i in range(99999) %}{% include 'chat_template' %}{% endfor %}".to_string(),
        "{% include 'chat_template' %}".to_string(),
        "{{ '%99999999999d' | format(1) }}".to_string(),
        "{{ strftime_now('%99999999d') }}".to_string(),
        "{{ 'a'.replace('', 'b' * 100000) * 100000 }}".to_string(),
        format!("{deep}{{{{ ns.x | tojson }}}}"),
        format!("{{{{ {}1", "(".repeat(5000)),
        "{% if 1 %}".repeat(5000),
        format!("{{{{ x{} }}}}", "|upper".repeat(100_000)),
    ] {
        let start = Instant::now();
        let result = render(&source);
        let short: String = source.chars().take(60).collect();
        assert!(result.is_err(), "{short}");
        // 200 ms is the aim, and none takes 40 ms here; the machine that runs this may be busy.
        assert!(start.elapsed() < Duration::from_secs(2), "{short} took {:?}", start.elapsed());
    }
}

#[test]
fn templates_that_compare_long_strings_without_end_stop_too() {
    // The engine counts a comparison as one step, however long the strings are.
    let equal = "{% for i in range(99999) %}{% if x == y %}{% endif %}{% endfor %}";
    let of_message = "{% set x = messages[0].content %}{% set y = messages[1].content %}".to_string() + equal;
    let own = "{% set x = 'x' * 2000000 %}{% set y = 'x' * 2000000 %}".to_string() + equal;
    let lists = "{% set s = 'x' * 2000000 %}{% set t = 'x' * 2000000 %}{% set x = [s, s, s, s] %}{% set y = [t, t, t, t] %}"
        .to_string()
        + equal;
    let special = SpecialTokens::default();
    let long = "x".repeat(6 << 20);
    for (source, said) in [(of_message, long.as_str()), (own, "Hi"), (lists, "Hi")] {
        let template = ChatTemplate::new(&source, &special).unwrap();
        let messages = chat(&[(Role::User, said), (Role::Assistant, said)]);
        let start = Instant::now();
        let result = template.render(&messages, false);
        assert!(matches!(result, Err(TemplateError::TooSlow { .. })), "{result:?}");
        // 150 ms of computing; the machine that runs this may be busy.
        assert!(start.elapsed() < Duration::from_secs(2), "{source} took {:?}", start.elapsed());
    }
    // A long conversation itself is none the worse.
    let plain = "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}\n{% endfor %}";
    let template = ChatTemplate::new(plain, &special).unwrap();
    assert!(template.render(&chat(&[(Role::User, &long)]), false).unwrap().len() > long.len());
}

#[test]
fn deep_values_and_long_chains_do_not_overflow_the_stack() {
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(16000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert_eq!(render(deep).unwrap(), "");
    assert_eq!(render(&format!("{deep}{{{{ ns.x }}}}")).unwrap().len(), 32_002);
    assert_eq!(render(&format!("{deep}{{{{ ns.x == [[]] }}}}")).unwrap(), "False");
    // Each as long as a source may be.
    assert!(render(&format!("{{{{ 1{} }}}}", "+1".repeat(65_000))).is_ok());
    assert!(render(&format!("{{{{ {}1 }}}}", "not ".repeat(32_000))).is_ok());
    assert!(render(&format!("{{{{ x{} }}}}", "|e".repeat(65_000))).is_ok());
    assert!(render(&format!("{{{{ x{} }}}}", ".a".repeat(65_000))).is_err());
    assert!(render(&format!("{{% if 1 %}}{}{{% endif %}}", "{%elif 1%}".repeat(13_000))).is_ok());
}

#[test]
fn what_is_none_in_a_message_is_not_there() {
    let mut message = Message::new(Role::Assistant, "");
    message.content = None;
    message.extra.insert("tool_calls".into(), serde_json::Value::Null);
    message.extra.insert("name".into(), "x".into());
    let source = "{% for m in messages %}{{ m.content is defined }}{{ m.tool_calls is defined }}{{ m | list }}{% endfor %}\
                  {{ tools is none }}{{ documents is none }}{{ tools is defined }}";
    let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
    assert_eq!(template.render(&[message], false).unwrap(), "FalseFalse['role', 'name']TrueTrueTrue");
}

#[test]
fn what_is_not_supported_is_refused_by_its_name_and_line() {
    for (source, line, name) in [
        ("a\n{{ 'x' | urlize }}", 2, "urlize"),
        ("\n\n{% include 'x' %}", 3, "include"),
        ("{% macro f(a) %}\n{{ varargs }}{% endmacro %}", 1, "varargs"),
        (
            "{% for i in [1] %}\n{% with a = i %}{% break %}{% endwith %}{% endfor %}",
            2,
            "break inside a with block",
        ),
        (
            "{% for i in [1] %}\n{% continue %}{% else %}x{% endfor %}",
            2,
            "continue in a loop that has an else",
        ),
        ("{{ lorafit_x }}", 1, "lorafit_x"),
        ("{{ '\n\n' }}{{ '\\N{BULLET}' }}", 3, "\\N"),
        ("{% autoescape true %}{% endautoescape %}", 1, "autoescape"),
    ] {
        let error = render(source).unwrap_err();
        assert!(
            matches!(error, TemplateError::Syntax { line: Some(found), .. } if found == line),
            "{source}: {error}"
        );
        assert!(error.to_string().contains(name), "{source}: {error}");
    }
}

#[test]
fn arguments_are_objects_for_templates_and_text_for_those_that_want_it() {
    let mut message = Message::new(Role::Assistant, "");
    let calls =
        r#"[{"function": {"name": "f", "arguments": "{\"a\":1}"}}, {"name": "g", "arguments": {"b": 2}}]"#;
    message.extra.insert("tool_calls".into(), serde_json::from_str(calls).unwrap());
    let said = |source: &str| {
        ChatTemplate::new(source, &SpecialTokens::default())
            .unwrap()
            .render(std::slice::from_ref(&message), false)
    };
    let call = "{% set c = messages[0].tool_calls[0].function %}";
    assert_eq!(said(&format!("{call}{{{{ c.arguments | tojson }}}}")).unwrap(), r#"{"a": 1}"#);
    // As the row has it, to the blank.
    assert_eq!(said(&format!("{call}{{{{ '<' + c.arguments + '>' }}}}")).unwrap(), r#"<{"a":1}>"#);
    assert_eq!(said("{{ messages[0].tool_calls[1].arguments | tojson }}").unwrap(), r#"{"b": 2}"#);
    // What fails either way fails with the object.
    let error = said(&format!("{call}{{{{ c.arguments + 1 }}}}")).unwrap_err().to_string();
    assert!(error.contains("map"), "{error}");
}

#[test]
fn every_error_has_a_hint() {
    for source in ["{% if %}", "{{ 1 + 'x' }}", "{{ raise_exception('x') }}", "{{ 'x' * 9999999999 }}"] {
        assert!(render(source).unwrap_err().hint().is_some());
    }
}
