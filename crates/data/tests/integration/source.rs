//! Where rows come from: every format says the same rows, and files that are not what they should be are errors that
//! name file and row.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::common::{names, tiny_chatml, tiny_metadata};
use flate2::{Compression, write::GzEncoder};
use lorafit_data::source::{
    LONGEST_ROW_BYTES, ReadError, Record,
    jsonl::{Line, Lines},
    kind,
};
use lorafit_data::{
    DataError, Dataset, HeldOut, Mapping, Options, Overlong, Part, Role, RowProblem, Shape, Source, Subset,
    Tokenizer, generation_rows,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn plain() -> Tokenizer {
    Tokenizer::from_gguf(tiny_metadata("gpt-2", &[])).unwrap()
}

/// A folder with files; their paths.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn load(source: impl Into<Source>) -> Result<Dataset, DataError> {
    Dataset::load(source, &plain(), Options::default())
}

/// The samples as text.
fn texts(data: &Dataset) -> Vec<String> {
    let tokenizer = plain();
    let text = |ids: &[u32]| names(&tokenizer, ids).concat().replace("<|im_end|>", "").replace('Ġ', " ");
    data.samples.iter().map(|sample| text(sample.ids)).collect()
}

fn records(path: &Path) -> Vec<(usize, Value)> {
    let (_, records) = kind::open(path).unwrap();
    let fields = |record: Record| (record.number, Value::Object(record.content.into_fields().unwrap()));
    records.map(|record| fields(record.unwrap())).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

/// Prompts and completions as Parquet.
mod parquet_file {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    pub fn of(rows: &[(&str, &str)], properties: WriterProperties) -> Vec<u8> {
        let schema = "message row { required binary prompt (STRING); required binary completion (STRING); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for column in [rows.iter().map(|r| r.0).collect::<Vec<_>>(), rows.iter().map(|r| r.1).collect()] {
            let values: Vec<ByteArray> = column.into_iter().map(ByteArray::from).collect();
            let mut open = group.next_column().unwrap().unwrap();
            open.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            open.close().unwrap();
        }
        group.close().unwrap();
        writer.into_inner().unwrap()
    }
}

const ROWS: [(&str, &str); 2] = [("a, \"b\"", " c\nd"), ("é", "f")];

#[test]
fn every_format_says_the_same_rows() {
    let objects = ROWS.map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion}));
    let lines = objects.iter().map(|row| format!("{row}\n")).collect::<String>();
    let array = serde_json::to_string_pretty(&objects).unwrap();
    let one_line = serde_json::to_string(&objects).unwrap();
    let csv = "prompt,completion\r\n\"a, \"\"b\"\"\",\" c\nd\"\r\né,\"f\"\r\n\r\n";
    let tsv = "\nprompt\tcompletion\n\"a, \"\"b\"\"\"\t\" c\nd\"\né\tf\n";
    let parquet = parquet_file::of(&ROWS, Default::default());
    let bom = |text: &str| [b"\xEF\xBB\xBF", text.as_bytes()].concat();
    let files: Vec<(&str, Vec<u8>, [usize; 2])> = vec![
        ("a.jsonl", lines.clone().into(), [1, 2]),
        ("a.ndjson", bom(&lines), [1, 2]),
        ("lines.json", lines.clone().into(), [1, 2]),
        ("no_name", lines.clone().into(), [1, 2]),
        ("a.json", array.clone().into(), [1, 2]),
        ("b.json", bom(&one_line), [1, 2]),
        ("list", array.clone().into(), [1, 2]),
        ("a.csv", csv.into(), [2, 4]),
        ("bom.csv", bom(csv), [2, 4]),
        ("a.TSV", tsv.into(), [3, 5]),
        ("a.parquet", parquet.clone(), [1, 2]),
        ("columns", parquet, [1, 2]),
        ("a.jsonl.gz", gzip(lines.as_bytes()), [1, 2]),
        ("two.jsonl.gz", [gzip(&lines.as_bytes()[..20]), gzip(&lines.as_bytes()[20..])].concat(), [1, 2]),
        ("a.json.zst", zstd(array.as_bytes()), [1, 2]),
        ("a.csv.gz", gzip(csv.as_bytes()), [2, 4]),
        // The name forgot, or is wrong about it.
        ("folded.jsonl", zstd(lines.as_bytes()), [1, 2]),
        ("unfolded.jsonl.gz", lines.clone().into(), [1, 2]),
    ];
    for (name, content, numbers) in files {
        let dir = folder(&[(name, &content)]);
        let found = records(&dir.path().join(name));
        assert_eq!(found, numbers.into_iter().zip(objects.clone()).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_paragraph_of_plain_text_is_a_row() {
    let text = b"\n\nOne\r\nline and\r\n\r\n \n\nanother.\n\n".as_slice();
    let dir = folder(&[("a.txt", text), ("b.txt.gz", &gzip(text))]);
    for name in ["a.txt", "b.txt.gz"] {
        let want = [(3, json!({"text": "One\nline and"})), (8, json!({"text": "another."}))];
        assert_eq!(records(&dir.path().join(name)), want);
    }
}

#[test]
fn parquet_files_of_a_python_writer_have_lists_of_structs_and_no_nulls() {
    // scripts/make_parquet_fixtures.py: messages with tools, of which some have keys that others lack.
    for name in ["chat_snappy.parquet", "chat_zstd.parquet", "chat_gzip.parquet"] {
        let rows = records(&crate::common::fixture(name));
        let mut want: Value = crate::common::read_json("chat_parquet.json");
        // Bytes that are no text are there, so that no column is lost, and so refused where it counts.
        want[2]["image"] = json!({"bytes": 2});
        let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
        assert_eq!(Value::Array(rows), want, "{name}");
        let load = |options| Dataset::load(crate::common::fixture(name), &tiny_chatml(), options);
        let error = load(Options::default()).unwrap_err().to_string();
        assert!(error.ends_with("row 3: `image` is not read: only text is trained"), "{error}");
    }
}

#[test]
fn folders_and_globs_are_read_in_the_order_of_their_paths() {
    let row = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
    let dir = folder(&[
        ("b.jsonl", &row("bb")),
        ("a/2.jsonl.gz", &gzip(&row("a2"))),
        ("a/10.jsonl", &[row("a1"), b"\n".to_vec(), row("a0")].concat()),
        ("README.md", b"# Rows"),
        ("dataset_info.json", b"{}"),
        (".hidden.jsonl", &row("hh")),
    ]);
    let data = load(dir.path()).unwrap();
    assert_eq!(texts(&data), ["a1", "a0", "a2", "bb"]);
    // Rows are numbered through all files, and their places are told.
    assert_eq!(data.samples.iter().map(|s| s.row).collect::<Vec<_>>(), [1, 3, 4, 5]);
    let place = data.origin.place(3);
    assert_eq!(place, format!("row 3, {} line 3", dir.path().join("a/10.jsonl").display()));
    assert_eq!(data.origin.place(5), format!("row 5, {} line 1", dir.path().join("b.jsonl").display()));

    let glob = |pattern: &str| load(&*dir.path().join(pattern).to_string_lossy());
    assert_eq!(texts(&glob("*/*.jsonl*").unwrap()), ["a1", "a0", "a2"]);
    assert_eq!(texts(&glob("**/[b2].*").unwrap()), ["a2", "bb"]);
    for (pattern, want) in [("*.csv", "no files with rows"), ("[", "is not a pattern of file names")] {
        let error = glob(pattern).unwrap_err();
        assert!(error.to_string().contains(want) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_folder_that_leaves_open_which_files_are_meant_is_an_error() {
    let row = br#"{"text": "ab"}"#.as_slice();
    let dir = folder(&[("a.jsonl", row), ("b.csv", b"text\nab\n")]);
    let error = load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("has files of several formats, such as "), "{error}");
    assert_eq!(
        error.hint().unwrap().to_string(),
        format!("name those that are meant: '{}/*.jsonl'", dir.path().display())
    );

    let text = |text: &str| format!("{{\"text\": \"{text}\"}}").into_bytes();
    let dir = folder(&[
        ("data/train-00000-of-00002.jsonl", &text("t0")),
        ("data/train-00001-of-00002.jsonl", &text("t1")),
        ("data/test-00000-of-00001.jsonl", &text("te")),
        ("data/train_gen-00000-of-00001.jsonl", &text("tg")),
    ]);
    let split =
        |split: Option<&str>| load(Source { split: split.map(str::to_owned), ..Source::from(dir.path()) });
    let error = split(None).unwrap_err();
    assert!(error.to_string().ends_with("has several splits: test, train"), "{error}");
    assert_eq!(error.hint().unwrap().to_string(), "name the one that is meant: split train");
    assert_eq!(texts(&split(Some("train")).unwrap()), ["t0", "t1"]);
    assert_eq!(texts(&split(Some("train_gen")).unwrap()), ["tg"]);
    assert_eq!(texts(&split(Some("eval")).unwrap()), ["te"]);
    let error = split(Some("dev")).unwrap_err();
    assert!(error.to_string().ends_with("has no split `dev`"), "{error}");
    assert_eq!(error.hint().unwrap().to_string(), "it has: test, train");
}

fn lettered(count: usize, prefix: &str) -> Vec<u8> {
    (0..count).map(|i| format!("{{\"text\": \"{prefix}{i}\"}}\n")).collect::<String>().into_bytes()
}

fn mixture(dir: &TempDir, parts: &[(&str, f64)]) -> Source {
    let part = |&(name, weight): &(&str, f64)| Part {
        location: dir.path().join(name).to_string_lossy().into_owned(),
        weight,
    };
    Source::new(parts.iter().map(part).collect())
}

#[test]
fn parts_are_mixed_by_weight_and_shapes_may_differ() {
    let dir = folder(&[
        ("a.jsonl", &lettered(100, "a")),
        ("b.csv", b"prompt,completion\nb0,x\nb1,x\n"),
        ("c.txt", b"c0\n\nc1"),
    ]);
    let source = mixture(&dir, &[("a.jsonl", 0.25), ("b.csv", 2.0), ("c.txt", 1.0)]);
    let data = load(source.clone()).unwrap();
    assert_eq!(data.report.shapes, [Shape::Text, Shape::Completion]);
    assert_eq!((data.report.rows, data.report.samples), (31, 31));
    let found = texts(&data);
    assert!(found[..25].iter().all(|text| text.starts_with('a')));
    assert_eq!(found[25..], ["b0x", "b0x", "b1x", "b1x", "c0", "c1"]);
    // The seed chooses, and nothing else does.
    assert_eq!(texts(&load(source.clone()).unwrap()), found);
    assert_ne!(texts(&load(Source { seed: 1, ..source.clone() }).unwrap()), found);
    // The limit is one of each part.
    let limited =
        load(Source { limit: Some(1), ..mixture(&dir, &[("a.jsonl", 1.0), ("c.txt", 3.0)]) }).unwrap();
    assert_eq!(texts(&limited), ["a0", "c0", "c0", "c0"]);
}

#[test]
fn validation_rows_are_those_that_are_not_trained_on() {
    let dir = folder(&[("a.jsonl", &lettered(60, "a")), ("b.jsonl", &lettered(40, "b"))]);
    let source = mixture(&dir, &[("a.jsonl", 1.0), ("b.jsonl", 2.0)]);
    for held_out in [HeldOut::Share(0.05), HeldOut::Rows(5)] {
        let side = |subset| texts(&load(Source { subset, ..source.clone() }).unwrap());
        let (training, validation) = (side(Subset::Training(held_out)), side(Subset::Validation(held_out)));
        assert_eq!(validation.len(), 5);
        assert!(validation.iter().all(|text| !training.contains(text)));
        let mut all = [training, validation].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 100);
    }
}

#[test]
fn a_limit_is_of_rows_read_and_so_the_same_for_losses_and_answers() {
    // The second row is dropped by the cut, and counts.
    let dir = folder(&[("a.csv", b"prompt,completion\na,b\nabcdefgh,c\nd,e\nf,g\n")]);
    let source = Source { limit: Some(3), ..mixture(&dir, &[("a.csv", 1.0)]) };
    let options = Options { max_seq_len: 4, ..Options::default() };
    let data = Dataset::load(source.clone(), &plain(), options).unwrap();
    assert_eq!((data.report.rows, data.report.samples, data.report.dropped), (3, 2, 1));
    assert_eq!(data.samples.iter().map(|s| s.row).collect::<Vec<_>>(), [2, 4]);
    let rows = generation_rows(source, &plain()).unwrap();
    assert_eq!(rows.iter().map(|r| r.prompt.as_str()).collect::<Vec<_>>(), ["a", "abcdefgh", "d"]);
    assert_eq!(rows.iter().map(|r| r.row).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn rows_that_are_too_long_are_cut_dropped_or_an_error() {
    let dir = folder(&[("a.csv", b"prompt,completion\na,bcde\nd,e\n")]);
    let load = |overlong| {
        let options = Options { max_seq_len: 4, overlong, ..Options::default() };
        Dataset::load(mixture(&dir, &[("a.csv", 1.0)]), &plain(), options)
    };
    let report = load(Overlong::TruncateRight).unwrap().report;
    assert_eq!((report.samples, report.truncated, report.overlong), (2, 1, 0));
    let report = load(Overlong::Drop).unwrap().report;
    assert_eq!((report.rows, report.samples, report.truncated, report.overlong), (2, 1, 0, 1));
    let error = load(Overlong::Error).unwrap_err();
    assert!(error.to_string().ends_with("a.csv line 2: the row has 6 tokens, more than 4"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("overlong drop"));
}

#[test]
fn bad_rows_are_skipped_and_counted_where_that_is_asked_for() {
    let rows = b"nope\n{\"text\": \"ab\"}\n{\"text\": 3}\n\xFF\n{\"text\": \"cd\"}\n[\n".as_slice();
    let dir = folder(&[("a.jsonl", rows)]);
    let source = mixture(&dir, &[("a.jsonl", 1.0)]);
    assert!(load(source.clone()).unwrap_err().to_string().contains("line 1: not valid JSON"));
    let source = Source { skip_bad_rows: true, ..source };
    let data = load(source.clone()).unwrap();
    assert_eq!(texts(&data), ["ab", "cd"]);
    assert_eq!((data.report.rows, data.report.skipped), (2, 4));
    let told =
        ["line 1: not valid", "line 3: `text` must be a string", "line 4: not UTF-8", "line 6: not valid"];
    for (problem, want) in data.origin.problems.iter().zip(told) {
        assert!(problem.contains(want), "{problem}");
    }
    assert_eq!(data.origin.problems.len(), 4);
    // Not one good row, and what no skipping helps against.
    let dir = folder(&[("a.jsonl", b"1\n2\n"), ("b.jsonl", br#"{"chosen": "x", "rejected": "y"}"#)]);
    let error = load(Source { skip_bad_rows: true, ..mixture(&dir, &[("a.jsonl", 1.0)]) }).unwrap_err();
    assert!(error.to_string().contains("none of its 2 rows can be read; the first: "), "{error}");
    let error = load(Source { skip_bad_rows: true, ..mixture(&dir, &[("b.jsonl", 1.0)]) }).unwrap_err();
    assert!(error.to_string().contains("line 1: the rows are preferences"), "{error}");
}

#[test]
fn files_that_are_not_what_they_should_be_are_errors_that_say_where() {
    let parquet = parquet_file::of(&[("a", "b"); 2000], Default::default());
    let mut scribbled = parquet.clone();
    scribbled[8..120].fill(0xEE);
    let wide = "x".repeat(100_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a.csv",
            b"prompt,completion\na,b\nc\n".to_vec(),
            "a.csv line 3: the row has 1 value, but the first line names 2 columns",
        ),
        ("a.csv", b"prompt,completion\na,b,c\n".to_vec(), "line 2: the row has 3 values"),
        ("a.csv", b"prompt,prompt\na,b\n".to_vec(), "line 1: two columns are named `prompt`"),
        ("a.csv", b"prompt,completion\na,\xFF\n".to_vec(), "line 2: not UTF-8 at byte 1"),
        ("a.csv", b"prompt,completion\na,b\0c\n".to_vec(), "line 2: a NUL byte at byte 2"),
        ("a.csv", b"prompt,completion\na,\n".to_vec(), "line 2: `completion` is empty"),
        ("a.csv", b"prompt,completion\n".to_vec(), "has no rows"),
        ("a.csv", b"a b\nc d\n".to_vec(), "its fields are: `a b`"),
        ("a.txt", b"ab\n\nc\0d\n".to_vec(), "a.txt line 3: a NUL byte at byte 2"),
        ("a.txt", b"ab\n\n\xFFd\n".to_vec(), "line 3: not UTF-8"),
        ("a.jsonl", b"{\"text\": \"a\0b\"}".to_vec(), "line 1: a NUL byte at byte 12"),
        // UTF-16 is read: what it says is a row without fields.
        (
            "utf16.jsonl",
            b"\xFF\xFE{\0}\0".to_vec(),
            "line 1: the row has none of the known shapes; its fields are: none",
        ),
        (
            "utf16.jsonl",
            b"\xFF\xFE{\0}\0\0\xD8".to_vec(),
            "it is UTF-16, but has half a character before byte",
        ),
        ("utf32.jsonl", b"\xFF\xFE\0\0{\0\0\0".to_vec(), "is UTF-32, which is not read"),
        (
            "a.json",
            b"[{\"text\": \"ab\"},\n {\"text\": \"cd\",,}]".to_vec(),
            "a.json row 2: not valid JSON at column 15",
        ),
        (
            "a.json",
            b"[{\"text\": \"ab\"}, {\n\"text\":\n x}]".to_vec(),
            "row 2: not valid JSON at its line 3, column 2",
        ),
        ("a.json", b"[{\"text\": \"ab\"},]".to_vec(), "row 2: not valid JSON at column 1"),
        ("a.json", b"[{\"text\": \"ab\"}, 3]".to_vec(), "row 2: a row must be an object, found a number"),
        (
            "a.json",
            b"[{\"text\": \"ab\"}".to_vec(),
            "is damaged or not a JSON list: it ends inside the list, after 0 rows",
        ),
        ("a.json", b"[{\"text\": \"ab\"}] x".to_vec(), "something follows the `]`"),
        ("a.json", b"[ ]".to_vec(), "has no rows"),
        ("a.parquet", parquet[..parquet.len() / 2].to_vec(), "a.parquet is damaged or not Parquet: "),
        ("a.parquet", b"PAR1".to_vec(), "is damaged or not Parquet: "),
        ("a.parquet", b"".to_vec(), "a.parquet is empty"),
        ("a.parquet", scribbled, "is damaged or not Parquet: "),
        ("a.parquet.gz", gzip(&parquet), "it is compressed as a whole"),
        ("a.jsonl.gz", gzip(wide.as_bytes())[..60].to_vec(), "cannot read "),
        ("a.jsonl.zst", zstd(wide.as_bytes())[..12].to_vec(), "cannot read "),
        ("picture", b"\x89PNG".to_vec(), "the kind of this file is unknown"),
    ];
    for (name, content, want) in cases {
        let dir = folder(&[(name, &content)]);
        let error = load(dir.path().join(name)).unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

/// A file of endless zeros, folded.
fn bomb(dir: &TempDir, name: &str, zeros: usize) -> PathBuf {
    let path = dir.path().join(name);
    let file = File::create(&path).unwrap();
    let mut zeros = std::io::repeat(b'0').take(zeros as u64);
    match name.ends_with("gz") {
        true => {
            let mut encoder = GzEncoder::new(file, Compression::fast());
            std::io::copy(&mut zeros, &mut encoder).unwrap();
            encoder.finish().unwrap();
        }
        false => {
            let mut encoder = zstd::Encoder::new(file, 1).unwrap();
            std::io::copy(&mut zeros, &mut encoder).unwrap();
            encoder.finish().unwrap();
        }
    }
    path
}

#[test]
fn what_unfolds_to_more_than_a_row_may_be_is_refused_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.jsonl.gz", "a.txt.zst", "a.csv.zst"] {
        let path = bomb(&dir, name, 3 * LONGEST_ROW_BYTES);
        assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
        let error = load(path).unwrap_err();
        assert!(
            error.to_string().contains(&format!("line 1: the row is longer than {LONGEST_ROW_BYTES} bytes")),
            "{error}"
        );
    }
    // A list without commas, and an opening quote without its end.
    for (name, start) in [("a.json", "["), ("a.csv", "text\n\"")] {
        let path = dir.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(start.as_bytes()).unwrap();
        std::io::copy(&mut std::io::repeat(b'0').take(2 * LONGEST_ROW_BYTES as u64), &mut file).unwrap();
        let error = load(path).unwrap_err();
        assert!(
            error.to_string().contains(&format!("the row is longer than {LONGEST_ROW_BYTES} bytes")),
            "{error}"
        );
    }
}

#[test]
fn a_line_without_end_is_refused_before_it_fills_the_memory_and_can_be_passed_over() {
    let endless = BufReader::new(std::io::repeat(b'x'));
    let error = Lines::with_longest(endless, 1000).next();
    assert!(matches!(error, Some(Err(ReadError::Row(1, RowProblem::TooLong { limit: 1000 })))), "{error:?}");
    let exact =
        format!("\u{FEFF}{}\r\n{}\n{}\n{}", "a".repeat(10), "b".repeat(10), "c".repeat(100), "d".repeat(10));
    let lines: Vec<_> = Lines::with_longest(exact.as_bytes(), 10).collect();
    let found = |line: &Result<Line, ReadError>| match line {
        Ok(line) => (line.number, line.bytes.len()),
        Err(ReadError::Row(number, _)) => (*number, 0),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(lines.iter().map(found).collect::<Vec<_>>(), [(1, 10), (2, 10), (3, 0), (4, 10)]);
}

#[test]
fn columns_and_roles_are_read_by_their_own_names() {
    let dir = folder(&[
        ("qa.csv", b"id,question,answer\n1,a,b\n"),
        ("swapped.csv", b"prompt,completion\nb,a\n"),
        (
            "chat.jsonl",
            br#"{"turns": [{"role": "person", "content": "a"}, {"role": "bot", "content": "b"}]}"#,
        ),
    ]);
    let read = |name: &str, columns: &[(&str, &str)], roles: &[(&str, Role)]| {
        let mapping = Mapping {
            columns: columns.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect(),
            roles: roles.iter().map(|(from, role)| (from.to_string(), *role)).collect(),
        };
        let source = Source { mapping, ..mixture(&dir, &[(name, 1.0)]) };
        Dataset::load(source, &tiny_chatml(), Options::default())
    };
    let data = read("qa.csv", &[("question", "prompt"), ("answer", "completion")], &[]).unwrap();
    assert_eq!(texts(&data), ["ab"]);
    let data = read("swapped.csv", &[("prompt", "completion"), ("completion", "prompt")], &[]).unwrap();
    assert_eq!(texts(&data), ["ab"]);
    let error = read("qa.csv", &[("query", "prompt"), ("answer", "completion")], &[]).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "line 2: the row has no `query` to be read as `prompt`: it has `id`, `question`, `answer`"
        ),
        "{error}"
    );

    let error = read("chat.jsonl", &[("turns", "messages")], &[("person", Role::User)]).unwrap_err();
    assert!(error.to_string().contains("role `bot` is not one of"), "{error}");
    assert_eq!(error.hint().unwrap().to_string(), "map it with role bot=assistant");
    let roles = [("person", Role::User), ("bot", Role::Assistant)];
    assert_eq!(read("chat.jsonl", &[("turns", "messages")], &roles).unwrap().report.rows, 1);
}

/// The words of each sample, trained ones in brackets.
fn shown(row: Value) -> Result<String, DataError> {
    let dir = folder(&[("a.jsonl", row.to_string().as_bytes())]);
    let tokenizer = tiny_chatml();
    let data = Dataset::load(dir.path().join("a.jsonl"), &tokenizer, Options::default())?;
    let sample = data.samples.sample(0).to_sample();
    let mut text = String::new();
    let mut open = false;
    for (name, &trained) in names(&tokenizer, &sample.ids).iter().zip(&sample.supervised) {
        if trained != open {
            text.push(if trained { '[' } else { ']' });
            open = trained;
        }
        text += &name.replace('Ċ', "\n").replace('Ġ', " ");
    }
    Ok(text.replace("<|im_start|>", "<").replace("<|im_end|>", ">"))
}

#[test]
fn sharegpt_and_conversational_completions_are_conversations() {
    let turn = "<user\na>\n<assistant\n[b>]\n";
    let from = json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]);
    assert_eq!(shown(json!({"conversations": from})).unwrap(), turn);
    let with_system = shown(json!({"conversations": from, "system": "S"})).unwrap();
    assert_eq!(with_system, format!("<system\nS>\n{turn}"));
    let roles = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    assert_eq!(shown(json!({"conversations": roles})).unwrap(), turn);
    // As tables have them.
    assert_eq!(shown(json!({"messages": roles.to_string(), "tools": ""})).unwrap(), turn);
    assert_eq!(
        shown(json!({"instruction": "a", "output": "b", "system": "S", "input": ""})).unwrap(),
        with_system
    );
    // Of a conversation in two parts the second is trained.
    let completion = json!({"prompt": [roles[0], roles[1], {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]});
    assert_eq!(shown(completion).unwrap(), "<user\na>\n<assistant\nb>\n<user\nc>\n<assistant\n[d>]\n");

    for (row, want) in [
        (
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": 3}]}),
            "`conversations[1].value` must be a string, found a number",
        ),
        (
            json!({"conversations": [{"from": "human"}]}),
            "the row has no `conversations[0].value`, which sharegpt rows have",
        ),
        (json!({"conversations": [{"from": "alien", "value": "a"}]}), "role `alien` is not one of"),
        (json!({"conversations": []}), "the conversation is empty"),
        (
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            "the rows are preferences (chosen and rejected): they are no replies to be learnt as they are",
        ),
    ] {
        let error = shown(row).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().is_some());
    }
}
