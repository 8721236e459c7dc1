//! The table of `compare` as a page.

use crate::command::compare::{COLUMNS, Column, Compared};
use crate::page::{Page, escape, table_with_marks};

const STYLE: &str = "td strong { border-bottom: 2px solid var(--accent); }\n";

const NOTE: &str = "<p class=\"note\">The best of each column is <strong>marked</strong>. Loss, perplexity and exact match \
    are of the rows that were given to <code>compare</code>; peak memory, tokens/s and time are from the records of each \
    run.</p>\n";

/// The page of rows judged on `data`.
pub fn draw(data: &[String], judged: &[Compared]) -> String {
    let columns: Vec<&str> = std::iter::once("run").chain(COLUMNS.iter().map(|column| column.name)).collect();
    let rows = judged.iter().map(|row| {
        let cells = COLUMNS.iter().map(|column| column.cell(row));
        std::iter::once(row.name.clone()).chain(cells).collect::<Vec<_>>()
    });
    let best: Vec<Vec<bool>> = COLUMNS.iter().map(|column| best(column, judged)).collect();
    let table = table_with_marks("Runs, and the bases they began from", &columns, rows, |row, column| {
        best[column][row]
    });
    let subtitle = format!("judged on <code>{}</code>", escape(&data.join(", ")));
    let page =
        Page { verb: "compare", title: "Runs side by side", subtitle: &subtitle, style: STYLE, script: None };
    page.around(&(table + NOTE))
}

/// Which rows are best in a column; none where none is better than another.
fn best(column: &Column, judged: &[Compared]) -> Vec<bool> {
    let costs: Vec<Option<f64>> = judged.iter().map(column.cost).collect();
    let least = costs.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let differs = costs.iter().flatten().any(|cost| *cost > least);
    costs.iter().map(|cost| differs && *cost == Some(least)).collect()
}
