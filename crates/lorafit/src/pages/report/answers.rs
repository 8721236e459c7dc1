//! What the base and the adapters answer to the same prompts.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context as _;
use lorafit_data::{Message, Role};
use lorafit_model::adapter::Adapter;
use serde_json::Value;

use super::Report;
use crate::args::sampling::Sampling;
use crate::pages::shell::escape;
use crate::session::answer::{chat_prompt, stream_answer};
use crate::session::base::Base;
use crate::terminal::error::CliError;

/// The prompts in a file: a line each, or, of a `.jsonl` file, the `prompt` of each object.
///
/// # Errors
/// A file that cannot be read, a line without a prompt, no prompt at all.
pub fn prompts(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let jsonl = path.extension().is_some_and(|ending| ending == "jsonl");
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(i, line): (usize, &str)| -> Result<String, CliError> {
        if !jsonl {
            return Ok(line.to_owned());
        }
        let json: Option<Value> = serde_json::from_str(line).ok();
        json.and_then(|json| json.get("prompt")?.as_str().map(str::to_owned)).ok_or_else(|| {
            CliError::new(format!("{} line {}: no object with a text `prompt`", path.display(), i + 1))
                .hint("write {\"prompt\": \"...\"} on each line, or give a text file with a prompt a line")
        })
    };
    let prompts: Vec<String> = lines.map(prompt).collect::<Result<_, _>>()?;
    if prompts.is_empty() {
        return Err(CliError::new(format!("{} has no prompts", path.display()))
            .hint("write one a line")
            .into());
    }
    Ok(prompts)
}

/// Adds the answers of the base and of each adapter; `progress` is told before each.
///
/// # Errors
/// A prompt that cannot be rendered or encoded.
pub fn add(
    report: &mut Report,
    base: &Base,
    adapters: &[(String, Adapter)],
    prompts: &[String],
    sampling: &Sampling,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    report.section("Answers");
    let chat = base.tokenizer.compile_chat_template()?.is_some();
    report.note(match chat {
        true => "Each prompt is given as a user's message. Answers are greedy: the likeliest token each time.",
        false => {
            "The model has no chat template, so each prompt is continued, greedily: the likeliest token each time."
        }
    });
    for (i, prompt) in prompts.iter().enumerate() {
        progress(&format!("answering prompt {} of {}", i + 1, prompts.len()));
        let ids = match chat {
            true => chat_prompt(base, &[Message::new(Role::User, prompt)])?,
            false => base.tokenizer.encode(prompt, true)?,
        };
        report
            .html(&format!("<div class=\"answer\">\n<h3>{}</h3>\n<div class=\"columns\">\n", escape(prompt)));
        let none = std::iter::once(("base", None));
        for (name, adapter) in
            none.chain(adapters.iter().map(|(name, adapter)| (name.as_str(), Some(adapter))))
        {
            let mut answer = String::new();
            stream_answer(base, adapter, &ids, sampling, &mut |piece| {
                answer.push_str(piece);
                Ok(ControlFlow::Continue(()))
            })?;
            report.html(&format!(
                "<div><small>{}</small>\n<pre>{}</pre></div>\n",
                escape(name),
                escape(answer.trim())
            ));
        }
        report.html("</div>\n</div>\n");
    }
    Ok(())
}
