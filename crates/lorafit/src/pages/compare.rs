//! The table of `compare` as a page.

use lorafit_data::words::grouped;
use serde::Serialize;

use crate::args::size::ByteSize;
use crate::pages::shell::{Facts, Page, table_with_marks};

const STYLE: &str = "td strong { border-bottom: 2px solid var(--accent); }\n";

const NOTE: &str = "<p class=\"note\">The best of each column is <strong>marked</strong>. Loss, perplexity and exact match \
    are of the rows that were given to <code>compare</code>; peak memory, tokens/s and time are from the records of each \
    run.</p>\n";

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The run folder, or the base.
    pub name: String,
    /// `base`, `lora` or `full`.
    pub method: &'static str,
    pub loss: f64,
    pub perplexity: f64,
    pub exact_match: Option<f64>,
    pub trainable_parameters: u64,
    /// Bytes of what the run left: an adapter or a model.
    pub file_bytes: Option<u64>,
    pub peak_rss_bytes: Option<u64>,
    pub tokens_per_s: Option<f64>,
    /// Time of the steps together.
    pub seconds: Option<f64>,
    pub steps: Option<u64>,
}

/// A column of the table.
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// What it shows of a row, if the row has it.
    show: fn(&Compared) -> Option<String>,
    /// What the least of is best, where anything is.
    pub cost: fn(&Compared) -> Option<f64>,
}

impl Column {
    /// What it shows of a row; a dash for what the row has nothing of.
    pub fn cell(&self, row: &Compared) -> String {
        (self.show)(row).unwrap_or_else(|| "-".to_owned())
    }
}

/// The columns of the table.
pub const COLUMNS: [Column; 9] = [
    Column { name: "method", show: |row| Some(row.method.to_owned()), cost: |_| None },
    Column { name: "loss", show: |row| Some(format!("{:.4}", row.loss)), cost: |row| Some(row.loss) },
    Column {
        name: "perplexity",
        show: |row| Some(format!("{:.3}", row.perplexity)),
        cost: |row| Some(row.perplexity),
    },
    Column {
        name: "exact match",
        show: |row| row.exact_match.map(|share| format!("{:.1} %", 100.0 * share)),
        cost: |row| row.exact_match.map(|share| -share),
    },
    Column {
        name: "trainable",
        show: |row| Some(grouped(row.trainable_parameters)),
        // A base's 0 is no merit.
        cost: |row| (row.trainable_parameters > 0).then_some(row.trainable_parameters as f64),
    },
    Column {
        name: "file",
        show: |row| row.file_bytes.map(|bytes| ByteSize(bytes).to_string()),
        cost: |row| row.file_bytes.map(|bytes| bytes as f64),
    },
    Column {
        name: "peak memory",
        show: |row| row.peak_rss_bytes.map(|bytes| ByteSize(bytes).to_string()),
        cost: |row| row.peak_rss_bytes.map(|bytes| bytes as f64),
    },
    Column {
        name: "tokens/s",
        show: |row| row.tokens_per_s.map(|rate| format!("{rate:.0}")),
        cost: |row| row.tokens_per_s.map(|rate| -rate),
    },
    Column {
        name: "time",
        show: |row| row.seconds.map(|seconds| format!("{seconds:.0} s")),
        cost: |row| row.seconds,
    },
];

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
    let mut facts = Facts::default();
    let bases: Vec<&Compared> = judged.iter().filter(|row| row.method == "base").collect();
    let of_bases = |value: fn(&Compared) -> String| {
        (!bases.is_empty()).then(|| bases.iter().map(|row| value(row)).collect::<Vec<_>>().join("; "))
    };
    facts.add("model", of_bases(|row| row.name.clone()));
    facts.add("data", Some(data.join(", ")));
    facts.add_machine();
    facts.add("base loss", of_bases(|row| format!("{:.4}", row.loss)));
    facts.add_page();
    let page = Page {
        verb: "compare",
        title: "Runs side by side",
        facts: &facts,
        style: STYLE,
        scripts: &[],
        policy: "",
    };
    page.around(&(table + NOTE))
}

/// Which rows are best in a column; none where none is better than another.
fn best(column: &Column, judged: &[Compared]) -> Vec<bool> {
    let costs: Vec<Option<f64>> = judged.iter().map(column.cost).collect();
    let least = costs.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let differs = costs.iter().flatten().any(|cost| *cost > least);
    costs.iter().map(|cost| differs && *cost == Some(least)).collect()
}
