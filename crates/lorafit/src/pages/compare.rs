//! The table of `compare` as a page.

use std::path::{Path, PathBuf};

use lorafit_remedy::amounts::{counted, duration, grouped, memory, perplexity};
use serde::{Serialize, Serializer};

use crate::metrics::{SideBySide, Summary};
use crate::pages::figure::measured;
use crate::pages::shell::{Cell, Facts, Page, escape, table_of_cells};

const STYLE: &str = "\
td strong { border-bottom: 2px solid var(--accent); }
td.text { min-width: 11rem; }
td.text strong { display: block; padding-left: .5rem; border-bottom: 0; border-left: 3px solid var(--accent); font-weight: normal; }
.note strong { color: var(--ink); border-bottom: 2px solid var(--accent); }
";

const NOTE: &str = "<p class=\"note\">The best of each column is <strong>marked</strong>. Loss, perplexity and metrics \
    were computed on the data above, metrics with their 95 % interval; peak memory, tokens/s and time are from the \
    records of each run. The memory of a trial of a sweep is what was planned for that trial alone.</p>\n";

/// So many rows of answers are on a page.
const MOST_ANSWERS: usize = 200;
/// So many letters of a prompt are on it.
const MOST_LETTERS: usize = 600;

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
    Column { name: "loss", show: |row| Some(measured(row.loss, 4)), cost: |row| Some(row.loss) },
    Column {
        name: "perplexity",
        show: |row| Some(perplexity(row.perplexity)),
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
    let text = |text: String| Cell { is_text: true, ..Cell::from(text) };
    let common = Common::of(rows.iter().map(|row| row.prompt.as_str()));
    let heading = |cell: Cell| Cell { is_text: true, ..cell };
    let mut columns = vec![Cell::from("row".to_owned())];
    columns.extend(["prompt", "expected"].map(|name| text(name.to_owned())));
    columns.extend(last_parts(names).into_iter().map(heading));
    let cells = order.iter().map(|(row, best)| {
        let mut cells = vec![Cell::from(row.row.to_string())];
        let prompt = Cell { title: Some(row.prompt.clone()), ..text(common.without(&row.prompt)) };
        cells.extend([prompt, text(row.expected.clone())]);
        let answer =
            |(i, answer): (usize, &String)| Cell { is_marked: best.contains(&i), ..text(answer.clone()) };
        cells.extend(row.answers.iter().enumerate().map(answer));
        cells
    });
    let caption = format!(
        "The answers to {} of {}. A line at the left marks the best by {}, unless all are equally good. Rows on which the answers \
         differ in that come first.{}",
        order.len(),
        counted(rows.len(), "row", "rows"),
        metric.name,
        if common.is_left_out() { " Of prompts, … stands for what all of them have." } else { "" }
    );
    let wins = answers.in_words();
    let wins: String = wins.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    "<h2>Answers</h2>\n".to_owned() + &wins + &table_of_cells(&caption, &columns, cells)
}

/// What all prompts begin and end with, such as a system prompt and marks of a chat template. Whole lines and marks of it are left
/// out.
struct Common {
    /// Bytes at the beginning of each.
    start: usize,
    /// Bytes at the end of each.
    end: usize,
}

impl Common {
    fn of<'a>(prompts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let Some(first) = prompts.clone().next().filter(|_| prompts.clone().nth(1).is_some()) else {
            return Common { start: 0, end: 0 };
        };
        let equal = |one: &[u8], other: &[u8]| one.iter().zip(other).take_while(|(a, b)| a == b).count();
        let start =
            prompts.clone().map(|prompt| equal(first.as_bytes(), prompt.as_bytes())).min().unwrap_or(0);
        let last = |bytes: &[u8], of: [u8; 2]| {
            bytes.iter().rposition(|byte| of.contains(byte)).map_or(0, |at| at + 1)
        };
        let start = last(&first.as_bytes()[..start], [b'\n', b'>']);
        // The common end must not overlap the common beginning.
        let rest = |prompt: &str| prompt.as_bytes()[start..].iter().rev().copied().collect::<Vec<u8>>();
        let of_first = rest(first);
        let end = prompts.map(|prompt| equal(&of_first, &rest(prompt))).min().unwrap_or(0);
        let end = last(&of_first[..end], [b'\n', b'<']);
        Common { start, end }
    }

    fn is_left_out(&self) -> bool {
        self.start + self.end > 0
    }

    /// A prompt as it is shown; of a long one the end, which is what is answered.
    fn without(&self, prompt: &str) -> String {
        let own = &prompt[self.start..prompt.len() - self.end];
        let left_out = own.chars().count().saturating_sub(MOST_LETTERS);
        let mark = |is_left_out| if is_left_out { "…" } else { "" };
        let shown: String = own.chars().skip(left_out).collect();
        format!("{}{shown}{}", mark(self.start + left_out > 0), mark(self.end > 0))
    }
}

/// The last part of each path, which the whole explains; where two are alike, both whole.
fn last_parts(paths: &[String]) -> Vec<Cell> {
    let last = |path: &String| {
        Path::new(path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
    };
    let all: Vec<String> = paths.iter().map(last).collect();
    let is_unique = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    let cell = |(path, name): (&String, &String)| match is_unique(name) && name != path {
        true => Cell { title: Some(path.clone()), ..Cell::from(name.clone()) },
        false => Cell::from(path.clone()),
    };
    paths.iter().zip(&all).map(cell).collect()
}

/// The page of rows judged on `data`, with the answers of all if there are any.
pub fn draw(data: &[String], judged: &[Compared], side_by_side: Option<&SideBySide>) -> String {
    let cost = |summary: &Summary| Some(summary.metric.direction.score(summary.mean?));
    let mut best: Vec<Vec<bool>> = COLUMNS
        .iter()
        .map(|column| best(judged.iter().map(|row| ((column.cost)(row), column.cell(row)))))
        .collect();
    let metrics = judged.first().map_or(0, |row| row.metrics.len());
    best.extend((0..metrics).map(|i| {
        let of = |row: &Compared| (cost(&row.metrics[i]), row.metrics[i].mean_in_short().unwrap_or_default());
        self::best(judged.iter().map(of))
    }));
    let names: Vec<String> = judged.iter().map(|row| row.name.clone()).collect();
    let rows = judged.iter().zip(last_parts(&names)).enumerate().map(|(number, (row, name))| {
        let cell = |(column, text): (usize, String)| Cell { is_marked: best[column][number], ..text.into() };
        // The name is its own cell.
        std::iter::once(name).chain(cells(row).into_iter().skip(1).enumerate().map(cell)).collect()
    });
    let columns: Vec<Cell> = headings(judged).into_iter().map(|name| name.to_owned().into()).collect();
    let caption = "The runs, in the order in which they were given, each below the base that it began from.";
    let table = table_of_cells(caption, &columns, rows);
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
    page.around(
        &("<h2>Runs</h2>\n".to_owned() + &table + NOTE + &side_by_side.map(answers).unwrap_or_default()),
    )
}

/// Which rows are best in a column, by their costs and what is shown: rows that show the same are level. None where none is
/// better than another.
fn best(rows: impl Iterator<Item = (Option<f64>, String)>) -> Vec<bool> {
    let rows: Vec<(Option<f64>, String)> = rows.collect();
    let costs = || rows.iter().filter_map(|(cost, shown)| Some(((*cost)?, shown)));
    let Some((_, least)) = costs().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return vec![false; rows.len()];
    };
    let differs = costs().any(|(_, shown)| shown != least);
    rows.iter().map(|(cost, shown)| differs && cost.is_some() && shown == least).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_the_same_is_equally_good() {
        let best = |rows: &[(Option<f64>, &str)]| {
            super::best(rows.iter().map(|(cost, shown)| (*cost, (*shown).to_owned())))
        };
        let rows =
            [(Some(280.4), "280 MiB"), (Some(280.1), "280 MiB"), (Some(300.0), "300 MiB"), (None, "-")];
        assert_eq!(best(&rows), [true, true, false, false]);
        assert_eq!(best(&rows[..2]), [false, false]);
        assert_eq!(best(&rows[3..]), [false]);
    }

    #[test]
    fn paths_are_told_by_their_last_part_where_that_is_enough() {
        let told = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            last_parts(&paths).into_iter().map(|cell| (cell.text, cell.title)).collect::<Vec<_>>()
        };
        let whole = |path: &str| (path.to_owned(), None);
        let first = ("a".to_owned(), Some("runs/a".to_owned()));
        assert_eq!(told(&["runs/a", "b"]), [first, whole("b")]);
        assert_eq!(told(&["x/a", "y/a"]), [whole("x/a"), whole("y/a")]);
    }

    #[test]
    fn of_a_long_prompt_the_end_is_shown() {
        let prompt = "é".repeat(MOST_LETTERS) + "?";
        let alone = Common::of(std::iter::once(prompt.as_str()));
        let shown = alone.without(&prompt);
        assert!(shown.starts_with('…') && shown.ends_with("é?") && shown.chars().count() == MOST_LETTERS + 1);
        assert_eq!(alone.without("short"), "short");
    }

    #[test]
    fn lines_that_all_prompts_have_are_left_out() {
        let shown = |prompts: &[&str]| {
            let common = Common::of(prompts.iter().copied());
            prompts.iter().map(|prompt| common.without(prompt)).collect::<Vec<_>>()
        };
        let prompts = ["You help.\nuser: light on\nassistant:", "You help.\nuser: lights off\nassistant:"];
        assert_eq!(shown(&prompts), ["…user: light on…", "…user: lights off…"]);
        assert_eq!(shown(&["<u>on<end>\n<a>", "<u>off<end>\n<a>"]), ["…on…", "…off…"]);
        assert_eq!(shown(&["lights on", "lights off"]), ["lights on", "lights off"]);
        // Nothing is left out twice, whatever prompts share.
        assert_eq!(shown(&["a\nb\n", "a\nb\n"]), ["…", "…"]);
        assert_eq!(shown(&["\n\n", "\n\n\n"]), ["…", "…\n"]);
        assert_eq!(shown(&["é\nü", "é\nö"]), ["…ü", "…ö"]);
        assert!(shown(&[]).is_empty() && shown(&["", "a\n"]) == ["", "a\n"]);
    }
}
