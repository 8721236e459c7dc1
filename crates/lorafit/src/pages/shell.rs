//! The shell of every HTML page: one file that loads nothing, in light and dark, on paper, on a laptop and on a telephone.
//!
//! What is shown may be hostile: every text goes through [`escape`], and a content security policy forbids all that is not
//! in the file, so that even a mistake would run and load nothing.

use std::fmt::Write as _;

use lorafit_remedy::amounts::{counted, grouped};
use lorafit_remedy::printable;
use lorafit_train::machine;

use crate::terminal::made;

/// The colours of every page and of the figures on it: light, dark, and on paper.
pub const COLOURS: &str = include_str!("colours.css");
/// Figures and tables.
pub const FIGURES: &str = include_str!("figures.css");
/// Views of the page of `serve`, beside figures and tables.
pub const VIEWS: &str = include_str!("views.css");
const STYLE: &str =
    concat!(include_str!("colours.css"), include_str!("shell.css"), include_str!("figures.css"));

/// A page around a body.
pub struct Page<'a> {
    /// The verb that made it, in the title of the window.
    pub verb: &'a str,
    /// Its heading, as text.
    pub title: &'a str,
    /// What it is about, below the heading.
    pub facts: &'a Facts,
    /// Style beside that of every page, whose colours are var(--ink), var(--faint), var(--line), var(--card), var(--paper), var(--accent).
    pub style: &'a str,
    /// The scripts that run, in order.
    pub scripts: &'a [&'a str],
    /// What else the policy of the page allows, such as the server that a live page asks.
    pub policy: &'a str,
}

impl Page<'_> {
    /// The page with `body`, which is HTML, as its main part.
    pub fn around(&self, body: &str) -> String {
        let Page { verb, title, facts, style, scripts, policy } = self;
        let (title, facts) = (escape(title), facts.html());
        // No text of the page knows the hash of the whole, and scripts without it do not run.
        let nonce = blake3::hash([title.as_str(), &facts, body].concat().as_bytes()).to_hex();
        let allowed =
            if scripts.is_empty() { String::new() } else { format!(" script-src 'nonce-{nonce}';") };
        let script = |text: &&str| format!("<script nonce=\"{nonce}\">\n{text}</script>\n");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';{allowed}\
             {policy} base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · lorafit {verb}</title>\n\
             <style>\n{STYLE}{style}</style>\n</head>\n<body>\n<header><p>lorafit {verb}</p>\n<h1>{title}</h1>\n{facts}</header>\n\
             <main>\n{body}</main>\n{}</body>\n</html>\n",
            scripts.iter().map(script).collect::<String>()
        )
    }
}

/// What a page is about: names and values, some of which are code.
#[derive(Default)]
pub struct Facts {
    html: String,
    /// Under which words they are folded, where something else is looked for first.
    folded: Option<&'static str>,
}

impl Facts {
    /// Adds a fact; one without a value is left out.
    pub fn add(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            let _ = writeln!(self.html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value.as_ref()));
        }
    }

    /// Adds a command or a path.
    pub fn add_code(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            let words = whole_words(value.as_ref());
            let _ = writeln!(self.html, "<dt>{}</dt><dd><code>{words}</code></dd>", escape(name));
        }
    }

    /// Adds the machine that this process computes on.
    pub fn add_machine(&mut self) {
        let threads = counted(rayon::current_num_threads(), "thread", "threads");
        self.add("machine", Some(format!("{}, {threads}", machine::processor_or_kind())));
    }

    /// Adds when, and by which command, the page itself was made.
    pub fn add_page(&mut self) {
        self.add_page_of(&made::command());
    }

    /// As [`Self::add_page`], of a page that another thread makes than the one that works for the command.
    pub fn add_page_of(&mut self, command: &str) {
        self.add("page made", Some(format!("{}, lorafit {}", made::now(), env!("CARGO_PKG_VERSION"))));
        self.add_code("page command", Some(command));
    }

    /// Folds them under these words.
    pub fn fold(&mut self, words: &'static str) {
        self.folded = Some(words);
    }

    fn html(&self) -> String {
        let list = format!("<dl class=\"facts\">\n{}</dl>\n", self.html);
        match self.folded {
            Some(words) => format!("<details><summary>{}</summary>\n{list}</details>\n", escape(words)),
            None => list,
        }
    }
}

/// Figures as cards: what each is called, its value, and a note below.
#[derive(Default)]
pub struct Cards {
    html: String,
    count: usize,
}

impl Cards {
    /// Adds a card.
    pub fn add(&mut self, name: &str, value: &str, note: &str) {
        let [name, value, note] = [name, value, note].map(escape);
        let _ = writeln!(self.html, "<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>");
        self.count += 1;
    }

    /// The cards as HTML.
    pub fn html(&self) -> String {
        format!("<dl class=\"figures\" style=\"--columns: {}\">\n{}</dl>\n", columns(self.count), self.html)
    }
}

/// Of so many cards, how many stand in a row where there is room: no row is left nearly empty.
fn columns(cards: usize) -> usize {
    match cards {
        0..=4 => 4,
        5 | 6 => cards,
        _ => [6, 5, 4].into_iter().find(|columns| cards.is_multiple_of(*columns)).unwrap_or(4),
    }
}

/// A table that is scrolled sideways where it is wider than the window. The first cell of a row is its name.
pub fn table<R: AsRef<[String]>>(
    caption: &str,
    columns: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let columns: Vec<Cell> = columns.iter().map(|name| Cell::from((*name).to_owned())).collect();
    let cells = |row: R| row.as_ref().iter().cloned().map(Cell::from).collect();
    table_of_cells(caption, &columns, rows.into_iter().map(cells))
}

/// A cell of a table.
#[derive(Default)]
pub struct Cell {
    /// What it shows.
    pub text: String,
    /// What the pointer on it tells.
    pub title: Option<String>,
    /// Whether it is one of the best of its column.
    pub is_marked: bool,
    /// Whether it is running text, which is broken into lines and begins at the left.
    pub is_text: bool,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell { text, ..Cell::default() }
    }
}

impl Cell {
    /// The attributes of its element.
    fn attributes(&self) -> String {
        let class = if self.is_text { " class=\"text\"" } else { "" };
        let title = self.title.as_ref().map(|title| format!(" title=\"{}\"", escape(title)));
        format!("{class}{}", title.unwrap_or_default())
    }
}

/// As [`table`], of cells that may be marked, hold running text or tell more. Headings are cells, too.
pub fn table_of_cells(caption: &str, columns: &[Cell], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut html =
        format!("<div class=\"wide\" tabindex=\"0\"><table>\n<caption>{}</caption>\n<tr>", escape(caption));
    for name in columns {
        let _ = match name.text.is_empty() {
            true => write!(html, "<td></td>"),
            false => write!(html, "<th scope=\"col\"{}>{}</th>", name.attributes(), escape(&name.text)),
        };
    }
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let (text, attributes) = (escape(&cell.text), cell.attributes());
            let _ = match i {
                0 => write!(html, "<th scope=\"row\"{attributes}>{text}</th>"),
                _ if cell.is_marked => write!(html, "<td{attributes}><strong>{text}</strong></td>"),
                _ => write!(html, "<td{attributes}>{text}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}

/// 1234567 as `1,234,567`.
pub fn number(n: usize) -> String {
    grouped(n as u64)
}

/// 0.125 as `12.5 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A line of the terminal as a sentence of a page: with a capital letter and a full stop.
pub fn sentence(line: &str) -> String {
    let mut letters = line.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// A paragraph of faint text; its flags stay whole.
pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", with_whole_words(text, |word| word.starts_with("--")))
}

/// A command, whose words are not broken.
pub fn whole_words(command: &str) -> String {
    with_whole_words(command, |_| true)
}

/// Text whose words of that kind are not broken behind their hyphens, where somebody would read another flag.
fn with_whole_words(text: &str, is_whole: impl Fn(&str) -> bool) -> String {
    let word = |word: &str| match is_whole(word) {
        true => format!("<span class=\"whole\">{}</span>", escape(word)),
        false => escape(word),
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Text as it stands in an element or in a quoted attribute, of HTML and of SVG; XML has no control characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable::text(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::figure::colour;

    #[test]
    fn markup_in_text_is_text() {
        let hostile = "</script><img src=x onerror='a' \"b\">&amp;";
        let text = "&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39; &quot;b&quot;&gt;&amp;amp;";
        assert_eq!(escape(hostile), text);
        let mut facts = Facts::default();
        facts.add(hostile, Some(hostile));
        facts.add_code(hostile, Some(hostile));
        let page = Page { verb: "data", title: hostile, facts: &facts, style: "", scripts: &[], policy: "" };
        let mut body = Cards::default();
        body.add(hostile, hostile, hostile);
        let html = page.around(&(body.html() + &table(hostile, &[hostile], [[hostile.to_owned()]])));
        assert!(!html.contains("<img") && html.matches(text).count() == 11);
    }

    #[test]
    fn cards_stand_in_full_rows_where_they_can() {
        assert_eq!([1, 4, 5, 6, 7, 8, 9, 10, 12].map(columns), [4, 4, 5, 6, 4, 4, 4, 5, 6]);
    }

    #[test]
    fn a_table_has_headings_of_columns_and_of_rows() {
        let html = table("Runs", &["run", "loss"], [["a".to_owned(), "2.5".to_owned()]]);
        assert!(html.contains("<th scope=\"col\">run</th><th scope=\"col\">loss</th>"), "{html}");
        assert!(html.contains("<th scope=\"row\">a</th><td>2.5</td>"), "{html}");
        let of = |text: &str| Cell::from(text.to_owned());
        let best = Cell { is_marked: true, is_text: true, ..of("b") };
        let named = Cell { title: Some("runs/\"a\"".to_owned()), ..of("a") };
        let html = table_of_cells("Answers", &[of(""), of("x")], [vec![named, best]]);
        assert!(html.contains("<tr><td></td><th scope=\"col\">x</th></tr>"), "{html}");
        assert!(html.contains("<th scope=\"row\" title=\"runs/&quot;a&quot;\">a</th>"), "{html}");
        assert!(html.contains("<td class=\"text\"><strong>b</strong></td>"), "{html}");
    }

    /// The contrast of two colours `#rrggbb` (WCAG 2.1, 1.4.3), from 1 to 21.
    fn contrast(one: &str, other: &str) -> f64 {
        let luminance = |colour: &str| {
            let part = |from: usize| {
                let value = f64::from(u8::from_str_radix(&colour[from..from + 2], 16).unwrap()) / 255.0;
                if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        let (a, b) = (luminance(one) + 0.05, luminance(other) + 0.05);
        a.max(b) / a.min(b)
    }

    /// The variables of a theme, with `#fff` as `#ffffff`.
    fn colours(block: &str) -> Vec<(String, String)> {
        let declared = block.split(';').filter_map(|line| line.split_once(':'));
        let long = |value: &str| match value.len() {
            4 => value.chars().flat_map(|c| std::iter::repeat_n(c, if c == '#' { 1 } else { 2 })).collect(),
            _ => value.to_owned(),
        };
        declared
            .map(|(name, value)| (name.trim().trim_start_matches("--").to_owned(), long(value.trim())))
            .collect()
    }

    #[test]
    fn letters_and_lines_stand_out_in_every_theme() {
        let blocks: Vec<&str> =
            STYLE.split(":root {").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        let [light, dark] = [blocks[0], blocks[1]].map(colours);
        for (theme, print) in [(&light, false), (&dark, false), (&colours(blocks[2]), true)] {
            let of = |name: &str| {
                let own = theme.iter().find(|(known, _)| known == name);
                &own.or_else(|| light.iter().find(|(known, _)| known == name)).unwrap().1
            };
            for (letters, least) in [("ink", 7.0), ("faint", 4.5), ("accent", 4.5), ("other", 4.5)] {
                for behind in ["paper", "card"] {
                    let found = contrast(of(letters), of(behind));
                    assert!(found >= least, "{letters} on {behind}: {found:.2} (print: {print})");
                }
            }
            // Captions say that lighter is more.
            let lightness: Vec<f64> =
                (0..8).map(|number| contrast(of(&format!("s{number}")), "#000000")).collect();
            assert!(lightness.is_sorted_by(|one, next| one < next), "{lightness:?} (print: {print})");
            for number in 0..8 {
                let (one, shade) = (
                    contrast(of(&format!("c{number}")), of("paper")),
                    contrast(of(&format!("s{number}")), of("paper")),
                );
                // Numbers are written on the first, the second are lines only (WCAG 2.1, 1.4.11).
                assert!(
                    one >= 4.5 && shade >= 3.0,
                    "colour {number}: {one:.2} and {shade:.2} (print: {print})"
                );
            }
        }
        for (number, colour) in colour::NAMED.iter().enumerate() {
            assert!(light.contains(&(format!("c{number}"), (*colour).to_owned())), "{colour} in files alone");
        }
        for (number, shade) in colour::SHADES.iter().enumerate() {
            assert!(light.contains(&(format!("s{number}"), (*shade).to_owned())), "{shade} in files alone");
        }
    }

    #[test]
    fn a_page_runs_its_own_script_only_and_loads_nothing() {
        let facts = Facts::default();
        let page = |scripts| Page { verb: "data", title: "a", facts: &facts, style: "", scripts, policy: "" };
        let plain = page(&[]).around("");
        assert!(plain.contains("default-src 'none'") && !plain.contains("script"));
        let with_script = page(&["0"]).around("");
        let nonce = with_script.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert!(
            nonce.len() == 64 && with_script.contains(&format!("<script nonce=\"{nonce}\">\n0</script>"))
        );
        assert!(!page(&["0"]).around("another").contains(nonce), "another page has another");
        assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("http"));
    }
}
