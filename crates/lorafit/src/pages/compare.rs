//! The table of `compare` as a page.

use std::path::PathBuf;

use lorafit_remedy::amounts::{counted, duration, grouped, memory};
use serde::{Serialize, Serializer};

use crate::metrics::{SideBySide, Summary};
use crate::pages::shell::{Facts, Page, escape, table_with_marks};

const STYLE: &str = "td strong { border-bottom: 2px solid var(--accent); }\n";

const NOTE: &str = "<p class=\"note\">The best of each column is <strong>marked</strong>. Loss, perplexity and metrics \
    are of the rows that were given to <code>compare</code>, metrics with their 95 % bootstrap interval; peak memory, tokens/s and \
    time are from the records of each run. The memory of a trial of a sweep is what was planned for it alone.</p>\n";

/// So many rows of answers are on a page.
const MOST_ANSWERS: usize = 200;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The run folder, or the base.
    pub name: String,
    /// The folder of the adapter or model of a run that is judged.
    pub path: Option<PathBuf>,
    /// `base`, `lora` or `full`.
    pub method: &'static str,
    pub loss: f64,
    pub perplexity: f64,
    /// Of answers, by name.
    #[serde(serialize_with = "by_name")]
    pub metrics: Vec<Summary>,
    pub trainable_parameters: u64,
    /// Bytes of what the run left: an adapter or a model.
    pub file_bytes: Option<u64>,
    /// The most memory of the process; none for a trial of a sweep, which shared its process with others.
    pub peak_rss_bytes: Option<u64>,
    /// The memory that was planned for the run by itself.
    pub planned_bytes: Option<u64>,
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
pub const COLUMNS: [Column; 8] = [
    Column { name: "method", show: |row| Some(row.method.to_owned()), cost: |_| None },
    Column { name: "loss", show: |row| Some(format!("{:.4}", row.loss)), cost: |row| Some(row.loss) },
    Column {
        name: "perplexity",
        show: |row| Some(format!("{:.3}", row.perplexity)),
        cost: |row| Some(row.perplexity),
    },
    Column {
        name: "trainable",
        show: |row| Some(grouped(row.trainable_parameters)),
        // A base's 0 is no merit.
        cost: |row| (row.trainable_parameters > 0).then_some(row.trainable_parameters as f64),
    },
    Column {
        name: "file",
        show: |row| row.file_bytes.map(memory),
        cost: |row| row.file_bytes.map(|bytes| bytes as f64),
    },
    Column {
        name: "peak memory",
        show: |row| match (row.peak_rss_bytes, row.planned_bytes) {
            (Some(peak), _) => Some(memory(peak)),
            (None, planned) => planned.map(|bytes| format!("{} planned", memory(bytes))),
        },
        cost: |row| row.peak_rss_bytes.or(row.planned_bytes).map(|bytes| bytes as f64),
    },
    Column {
        name: "tokens/s",
        show: |row| row.tokens_per_s.map(|rate| format!("{rate:.0}")),
        cost: |row| row.tokens_per_s.map(|rate| -rate),
    },
    Column { name: "time", show: |row| row.seconds.map(duration), cost: |row| row.seconds },
];

/// Headings of all columns: those of every run, then the metrics.
pub fn headings(judged: &[Compared]) -> Vec<&'static str> {
    let metrics = judged.first().map_or(&[][..], |row| &row.metrics);
    let metrics = metrics.iter().map(|summary| summary.metric.name);
    std::iter::once("run").chain(COLUMNS.iter().map(|column| column.name)).chain(metrics).collect()
}

/// The cells of a row, in the order of the headings.
pub fn cells(row: &Compared) -> Vec<String> {
    let metrics = row.metrics.iter().map(|summary| summary.in_short().unwrap_or_else(|| "-".to_owned()));
    let columns = COLUMNS.iter().map(|column| column.cell(row));
    std::iter::once(row.name.clone()).chain(columns).chain(metrics).collect()
}

/// Metrics as an object.
fn by_name<S: Serializer>(metrics: &[Summary], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().map(|summary| (summary.metric.name, summary.to_json())))
}

/// The answers row by row, those first of which some are better than others.
fn answers(answers: &SideBySide) -> String {
    let SideBySide { names, metrics, rows } = answers;
    let Some(metric) = metrics.first() else { return String::new() };
    let mut order: Vec<_> = rows.iter().map(|row| (row, answers.best(row, 0))).collect();
    order.sort_by_key(|(_, best)| best.is_empty());
    order.truncate(MOST_ANSWERS);
    let columns: Vec<&str> =
        ["row", "expected"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let cells = order.iter().map(|(row, _)| {
        let cells = [row.row.to_string(), row.expected.clone()];
        cells.into_iter().chain(row.answers.iter().cloned()).collect::<Vec<_>>()
    });
    let caption = format!(
        "The answers to {} of {}; the best by {} is marked unless all are equally good",
        order.len(),
        counted(rows.len(), "row", "rows"),
        metric.name
    );
    // The first column is the row, the second what is expected.
    let is_best = |row: usize, column: usize| column > 0 && order[row].1.contains(&(column - 1));
    let wins = answers.in_words();
    let wins: String = wins.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    wins + &table_with_marks(&caption, &columns, cells, is_best)
}

/// The page of rows judged on `data`, with the answers of all if there are any.
pub fn draw(data: &[String], judged: &[Compared], side_by_side: Option<&SideBySide>) -> String {
    let (columns, rows) = (headings(judged), judged.iter().map(cells));
    let mut best: Vec<Vec<bool>> =
        COLUMNS.iter().map(|column| best(&judged.iter().map(column.cost).collect::<Vec<_>>())).collect();
    let metrics = judged.first().map_or(0, |row| row.metrics.len());
    best.extend((0..metrics).map(|i| {
        let cost = |summary: &Summary| Some(summary.metric.direction.score(summary.mean?));
        self::best(&judged.iter().map(|row| cost(&row.metrics[i])).collect::<Vec<_>>())
    }));
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
    page.around(&(table + NOTE + &side_by_side.map(answers).unwrap_or_default()))
}

/// Which rows are best in a column; none where none is better than another.
fn best(costs: &[Option<f64>]) -> Vec<bool> {
    let least = costs.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let differs = costs.iter().flatten().any(|cost| *cost > least);
    costs.iter().map(|cost| differs && *cost == Some(least)).collect()
}
