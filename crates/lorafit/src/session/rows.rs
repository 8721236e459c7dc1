//! Rows as flags name them, and what is told of them.

use std::path::Path;

use lorafit_data::{AsText, Dataset, Origin, Report, SampleRef, Shape, Side, Source};
use lorafit_remedy::amounts::{counted, grouped};

use crate::args::rows::{RowArgs, part};
use crate::session::data_set;
use crate::terminal::error::CliError;

impl RowArgs {
    /// The rows of `data`, of its split, which the flag `flag` names; of data sets on the hub the files are downloaded.
    pub fn source(
        &self,
        flag: &str,
        data: &[String],
        split: Option<&str>,
        quiet: bool,
    ) -> anyhow::Result<Source> {
        let mut parts = data.iter().map(|text| part(text)).collect::<Result<Vec<_>, _>>()?;
        if let (Some(split), true) = (split, parts.iter().all(|part| Path::new(&part.location).is_file())) {
            let text =
                format!("--{flag} {split} has no meaning for a file: it chooses among those of a folder");
            return Err(CliError::usage(text).hint(format!("leave --{flag} out, or give a folder")).into());
        }
        for part in &mut parts {
            if let Some(folder) = data_set::fetch(&part.location, split, quiet)? {
                part.location = folder.to_string_lossy().into_owned();
            }
        }
        Ok(Source {
            split: split.map(str::to_owned),
            limit: self.limit,
            mapping: self.mapping()?,
            skip_bad_rows: self.skip_bad_rows,
            ..Source::new(parts)
        })
    }
}

/// Where a sample is from, and what its row says of it: `line 3, chosen`.
pub fn place(data: &Dataset, sample: SampleRef<'_>) -> String {
    let side = sample.judgement().map(|judgement| match judgement.side {
        Side::Chosen => ", chosen",
        Side::Rejected => ", rejected",
        Side::Desirable => ", good",
        Side::Undesirable => ", bad",
    });
    format!("{}{}", data.origin.place(sample.row), side.unwrap_or_default())
}

/// How much there is of a sample and what of it is trained: of a text that is classified its label, one of `labels`.
pub fn in_short(data: &Dataset, labels: &[String], sample: SampleRef<'_>) -> String {
    let tokens = |tokens: usize| counted(tokens, "token", "tokens");
    if !data.report.is_scored {
        return format!("{}, {} trained", tokens(sample.len()), grouped(sample.supervised_tokens() as u64));
    }
    let (label, text) = sample.label_and_text();
    match labels.get(label as usize) {
        Some(label) => format!("label {label:?}, {}", tokens(text.len())),
        // The head gives a reward.
        None => tokens(text.len()),
    }
}

/// How many texts have each of `labels`.
pub fn by_label<'a>(data: &Dataset, labels: &'a [String]) -> Vec<(&'a str, usize)> {
    let mut counts: Vec<(&str, usize)> = labels.iter().map(|label| (label.as_str(), 0)).collect();
    if !counts.is_empty() {
        data.samples.iter().for_each(|sample| counts[sample.label_and_text().0 as usize].1 += 1);
    }
    counts
}

/// How much was read: rows, tokens, what of them is trained, and the longest row; `rows` is their number in words.
pub fn read_in_words(report: &Report, rows: &str) -> String {
    let tokens = counted(report.tokens, "token", "tokens");
    let trained = match report.is_scored {
        // Its label is all that is trained of a text.
        true => String::new(),
        false => format!(", {} of them trained", grouped(report.supervised_tokens as u64)),
    };
    format!("{rows}, {tokens}{trained}, longest {}", grouped(report.longest as u64))
}

/// The shapes of a report: `chat and text`. Rows that are classified have none.
pub fn shapes(report: &Report) -> String {
    if report.shapes.is_empty() {
        return "labelled".to_owned();
    }
    report.shapes.iter().map(|shape| shape.name()).collect::<Vec<_>>().join(" and ")
}

/// Whether rows were written by the chat template, which text, and prompts with their completions, are not.
pub fn has_chats(report: &Report) -> bool {
    report.shapes.iter().any(|shape| !matches!(shape, Shape::Text | Shape::Completion))
}

/// Lines about what was done to rows, so that nothing of them is lost without a word; none if nothing was.
pub fn treated(data: &Dataset) -> Vec<String> {
    let notes = &data.report.notes;
    let count = |n: usize| grouped(n as u64);
    let mut lines = Vec::new();
    if !notes.passed_over.is_empty() {
        let mut keys: Vec<(&String, &usize)> = notes.passed_over.iter().collect();
        keys.sort_by_key(|(name, rows)| (std::cmp::Reverse(**rows), (*name).clone()));
        let told = keys.iter().map(|(name, rows)| format!("`{}` ({})", name.escape_debug(), count(**rows)));
        let told: Vec<String> = told.collect();
        lines.push(format!("keys passed over, with the rows that have them: {}", told.join(", ")));
    }
    if !notes.twice.is_empty() {
        let keys = notes.twice.iter();
        let told = keys.map(|(name, rows)| format!("`{}` ({})", name.escape_debug(), count(*rows)));
        let told: Vec<String> = told.collect();
        lines.push(format!(
            "keys that rows have more than once, with the rows that do: {}; the last is taken",
            told.join(", ")
        ));
    }
    let unmet = notes.roles.iter().filter(|(_, messages)| **messages == 0);
    let unmet: Vec<String> = unmet.map(|(name, _)| format!("`{}`", name.escape_debug())).collect();
    if !unmet.is_empty() {
        lines.push(format!("--role names what is the role of no message: {}", unmet.join(", ")));
    }
    if notes.rewritten > 0 {
        let messages = counted(notes.rewritten, "message is", "messages are");
        lines.push(format!(
            "{messages} written otherwise by the chat template than in the row, or without reasoning"
        ));
    }
    if notes.joined > 0 {
        let messages = counted(notes.joined, "message has", "messages have");
        lines.push(format!(
            "{messages} several parts of text, which were read as one, nothing between them: the chat template reads no parts"
        ));
    }
    if notes.open_ends > 0 {
        let replies = counted(notes.open_ends, "reply ends", "replies end");
        let what = "without a trained token that ends a generation, so the model does not learn to stop there: the chat \
                    template's marks end before it, or it writes none";
        lines.push(format!("{replies} {what}"));
    }
    if notes.rendered_before > 0 {
        let rows = counted(notes.rendered_before, "row has", "rows have");
        let (their, were) =
            if notes.rendered_before == 1 { ("its", "it was") } else { ("their", "they were") };
        lines.push(format!("{rows} the marks of the chat template in {their} text: {were} rendered before"));
    }
    if notes.bos_present > 0 {
        let rows = counted(notes.bos_present, "row begins", "rows begin");
        lines.push(format!("{rows} with the beginning-of-sequence token already; no second one was added"));
    }
    if let Some(AsText { row, prompt, completion, conversation }) = &notes.as_text {
        let line = |text: &str| text.replace('\n', "\u{23ce}");
        let place = data.origin.place(*row);
        lines.push(
            "rows of prompt and completion are trained as plain text, though the model has a chat template:"
                .into(),
        );
        lines.push(format!("  {place} is {}\u{27e6}{}\u{27e7}", line(prompt), line(completion)));
        lines.push(format!("  as a conversation it would be {}", line(conversation)));
        lines.push("  with --columns prompt=instruction,completion=output they are conversations".into());
    }
    lines
}

/// Lines about bad rows that were left out; none if there are none.
pub fn skipped(origin: &Origin) -> Vec<String> {
    let mut lines = Vec::new();
    if origin.skipped > 0 {
        lines.push(format!("{} skipped:", counted(origin.skipped, "bad row", "bad rows")));
        lines.extend(origin.problems.iter().map(|problem| format!("  {problem}")));
        let untold = origin.skipped - origin.problems.len();
        lines.extend((untold > 0).then(|| format!("  and {} more", grouped(untold as u64))));
    }
    lines
}
