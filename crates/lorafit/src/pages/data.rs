//! A dataset as a page to send to a colleague, with its rows to search.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use lorafit_data::statistics::{Percentiles, Statistics};
use lorafit_data::{Dataset, Tokenizer};
use lorafit_remedy::amounts::{self, counted};

use crate::pages::shell::{Cards, Facts, Page, escape, note, number, percent, table};
use crate::pages::{figure, rows};
use crate::session::pieces::{Piece, pieces};
use crate::session::rows::{by_label, in_short, place, shapes, treated};

/// Rows shown unless the user says how many.
pub const ROWS: usize = 200;
/// Tokens of a row shown, at most.
const ROW_TOKENS: usize = 4096;
/// No row is begun beyond this size of the page.
const LARGEST_BYTES: usize = 8 << 20;

const STYLE: &str = include_str!("data.css");
const SCRIPT: &str = include_str!("data.js");

/// What a page is of, as it was typed.
pub struct Subject<'a> {
    /// Where the rows are.
    pub sources: &'a [String],
    /// The model whose tokenizer they were read with.
    pub model: &'a str,
    /// The most tokens of a row.
    pub max_seq_len: usize,
    /// The labels of rows that are classified; none of others.
    pub labels: &'a [String],
}

/// The page of the samples `shown` and the figures of all.
///
/// # Errors
/// Ids that the tokenizer cannot decode.
pub fn draw(
    of: &Subject<'_>,
    data: &Dataset,
    shown: Range<usize>,
    statistics: &Statistics,
    tokenizer: &Tokenizer,
) -> anyhow::Result<String> {
    let file_names = of.sources.iter().map(|data| match Path::new(data).file_name() {
        Some(name) => name.to_string_lossy(),
        None => data.into(),
    });
    let name = file_names.collect::<Vec<_>>().join(", ");
    let is_scored = statistics.report.is_scored;
    let mut page = figures(of.max_seq_len, statistics, &by_label(data, of.labels));
    for line in treated(data) {
        page.push_str(&note(&line));
    }
    page.push_str("<section aria-label=\"Rows\">\n<h2>Rows</h2>\n");
    page.push_str(&controls(is_scored));
    let mut written = 0;
    for i in shown.clone() {
        if page.len() > LARGEST_BYTES {
            break;
        }
        let sample = data.samples.sample(i);
        let title = [place(data, sample), in_short(data, of.labels, sample)];
        row(&mut page, &title, sample.row, &pieces(sample, is_scored, tokenizer)?);
        written += 1;
    }
    let all = data.samples.len();
    let what = match (written == all, shown.start) {
        (true, _) => "These are all rows that are trained on.".to_owned(),
        (false, 0) if written > 1 => {
            format!("These are the first {} of {} rows.", number(written), number(all))
        }
        (false, _) => format!("This is one of {} rows.", number(all)),
    };
    let _ = write!(page, "<p class=\"note\">{what}");
    if written < shown.len() {
        let _ = write!(page, " The page would be too large with more.");
    }
    page.push_str("</p>\n</section>\n");
    let mut facts = Facts::default();
    facts.add("model", Some(of.model));
    facts.add("data", Some(of.sources.join(", ")));
    let fingerprint = data.samples.fingerprint().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    facts.add("fingerprint", Some(format!("{fingerprint}, of tokens and loss mask")));
    facts.add_machine();
    facts.add_page();
    let shell = Page {
        verb: "data",
        title: &name,
        facts: &facts,
        style: STYLE,
        scripts: &[figure::SCRIPT, SCRIPT],
        policy: "",
    };
    Ok(shell.around(&page))
}

/// What searches and orders rows. Of texts that are scored nothing is trained text.
fn controls(is_scored: bool) -> String {
    let (option, legend) = if is_scored { ("", "") } else { (IN_TRAINED, TRAINED) };
    CONTROLS.replacen("{option}", option, 1).replacen("{legend}", legend, 1)
}

const IN_TRAINED: &str = "<option value=\"trained\">in trained text</option>\n";
const TRAINED: &str =
    "<mark>trained text</mark> <mark><i class=\"s\">special token that is trained</i></mark> ";
const CONTROLS: &str = "\
<form id=\"controls\" role=\"search\">
<input type=\"search\" id=\"query\" placeholder=\"Search rows\" aria-label=\"Search rows\" autocomplete=\"off\">
<select id=\"where\" aria-label=\"Where to search\">
<option value=\"all\">in the whole row</option>
{option}</select>
<select id=\"order\" aria-label=\"Order of the rows\">
<option value=\"file\">in file order</option>
<option value=\"longest\">longest first</option>
<option value=\"shortest\">shortest first</option>
</select>
<label><input type=\"checkbox\" id=\"ids\"> token ids</label>
<output id=\"found\"></output>
</form>
<p class=\"legend\">{legend}<i class=\"s\">special token</i> <span><span class=\"b\">⏎</span> line break</span></p>
";

/// A sample under its title, which has a second part in small letters.
fn row(page: &mut String, [place, short]: &[String; 2], line: usize, pieces: &[Piece]) {
    let tokens: usize = pieces.iter().map(|piece| piece.ids.len()).sum();
    let _ = write!(
        page,
        "<article data-tokens=\"{tokens}\" data-line=\"{line}\"><h3>{} <small>{}</small></h3><pre>",
        escape(place),
        escape(short)
    );
    let (mut open, mut left) = (false, ROW_TOKENS);
    for Piece { text, ids, trained, special } in pieces {
        if left < ids.len() {
            break;
        }
        left -= ids.len();
        if *trained != open {
            page.push_str(if *trained { "<mark>" } else { "</mark>" });
            open = *trained;
        }
        let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let text = escape(text);
        let _ = match text.strip_suffix("\u{23ce}\n") {
            // The ids stand behind the sign, and not on the line that it begins.
            Some(text) => write!(
                page,
                "<i>{}<span class=\"b\" data-i=\"{ids}\">\u{23ce}</span>\n</i>",
                with_breaks(text)
            ),
            None if *special => write!(page, "<i class=\"s\" data-i=\"{ids}\">{}</i>", with_breaks(&text)),
            None => write!(page, "<i data-i=\"{ids}\">{}</i>", with_breaks(&text)),
        };
    }
    if open {
        page.push_str("</mark>");
    }
    page.push_str("</pre>");
    let hidden = tokens.saturating_sub(ROW_TOKENS);
    if hidden > 0 {
        let _ = write!(page, "<p class=\"note\">and {}</p>", counted(hidden, "more token", "more tokens"));
    }
    page.push_str("</article>\n");
}

fn figures(max_seq_len: usize, s: &Statistics, labels: &[(&str, usize)]) -> String {
    let mut page = "<section aria-label=\"Statistics\">\n<h2>Statistics</h2>\n".to_owned();
    page.push_str(&statistics_cards(s, max_seq_len, labels));
    page.push_str("<div class=\"columns\">\n");
    page.push_str(&rows::lengths(&s.histogram).map(|figure| figure.html(3)).unwrap_or_default());
    page.push_str("<div>\n");
    page.push_str(&lengths(s));
    if !labels.is_empty() {
        let all: usize = labels.iter().map(|(_, texts)| texts).sum();
        let rows = labels.iter().map(|(label, texts)| {
            vec![(*label).to_owned(), number(*texts), percent(*texts as f64 / all.max(1) as f64)]
        });
        page.push_str(&table("Labels", &["label", "texts", "share"], rows));
    }
    page.push_str("<p><b>Longest rows:</b> ");
    let longest = s
        .longest_rows
        .iter()
        .map(|l| format!("line {} ({})", number(l.line), counted(l.tokens, "token", "tokens")));
    page.push_str(&longest.collect::<Vec<_>>().join(", "));
    page.push_str("</p>\n");
    if s.duplicates > 0 {
        let groups = s.duplicate_lines.iter().map(|lines| {
            let lines: Vec<String> = lines.iter().map(|line| number(*line)).collect();
            lines.join(" = ")
        });
        let groups = groups.collect::<Vec<_>>().join("; ");
        let _ = writeln!(page, "<p><b>Equal rows, the first of them:</b> lines {groups}</p>");
    }
    page.push_str("</div>\n</div>\n</section>\n");
    page
}

/// The figures of a dataset as cards.
fn statistics_cards(s: &Statistics, max_seq_len: usize, labels: &[(&str, usize)]) -> String {
    let (found, mut cards) = (&s.report, Cards::default());
    let mut card = |name, value: String, note: String| cards.add(name, &value, &note);
    card(
        "rows",
        number(found.rows - found.dropped - found.overlong),
        format!("of {}, {} shape", number(found.rows), shapes(found)),
    );
    card("tokens", number(found.tokens), format!("at most {} in a row", number(found.longest)));
    if !found.is_scored {
        let tokens = format!("of the tokens, {} of them", number(found.supervised_tokens));
        card("trained", percent(s.supervised_share), tokens);
    }
    if let (Some(fewest), Some(most)) =
        (labels.iter().min_by_key(|label| label.1), labels.iter().max_by_key(|label| label.1))
    {
        let note = format!("{} to {} of one", number(fewest.1), counted(most.1, "text", "texts"));
        card("labels", number(labels.len()), note);
    }
    card("rows cut", number(found.truncated), format!("longer than {} tokens", number(max_seq_len)));
    let (long, empty) = (number(found.overlong), number(found.dropped));
    let dropped = number(found.overlong + found.dropped);
    card("rows dropped", dropped, format!("{long} too long, {empty} without a trained token"));
    if found.skipped > 0 {
        card("rows skipped", number(found.skipped), "cannot be read".to_owned());
    }
    card("repetitions", number(s.duplicates), "rows equal to an earlier one".to_owned());
    let batches = format!("of the tokens, in batches of {}", counted(s.batch_size, "row", "rows"));
    card("computed with padding", percent(s.padded_share), batches);
    rows::add_computed(&mut cards, s.computed_share, s.batch_size);
    cards.html()
}

/// The percentiles of rows by their tokens, as a table.
fn lengths(s: &Statistics) -> String {
    let columns = ["", "min", "5 %", "25 %", "median", "75 %", "95 %", "99 %", "max"];
    let trained = (!s.report.is_scored).then_some(("trained", s.supervised_length));
    let rows = std::iter::once(("all", s.length)).chain(trained).map(|(name, p)| {
        let Percentiles { min, p5, p25, median, p75, p95, p99, max } = p;
        let low = [min, p5, p25].map(number);
        let rest = [p75, p95, p99, max].map(number);
        let row = [name.to_owned()].into_iter().chain(low);
        row.chain([amounts::half(median)]).chain(rest).collect::<Vec<_>>()
    });
    table("Tokens in a row: the least, percentiles, and the most", &columns, rows)
}

/// Escaped text with its signs for line breaks set apart.
fn with_breaks(text: &str) -> String {
    text.replace('\u{23ce}', "<span class=\"b\">\u{23ce}</span>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_close_nothing_and_load_nothing() {
        for part in [STYLE, SCRIPT] {
            assert!(!part.contains("</") && !part.contains("url(") && !part.contains("http"));
        }
    }
}
