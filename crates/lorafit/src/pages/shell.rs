//! The shell of every HTML page: one file that loads nothing, in light and dark, on paper, on a laptop and on a telephone.
//!
//! What is shown may be hostile: every text goes through [`escape`], and a content security policy forbids all that is not
//! in the file, so that even a mistake would run and load nothing.

use std::fmt::Write as _;

use lorafit_data::words::grouped;

const STYLE: &str = include_str!("shell.css");

/// A page around a body.
pub struct Page<'a> {
    /// The verb that made it, in the title of the window.
    pub verb: &'a str,
    /// Its heading, as text.
    pub title: &'a str,
    /// What stands below, as HTML.
    pub subtitle: &'a str,
    /// Style beside that of every page, whose colours are var(--ink), var(--faint), var(--line), var(--card), var(--paper), var(--accent).
    pub style: &'a str,
    /// The only script that runs.
    pub script: Option<Script<'a>>,
}

/// The script of a page.
#[derive(Clone, Copy)]
pub struct Script<'a> {
    /// Its text.
    pub text: &'a str,
    /// A word that nothing else in the page has: scripts without it do not run.
    pub nonce: &'a str,
}

impl Page<'_> {
    /// The page with `body`, which is HTML, as its main part.
    pub fn around(&self, body: &str) -> String {
        let Page { verb, title, subtitle, style, script } = self;
        let title = escape(title);
        let policy = script.map(|s| format!(" script-src 'nonce-{}';", s.nonce)).unwrap_or_default();
        let script = script.map(|s| format!("<script nonce=\"{}\">\n{}</script>\n", s.nonce, s.text));
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';{policy} \
             base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · lorafit {verb}</title>\n\
             <style>\n{STYLE}{style}</style>\n</head>\n<body>\n<header><h1>{title}</h1><p>{subtitle}</p></header>\n\
             <main>\n{body}</main>\n{}</body>\n</html>\n",
            script.unwrap_or_default()
        )
    }
}

/// Figures as cards: what each is called, its value, and a note below.
#[derive(Default)]
pub struct Cards(String);

impl Cards {
    /// Adds a card.
    pub fn add(&mut self, name: &str, value: &str, note: &str) {
        let [name, value, note] = [name, value, note].map(escape);
        let _ = writeln!(self.0, "<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>");
    }

    /// The cards as HTML.
    pub fn html(&self) -> String {
        format!("<dl class=\"figures\">\n{}</dl>\n", self.0)
    }
}

/// A table that is scrolled sideways where it is wider than the window. The first cell of a row is its name.
pub fn table<R: AsRef<[String]>>(
    caption: &str,
    columns: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    table_with_marks(caption, columns, rows, |_, _| false)
}

/// As [`table`], with the cells marked whose row and column, the names not counted, `is_marked` says.
pub fn table_with_marks<R: AsRef<[String]>>(
    caption: &str,
    columns: &[&str],
    rows: impl IntoIterator<Item = R>,
    is_marked: impl Fn(usize, usize) -> bool,
) -> String {
    let mut html =
        format!("<div class=\"wide\" tabindex=\"0\"><table>\n<caption>{}</caption>\n<tr>", escape(caption));
    for (i, name) in columns.iter().enumerate() {
        let _ = match (i, name.is_empty()) {
            (0, true) => write!(html, "<td></td>"),
            (0, false) => write!(html, "<th scope=\"row\">{}</th>", escape(name)),
            (_, _) => write!(html, "<th scope=\"col\">{}</th>", escape(name)),
        };
    }
    html.push_str("</tr>\n");
    for (number, row) in rows.into_iter().enumerate() {
        html.push_str("<tr>");
        for (i, cell) in row.as_ref().iter().enumerate() {
            let cell = escape(cell);
            let _ = match i {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ if is_marked(number, i - 1) => write!(html, "<td><strong>{cell}</strong></td>"),
                _ => write!(html, "<td>{cell}</td>"),
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

/// Text as it stands in an element or in a quoted attribute, of HTML and of SVG.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
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

    #[test]
    fn markup_in_text_is_text() {
        let hostile = "</script><img src=x onerror='a' \"b\">&amp;";
        let text = "&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39; &quot;b&quot;&gt;&amp;amp;";
        assert_eq!(escape(hostile), text);
        let page = Page { verb: "data", title: hostile, subtitle: "", style: "", script: None };
        let mut body = Cards::default();
        body.add(hostile, hostile, hostile);
        let html = page.around(&(body.html() + &table(hostile, &[hostile], [[hostile.to_owned()]])));
        assert!(!html.contains("<img") && html.matches(text).count() == 8);
    }

    #[test]
    fn a_page_runs_its_own_script_only_and_loads_nothing() {
        let plain = Page { verb: "data", title: "a", subtitle: "", style: "", script: None }.around("");
        assert!(plain.contains("default-src 'none'") && !plain.contains("script"));
        let script = Some(Script { text: "0", nonce: "abc" });
        let page = Page { verb: "data", title: "a", subtitle: "", style: "", script }.around("");
        assert!(
            page.contains("script-src 'nonce-abc';") && page.contains("<script nonce=\"abc\">\n0</script>")
        );
        assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("http"));
    }
}
