//! The report of runs or of a sweep: sections of a page, and the figures in it.

pub mod adapter;
pub mod answers;
mod classes;
pub mod overview;
mod preference;
pub mod sweep;
pub mod training;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;

use crate::pages::figure::{self, Figure};
use crate::pages::shell::{Facts, Page, escape, note};

/// The style of a report, beside that of every page.
pub const STYLE: &str = include_str!("page.css");

/// A page as it grows.
#[derive(Default)]
pub struct Report {
    html: String,
    /// Whether what is added belongs to a part of a section.
    is_in_part: bool,
    figures: Vec<Figure>,
}

impl Report {
    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.html.push_str(&format!("<h2>{}</h2>\n", escape(title)));
        self.is_in_part = false;
    }

    /// Begins a part of a section, such as that of a run.
    pub fn part(&mut self, title: &str) {
        self.html.push_str(&format!("<h3>{}</h3>\n", escape(title)));
        self.is_in_part = true;
    }

    /// Adds HTML.
    pub fn html(&mut self, html: &str) {
        self.html.push_str(html);
    }

    /// Adds a sentence.
    pub fn note(&mut self, text: &str) {
        self.html.push_str(&note(text));
    }

    /// Adds figures, beside each other where there is room.
    pub fn figures(&mut self, figures: Vec<Figure>) {
        self.figures_and(figures, "");
    }

    /// Adds figures, and HTML as another beside them.
    pub fn figures_and(&mut self, figures: Vec<Figure>, html: &str) {
        let level = if self.is_in_part { 4 } else { 3 };
        self.html.push_str("<div class=\"columns\">\n");
        figures.iter().for_each(|figure| self.html.push_str(&figure.html(level)));
        if !html.is_empty() {
            self.html.push_str(&format!("<div>\n{html}</div>\n"));
        }
        self.html.push_str("</div>\n");
        self.figures.extend(figures);
    }

    /// The figures, in the order of the page.
    pub fn all_figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The page.
    pub fn page(&self, title: &str, facts: &Facts) -> String {
        Page { verb: "report", title, facts, style: STYLE, scripts: &[figure::SCRIPT], policy: "" }
            .around(&self.html)
    }

    /// Writes each figure to `folder` as SVG, PNG, PDF and CSV.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_figures(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut names = BTreeSet::new();
        for figure in &self.figures {
            // Runs whose names differ in signs alone have figures of one name.
            let numbered = (2..).map(|number| format!("{}-{number}", figure.name));
            let mut all = std::iter::once(figure.name.clone()).chain(numbered);
            let name = all.find(|name| names.insert(name.clone())).expect("there are enough numbers");
            for ending in ["svg", "png", "pdf", "csv"] {
                figure.write(&folder.join(format!("{name}.{ending}")))?;
            }
        }
        Ok(())
    }
}

/// A name as part of a file's name, which begins as no flag does.
pub fn slug(name: &str) -> String {
    let letter = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = name.chars().map(letter).collect();
    if name.starts_with('-') { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_cannot_name_files_elsewhere() {
        assert_eq!(slug("../a b/c.d"), "_---a-b-c-d");
        assert_eq!((slug("日本 1"), slug("-x")), ("日本-1".to_owned(), "_-x".to_owned()));
    }

    #[test]
    fn style_and_script_close_nothing_and_load_nothing() {
        // The name of a kind of element is no address.
        let script = figure::SCRIPT.replace("http://www.w3.org/2000/svg", "");
        for part in [STYLE, &script] {
            assert!(!part.contains("</") && !part.contains("url(") && !part.contains("http"));
        }
    }
}
