//! Dataset shapes, masks, truncation, and files that are not what they should be.

use std::io::Write;

use crate::common::{CHATML, names, tiny_chatml, tiny_metadata};
use lorafit_data::{
    Builtin, DataError, Dataset, ModelLimits, Options, Overlong, RowProblem, Sample, Shape, TemplateError,
    Tokenizer, TrainOn, generation_rows,
};
use tempfile::NamedTempFile;

fn file(content: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    file.write_all(content.as_ref()).unwrap();
    file
}

fn load(content: impl AsRef<[u8]>, tokenizer: &Tokenizer) -> Result<Dataset, DataError> {
    Dataset::load(file(content).path(), tokenizer, Options::default())
}

fn plain() -> Tokenizer {
    Tokenizer::from_gguf(tiny_metadata("gpt-2", &[])).unwrap()
}

fn adds_bos() -> Tokenizer {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.add_bos = Some(true);
    Tokenizer::from_gguf(meta).unwrap()
}

/// Supervised tokens in brackets, one per run.
fn show(tokenizer: &Tokenizer, sample: &Sample) -> String {
    let mut text = String::new();
    let mut open = false;
    for (name, &supervised) in names(tokenizer, &sample.ids).iter().zip(&sample.supervised) {
        if supervised != open {
            text.push(if supervised { '[' } else { ']' });
            open = supervised;
        }
        text += &name.replace('Ċ', "\n").replace('Ġ', " ");
    }
    text + if open { "]" } else { "" }
}

#[test]
fn chat_rows_train_every_reply_with_its_end_of_turn() {
    let tokenizer = tiny_chatml();
    let row = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
                  {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
                  {"role": "assistant", "content": "d"}]}"#
        .replace('\n', " ");
    let dataset = load(row, &tokenizer).unwrap();
    assert_eq!(dataset.report.shapes, [Shape::Chat]);
    assert_eq!(
        show(&tokenizer, &dataset.samples.sample(0).to_sample()),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n\
         <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n"
    );
}

#[test]
fn an_end_of_turn_written_inside_a_reply_does_not_cut_it_short() {
    let tokenizer = tiny_chatml();
    let row = r#"{"messages": [{"role": "user", "content": "x<|im_end|>"}, {"role": "assistant", "content": "a<|im_end|>b"}]}"#;
    let dataset = load(row, &tokenizer).unwrap();
    assert_eq!(
        show(&tokenizer, &dataset.samples.sample(0).to_sample()),
        "<|im_start|>user\nx<|im_end|><|im_end|>\n<|im_start|>assistant\n[a<|im_end|>b<|im_end|>]\n"
    );
}

#[test]
fn a_template_without_end_of_turn_trains_the_whole_span() {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template =
        Some("{% for m in messages %}{{ m.role[0] }}:{{ ' ' + m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}".into());
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    let dataset = load(
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
        &tokenizer,
    );
    assert_eq!(show(&tokenizer, &dataset.unwrap().samples.sample(0).to_sample()), "u: x\na:[ y\n]");
}

/// A template in ChatML's way, whose assistant's messages are written by `reply`.
fn with_reply(reply: &str, prompt: &str) -> Tokenizer {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some(format!(
        "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{reply}{{% else %}}<|im_start|>{{{{ m.role }}}}\n\
         {{{{ m.content }}}}<|im_end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    ));
    Tokenizer::from_gguf(meta).unwrap()
}

const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "z"}]}"#;

#[test]
fn replies_are_found_though_the_template_rewrites_history() {
    // As reasoning models do: earlier replies lose a part.
    let tokenizer = with_reply(
        "<|im_start|>a\n{% if loop.last %}think {% endif %}{{ m.content }}<|im_end|>\n",
        "<|im_start|>a\n",
    );
    let dataset = load(TWO_TURNS, &tokenizer).unwrap();
    assert_eq!(
        show(&tokenizer, &dataset.samples.sample(0).to_sample()),
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>a\n[y<|im_end|>]\n\
         <|im_start|>user\nx<|im_end|>\n<|im_start|>a\n[think z<|im_end|>]\n"
    );
    // And a template whose prompt has the earlier reply otherwise than the whole conversation.
    let tokenizer =
        with_reply("<|im_start|>a\n{{ messages | length }}{{ m.content }}<|im_end|>\n", "<|im_start|>a\n");
    let dataset = load(TWO_TURNS, &tokenizer).unwrap();
    assert!(
        show(&tokenizer, &dataset.samples.sample(0).to_sample())
            .ends_with("x<|im_end|>\n<|im_start|>a\n[4z<|im_end|>]\n")
    );
}

#[test]
fn a_reply_that_could_not_be_generated_where_it_stands_is_an_error() {
    // The prompt opens reasoning that the conversation does not have.
    let tokenizer = with_reply("<|im_start|>a\n{{ m.content }}<|im_end|>\n", "<|im_start|>a\nthink ");
    let error = load(TWO_TURNS, &tokenizer).unwrap_err();
    assert!(error.to_string().contains("up to messages[1] differently"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("split the conversation"));
    // The next words are not found since they are written twice, and nothing ends a turn.
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some(
        "{% for m in messages %}{{ m.content }}{{ m.content }}\n{% endfor %}{{ messages | length }}".into(),
    );
    let error = load(TWO_TURNS, &Tokenizer::from_gguf(meta).unwrap()).unwrap_err();
    assert!(
        matches!(error, DataError::Row { problem: RowProblem::SpanNotFound { message: 1 }, .. }),
        "{error}"
    );
}

fn load_on(train_on: TrainOn, content: &str, tokenizer: &Tokenizer) -> Result<Dataset, DataError> {
    Dataset::load(file(content).path(), tokenizer, Options { train_on, ..Options::default() })
}

#[test]
fn only_the_last_reply_is_trained_where_that_is_asked_for() {
    let marked = "<|im_start|>a\n{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}";
    let plain = "<|im_start|>a\n{{ m.content }}<|im_end|>\n";
    for (reply, want) in [(plain, "[z<|im_end|>]\n"), (marked, "[z<|im_end|>\n]")] {
        let tokenizer = with_reply(reply, "<|im_start|>a\n");
        let dataset = load_on(TrainOn::Last, TWO_TURNS, &tokenizer).unwrap();
        assert_eq!(
            show(&tokenizer, &dataset.samples.sample(0).to_sample()),
            format!(
                "<|im_start|>user\nx<|im_end|>\n<|im_start|>a\ny<|im_end|>\n\
                 <|im_start|>user\nx<|im_end|>\n<|im_start|>a\n{want}"
            )
        );
    }
}

#[test]
fn a_reply_that_says_train_false_is_not_trained_and_templates_do_not_see_that() {
    let row = |first, last| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\", \"train\": false}}, {{\"role\": \
             \"assistant\", \"content\": \"y\", \"train\": {first}}}, {{\"role\": \"user\", \"content\": \"x\"}}, \
             {{\"role\": \"assistant\", \"content\": \"z\", \"train\": {last}}}]}}"
        )
    };
    let marked = "<|im_start|>a\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}";
    let plain = "<|im_start|>a\n{{ m.content }}<|im_end|>\n";
    for reply in [plain, marked] {
        let seen =
            format!("{{% if m.train is defined %}}{{{{ raise_exception('seen') }}}}{{% endif %}}{reply}");
        let tokenizer = with_reply(&seen, "<|im_start|>a\n");
        let shown = |train_on, row: String| {
            show(&tokenizer, &load_on(train_on, &row, &tokenizer).unwrap().samples.sample(0).to_sample())
        };
        let user = "<|im_start|>user\nx<|im_end|>\n<|im_start|>a\n";
        assert_eq!(
            shown(TrainOn::Replies, row(true, false)),
            format!("{user}[y<|im_end|>]\n{user}z<|im_end|>\n")
        );
        assert_eq!(
            shown(TrainOn::Replies, row(false, true)),
            format!("{user}y<|im_end|>\n{user}[z<|im_end|>]\n")
        );
        assert_eq!(
            shown(TrainOn::Completion, row(false, true)),
            format!("{user}y<|im_end|>\n{user}[z<|im_end|>\n]")
        );
        assert_eq!(
            shown(TrainOn::Completion, row(true, true)),
            format!("{user}[y<|im_end|>\n{user}z<|im_end|>\n]")
        );
        assert_eq!(
            shown(TrainOn::All, row(false, true)),
            format!("<|im_start|>[{}]y<|im_end|>[\n{user}z<|im_end|>\n]", &user["<|im_start|>".len()..])
        );
        // A row without a trained token is dropped and counted.
        for train_on in [TrainOn::Replies, TrainOn::Last] {
            let rows = format!("{}\n{}\n", row(false, false), row(false, true));
            let report = load_on(train_on, &rows, &tokenizer).unwrap().report;
            assert_eq!((report.rows, report.samples, report.dropped), (2, 1, 1));
        }
    }
}

#[test]
fn marks_decide_which_tokens_are_trained() {
    let trained = |reply: &str, rows: &str| {
        let tokenizer = with_reply(reply, "<|im_start|>a\n");
        show(&tokenizer, &load(rows, &tokenizer).unwrap().samples.sample(0).to_sample())
    };
    let row = |reply: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant", "content": "{reply}"}}]}}"#
        )
    };
    let prompt = "<|im_start|>user\nx<|im_end|>\n";
    // Two spans in a reply, and an empty one.
    let parts = "a{% generation %}{% endgeneration %}b{% generation %}{{ m.content }}{% endgeneration %}c\
                 {%- generation -%} d {%- endgeneration -%} e";
    assert_eq!(trained(parts, &row("yy")), format!("{prompt}ab[yy]c[d]e"));
    // Inside a macro, which transformers would place wrongly.
    let in_macro =
        "{% macro f(x) %}<{% generation %}{{ x }}{% endgeneration %}>{% endmacro %}a{{ f(m.content) }}";
    assert_eq!(trained(in_macro, &row("y")), format!("{prompt}a<[y]>"));
    // The conversation has the characters that stand for marks.
    let own = "{% generation %}{{ m.content | replace('\u{FDD0}', '0') | replace('\u{FDD1}', '1') }}{% endgeneration %}";
    assert_eq!(trained(own, &row("a\u{FDD0}b\u{FDD1}")), format!("{prompt}[a0b1]"));
}

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]"#;

#[test]
fn tools_and_calls_reach_the_template_and_none_is_lost() {
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some(
        "{% if tools %}{{ tools | length }}:{{ tools[0].function.name }}\n{% endif %}{% for m in messages %}{{ m.role }}:\
         {{ m.content if m.content else '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}\
         {% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
            .into(),
    );
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    let row = |arguments: &str, tools: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant", "content": null, "tool_calls": [{{"type": "function", "function": {{"name": "f", "arguments": {arguments}}}}}]}}, {{"role": "tool", "content": "1"}}, {{"role": "assistant", "content": "y"}}], "tools": {tools}}}"#
        )
    };
    let want =
        "1:f\nuser:x<|im_end|>assistant:[f{\"a\": 2}<|im_end|>]tool:1<|im_end|>assistant:[y<|im_end|>]";
    // Arguments and tools may be JSON text.
    let tools_text = serde_json::to_string(TOOLS).unwrap();
    for (arguments, tools) in
        [(r#"{"a": 2}"#, TOOLS), (r#""{\"a\":2}""#, TOOLS), (r#"{"a": 2}"#, tools_text.as_str())]
    {
        let dataset = load(row(arguments, tools), &tokenizer).unwrap();
        assert_eq!(show(&tokenizer, &dataset.samples.sample(0).to_sample()), want);
    }
    // The reference of a reply that calls tools is the call.
    let call = format!(
        r#"{{"messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments": {{"a": 2}}}}}}]}}], "tools": {TOOLS}}}"#
    );
    assert_eq!(generation_rows(file(&call).path(), &tokenizer).unwrap()[0].reference, r#"f{"a": 2}"#);

    // A template that knows no tools, or no calls.
    let plain = with_reply("<|im_start|>a\n{{ m.content }}<|im_end|>\n", "<|im_start|>a\n");
    let chat = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": "#;
    let error = load(format!("{chat}{TOOLS}}}"), &plain).unwrap_err();
    assert!(error.to_string().ends_with("line 1: the chat template writes nothing for `tools`"), "{error}");
    assert!(load(format!("{chat}[]}}"), &plain).is_ok() && load(format!("{chat}null}}"), &plain).is_ok());
    let error = load(row("{}", "null"), &plain).unwrap_err();
    assert!(error.to_string().ends_with("writes nothing for `messages[1].tool_calls`"), "{error}");
}

#[test]
fn another_template_takes_the_place_of_the_models_own() {
    let row = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let shown = |name: &str| {
        let mut meta = tiny_metadata("gpt-2", &[]);
        // The tiny vocabulary with the tokens of Llama 3, as printable ones.
        meta.tokens.extend(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"].map(String::from));
        meta.token_types.as_mut().unwrap().extend([3, 3, 3]);
        let mut tokenizer = Tokenizer::from_gguf(meta).unwrap();
        tokenizer.use_chat_template(name).unwrap();
        show(&tokenizer, &load(row, &tokenizer).unwrap().samples.sample(0).to_sample())
    };
    assert_eq!(
        shown("chatml"),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n\
         <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n"
    );
    assert_eq!(
        shown("llama-3"),
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n[b<|eot_id|>]\
         <|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n[d<|eot_id|>]"
    );
    assert_eq!(shown("mistral"), "<s>[INST] S\n\na [/INST][ b<|im_end|>][INST] c [/INST][ d<|im_end|>]");
    assert_eq!(
        shown("alpaca"),
        "<s>S\n\n### Instruction:\na\n\n### Response:\n[b<|im_end|>]\n\n\
         ### Instruction:\nc\n\n### Response:\n[d<|im_end|>]\n\n"
    );
    // An instruction becomes what it is for a model without a template, between BOS and a blank line.
    let row = r#"{"instruction": "a", "output": "b"}"#;
    let mut tokenizer = plain();
    let prompt = show(&tokenizer, &load(row, &tokenizer).unwrap().samples.sample(0).to_sample());
    tokenizer.use_chat_template("alpaca").unwrap();
    let sample = &load(row, &tokenizer).unwrap().samples.sample(0).to_sample();
    assert_eq!(show(&tokenizer, sample), format!("<s>{prompt}\n\n"));
    // A file, whose end-of-turn tokens end generations too.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(Builtin::Chatml.source().as_bytes()).unwrap();
    assert_eq!(shown(file.path().to_str().unwrap()), shown("chatml"));
}

#[test]
fn a_template_that_cannot_take_the_models_place_is_refused() {
    let mut tokenizer = plain();
    let error = tokenizer.use_chat_template("llama-3").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template llama-3 needs the token <|start_header_id|>, which is not in the model's vocabulary"
    );
    let error = tokenizer.use_chat_template("chatlm").unwrap_err();
    assert!(error.to_string().starts_with("cannot read the chat template chatlm: "), "{error}");
    assert!(error.hint().unwrap().to_string().contains("chatml"));
    let mut broken = tempfile::NamedTempFile::new().unwrap();
    broken.write_all(b"{% for %}").unwrap();
    let name = broken.path().to_str().unwrap();
    assert!(matches!(tokenizer.use_chat_template(name), Err(TemplateError::Syntax { .. })));
    assert!(tokenizer.chat_template().is_none());
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.eos = None;
    assert!(Tokenizer::from_gguf(meta).unwrap().use_chat_template("alpaca").is_err());
}

#[test]
fn instruction_rows_become_a_chat_or_alpacas_prompt() {
    let rows = "{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\"}\n\
                {\"instruction\": \"Greet\", \"output\": \"Hi\", \"input\": null}\n";
    let chat = tiny_chatml();
    let dataset = load(rows, &chat).unwrap();
    assert_eq!(
        show(&chat, &dataset.samples.sample(0).to_sample()),
        "<|im_start|>user\nAdd\n\n1 2<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>]\n"
    );
    assert_eq!(
        show(&chat, &dataset.samples.sample(1).to_sample()),
        "<|im_start|>user\nGreet<|im_end|>\n<|im_start|>assistant\n[Hi<|im_end|>]\n"
    );
    let plain = plain();
    let dataset = load(rows, &plain).unwrap();
    assert_eq!(
        show(&plain, &dataset.samples.sample(0).to_sample()),
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n### \
         Response:\n[3<|im_end|>]"
    );
    assert!(
        show(&plain, &dataset.samples.sample(1).to_sample())
            .ends_with("### Instruction:\nGreet\n\n### Response:\n[Hi<|im_end|>]")
    );
}

#[test]
fn completion_and_text_rows_are_closed_once_and_begin_as_the_tokenizer_says() {
    let completion = r#"{"prompt": "Q: x", "completion": " y"}"#;
    let text = r#"{"text": "some"}"#;
    let closed = r#"{"text": "some<|im_end|>"}"#;
    for (tokenizer, bos) in [(plain(), ""), (adds_bos(), "<s>")] {
        let get = |row: &str| show(&tokenizer, &load(row, &tokenizer).unwrap().samples.sample(0).to_sample());
        assert_eq!(get(completion), format!("{bos}Q: x[ y<|im_end|>]"));
        let want = if bos.is_empty() { "s[ome<|im_end|>]" } else { "<s>[some<|im_end|>]" };
        assert_eq!(get(text), want);
        assert_eq!(get(closed), want);
    }
    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.add_eos = Some(true);
    let tokenizer = Tokenizer::from_gguf(meta).unwrap();
    assert_eq!(
        show(&tokenizer, &load(completion, &tokenizer).unwrap().samples.sample(0).to_sample()),
        "Q: x[ y<|im_end|>]"
    );
}

#[test]
fn a_token_across_the_boundary_belongs_to_the_reply() {
    let tokenizer = Tokenizer::from_gguf(tiny_metadata("gpt-2", &["a b"])).unwrap();
    let sample =
        &load(r#"{"prompt": "xa", "completion": "b"}"#, &tokenizer).unwrap().samples.sample(0).to_sample();
    assert_eq!(show(&tokenizer, sample), "x[ab<|im_end|>]");
}

#[test]
fn characters_of_several_tokens_are_trained_whole() {
    let tokenizer = plain();
    let sample = &load("{\"prompt\": \"\u{1F600}\", \"completion\": \"\u{1F600}\"}", &tokenizer)
        .unwrap()
        .samples
        .sample(0)
        .to_sample();
    assert_eq!(sample.supervised, [false, false, false, false, true, true, true, true, true]);
}

#[test]
fn truncation_is_counted_and_rows_left_without_a_target_are_dropped() {
    let tokenizer = plain();
    // 3 + 2 + eos, 6 + 1 + eos, 1 + 1 + eos tokens.
    let rows = "{\"prompt\": \"abc\", \"completion\": \"de\"}\n{\"prompt\": \"abcdef\", \"completion\": \"g\"}\n\
                {\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let file = file(rows);
    let load =
        |max_seq_len| Dataset::load(file.path(), &tokenizer, Options { max_seq_len, ..Options::default() });
    let dataset = load(4).unwrap();
    let report = dataset.report;
    assert_eq!((report.rows, report.samples, report.truncated, report.dropped), (3, 2, 1, 1));
    assert_eq!((report.tokens, report.supervised_tokens, report.longest), (7, 3, 4));
    assert_eq!(dataset.samples.iter().map(|s| s.row).collect::<Vec<_>>(), [1, 3]);

    let error = load(1).unwrap_err();
    assert!(
        error.to_string().ends_with("none of its 3 rows has a trained token within the first 1 token"),
        "{error}"
    );
    assert_eq!(error.hint().unwrap().to_string(), "max_seq_len 2 is the least that leaves a row");
    assert_eq!(load(2).unwrap().report.samples, 1);
    assert!(load(0).is_err());
}

#[test]
fn generation_rows_end_where_the_last_reply_begins() {
    let tokenizer = tiny_chatml();
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let rows = generation_rows(file(row).path(), &tokenizer).unwrap();
    assert_eq!(
        rows[0].prompt,
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    assert_eq!(tokenizer.decode(&rows[0].prompt_ids, false).unwrap(), rows[0].prompt);
    assert_eq!((rows[0].reference.as_str(), rows[0].row), ("d", 1));

    let bos = adds_bos();
    let rows = generation_rows(file(r#"{"prompt": "p", "completion": "c"}"#).path(), &bos).unwrap();
    assert_eq!(names(&bos, &rows[0].prompt_ids), ["<s>", "p"]);
    let error = generation_rows(file(r#"{"text": "p"}"#).path(), &bos).unwrap_err();
    assert!(error.to_string().ends_with("line 1: text rows have no prompt to generate from"), "{error}");
}

#[test]
fn blank_lines_crlf_and_a_byte_order_mark_are_accepted_and_lines_still_counted() {
    let tokenizer = plain();
    let dataset = load(
        "\u{FEFF}{\"text\": \"ab\"}\r\n\r\n   \n\t{\"text\": \"cd\"}\r\n\n{\"text\": \"ef\"}",
        &tokenizer,
    )
    .unwrap();
    assert_eq!(dataset.samples.iter().map(|s| s.row).collect::<Vec<_>>(), [1, 4, 6]);
    assert_eq!(show(&tokenizer, &dataset.samples.sample(0).to_sample()), "a[b<|im_end|>]");
}

/// A good row, then a bad one on line 3.
fn third_line(good: &str, bad: impl AsRef<[u8]>) -> Vec<u8> {
    [good.as_bytes(), b"\n\n", bad.as_ref(), b"\n", good.as_bytes(), b"\n"].concat()
}

#[test]
fn bad_rows_are_errors_that_name_file_line_and_reason() {
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let user = r#"{"role": "user", "content": "a"}"#;
    let reply = r#"{"role": "assistant", "content": "b"}"#;
    let row = |messages: &str| format!("{{\"messages\": [{messages}]}}");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            row(&format!("{user}, {{\"role\": \"bot\", \"content\": \"b\"}}")).into(),
            "role `bot` is not one of system, user, assistant, tool",
        ),
        (row("").into(), "the conversation is empty"),
        (row(user).into(), "no message has the role assistant, so there is no reply to train on"),
        (
            row(&format!("{user}, {reply}, {user}")).into(),
            "the conversation ends with a message of the role user, not with the assistant's reply",
        ),
        (
            row(&format!("{user}, {{\"role\": \"assistant\", \"content\": \" \\n\"}}")).into(),
            "`messages[1].content` is empty: there is nothing to train on",
        ),
        (row("3").into(), "`messages[0]` must be an object, found a number"),
        (
            row(&format!("{user}, {{\"role\": \"assistant\"}}")).into(),
            "the row has no `messages[1].content`, which chat rows have",
        ),
        (
            row(&format!("{user}, {{\"role\": \"assistant\", \"content\": [\"x\"]}}")).into(),
            "`messages[1].content` must be a string, found a list",
        ),
        (
            row(&format!("{user}, {{\"role\": null, \"content\": \"\"}}")).into(),
            "`messages[1].role` must be a string, found null",
        ),
        (
            format!("{{\"messages\": [{user}, {reply}], \"tools\": [1]}}").into(),
            "`tools[0]` must be an object, found a number",
        ),
        (
            format!("{{\"messages\": [{user}, {reply}], \"tools\": \"x\"}}").into(),
            "`tools` must be a list, found a string",
        ),
        (
            row(&format!("{{\"role\": \"user\", \"content\": \"a\", \"train\": true}}, {reply}")).into(),
            "`messages[0].train` is not supported yet",
        ),
        (
            row(&format!("{user}, {{\"role\": \"assistant\", \"content\": \"b\", \"train\": 0}}")).into(),
            "`messages[1].train` must be true or false, found a number",
        ),
        (
            row(&format!("{user}, {{\"role\": \"assistant\", \"tool_calls\": []}}")).into(),
            "the row has no `messages[1].content`, which chat rows have",
        ),
        (
            row(&format!(
                "{user}, {{\"role\": \"assistant\", \"tool_calls\": [{{\"function\": {{\"name\": \"f\", \"arguments\": \"[1]\"}}}}]}}"
            ))
            .into(),
            "`messages[1].tool_calls[0].function.arguments` is not read: its text is not the JSON of an object",
        ),
        (br#"{"messages": "x"}"#.to_vec(), "`messages` must be a list, found a string"),
        (
            br#"{"prompt": "x", "completion": "y"}"#.to_vec(),
            "the row has no `messages`, which chat rows have",
        ),
        (br#"{"messages": [}"#.to_vec(), "not valid JSON at column 15: expected value"),
        (br#"{"messages": "#.to_vec(), "not valid JSON at column 13: it ends where a value is wanted"),
        (b"{\"messages\": [\"\xff\"]}".to_vec(), "not UTF-8 at byte 16 of the line"),
        (b"[1]".to_vec(), "a row must be an object, found a list"),
        (b"nope".to_vec(), "not valid JSON at column 2: it begins as null, true or false, and goes on otherwise"),
        ("[".repeat(100_000).into_bytes(), "not valid JSON at column 128: recursion limit exceeded"),
    ];
    let tokenizer = tiny_chatml();
    for (bad, want) in cases {
        let file = file(third_line(chat, &bad));
        let error = Dataset::load(file.path(), &tokenizer, Options::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("{} line 3: {want}", file.path().display()));
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn issue_42_empty_reply_is_reported() {
    for (good, bad, want) in [
        (
            r#"{"prompt": "a", "completion": "b"}"#,
            r#"{"prompt": "a", "completion": ""}"#,
            "`completion` is empty",
        ),
        (
            r#"{"instruction": "a", "output": "b"}"#,
            r#"{"instruction": "a", "output": ""}"#,
            "`output` is empty",
        ),
        (r#"{"text": "a b"}"#, r#"{"text": " "}"#, "`text` is empty"),
    ] {
        let error = load(third_line(good, bad), &plain()).unwrap_err().to_string();
        assert!(error.contains("line 3: ") && error.contains(want), "{error}");
    }
}

#[test]
fn the_first_row_decides_the_shape_and_an_unknown_one_lists_its_fields() {
    let error = load(r#"{"question": "x", "answer": "y"}"#, &plain()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("line 1: the row has none of the known shapes; its fields are: `question`, `answer`")
    );
    assert!(error.hint().unwrap().to_string().contains("instruction (instruction, output)"));
    let error = load("{\"text\": \"ab\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}", &plain()).unwrap_err();
    assert!(error.to_string().ends_with("line 2: the row has no `text`, which text rows have"), "{error}");
}

#[test]
fn the_first_bad_row_of_the_file_is_reported_whatever_the_threads_do() {
    let mut rows = vec![r#"{"text": "ab"}"#; 5000];
    rows[1500] = "{";
    rows[1501] = "[]";
    rows[4000] = "[]";
    for _ in 0..4 {
        let error = load(rows.join("\n"), &plain()).unwrap_err();
        assert!(
            matches!(&error, DataError::Row { place, problem: RowProblem::Json { .. }, .. } if place.number == 1501),
            "{error}"
        );
    }
}

#[test]
fn files_without_rows_or_that_cannot_be_read_are_errors() {
    for content in ["", "\n\n", " \r\n", "\u{FEFF}"] {
        let error = load(content, &plain()).unwrap_err();
        assert!(error.to_string().ends_with("has no rows"), "{content:?}: {error}");
    }
    let error = Dataset::load("/nonexistent/x.jsonl", &plain(), Options::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent/x.jsonl: "), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Dataset::load(empty.path(), &plain(), Options::default()),
        Err(DataError::NoFiles { .. })
    ));
}

#[test]
fn models_that_cannot_do_what_the_rows_need_are_told_apart() {
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let error = load(chat, &plain()).unwrap_err();
    assert!(
        error.to_string().ends_with("line 1: the row is a conversation, but the model has no chat template")
    );

    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.eos = None;
    let error = load(r#"{"text": "a b"}"#, &Tokenizer::from_gguf(meta).unwrap()).unwrap_err();
    assert!(error.to_string().contains("the tokenizer has no end-of-sequence token"), "{error}");

    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some("{% for %}".into());
    let error = load(chat, &Tokenizer::from_gguf(meta).unwrap()).unwrap_err();
    assert!(matches!(error, DataError::Template(_)), "{error}");

    let mut meta = tiny_metadata("gpt-2", &[]);
    meta.chat_template = Some(format!(
        "{{% if messages[0].role == 'user' %}}{{{{ raise_exception('system first') }}}}{{% endif %}}{CHATML}"
    ));
    let error = load(chat, &Tokenizer::from_gguf(meta).unwrap()).unwrap_err();
    assert!(
        error.to_string().ends_with("line 1: the chat template refuses the conversation: system first"),
        "{error}"
    );
}

/// A model with learned positions has none for more tokens: such rows are bad rows, and told.
#[test]
fn rows_beyond_the_positions_of_a_model_are_refused() {
    let tokenizer = plain();
    let rows = "{\"text\": \"a\"}\n{\"text\": \"a a a a a a a a a a a a\"}\n";
    let all = load(rows, &tokenizer).unwrap();
    let (short, long) = (all.samples.iter().next().unwrap().len(), all.samples.iter().nth(1).unwrap().len());
    assert!(short < long);
    let limits = ModelLimits { positions: Some(long - 1), ..ModelLimits::default() };
    let beyond = limits.check(all.samples.iter().nth(1).unwrap().ids, &tokenizer).unwrap_err();
    assert_eq!(
        beyond.told("the row"),
        format!(
            "the row has {long} tokens, but the model has a vector for {} positions and no more",
            long - 1
        )
    );
    assert!(beyond.hint().to_string().contains(&format!("max_seq_len {}", long - 1)));
    let exact = ModelLimits { positions: Some(long), ..limits };
    assert_eq!(exact.check(all.samples.iter().nth(1).unwrap().ids, &tokenizer), Ok(()));
    let options = Options { limits, ..Options::default() };
    assert!(Dataset::load(file(rows).path(), &tokenizer, options).is_err());
    let cut = Options { max_seq_len: short, overlong: Overlong::TruncateRight, limits, ..Options::default() };
    assert_eq!(Dataset::load(file(rows).path(), &tokenizer, cut).unwrap().samples.iter().count(), 2);
}
