//! The plan as a calculator: a view of the page of `serve`, whose fields are flags of `plan` and whose answers are its tables.
//!
//! A question may set the flags in [`FIELDS`] and no others, each as one argument, and name the served base or a published shape: it
//! reads no file but those of the base.

use std::path::Path;

use clap::{Arg, Args as _, Command, FromArgMatches as _};
use lorafit_model::{Config, is_hub_id};
use lorafit_remedy::amounts::{counted, grouped, memory, trainable};
use lorafit_serve::View;
use serde_json::{Map, Value, json};

use super::report::{MethodCost, Report, report};
use super::show::chart;
use super::subject::Subject;
use super::{PlanArgs, check};
use crate::args::config_file::Given;
use crate::args::flags::{self, Words};
use crate::args::numbers::in_plain_words;
use crate::pages::shell::{escape, table};
use crate::session::memory_table::parts;
use crate::terminal::error::render_for;
use crate::terminal::shell::shell_word;
use crate::terminal::words::Verb;

/// Its style.
const STYLE: &str = include_str!("calculator.css");
const SCRIPT: &str = include_str!("calculator.js");

/// Letters of a value, at most.
const LONGEST: usize = 200;

/// How a flag is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number.
    Number,
    /// A text, of which some may be offered. Where it is empty, this is what holds.
    Text(&'static str),
    /// One of the values of the flag. Where it has no default, this stands for none of them.
    Choice(&'static str),
    /// Given or not.
    Switch,
}

/// What can be set: flags of `plan`, what they are called and how they are asked for.
const FIELDS: [(&str, &str, Kind); 15] = [
    ("objective", "What the run trains for", Kind::Choice("")),
    ("rank", "Rank of the adapter", Kind::Number),
    ("target-modules", "Modules with an adapter", Kind::Text("all-linear")),
    ("max-seq-len", "Tokens of a row", Kind::Number),
    ("batch-size", "Rows of a batch", Kind::Number),
    ("micro-batch-tokens", "Tokens computed at once", Kind::Number),
    ("quant", "Base of QLoRA", Kind::Choice("nf4, scales quantised too")),
    ("recompute", "Activations computed again", Kind::Text("none")),
    ("activation-dtype", "Activations that are kept", Kind::Choice("")),
    ("optimizer", "Optimizer", Kind::Choice("")),
    ("device", "Device", Kind::Choice("")),
    ("compute-dtype", "Number type of products", Kind::Choice("as the device does best")),
    ("memory", "Memory the run may take", Kind::Text("what is free")),
    ("double-quant", "Quantise scales of nf4 or fp4 too", Kind::Switch),
    ("dora", "Train magnitudes, too (DoRA)", Kind::Switch),
];

/// The calculator over the base that is called `name` and lies at `path`.
pub fn view(name: String, path: String) -> View {
    View {
        name: "plan",
        title: "Plan",
        heading: "Memory of a fine-tuning run".to_owned(),
        html: html(&name),
        style: STYLE,
        script: SCRIPT,
        answer: Box::new(move |question| answer(&name, &path, question)),
    }
}

/// The command whose flags these are.
fn command() -> Command {
    PlanArgs::augment_args(Command::new("plan"))
}

fn flag<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|flag| flag.get_long() == Some(name))
}

fn default(flag: &Arg) -> String {
    flag.get_default_values().first().map_or_else(String::new, |value| value.to_string_lossy().into_owned())
}

/// The form, and a place for what it comes to.
fn html(name: &str) -> String {
    let command = command();
    let shapes = Config::names().map(|shape| option(shape, shape, false)).collect::<String>();
    let mut fields = format!(
        "<label><span>Model <code>--model</code></span><select id=\"plan-model\" name=\"model\">{}\
         <optgroup label=\"Published shapes\">{shapes}</optgroup></select></label>\n",
        option("", &format!("{name} (served)"), true)
    );
    for (flag_name, label, kind) in FIELDS {
        let Some(flag) = flag(&command, flag_name) else { continue };
        fields += &field(flag, flag_name, label, kind);
    }
    format!(
        "<form id=\"plan-form\" novalidate>\n<div class=\"fields\">\n{fields}</div>\n\
         <div class=\"buttons\"><button class=\"first\" id=\"plan-count\">Calculate</button>\n\
         <button type=\"reset\" id=\"plan-reset\">Reset</button></div>\n</form>\n\
         <p class=\"error\" id=\"plan-error\" role=\"alert\" hidden></p>\n\
         <p class=\"note\" id=\"plan-note\" role=\"status\"></p>\n<div id=\"plan-result\"></div>\n"
    )
}

/// The field of a flag.
fn field(flag: &Arg, name: &str, label: &str, kind: Kind) -> String {
    let label = format!("<span>{} <code>--{name}</code></span>", escape(label));
    let id = format!("id=\"plan-{name}\" name=\"{name}\"");
    let default = default(flag);
    match kind {
        Kind::Number => format!(
            "<label>{label}<input {id} type=\"text\" inputmode=\"numeric\" autocomplete=\"off\" value=\"{}\"></label>\n",
            escape(&default)
        ),
        Kind::Text(otherwise) => {
            let words = flag.get::<Words>().map_or_else(Vec::new, |words| (words.0)());
            let offered: String = words.iter().map(|word| option(word, word, false)).collect();
            let list = if offered.is_empty() { String::new() } else { format!(" list=\"plan-{name}-list\"") };
            let offered = match offered.is_empty() {
                true => offered,
                false => format!("<datalist id=\"plan-{name}-list\">{offered}</datalist>"),
            };
            format!(
                "<label>{label}<input {id} type=\"text\" autocomplete=\"off\" spellcheck=\"false\"{list} placeholder=\"{}\">\
                 {offered}</label>\n",
                escape(otherwise)
            )
        }
        Kind::Choice(none) => {
            let first = if default.is_empty() { option("", none, true) } else { String::new() };
            let known = flag.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
            let mut values: Vec<String> = known.map(|value| value.get_name().to_owned()).collect();
            if values.is_empty() {
                let words = flag.get::<Words>().map_or_else(Vec::new, |words| (words.0)());
                values.extend(words.into_iter().map(str::to_owned));
            }
            let options: String =
                values.iter().map(|value| option(value, value, *value == default)).collect();
            format!("<label>{label}<select {id}>{first}{options}</select></label>\n")
        }
        Kind::Switch => {
            format!("<label class=\"check\"><input {id} type=\"checkbox\"> {label}</label>\n")
        }
    }
}

fn option(value: &str, shown: &str, is_chosen: bool) -> String {
    let chosen = if is_chosen { " selected" } else { "" };
    format!("<option value=\"{}\"{chosen}>{}</option>", escape(value), escape(shown))
}

/// The plan of what is asked, as HTML, or the error that `lorafit plan` would print.
fn answer(name: &str, path: &str, question: &Map<String, Value>) -> Result<Value, String> {
    let (model, flags) = flags_of(question)?;
    let own = model.is_empty();
    let (shown, opened) = if own { (name, path) } else { (model, model) };
    let arguments = ["plan".to_owned(), format!("--model={opened}")].into_iter().chain(flags.clone());
    let matches =
        command().try_get_matches_from(arguments).map_err(|error| of_clap(&in_plain_words(error)))?;
    let verb = Verb { flags: flags::names::<PlanArgs>().into_iter().collect(), ..Verb::default() };
    let planned = || {
        let args = PlanArgs { model: shown.to_owned(), ..PlanArgs::from_arg_matches(&matches)? };
        let given = Given::new(Some(&matches));
        check(&args, &given)?;
        report(args, &given, Subject::open(opened)?)
    };
    // Nobody learns where on the server its files are.
    let found = planned().map_err(|error| {
        let text = render_for(&error, &verb);
        let text = text.trim_end().trim_start_matches("error: ").to_owned();
        // A path of one part says no more than the name, and may be a dot.
        if own && Path::new(path).components().count() > 1 { text.replace(path, name) } else { text }
    })?;
    let flags: String = flags.iter().map(|flag| format!(" {}", shell_word(flag))).collect();
    let command = format!("lorafit plan --model {}{flags}", shell_word(shown));
    let commands = Commands { command, hides: (own && !is_hub_id(name)).then_some(name) };
    Ok(json!({"html": tables(&found, &commands)}))
}

/// How commands name the model.
struct Commands<'a> {
    /// The command that prints the same.
    command: String,
    /// What the base is called, which is no name of its files.
    hides: Option<&'a str>,
}

impl Commands<'_> {
    /// A command as it can be typed where the files are, with `M` for them.
    fn html(&self, command: &str) -> String {
        let Some(name) = self.hides else {
            return format!("<pre tabindex=\"0\">{}</pre>\n", escape(command));
        };
        let command = command.replacen(&format!("--model {}", shell_word(name)), "--model M", 1);
        format!(
            "<pre tabindex=\"0\">{}</pre>\n<p class=\"note\">M is the model that this server was started with.</p>\n",
            escape(&command)
        )
    }
}

/// Reads a question: the model, empty for the served one, and the flags. A setting at its default gives no flag.
fn flags_of(question: &Map<String, Value>) -> Result<(&str, Vec<String>), String> {
    let command = command();
    let model = match question.get("model") {
        None => "",
        Some(Value::String(model)) if model.is_empty() || Config::names().any(|name| name == model) => model,
        Some(_) => {
            return Err("`model` has to be empty, for the served base, or a published shape".to_owned());
        }
    };
    let known = |key: &&String| *key != "model" && FIELDS.iter().all(|(name, ..)| key != name);
    if let Some(key) = question.keys().find(known) {
        let shown: String = key.chars().take(80).collect();
        return Err(format!("`{shown}` is not a setting of this calculator"));
    }
    let mut flags = Vec::new();
    for (name, _, kind) in FIELDS {
        match (question.get(name), kind) {
            (None | Some(Value::Null | Value::Bool(false)), _) => {}
            (Some(Value::Bool(true)), Kind::Switch) => flags.push(format!("--{name}")),
            (Some(Value::String(value)), Kind::Number | Kind::Text(_) | Kind::Choice(_)) => {
                let value = value.trim();
                if value.chars().count() > LONGEST {
                    return Err(format!("--{name} has more than {LONGEST} letters"));
                }
                let otherwise = flag(&command, name).map_or_else(String::new, default);
                if !value.is_empty() && value != otherwise {
                    flags.push(format!("--{name}={value}"));
                }
            }
            (Some(_), Kind::Switch) => return Err(format!("`{name}` has to be true or false")),
            (Some(_), _) => return Err(format!("`{name}` has to be a string")),
        }
    }
    Ok((model, flags))
}

/// What clap says of a value, without what it says to somebody at a terminal.
fn of_clap(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\n\nFor more information").next().unwrap_or_default();
    text.trim_start_matches("error: ").trim_end().to_owned()
}

fn mib(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { grouped(bytes.div_ceil(1 << 20)) }
}

/// A text that begins a sentence.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What `lorafit plan` prints, as HTML.
fn tables(report: &Report, commands: &Commands<'_>) -> String {
    let all = report.parameters + report.trainable_parameters;
    let trained = trainable(report.trainable_parameters, all);
    let at_once = grouped(report.tokens_at_once as u64);
    let about = format!(
        "{}, rank {}: trainable parameters {trained}; {at_once} tokens at once.",
        report.model, report.rank
    );
    let mut html = format!("<p>{}</p>\n", escape(&about));
    if let Some(assumed) = &report.assumed {
        html += &format!("<p class=\"note\">{}.</p>\n", escape(&capital(assumed)));
    }
    html += &recommended(&report.recommendation, commands);
    html += &chart(report).html(3);
    html += &of_methods(report);
    html += &of_parts(report);
    html += &of_modules(report);
    html += &of_reach(report);
    html += &format!("<h2>The same in a terminal</h2>\n{}", commands.html(&commands.command));
    html
}

/// A paragraph, and the command in its last line, if there is one.
fn recommended(text: &str, commands: &Commands<'_>) -> String {
    let (words, command) = match text.rsplit_once('\n') {
        Some((words, command)) if command.starts_with("lorafit ") => (words, commands.html(command)),
        _ => (text, String::new()),
    };
    format!("<h2>Recommended</h2>\n<p>{}</p>\n{command}", escape(&words.replace('\n', " ")))
}

fn of_methods(report: &Report) -> String {
    let gb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e9);
    let row = |cost: &MethodCost| {
        let bytes = [cost.weights, cost.gradients, cost.optimizer, cost.activations, cost.total];
        let mut row = vec![cost.method.clone()];
        row.extend(bytes.map(gb));
        row.push(cost.fits());
        row
    };
    let columns = ["", "weights", "gradients", "optimizer", "activations", "total", "fits from"];
    let rows: Vec<Vec<String>> = report.methods.iter().map(row).collect();
    format!("<h2>Methods</h2>\n{}", table("Memory in decimal GB", &columns, rows))
}

fn of_parts(report: &Report) -> String {
    let own = report.methods.iter().filter_map(|cost| Some((cost.method.clone(), cost.parts?)));
    let mut plans: Vec<(String, lorafit_train::MemoryPlan)> = own.collect();
    let answering = report.answering.as_ref();
    plans.extend(answering.map(|found| (counted(found.side_by_side, "answer", "answers"), found.parts)));
    let columns: Vec<&str> = [""].into_iter().chain(plans.iter().map(|(name, _)| name.as_str())).collect();
    let names = parts(&lorafit_train::MemoryPlan::default()).map(|(name, _)| name);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let cells = plans.iter().map(|(_, plan)| mib(parts(plan)[at].1));
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
    }
    let totals = plans.iter().map(|(_, plan)| mib(plan.total()));
    rows.push(["total".to_owned()].into_iter().chain(totals).collect());
    let note = answering.map(|found| {
        let (prompt, new) = (grouped(found.prompt_tokens as u64), found.max_new_tokens);
        let base = escape(&found.base);
        format!(
            "<p class=\"note\">Answers: eval --generate over {base}, prompts of {prompt} tokens, up to {new} new ones.</p>\n"
        )
    });
    let table = table("Memory in MiB, as lorafit runs it", &columns, rows);
    format!("<h2>Parts</h2>\n{table}{}", note.unwrap_or_default())
}

fn of_modules(report: &Report) -> String {
    let columns = ["", "shape", "full", "low-rank", "fewer"];
    let rows = report.modules.iter().map(|module| {
        let shape = format!("{} x {}", module.outputs, module.inputs);
        let fewer = format!("{:.0}x", module.reduction);
        vec![module.module.to_owned(), shape, grouped(module.full), grouped(module.low_rank), fewer]
    });
    format!("<h2>Modules</h2>\n{}", table("Parameters, each module once", &columns, rows))
}

fn of_reach(report: &Report) -> String {
    let Some(first) = report.reach.first() else { return String::new() };
    let rows = report.reach.iter().map(|reach| {
        let (longest, at_once) = (reach.longest_context as u64, reach.rows_at_once as u64);
        vec![reach.method.clone(), grouped(longest), grouped(at_once)]
    });
    let caption = format!("Within {}", memory(first.memory));
    let note = report.nothing_fits().map(|text| format!("<p class=\"note\">{text}</p>\n"));
    let table = table(&caption, &["", "longest row, tokens", "rows at once"], rows);
    format!("<h2>What fits</h2>\n{table}{}", note.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");

    fn ask(question: Value) -> Result<String, String> {
        let answer = (view("llm".to_owned(), MODEL.to_owned()).answer)(question.as_object().unwrap())?;
        Ok(answer["html"].as_str().unwrap().to_owned())
    }

    #[test]
    fn style_and_script_close_nothing_and_load_nothing() {
        for part in [STYLE, SCRIPT] {
            assert!(!part.contains("</") && !part.contains("url(") && !part.contains("http"));
        }
    }

    #[test]
    fn every_field_is_a_flag_of_plan_with_its_values_and_its_default() {
        let (html, command) = (html("llm"), command());
        for (name, label, kind) in FIELDS {
            let flag = flag(&command, name).unwrap_or_else(|| panic!("plan has no --{name}"));
            assert!(html.contains(&format!("name=\"{name}\"")) && html.contains(label), "{name}");
            let is_bool = matches!(flag.get_action(), ArgAction::SetTrue)
                || flag.get_possible_values().iter().any(|value| value.get_name() == "true");
            assert_eq!(kind == Kind::Switch, is_bool, "{name}");
            if let Kind::Choice(none) = kind {
                assert_eq!(none.is_empty(), !default(flag).is_empty(), "{name}");
                assert!(html.contains(&format!("<select id=\"plan-{name}\"")), "{name}");
            }
        }
        assert!(
            html.contains("<option value=\"nf4\">") && html.contains("<option value=\"cuda\">"),
            "{html}"
        );
        assert!(html.contains("<option value=\"sft\" selected>") && html.contains("value=\"512\""), "{html}");
    }

    #[test]
    fn a_memory_that_nothing_fits_is_told() {
        let note = "<p class=\"note\">Not even a row of one token fits.</p>";
        let told = |memory: &str| ask(json!({"memory": memory})).unwrap().contains(note);
        assert!(told("1KiB") && !told("64GiB"));
    }

    #[test]
    fn the_tables_are_those_of_the_settings() {
        let plain = ask(json!({"rank": "8", "max-seq-len": "512"})).unwrap();
        let larger = ask(json!({"rank": "16"})).unwrap();
        assert!(
            plain.contains("<p>llm, rank 8: ") && plain.contains("<p class=\"note\">Rank 8 is assumed"),
            "{plain}"
        );
        assert!(larger.contains("<p>llm, rank 16: ") && !larger.contains("is assumed"), "{larger}");
        for part in
            ["<svg", "Memory in MiB", "<th scope=\"row\">logits chunk</th>", "QLoRA, nf4", "longest row"]
        {
            assert!(plain.contains(part), "{part}");
        }
        assert!(larger.contains("<pre tabindex=\"0\">lorafit plan --model M --rank=16</pre>"), "{larger}");
        let shape =
            ask(json!({"model": "llama-2-7b", "quant": "int8", "recompute": "full", "dora": true})).unwrap();
        assert!(
            shape.contains("QLoRA, int8") && shape.contains("lorafit plan --model llama-2-7b"),
            "{shape}"
        );
        assert!(
            plain.contains("lorafit train --model M --data") && plain.contains("M is the model"),
            "{plain}"
        );
        assert!(!plain.contains(MODEL), "nobody learns where the base lies");
    }

    #[test]
    fn bad_values_give_the_errors_of_plan() {
        for (question, expected) in [
            (json!({"rank": "0"}), "--rank 0: must be 1 or more"),
            (json!({"rank": "many"}), "invalid value 'many' for '--rank <R>'"),
            (json!({"rank": "-1"}), "invalid value '-1' for '--rank <R>'"),
            (json!({"quant": "int3"}), "[possible values: nf4, fp4, int8]"),
            (json!({"double-quant": true}), "hint: --quant nf4 --double-quant is what QLoRA uses"),
            (json!({"recompute": "99-blocks"}), "--recompute 99-blocks: the model has"),
            (json!({"target-modules": "q_porj"}), "`q_porj`"),
            (json!({"memory": "much"}), "--memory"),
            (json!({"target-modules": "x".repeat(300)}), "more than 200 letters"),
            (json!({"model": "/etc/passwd"}), "a published shape"),
            (json!({"model": "org/name"}), "a published shape"),
            (json!({"reference": "runs/x"}), "`reference` is not a setting"),
            (json!({"svg": "x.svg"}), "`svg` is not a setting"),
            (json!({"rank": 8}), "`rank` has to be a string"),
            (json!({"dora": "yes"}), "`dora` has to be true or false"),
        ] {
            let error = ask(question.clone()).expect_err(&question.to_string());
            assert!(error.contains(expected), "{question}: {error}");
            assert!(!error.contains("error: ") && !error.contains("--help"), "{error}");
        }
    }

    #[test]
    fn a_value_is_never_a_flag_and_a_number_may_be_any() {
        for value in ["8 --svg x.svg", "--svg=x.svg", "8\n--json"] {
            assert!(ask(json!({"rank": value})).is_err(), "{value}");
        }
        for name in ["rank", "max-seq-len", "batch-size", "micro-batch-tokens"] {
            for (value, is_fine) in
                [("1", true), ("65536", true), ("4294967296", false), ("18446744073709551615", false)]
            {
                let found = ask(json!({"model": "llama-2-7b", name: value}));
                let refused = found.as_ref().err().map_or("", String::as_str);
                assert!(
                    found.is_ok() == is_fine || refused.contains("positions"),
                    "{name} {value}: {refused}"
                );
                assert!(is_fine || refused.contains(&format!("--{name} {value}: must be")), "{refused}");
            }
        }
    }
}
