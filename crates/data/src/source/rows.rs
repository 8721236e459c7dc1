//! From records to rows: parsed and worked on in parallel, a block at a time, and handed on in order. Rows and the
//! first error are the same for any number of threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Content, Place, ReadError, Record, Source, Unit, choice::Choice, files, kind, replies};
use crate::error::{DataError, RowProblem};
use crate::format::{Fields, Labelled, Row, Shape};
use crate::json;
use crate::notes;

/// Rows worked on together: enough to keep the cores busy, few enough that the text read ahead is small.
const BLOCK_ROWS: usize = 1024;
/// A block ends early when its rows are long.
const BLOCK_BYTES: usize = 32 << 20;
/// How many of the bad rows that are skipped are told.
const TOLD: usize = 5;

/// Where rows came from, and what was left out on the way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    files: Vec<FileRows>,
    /// The shapes of the rows, each once.
    pub shapes: Vec<Shape>,
    /// Bad rows that were skipped.
    pub skipped: usize,
    /// What is wrong with the first of them.
    pub problems: Vec<String>,
    /// Keys of the rows that nothing reads, and how often each was there in rows that were taken.
    pub passed_over: BTreeMap<String, usize>,
    /// Keys that rows which were taken have more than once, and in how many. The last counts.
    pub twice: BTreeMap<String, usize>,
}

/// Fields that tables hold as JSON text.
const JSON_TEXTS: [&str; 6] =
    ["messages", "conversations", "tools", "functions", "history", "chat_template_kwargs"];

/// Keys of a row that a note is to name.
#[derive(Debug, Default)]
struct Keys {
    passed_over: Vec<String>,
    twice: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FileRows {
    path: PathBuf,
    unit: Unit,
    /// The number before the file's first: rows are numbered through all files.
    before: usize,
}

impl Origin {
    /// The place of a row by its number: `line 3`, and if there are several files `row 1003, b.csv line 3`.
    pub fn place(&self, row: usize) -> String {
        let Some(file) = self.files.iter().rfind(|file| file.before < row) else {
            return format!("row {row}");
        };
        let place = Place { unit: file.unit, number: row - file.before };
        match self.files.len() {
            1 => place.to_string(),
            _ => format!("row {row}, {} {place}", file.path.display()),
        }
    }

    /// As [`Origin::place`], with the file in any case: `b.csv line 3`.
    pub fn place_in_file(&self, row: usize) -> String {
        match self.files.iter().rfind(|file| file.before < row) {
            Some(file) => {
                let place = Place { unit: file.unit, number: row - file.before };
                format!("{} {place}", file.path.display())
            }
            None => format!("row {row}"),
        }
    }

    /// The same rows in files of other names.
    pub(crate) fn in_files(mut self, names: Vec<PathBuf>) -> Self {
        for (file, name) in self.files.iter_mut().zip(names) {
            file.path = name;
        }
        self
    }

    fn skip(&mut self, error: &DataError) {
        self.skipped += 1;
        if self.problems.len() < TOLD {
            self.problems.push(error.to_string());
        }
    }
}

/// A row that is read.
pub(crate) struct Read {
    /// What it is, by its shape.
    pub row: Row,
    /// Its number: its place in its file, counted on through several files.
    pub number: usize,
    /// What the column of options holds ([`Source::choices`]).
    pub choices: Option<Value>,
}

/// Reads a source's rows, does `work` on them in parallel, and hands the results to `take` in order.
pub(crate) fn read<T: Send + Clone>(
    source: &Source,
    work: impl Fn(Read) -> Result<T, RowProblem> + Sync,
    mut take: impl FnMut(T) -> Result<(), DataError>,
) -> Result<Origin, DataError> {
    let parts = files::of(source)?;
    let mut choice = choose(source, &parts)?;
    let mut origin = Origin::default();
    let (mut before, mut rows) = (0, 0);
    for (part, paths) in parts.iter().enumerate() {
        let mut left = source.limit.unwrap_or(usize::MAX);
        for path in paths {
            let (kind, records) = kind::open(path)?;
            let unit = kind.unit();
            origin.files.push(FileRows { path: path.clone(), unit, before });
            let mut file = OpenFile { path, unit, records, left, last: 0 };
            let mut shape = None;
            loop {
                let block = file.block(source.skip_bad_rows, || choice.times(part))?;
                rows += block.len();
                if shape.is_none() && source.classes.is_none() {
                    shape = recognise(&block, source).map_err(|(at, problem)| file.wrong(at, problem))?;
                    let new = shape.filter(|shape| !origin.shapes.contains(shape));
                    origin.shapes.extend(new);
                }
                let end = block.is_empty();
                let done: Vec<_> = block
                    .into_par_iter()
                    .map(|Taken { number, times, content }| {
                        let mut keys = Keys::default();
                        let row = content.and_then(|content| parse(content, shape, source, &mut keys));
                        let number_in_all = before + number;
                        let read = |(row, choices)| Read { row, number: number_in_all, choices };
                        (number, times, row.and_then(|row| Ok((work(read(row))?, keys))))
                    })
                    .collect();
                // The first bad row of the file is the one reported, whichever thread met one first.
                for (number, times, result) in done {
                    match result {
                        Ok((result, keys)) => {
                            notes::count(&mut origin.passed_over, &keys.passed_over, times);
                            notes::count(&mut origin.twice, &keys.twice, times);
                            (0..times).try_for_each(|_| take(result.clone()))?;
                        }
                        Err(problem) if source.skip_bad_rows && !problem.is_everywhere() => {
                            origin.skip(&file.wrong(number, problem));
                        }
                        Err(problem) => return Err(file.wrong(number, problem)),
                    }
                }
                if end {
                    break;
                }
            }
            left = file.left;
            before += file.last;
        }
    }
    match (rows, origin.problems.first()) {
        (0, _) => Err(DataError::NoRows { data: source.name() }),
        (_, Some(first)) if origin.skipped == rows => {
            Err(DataError::AllBad { data: source.name(), rows, first: first.clone() })
        }
        _ => Ok(origin),
    }
}

/// How often each row is taken; where it takes their number, rows are counted.
fn choose(source: &Source, parts: &[Vec<PathBuf>]) -> Result<Choice, DataError> {
    let weights = || source.parts.iter().map(|part| part.weight);
    let mut rows = vec![0; parts.len()];
    if source.is_drawn() {
        let limit = source.limit.unwrap_or(usize::MAX);
        for (rows, paths) in rows.iter_mut().zip(parts) {
            for path in paths {
                let (kind, records) = kind::open(path)?;
                for record in records.take(limit - *rows) {
                    match record {
                        Err(error @ ReadError::Row(_, RowProblem::TooLong { .. }))
                            if !source.skip_bad_rows =>
                        {
                            return Err(DataError::reading(path, kind.unit(), error));
                        }
                        Ok(_) | Err(ReadError::Row(..)) => *rows += 1,
                        Err(error) => return Err(DataError::reading(path, kind.unit(), error)),
                    }
                }
            }
        }
    }
    Ok(Choice::new(source.subset, &weights().zip(rows).collect::<Vec<_>>(), source.seed))
}

/// The shape of the first row whose shape can be told; `None` if there is no such row and bad ones are skipped.
fn recognise(block: &[Taken], source: &Source) -> Result<Option<Shape>, (usize, RowProblem)> {
    for Taken { number, content, .. } in block {
        let content = match content {
            Ok(content) => content,
            Err(_) if source.skip_bad_rows => continue,
            // It is the first bad row, and told as such.
            Err(_) => return Ok(None),
        };
        let fields = content.clone().into_fields().and_then(|fields| named(fields, source));
        match fields.and_then(|fields| Shape::recognise(&fields)) {
            Ok(shape) => return Ok(Some(shape)),
            Err(problem) if source.skip_bad_rows && !problem.is_everywhere() => {}
            Err(problem) => return Err((*number, problem)),
        }
    }
    Ok(None)
}

fn parse(
    content: Content,
    shape: Option<Shape>,
    source: &Source,
    keys: &mut Keys,
) -> Result<(Row, Option<Value>), RowProblem> {
    let mut fields = content.into_fields_noting(&mut keys.twice)?;
    let choices = source.choices.as_ref().and_then(|column| fields.shift_remove(column));
    if let Some(classes) = &source.classes {
        return Ok((Labelled::read(fields, classes, &source.mapping, &mut keys.passed_over)?, choices));
    }
    let fields = named(fields, source)?;
    for name in JSON_TEXTS {
        if let Some(text) = fields.get(name).and_then(Value::as_str) {
            json::twice_in_text(name, text, &mut keys.twice);
        }
    }
    let shape = shape.map_or_else(|| Shape::recognise(&fields), Ok)?;
    Ok((shape.read(fields, &source.mapping, &mut keys.passed_over)?, choices))
}

/// The fields under their names, with a reply where they may lack one.
fn named(fields: Fields, source: &Source) -> Result<Fields, RowProblem> {
    let fields = source.mapping.rename(fields)?;
    Ok(match source.without_replies {
        true => replies::completed(fields, &source.mapping),
        false => fields,
    })
}

/// A row that is taken.
struct Taken {
    number: usize,
    times: usize,
    content: Result<Content, RowProblem>,
}

/// A file that is being read.
struct OpenFile<'a> {
    path: &'a Path,
    unit: Unit,
    records: super::Records,
    /// Rows that may still be read.
    left: usize,
    /// The number of the last row.
    last: usize,
}

impl OpenFile<'_> {
    fn wrong(&self, number: usize, problem: RowProblem) -> DataError {
        DataError::reading(self.path, self.unit, ReadError::Row(number, problem))
    }

    /// The next rows that are taken; none at the end of the file. Behind a row that cannot be read, which ends it all
    /// unless bad rows are skipped, nothing is looked for: its end may be far.
    fn block(&mut self, skip_bad: bool, mut times: impl FnMut() -> usize) -> Result<Vec<Taken>, DataError> {
        let mut block = Vec::new();
        let mut bytes = 0;
        while self.left > 0 && block.len() < BLOCK_ROWS && bytes < BLOCK_BYTES {
            let (number, content) = match self.records.next() {
                None => break,
                Some(Ok(Record { number, content })) => (number, Ok(content)),
                Some(Err(ReadError::Row(number, problem))) => (number, Err(problem)),
                Some(Err(error)) => return Err(DataError::reading(self.path, self.unit, error)),
            };
            self.left -= 1;
            self.last = number;
            let times = times();
            if times > 0 {
                bytes += content.as_ref().map_or(0, Content::size_bytes);
                let ends = content.is_err() && !skip_bad;
                block.push(Taken { number, times, content });
                if ends {
                    break;
                }
            }
        }
        Ok(block)
    }
}
