//! `lorafit data`: rows exactly as they are trained, and what the whole of them is like.

use std::io;

use anyhow::Context as _;
use clap::Args;
use lorafit_data::statistics::{Percentiles, Statistics};
use lorafit_data::{Dataset, Sample, Tokenizer};

use super::require;
use crate::base_args::TemplateArgs;
use crate::cli::Common;
use crate::engine::{grouped, open_model_tokenizer, use_threads};
use crate::output;
use crate::report_error::CliError;
use crate::row_args::{DATA_HELP, RowArgs, shapes, skipped};

const EXAMPLES: &str = "\
Examples:
  What exactly will be trained, and how long the rows are:
    lorafit data train.jsonl --model M
  One row with its token ids:
    lorafit data train.jsonl --model M --row 17 --ids
  For a script:
    lorafit data train.jsonl --model M --json

Trained tokens are green on a terminal and stand in \u{27e6}brackets\u{27e7} elsewhere; \u{23ce} is a line break.
padded is what a rectangle batch would compute, shared what train computes: what rows of a batch begin
with alike is computed once.";

/// The flags of `data`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{DATA_HELP}"))]
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

    /// How many rows to show, from the first
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Rows")]
    pub rows: usize,
    /// Show this row instead: its line in a file of lines, else its number; counted on through several files
    #[arg(long, value_name = "ROW", conflicts_with = "rows", help_heading = "Rows")]
    pub row: Option<usize>,
    /// Show token ids too
    #[arg(long, help_heading = "Rows")]
    pub ids: bool,

    /// Rows of a batch, for what padding and sharing cost
    #[arg(long, value_name = "ROWS", default_value_t = 8, help_heading = "Data")]
    pub batch_size: usize,
    /// Which rows are read, and how.
    #[command(flatten)]
    pub read: RowArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Shows rows and statistics.
pub fn run(args: DataArgs) -> anyhow::Result<()> {
    args.read.validate()?;
    require(args.batch_size > 0, "batch-size", args.batch_size, "must be 1 or more")?;
    args.common.validate()?;
    use_threads(&args.common)?;
    let tokenizer = open_model_tokenizer(&args.model, &args.template, &args.common)?;
    let source = args.read.source(&args.data, args.read.split.as_deref(), args.common.quiet)?;
    let data = Dataset::load(source, &tokenizer, args.read.options())?;
    // Not needed to show one row.
    let statistics = || Statistics::of(&data, args.batch_size);
    if args.json {
        output::line(serde_json::to_string(&statistics()).context("plain numbers")?)?;
        return Ok(());
    }
    let shown = match args.row {
        None => &data.samples[..args.rows.min(data.samples.len())],
        Some(line) => match data.samples.iter().position(|s| s.row == line) {
            Some(at) => &data.samples[at..=at],
            None => {
                let last = data.samples.last().map_or(0, |s| s.row);
                let text =
                    format!("{} has no trained row on {}", args.data.join(", "), data.origin.place(line));
                let hint =
                    format!("rows are counted from 1, the last one is {last}; dropped rows are not shown");
                return Err(CliError::usage(text).hint(hint).into());
            }
        },
    };
    let style = Style::of_output();
    for sample in shown {
        let place = data.origin.place(sample.row);
        output::line(row(sample, &place, &tokenizer, args.ids, style)?)?;
    }
    if args.row.is_none() {
        output::line(report(&statistics()))?;
        for line in skipped(&data.origin) {
            output::line(line)?;
        }
    }
    Ok(())
}

/// How trained tokens are told from the others.
#[derive(Clone, Copy)]
struct Style {
    begin: &'static str,
    end: &'static str,
}

impl Style {
    const BRACKETS: Style = Style { begin: "\u{27e6}", end: "\u{27e7}" };
    const COLOUR: Style = Style { begin: "\x1b[1;32m", end: "\x1b[0m" };

    fn of_output() -> Self {
        if output::has_colour(&io::stdout()) { Style::COLOUR } else { Style::BRACKETS }
    }
}

/// A row as it is trained.
fn row(
    sample: &Sample,
    place: &str,
    tokenizer: &Tokenizer,
    with_ids: bool,
    style: Style,
) -> anyhow::Result<String> {
    let mut text = format!("{place}: {} tokens, {} trained\n", sample.len(), sample.supervised_tokens());
    let (mut words, mut ids) = (Marked::new(style), Marked::new(style));
    let mut stream = tokenizer.decode_stream(false);
    let mut trained = false;
    for (i, &id) in sample.ids.iter().enumerate() {
        trained = sample.supervised[i];
        // A character of several tokens appears with its last.
        words.push(trained, &visible(&stream.push(id)?));
        ids.push(trained, &format!("{}{id}", if i == 0 { "" } else { " " }));
    }
    words.push(trained, &visible(&stream.finish()?));
    text.push_str(&words.finish());
    if with_ids {
        text.push_str("\nids: ");
        text.push_str(&ids.finish());
    }
    text.push('\n');
    Ok(text)
}

/// Line breaks shown and made; other control characters shown, so that a row cannot write to the terminal.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\u{23ce}\n"),
            '\t' => shown.push('\t'),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Text of which some runs are marked.
struct Marked {
    style: Style,
    text: String,
    open: bool,
}

impl Marked {
    fn new(style: Style) -> Self {
        Marked { style, text: String::new(), open: false }
    }

    fn push(&mut self, marked: bool, text: &str) {
        if text.is_empty() {
            return;
        }
        if marked != self.open {
            self.text.push_str(if marked { self.style.begin } else { self.style.end });
            self.open = marked;
        }
        self.text.push_str(text);
    }

    fn finish(mut self) -> String {
        if self.open {
            self.text.push_str(self.style.end);
        }
        self.text
    }
}

fn report(s: &Statistics) -> String {
    let number = |n: usize| grouped(n as u64);
    let found = &s.report;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut lines = vec![format!(
        "{} {} rows: {} trained on, {} of them cut, {} dropped",
        number(found.rows),
        shapes(found),
        number(found.samples),
        number(found.truncated),
        number(found.dropped + found.overlong)
    )];
    if found.overlong > 0 {
        lines.push(format!("{} of those dropped are longer than --max-seq-len", number(found.overlong)));
    }
    lines.push(format!(
        "{} tokens, {} trained ({})",
        number(found.tokens),
        number(found.supervised_tokens),
        percent(s.supervised_share)
    ));
    lines.push(format!(
        "batches of {}: padded {} of the tokens, shared {}",
        s.batch_size,
        percent(s.padded_share),
        percent(s.computed_share)
    ));
    let named = |groups: &[Vec<usize>]| -> String {
        let group =
            |g: &Vec<usize>| g.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(" = ");
        groups.iter().map(group).collect::<Vec<_>>().join(", ")
    };
    lines.push(match s.duplicates {
        0 => "no row is there twice".to_owned(),
        n => format!("{} rows are repetitions; lines {}", number(n), named(&s.duplicate_lines)),
    });
    let longest: Vec<String> =
        s.longest_rows.iter().map(|l| format!("line {} ({})", l.line, l.tokens)).collect();
    lines.push(format!("longest: {}", longest.join(", ")));
    lines.push(String::new());
    lines.push(format!(
        "{:<8}{:>7}{:>7}{:>7}{:>8}{:>7}{:>7}{:>7}{:>7}",
        "tokens", "min", "5 %", "25 %", "median", "75 %", "95 %", "99 %", "max"
    ));
    for (name, p) in [("row", s.length), ("trained", s.supervised_length)] {
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
    fn what_would_write_to_the_terminal_is_shown() {
        assert_eq!(visible("a\n\x1b[2Jb\r"), "a\u{23ce}\n\\u{1b}[2Jb\\u{d}");
    }

    #[test]
    fn runs_are_marked_once() {
        let mut marked = Marked::new(Style::BRACKETS);
        for (trained, text) in
            [(false, "a"), (true, "b"), (true, "c"), (false, ""), (false, "d"), (true, "e")]
        {
            marked.push(trained, text);
        }
        assert_eq!(marked.finish(), "a\u{27e6}bc\u{27e7}d\u{27e6}e\u{27e7}");
    }
}
