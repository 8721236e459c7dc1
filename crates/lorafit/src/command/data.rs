//! `lorafit data`: rows exactly as they are trained, and what the whole of them is like.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use lorafit_data::statistics::{Percentiles, Statistics};
use lorafit_data::{Dataset, Options, Purpose, Source, Tokenizer};
use lorafit_remedy::amounts::{counted, grouped, percent};
use lorafit_train::preference::Objective;
use serde_json::json;

use crate::args::base::TemplateArgs;
use crate::args::cache::CacheArgs;
use crate::args::classes::ClassArgs;
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::idle;
use crate::args::new_tokens::NewTokens;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::preference::{CLASSIFY, objectives, purpose_of};
use crate::args::require;
use crate::args::rows::{RowArgs, data_help};
use crate::pages;
use crate::pages::data as page;
use crate::session::base::{open_model_tokenizer, use_threads};
use crate::session::limits::Limits;
use crate::session::pieces::{Piece, pieces};
use crate::session::preference::check_margins;
use crate::session::rows::{by_label, in_short, place, shapes, skipped, treated};
use crate::session::scoring::REWARD;
use crate::session::tokens::Tokens;
use crate::terminal::error::{CliError, render};
use crate::terminal::output;

const EXAMPLES: &str = "\
Examples:
  What exactly will be trained, and how long the rows are:
    lorafit data train.jsonl --model M
  One row with its token ids:
    lorafit data train.jsonl --model M --row 17 --ids
  Rows as a classifier is trained on them, with their labels; as a reward model is:
    lorafit data topics.jsonl --model M --objective classify
    lorafit data pairs.jsonl --model M --objective reward
  A page to send to a colleague:
    lorafit data train.jsonl --model M --html train.html
  For a script:
    lorafit data train.jsonl --model M --json

On a terminal trained text is bold green, special tokens are cyan, and bold where they are trained; elsewhere
what is trained stands in \u{27e6}brackets\u{27e7}. \u{23ce} is a line break.
\"with padding\" are the tokens that a batch padded to its longest row would compute. \"with shared prefixes\" are those that
train computes: a prefix that rows of a batch share is computed once. Both are shares of all tokens.";

/// The flags of `data`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", data_help()))]
pub struct DataArgs {
    /// Rows, described below
    #[arg(value_name = "DATA", required = true)]
    pub data: Vec<String>,
    /// The model whose tokenizer and chat template are used: a folder, a .gguf file, or a hub id
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: String,
    /// Print the statistics as one JSON object, and no rows
    #[arg(long, help_heading = "Input and output")]
    pub json: bool,
    /// Write rows and statistics as one HTML page that loads nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "json", help_heading = "Input and output")]
    pub html: Option<PathBuf>,

    /// How many rows to show, from the first [default: 3, on a page 200]
    #[arg(long, value_name = "N", help_heading = "Rows")]
    pub rows: Option<usize>,
    /// Show this row only: its line in a file of lines, else its number; counting continues through several files
    #[arg(long, value_name = "ROW", conflicts_with = "rows", help_heading = "Rows")]
    pub row: Option<usize>,
    /// Show token ids too
    #[arg(long, help_heading = "Rows")]
    pub ids: bool,

    /// Show rows as train reads them for this objective: with classify their labels, with reward whole texts [default: rows as
    /// they are; labels only where they are true or false]
    #[arg(long, value_name = "OBJECTIVE", value_parser = objectives(), help_heading = "Data")]
    pub objective: Option<String>,
    /// Where labels stand.
    #[command(flatten)]
    pub classes: ClassArgs,
    /// Rows per batch, to compute the cost of padding and the gain of prefix sharing
    #[arg(long, value_name = "ROWS", default_value_t = 8, help_heading = "Data")]
    pub batch_size: usize,
    /// Which rows are read, and how.
    #[command(flatten)]
    pub read: RowArgs,
    /// Where tokenised data is kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Texts that become tokens, as in train
    #[arg(long, value_name = "FILE|TOKENS", help_heading = "Data")]
    pub new_tokens: Option<NewTokens>,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Shows rows and statistics.
pub fn run(args: DataArgs, given: &Given) -> anyhow::Result<()> {
    args.read.validate()?;
    args.cache.validate()?;
    args.common.on_processor_only("data")?;
    args.check_objective(given)?;
    let of_rows = idle::together(
        &["ids", "row", "rows"],
        !args.json,
        "with --json, which prints no rows",
        "leave out one of them",
    );
    let of_page = idle::together(
        &["ids"],
        args.html.is_none(),
        "with --html: a page can show ids by itself",
        "leave --ids out",
    );
    idle::refuse(given, of_rows.chain(of_page))?;
    require(args.batch_size > 0, "batch-size", args.batch_size, "must be 1 or more")?;
    args.common.validate()?;
    let inputs = Inputs::default()
        .model("--model", &args.model)
        .paths("--template", &args.template.template)
        .data("", &args.data, args.read.split.as_deref());
    let page = Output::asked("--html", args.html.as_ref(), Kind::Page);
    outputs::check(&inputs, page.into_iter().chain(args.cache.output()))?;
    use_threads(&args.common)?;
    let tokens = args.new_tokens.as_ref().map_or(Tokens::OfModel, |tokens| Tokens::New(&tokens.0));
    let (config, tokenizer) = open_model_tokenizer(&args.model, &tokens, &args.template, &args.common)?;
    let source = args.read.source("split", &args.data, args.read.split.as_deref(), args.common.quiet)?;
    let labels = args.labels(&source)?;
    let classes = (!labels.is_empty()).then(|| args.classes.classes(&labels));
    let limits = Limits::new(&config, &tokenizer, args.common.quiet);
    let purpose = args.objective.as_deref().map_or(Purpose::Any, purpose_of);
    let options = Options { purpose, ..limits.options(&args.read) };
    let data = args.cache.load(Source { classes, ..source }, &tokenizer, options, args.common.quiet)?;
    args.tell_refused(limits, &data);
    show(&args, &data, &labels, &tokenizer)
}

impl DataArgs {
    /// Whether texts are shown with labels.
    fn is_classifier(&self) -> bool {
        self.objective.as_deref() == Some(CLASSIFY)
    }

    /// The labels that rows have; none where they are not classified.
    fn labels(&self, source: &Source) -> anyhow::Result<Vec<String>> {
        match self.is_classifier() {
            true => Ok(lorafit_data::labels(source, self.classes.column())?),
            false => Ok(Vec::new()),
        }
    }

    /// Refuses flags that the objective does not take.
    fn check_objective(&self, given: &Given) -> Result<(), CliError> {
        let of_labels = idle::together(
            &["label-column"],
            self.is_classifier(),
            "without --objective classify",
            "add --objective classify, or leave it out",
        );
        let is_scored = self.is_classifier() || self.objective.as_deref() == Some(REWARD);
        let of_tokens = idle::together(
            &["train-on"],
            !is_scored,
            "with an objective that scores texts as a whole",
            "leave it out",
        );
        idle::refuse(given, of_labels.chain(of_tokens))
    }

    /// Says what of the rows is refused where they are computed with. They are shown all the same: they show what is wrong with
    /// them.
    fn tell_refused(&self, limits: Limits<'_>, data: &Dataset) {
        let objective = self.objective.as_deref().and_then(Objective::named);
        for refused in
            [limits.check_rows(data), check_margins(objective, data)].into_iter().filter_map(Result::err)
        {
            eprint!(
                "train and eval refuse these rows\n{}",
                render(&refused.into(), output::has_colour(&io::stderr()))
            );
        }
    }
}

/// Shows rows that have `labels`, or none.
fn show(args: &DataArgs, data: &Dataset, labels: &[String], tokenizer: &Tokenizer) -> anyhow::Result<()> {
    // Not needed to show one row.
    let statistics = || Statistics::of(data, args.batch_size);
    if args.json {
        let mut figures = serde_json::to_value(statistics()).context("plain numbers")?;
        if !labels.is_empty() {
            let counts = by_label(data, labels).into_iter();
            figures["labels"] = counts.map(|(label, texts)| (label.to_owned(), json!(texts))).collect();
        }
        return Ok(output::line(figures.to_string())?);
    }
    let shown = shown(args, data)?;
    if let Some(path) = &args.html {
        let (sources, model, max_seq_len) = (&args.data[..], &args.model[..], args.read.max_seq_len);
        let of = page::Subject { sources, model, max_seq_len, labels };
        let page = page::draw(&of, data, shown, &statistics(), tokenizer)?;
        return pages::write(path, &page, args.common.quiet);
    }
    let style = Style::of_output();
    for sample in shown.map(|i| data.samples.sample(i)) {
        let title = format!("{}: {}", place(data, sample), in_short(data, labels, sample));
        let pieces = pieces(sample, data.report.is_scored, tokenizer)?;
        output::line(row(&title, pieces, args.ids, style))?;
    }
    if args.row.is_none() {
        output::line(report(&statistics(), &by_label(data, labels)))?;
        for line in skipped(&data.origin).into_iter().chain(done(data, args.read.max_seq_len)) {
            output::line(line)?;
        }
    }
    Ok(())
}

/// What was done to the rows, beside being tokenised: the end of the report.
fn done(data: &Dataset, max_seq_len: usize) -> Vec<String> {
    let found = &data.report;
    let mut lines = treated(data);
    if found.truncated + found.overlong > 0 {
        let (cut, dropped) = (counted(found.truncated, "row", "rows"), grouped(found.overlong as u64));
        lines.push(format!("{cut} cut to --max-seq-len {max_seq_len}, {dropped} dropped as longer"));
    }
    if found.dropped > 0 {
        lines.push(format!("{} dropped with nothing to train", counted(found.dropped, "row", "rows")));
    }
    match lines.is_empty() {
        true => vec![
            String::new(),
            "rows are trained as they are: no part of them is left out or rewritten".into(),
        ],
        false => [String::new(), "what was done to rows:".into()].into_iter().chain(lines).collect(),
    }
}

/// The samples to show.
fn shown(args: &DataArgs, data: &Dataset) -> Result<Range<usize>, CliError> {
    let Some(line) = args.row else {
        let rows = args.rows.unwrap_or(if args.html.is_some() { page::ROWS } else { 3 });
        return Ok(0..rows.min(data.samples.len()));
    };
    match data.samples.iter().position(|s| s.row == line) {
        Some(at) => Ok(at..at + data.samples.iter().skip(at).take_while(|s| s.row == line).count()),
        None => {
            let last = data.samples.iter().last().map_or(0, |s| s.row);
            let text = format!("{} has no trained row on {}", args.data.join(", "), data.origin.place(line));
            let hint = format!("rows are numbered from 1 to {last}; dropped rows are not shown");
            Err(CliError::usage(text).hint(hint))
        }
    }
}

/// How trained text and special tokens are told from the rest.
#[derive(Clone, Copy)]
enum Style {
    /// For files and pipes: trained text in brackets; special tokens stand as what they are.
    Brackets,
    /// For terminals: what is trained is bold, text green; special tokens are cyan.
    Colour,
}

impl Style {
    fn of_output() -> Self {
        if output::has_colour(&io::stdout()) { Style::Colour } else { Style::Brackets }
    }

    /// What stands before and after a run.
    fn marks(self, trained: bool, special: bool) -> (&'static str, &'static str) {
        match (self, trained, special) {
            (Style::Brackets, true, _) => ("\u{27e6}", "\u{27e7}"),
            (Style::Colour, true, false) => ("\x1b[1;32m", "\x1b[0m"),
            (Style::Colour, true, true) => ("\x1b[1;36m", "\x1b[0m"),
            (Style::Colour, false, true) => ("\x1b[36m", "\x1b[0m"),
            (_, false, _) => ("", ""),
        }
    }
}

/// A row as it is trained, under its title.
fn row(title: &str, pieces: Vec<Piece>, with_ids: bool, style: Style) -> String {
    let mut text = format!("{title}\n");
    let (mut words, mut ids) = (Marked::new(style), Marked::new(style));
    for Piece { text, ids: of_piece, trained, special } in pieces {
        words.push(trained, special, &text);
        for id in of_piece {
            let blank = if ids.text.is_empty() { "" } else { " " };
            ids.push(trained, special, &format!("{blank}{id}"));
        }
    }
    text.push_str(&words.finish());
    if with_ids {
        text.push_str("\nids: ");
        text.push_str(&ids.finish());
    }
    text.push('\n');
    text
}

/// Text of which some runs are marked.
struct Marked {
    style: Style,
    text: String,
    open: (&'static str, &'static str),
}

impl Marked {
    fn new(style: Style) -> Self {
        Marked { style, text: String::new(), open: ("", "") }
    }

    fn push(&mut self, trained: bool, special: bool, text: &str) {
        if text.is_empty() {
            return;
        }
        let marks = self.style.marks(trained, special);
        if marks != self.open {
            self.text.push_str(self.open.1);
            self.text.push_str(marks.0);
            self.open = marks;
        }
        self.text.push_str(text);
    }

    fn finish(mut self) -> String {
        self.text.push_str(self.open.1);
        self.text
    }
}

/// Labels that are listed, at most.
const LABELS: usize = 20;

/// A line for each label with the number of its texts.
fn labels_in_words(labels: &[(&str, usize)]) -> Vec<String> {
    if labels.is_empty() {
        return Vec::new();
    }
    let all: usize = labels.iter().map(|(_, texts)| texts).sum();
    let mut lines = vec![format!("{}:", counted(labels.len(), "label", "labels"))];
    lines.extend(labels.iter().take(LABELS).map(|(label, texts)| {
        let share = percent(*texts as f64 / all.max(1) as f64, 1);
        format!("  {label:?}: {} ({share})", counted(*texts, "text", "texts"))
    }));
    let more = labels.len().saturating_sub(LABELS);
    lines.extend((more > 0).then(|| format!("  and {more} more; --json has all")));
    lines
}

fn report(s: &Statistics, labels: &[(&str, usize)]) -> String {
    let number = |n: usize| grouped(n as u64);
    let found = &s.report;
    let of_shapes = shapes(found);
    let mut lines = vec![format!(
        "{}: {} trained on, {} of them cut, {} dropped",
        counted(found.rows, &format!("{of_shapes} row"), &format!("{of_shapes} rows")),
        number(found.rows - found.dropped - found.overlong),
        number(found.truncated),
        number(found.dropped + found.overlong)
    )];
    if found.overlong > 0 {
        let dropped = if found.overlong == 1 { "is" } else { "are" };
        lines
            .push(format!("{} of those dropped {dropped} longer than --max-seq-len", number(found.overlong)));
    }
    let tokens = counted(found.tokens, "token", "tokens");
    lines.push(match found.is_scored {
        true => tokens,
        false => {
            format!(
                "{tokens}, {} trained ({})",
                number(found.supervised_tokens),
                percent(s.supervised_share, 1)
            )
        }
    });
    lines.extend(labels_in_words(labels));
    lines.push(format!(
        "computed in batches of {}: {} of the tokens with padding, {} with shared prefixes",
        s.batch_size,
        percent(s.padded_share, 1),
        percent(s.computed_share, 1)
    ));
    let named = |groups: &[Vec<usize>]| -> String {
        let group =
            |g: &Vec<usize>| g.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(" = ");
        groups.iter().map(group).collect::<Vec<_>>().join(", ")
    };
    lines.push(match s.duplicates {
        0 => "no row occurs twice".to_owned(),
        n => {
            let rows = counted(n, "row is a repetition", "rows are repetitions");
            format!("{rows}; lines {}", named(&s.duplicate_lines))
        }
    });
    let longest: Vec<String> =
        s.longest_rows.iter().map(|l| format!("line {} ({})", l.line, l.tokens)).collect();
    lines.push(format!("longest: {}", longest.join(", ")));
    lines.push(String::new());
    lines.push(format!(
        "{:<8}{:>7}{:>7}{:>7}{:>8}{:>7}{:>7}{:>7}{:>7}",
        "tokens", "min", "5 %", "25 %", "median", "75 %", "95 %", "99 %", "max"
    ));
    let trained = (!found.is_scored).then_some(("trained", s.supervised_length));
    for (name, p) in std::iter::once(("row", s.length)).chain(trained) {
        let Percentiles { min, p5, p25, median, p75, p95, p99, max } = p;
        lines.push(format!("{name:<8}{min:>7}{p5:>7}{p25:>7}{median:>8}{p75:>7}{p95:>7}{p99:>7}{max:>7}"));
    }
    lines.push(String::new());
    let most = s.histogram.iter().map(|b| b.samples).max().unwrap_or(1).max(1);
    for bar in &s.histogram {
        const WIDTH: usize = 40;
        // Eighths of a character; a row that is there leaves a trace.
        let eighths = (bar.samples * WIDTH * 8).div_ceil(most);
        let part = ["", "\u{258f}", "\u{258e}", "\u{258d}", "\u{258c}", "\u{258b}", "\u{258a}", "\u{2589}"]
            [eighths % 8];
        let range = format!("{}-{}", bar.from, bar.to);
        let drawn = format!("{}{part}", "\u{2588}".repeat(eighths / 8));
        lines.push(format!("{range:>13} {drawn} {}", number(bar.samples)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_marked_once() {
        let mut marked = Marked::new(Style::Brackets);
        for (trained, text) in
            [(false, "a"), (true, "b"), (true, "c"), (false, ""), (false, "d"), (true, "e")]
        {
            marked.push(trained, text == "c", text);
        }
        assert_eq!(marked.finish(), "a\u{27e6}bc\u{27e7}d\u{27e6}e\u{27e7}");
    }

    #[test]
    fn special_tokens_are_set_apart_from_trained_text() {
        let mut marked = Marked::new(Style::Colour);
        for (trained, special, text) in
            [(false, true, "<s>"), (false, false, "a"), (true, false, "b"), (true, true, "</s>")]
        {
            marked.push(trained, special, text);
        }
        let expected = "\x1b[36m<s>\x1b[0ma\x1b[1;32mb\x1b[0m\x1b[1;36m</s>\x1b[0m";
        assert_eq!(marked.finish(), expected);
    }
}
