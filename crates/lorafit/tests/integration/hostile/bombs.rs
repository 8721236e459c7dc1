//! Files made to take memory or time. The binary is run on each, in a process of its own, and held against a run of the
//! same command on files that are as they should be: what it took more, at its peak, is at most twice the file and 64 MiB.
//!
//! `LORAFIT_BOMBS_TABLE=1` prints the table of `docs/hostile_files.md`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::tiny::{self, Gguf};

/// The longest that a refusal may take. On a machine that does nothing else all but two take less than 100 ms
/// (`docs/hostile_files.md`); here tests run beside this one and on machines of all kinds.
const LONGEST: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
const ROW: &str = r#"{"messages":[{"role":"user","content":"why?"},{"role":"assistant","content":"so"}]}"#;

/// How a file is handed to the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A model folder with one of its files replaced.
    Folder,
    /// A `.gguf` file.
    Gguf,
    /// An adapter of the model.
    Adapter,
    /// Rows.
    Rows,
    /// A chat template.
    Template,
    /// The newest checkpoint of a run, with one of its files replaced and its sums made right.
    Checkpoint,
}
struct Bomb {
    how: How,
    /// What is done with it.
    what: &'static str,
    /// The name of the file.
    file: &'static str,
    write: fn(&mut File) -> std::io::Result<()>,
    /// A part of the error.
    error: &'static str,
}

fn bomb(
    how: How,
    what: &'static str,
    file: &'static str,
    error: &'static str,
    write: fn(&mut File) -> std::io::Result<()>,
) -> Bomb {
    Bomb { how, what, file, write, error }
}

/// A safetensors file with this header and a KiB of zeros.
fn safetensors(file: &mut File, header: &str) -> std::io::Result<()> {
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(&[0; 1024])
}

fn deep(file: &mut File, before: &str) -> std::io::Result<()> {
    file.write_all(format!("{before}{}", "[".repeat(10_000)).as_bytes())
}

/// `before`, then zeros with commas up to `bytes`.
fn flat(file: &mut File, before: &str, bytes: usize, after: &str) -> std::io::Result<()> {
    file.write_all(before.as_bytes())?;
    file.write_all("0,".repeat((bytes - before.len()) / 2).as_bytes())?;
    file.write_all(after.as_bytes())
}

fn gguf(file: &mut File, gguf: Gguf) -> std::io::Result<()> {
    file.write_all(&gguf.bytes().0)?;
    file.write_all(&[0; 4096])
}

fn counts(file: &mut File, tensors: u64, entries: u64) -> std::io::Result<()> {
    file.write_all(&counts_of(tensors, entries))?;
    file.write_all(&[0; 4096])
}

/// A row that begins and has 10 GiB of blanks, each MiB of which are the same folded bytes again.
fn blanks(file: &mut File, fold: fn(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
    file.write_all(&fold(b"{\"text\": \""))?;
    file.write_all(&fold(&vec![b' '; 1 << 20]).repeat(10 << 10))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("in memory")
}

/// One page of 128 MiB of blanks, whose header says that it has `size` bytes, as a varint of five bytes.
fn parquet(file: &mut File, compression: &str, size: [u8; 5]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data");
    let mut bytes = fs::read(folder.join(format!("bomb_{compression}.parquet")))?;
    assert_eq!(bytes[7..12], BLANKS, "the size of the first page");
    bytes[7..12].copy_from_slice(&size);
    file.write_all(&bytes)
}

/// Sizes of pages: what it is, 2^31-1, and 100.
const BLANKS: [u8; 5] = [0x8E, 0x88, 0x80, 0x80, 0x01];
const MOST: [u8; 5] = [0xFE, 0xFF, 0xFF, 0xFF, 0x0F];
const HUNDRED: [u8; 5] = [0xC8, 0x81, 0x80, 0x80, 0x00];

#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn bombs() -> Vec<Bomb> {
    vec![
        // Model folders.
        bomb(
            How::Folder,
            "a header of 2^64-1 bytes",
            "model.safetensors",
            "18446744073709551615 bytes",
            |f| {
                f.write_all(&[0xFF; 8])?;
                f.write_all(&[0; 1024])
            },
        ),
        bomb(How::Folder, "a header of 99 MB in a sparse file", "model.safetensors", "99000000 bytes", |f| {
            f.write_all(&99_000_000u64.to_le_bytes())?;
            f.set_len(1 << 40)
        }),
        bomb(How::Folder, "shape 2^32 x 2^32", "model.safetensors", "not a whole safetensors file", |f| {
            safetensors(f, r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,1024]}}"#)
        }),
        bomb(How::Folder, "offsets up to 2^64-1", "model.safetensors", "not a whole safetensors file", |f| {
            safetensors(f, r#"{"a":{"dtype":"U8","shape":[1024],"data_offsets":[0,18446744073709551615]}}"#)
        }),
        bomb(How::Folder, "overlapping tensors", "model.safetensors", "not a whole safetensors file", |f| {
            let a = r#""dtype":"U8","shape":[1024],"data_offsets":[0,1024]"#;
            let b = r#""dtype":"U8","shape":[1023],"data_offsets":[1,1024]"#;
            safetensors(f, &format!("{{\"a\":{{{a}}},\"b\":{{{b}}}}}"))
        }),
        bomb(
            How::Folder,
            "36,000 entries in 2 MiB",
            "model.safetensors",
            "not a whole safetensors file",
            |f| {
                let entry = |i| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},");
                let entries: String = (0..36_000).map(entry).collect();
                safetensors(f, &format!("{{{entries}\"a\":0}}"))
            },
        ),
        bomb(
            How::Folder,
            "a shape of a million sizes",
            "model.safetensors",
            "not a whole safetensors file",
            |f| {
                let shape = "1,".repeat(1_000_000);
                safetensors(
                    f,
                    &format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{shape}1],\"data_offsets\":[0,1]}}}}"),
                )
            },
        ),
        bomb(How::Folder, "10,000 deep header", "model.safetensors", "not a whole safetensors file", |f| {
            safetensors(f, &format!("{{\"a\":{}", "[".repeat(10_000)))
        }),
        bomb(How::Folder, "10,000 deep", "config.json", "not JSON", |f| deep(f, "{\"a\":")),
        bomb(How::Folder, "1 MiB of zeros", "config.json", "expected a supported architecture", |f| {
            flat(f, "{\"a\":[", (1 << 20) - 8, "0]}")
        }),
        bomb(How::Folder, "1 TB, sparse", "config.json", "at most 1048576", |f| f.set_len(1 << 40)),
        bomb(How::Folder, "10,000 deep", "model.safetensors.index.json", "not an index", |f| {
            deep(f, "{\"weight_map\":{\"a\":")
        }),
        bomb(How::Folder, "4 MiB of zeros", "model.safetensors.index.json", "missing field", |f| {
            flat(f, "{\"metadata\":[", (4 << 20) - 8, "0]}")
        }),
        bomb(How::Folder, "300,000 tensors", "model.safetensors.index.json", "which the folder lacks", |f| {
            let entries: String = (0..300_000).map(|i| format!("\"{i}\":\"\",")).collect();
            f.write_all(format!("{{\"weight_map\":{{{entries}\" \":\"a\"}}}}").as_bytes())
        }),
        bomb(How::Folder, "10,000 deep", "tokenizer.json", "tokenizer.json is not valid", |f| {
            deep(f, "{\"a\":")
        }),
        bomb(How::Folder, "10,000 deep normalizers", "tokenizer.json", "tokenizer.json is not valid", |f| {
            f.write_all(r#"{"normalizer":"#.as_bytes())?;
            f.write_all(r#"{"type":"Sequence","normalizers":["#.repeat(10_000).as_bytes())
        }),
        bomb(How::Folder, "1 TB, sparse", "tokenizer.json", "more than the 67108864", |f| f.set_len(1 << 40)),
        bomb(How::Folder, "4 MiB of zeros", "tokenizer_config.json", "more than 262144 values", |f| {
            flat(f, "{\"a\":[", 4 << 20, "0]}")
        }),
        // GGUF files.
        bomb(How::Gguf, "2^64-1 tensors", "model.gguf", "18446744073709551615 tensors", |f| {
            counts(f, u64::MAX, 0)
        }),
        bomb(How::Gguf, "2^64-1 entries", "model.gguf", "18446744073709551615 metadata entries", |f| {
            counts(f, 0, u64::MAX)
        }),
        bomb(How::Gguf, "a text of 1 TB", "model.gguf", "1099511627776 bytes long", |f| {
            gguf(f, Gguf::default().entry("a", 8, &(1u64 << 40).to_le_bytes()))
        }),
        bomb(How::Gguf, "a text of 1 TB in a sparse file", "model.gguf", "1099511627776 bytes long", |f| {
            gguf(f, Gguf::default().entry("a", 8, &(1u64 << 40).to_le_bytes()))?;
            f.set_len(1 << 41)
        }),
        bomb(How::Gguf, "a list of 2^63 numbers", "model.gguf", "9223372036854775808 values", |f| {
            gguf(
                f,
                Gguf::default().entry(
                    "a",
                    9,
                    &[&0u32.to_le_bytes()[..], &(1u64 << 63).to_le_bytes()].concat(),
                ),
            )
        }),
        bomb(How::Gguf, "a list of lists of lists", "model.gguf", "not supported", |f| {
            let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(10_000);
            gguf(f, Gguf::default().entry("a", 9, &nested))
        }),
        bomb(How::Gguf, "100 lists of 2 MiB of bytes", "model.gguf", "more than the 1310720", |f| {
            f.write_all(&counts_of(0, 100))?;
            (0..100u64).try_for_each(|i| list(f, &format!("{i:03}"), 0, &[7], 1 << 21))
        }),
        bomb(How::Gguf, "4 million empty texts", "model.gguf", "more than the 1310720", |f| {
            f.write_all(&counts_of(0, 1))?;
            list(f, "a", 8, &[0; 8], 1 << 22)
        }),
        bomb(How::Gguf, "1.3 million texts of a letter", "model.gguf", "`general.architecture`", |f| {
            f.write_all(&counts_of(0, 1))?;
            list(f, "a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, b'a'], 5 << 18)
        }),
        bomb(How::Gguf, "alignment 2^31", "model.gguf", "general.alignment", |f| {
            gguf(f, Gguf::of_model().number("general.alignment", 1 << 31).with_weights())
        }),
        bomb(How::Gguf, "a tensor of 2^32-1 dimensions", "model.gguf", "4294967295 dimensions", |f| {
            let mut bytes = counts_of(1, 0);
            bytes.extend([&1u64.to_le_bytes()[..], b"a", &u32::MAX.to_le_bytes()].concat());
            f.write_all(&bytes)?;
            f.write_all(&[0; 4096])
        }),
        bomb(How::Gguf, "a model of 2^24 x 2^24 x 4096", "model.gguf", "missing", |f| {
            let size = 1 << 24;
            let file = Gguf::default()
                .text("general.architecture", "llama")
                .number("llama.embedding_length", size)
                .number("llama.feed_forward_length", size)
                .number("llama.block_count", 4096)
                .number("llama.attention.head_count", 1)
                .number("llama.attention.key_length", size)
                .number("llama.rope.dimension_count", size);
            gguf(f, file)
        }),
        bomb(How::Gguf, "merges of tokens that are not there", "model.gguf", "not in the vocabulary", |f| {
            let file = Gguf::of_model()
                .text("tokenizer.ggml.model", "gpt2")
                .texts("tokenizer.ggml.tokens", &["a"; 8]);
            gguf(f, file.texts("tokenizer.ggml.merges", &["b c"; 100_000]).with_weights())
        }),
        // Adapters.
        bomb(How::Adapter, "10,000 deep", "adapter_config.json", "not an adapter configuration", |f| {
            deep(f, "{\"a\":")
        }),
        bomb(How::Adapter, "rank 2^60", "adapter_config.json", "expected a rank from 1 to 65536", |f| {
            f.write_all(tiny::ADAPTER_CONFIG.replace("\"r\":1", "\"r\":1152921504606846976").as_bytes())
        }),
        bomb(How::Adapter, "rank 65536 in every layer", "adapter_config.json", "the model needs", |f| {
            f.write_all(tiny::ADAPTER_CONFIG.replace("\"r\":1", "\"r\":65536").as_bytes())
        }),
        bomb(How::Adapter, "a million target modules", "adapter_config.json", "at most 1048576", |f| {
            let config = tiny::ADAPTER_CONFIG
                .replace("\"q_proj\"", &format!("{}\"q_proj\"", "\"q_proj\",".repeat(1_000_000)));
            f.write_all(config.as_bytes())
        }),
        bomb(How::Adapter, "40,000 different target modules", "adapter_config.json", "more than", |f| {
            let names: Vec<String> = (0..40_000).map(|i| format!("\"{i}.q_proj\"")).collect();
            f.write_all(tiny::ADAPTER_CONFIG.replace("\"q_proj\"", &names.join(",")).as_bytes())
        }),
        bomb(
            How::Adapter,
            "a pattern of 1000 x 1000 x 1000",
            "adapter_config.json",
            "not a regular expression",
            |f| {
                let pattern = "\"((a{1000}){1000}){1000}\"";
                f.write_all(tiny::ADAPTER_CONFIG.replace("[\"q_proj\"]", pattern).as_bytes())
            },
        ),
        bomb(How::Adapter, "20,000 patterns of ranks", "adapter_config.json", "more than", |f| {
            let patterns: Vec<String> = (0..20_000).map(|i| format!("\"{i}\\\\pL{{50}}\":1")).collect();
            let patterns = format!("\"rank_pattern\":{{{}}},\"r\":1", patterns.join(","));
            f.write_all(tiny::ADAPTER_CONFIG.replace("\"r\":1", &patterns).as_bytes())
        }),
        // Rows.
        bomb(How::Rows, "10,000 deep", "rows.jsonl", "not valid JSON", |f| deep(f, "{\"messages\":")),
        bomb(How::Rows, "10,000 deep messages", "rows.jsonl", "not valid JSON", |f| {
            f.write_all(r#"{"messages":[{"role":"user","content":["#.as_bytes())?;
            f.write_all(r#"{"a":["#.repeat(10_000).as_bytes())
        }),
        bomb(How::Rows, "8 MiB of zeros", "rows.jsonl", "more than 262144 values", |f| {
            flat(f, "{\"messages\":[", (8 << 20) - 64, "0]}\n")
        }),
        bomb(How::Rows, "8 MiB of zeros in a text", "rows.jsonl", "a list", |f| {
            flat(f, "{\"messages\":\"[", (8 << 20) - 64, "0]\"}\n")
        }),
        bomb(How::Rows, "a row of 1 TB, sparse", "rows.jsonl", "longer than", |f| f.set_len(1 << 40)),
        bomb(How::Rows, "a list of 1 TB, sparse", "rows.json", "longer than", |f| {
            f.write_all(b"[\"")?;
            f.set_len(1 << 40)
        }),
        bomb(How::Rows, "a million columns", "rows.csv", "more than 4096 columns", |f| {
            f.write_all(&b",".repeat(1_000_000))
        }),
        bomb(How::Rows, "a quote without its end, 1 TB", "rows.csv", "longer than", |f| {
            f.write_all(b"instruction,output\n\"")?;
            f.set_len(1 << 40)
        }),
        bomb(How::Rows, "a row of 10 GiB in gzip", "rows.jsonl.gz", "longer than", |f| blanks(f, gzip)),
        bomb(How::Rows, "a row of 10 GiB in zstd", "rows.jsonl.zst", "longer than", |f| blanks(f, zstd)),
        bomb(How::Rows, "a page of 128 MiB in 5 KB", "rows.parquet", "bytes unfolds to 134218", |f| {
            parquet(f, "zstd", BLANKS)
        }),
        bomb(How::Rows, "a page that says 2 GiB", "rows.parquet", "unfolds to 2147483647", |f| {
            parquet(f, "zstd", MOST)
        }),
        bomb(How::Rows, "a page that says 100 bytes", "rows.parquet", "more than the 100 bytes", |f| {
            parquet(f, "gzip", HUNDRED)
        }),
        // Templates.
        bomb(How::Template, "a loop of 10^9", "t.jinja", "the chat template was stopped", |f| {
            f.write_all(b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
        }),
        bomb(How::Template, "output without end", "t.jinja", "the chat template was stopped", |f| {
            f.write_all(b"{% set x = 'x' * 100000 %}{% for i in range(99999) %}{{ x }}{% endfor %}")
        }),
        bomb(How::Template, "a text that doubles", "t.jinja", "chat template", |f| {
            f.write_all(b"{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}")
        }),
        bomb(How::Template, "a macro that calls itself", "t.jinja", "chat template", |f| {
            f.write_all(b"{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}")
        }),
        bomb(How::Template, "64,000 brackets", "t.jinja", "chat template", |f| {
            f.write_all(format!("{{{{ {} }}}}", "(".repeat(64_000)).as_bytes())
        }),
        bomb(How::Template, "1 TB, sparse", "t.jinja", "more than the 131072", |f| f.set_len(1 << 40)),
        // Checkpoints.
        bomb(How::Checkpoint, "10,000 deep", "state.json", "not a state", |f| {
            deep(f, "{\"format\":1,\"identity\":")
        }),
        bomb(How::Checkpoint, "1 MiB of zeros", "state.json", "not a state", |f| {
            flat(f, "{\"format\":1,\"identity\":{\"a\":[", 1 << 20, "0]}}")
        }),
        bomb(How::Checkpoint, "1 TB, sparse", "state.json", "more than", |f| f.set_len(1 << 40)),
        bomb(How::Checkpoint, "a step of 2^64-1", "state.json", "no run has counted to", |f| {
            let guard = json!({"skipped": 0, "in_a_row": 0, "losses": []});
            let state = json!({"step": u64::MAX, "position": {"epoch": 0, "sample": 0}, "updates": 0,
                "metrics_lines": 0, "evaluation_lines": 0, "evaluated": null, "best": null, "guard": guard});
            write!(f, "{}", json!({"format": 1, "clock": 0, "state": state, "identity": {}}))
        }),
        bomb(How::Checkpoint, "1 TB, sparse", "config.toml", "more than", |f| f.set_len(1 << 40)),
    ]
}

/// A metadata entry with a list of one item, many times; written in pieces, since the memory of this process counts for
/// those it starts.
fn list(file: &mut File, key: &str, kind: u32, item: &[u8], count: u64) -> std::io::Result<()> {
    let key = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    file.write_all(&[&key[..], &9u32.to_le_bytes(), &kind.to_le_bytes(), &count.to_le_bytes()].concat())?;
    let piece = item.repeat(1 << 12);
    (0..count >> 12).try_for_each(|_| file.write_all(&piece))
}

fn counts_of(tensors: u64, entries: u64) -> Vec<u8> {
    [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

/// What a run of the binary took.
struct Cost {
    peak_bytes: u64,
    time: Duration,
    succeeded: bool,
    stderr: String,
}

/// A place with files that are as they should be.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let place = Place { dir };
        fs::create_dir(place.path("folder")).expect("made");
        for entry in fs::read_dir(MODEL).expect("a fixture").map(|entry| entry.expect("an entry")) {
            if entry.file_type().expect("a type").is_file() {
                fs::copy(entry.path(), place.path("folder").join(entry.file_name())).expect("copied");
            }
        }
        fs::create_dir(place.path("adapter")).expect("made");
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(Path::new(MODEL).join("adapter").join(name), place.path("adapter").join(name))
                .expect("copied");
        }
        fs::write(place.path("rows.jsonl"), format!("{ROW}\n{ROW}\n")).expect("written");
        fs::copy(Path::new(MODEL).join("chat_template.jinja"), place.path("t.jinja")).expect("copied");
        let gguf = Path::new(MODEL).join("../../gguf/chat_bpe-f32.gguf");
        fs::copy(gguf, place.path("model.gguf")).expect("copied");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn arguments(how: How, file: &str) -> Vec<&str> {
        match how {
            How::Folder => vec!["generate", "--model", "folder", "--prompt", "why", "--max-new-tokens", "1"],
            How::Gguf => {
                vec!["generate", "--model", "model.gguf", "--prompt", "why", "--max-new-tokens", "1"]
            }
            How::Adapter => vec![
                "generate",
                "--model",
                MODEL,
                "--adapter",
                "adapter",
                "--prompt",
                "why",
                "--max-new-tokens",
                "1",
            ],
            // The cache is keyed by the content of a file, however long it is.
            How::Rows => vec!["data", file, "--model", MODEL, "--no-cache"],
            How::Template => vec!["data", "rows.jsonl", "--model", MODEL, "--template", "t.jinja"],
            How::Checkpoint => vec!["train", "--resume", "run"],
        }
    }

    /// Where the file of a bomb goes.
    fn target(&self, bomb: &Bomb) -> PathBuf {
        match bomb.how {
            How::Folder => self.path("folder").join(bomb.file),
            How::Adapter => self.path("adapter").join(bomb.file),
            How::Checkpoint => self.path("run/checkpoints/step-00000001").join(bomb.file),
            How::Gguf | How::Rows | How::Template => self.path(bomb.file),
        }
    }

    /// Runs the binary to its end.
    #[expect(clippy::zombie_processes, reason = "`wait` waits for it, by a call that tells its memory")]
    fn run(&self, arguments: &[&str]) -> Cost {
        let stderr = self.path("stderr");
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_lorafit"))
            .current_dir(self.dir.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("made"))
            .spawn()
            .expect("starts");
        let (status, peak_bytes) = wait(child.id());
        let stderr = fs::read_to_string(stderr).expect("text");
        Cost { peak_bytes, time: started.elapsed(), succeeded: status == 0, stderr }
    }
}

/// Waits for a process; its status and the most memory it had.
fn wait(process: u32) -> (i32, u64) {
    let mut status = 0;
    // SAFETY: an all-zero `rusage` is valid, and both are valid for the write. The process is ours, and nobody else waits
    // for it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(process as i32, &mut status, 0, &mut usage), process as i32);
        usage
    };
    // In KiB on Linux.
    (status, usage.ru_maxrss as u64 * 1024)
}

/// Makes a run with one checkpoint in the place.
fn train(place: &Place) {
    let cost = place.run(&[
        "train",
        "--model",
        MODEL,
        "--data",
        "rows.jsonl",
        "--out",
        "run",
        "--epochs",
        "2",
        "--batch-size",
        "2",
        "--checkpoint-every",
        "1",
        "--keep-checkpoints",
        "1",
    ]);
    assert!(cost.succeeded, "{}", cost.stderr);
    // As if it had been killed after its first step.
    let folder = place.path("run/checkpoints");
    fs::rename(folder.join("step-00000002"), folder.join("step-00000001")).expect("renamed");
}

/// Makes the sums of a checkpoint those of its files, as who forges one would. Files too large to read keep theirs.
fn forge(checkpoint: &Path) {
    let sums = fs::read_to_string(checkpoint.join("BLAKE3SUMS")).expect("sums");
    let line = |line: &str| {
        let name = line.split_once("  ").expect("a sum and a name").1;
        let path = checkpoint.join(name);
        match fs::metadata(&path).expect("there").len() < 64 * MIB {
            true => format!("{}  {name}\n", blake3::hash(&fs::read(&path).expect("read")).to_hex()),
            false => format!("{line}\n"),
        }
    };
    fs::write(checkpoint.join("BLAKE3SUMS"), sums.lines().map(line).collect::<String>()).expect("written");
}

fn explode(how: How) {
    let place = Place::new();
    if how == How::Checkpoint {
        train(&place);
    }
    let good = place.run(&Place::arguments(how, "rows.jsonl"));
    assert!(good.succeeded, "{how:?}: {}", good.stderr);
    if how == How::Checkpoint {
        fs::remove_dir_all(place.path("run")).expect("removed");
        train(&place);
    }
    for bomb in bombs().into_iter().filter(|bomb| bomb.how == how) {
        let target = place.target(&bomb);
        let before = fs::read(&target).ok();
        // An index beside a single file is left over, and not read.
        let (single, aside) = (target.with_file_name("model.safetensors"), place.path("aside"));
        let is_index = bomb.file == "model.safetensors.index.json";
        if is_index {
            fs::rename(&single, &aside).expect("moved");
        }
        let mut file = File::create(&target).expect("made");
        (bomb.write)(&mut file).expect("written");
        drop(file);
        let found = fs::metadata(&target).expect("there");
        // What a sparse file has on the disk, which is what somebody had to send.
        let size = found.len().min(std::os::unix::fs::MetadataExt::blocks(&found) * 512);
        if how == How::Checkpoint {
            forge(target.parent().expect("a folder"));
        }
        let cost = place.run(&Place::arguments(how, bomb.file));
        let name = format!("{}: {}", bomb.file, bomb.what);
        let growth = cost.peak_bytes.saturating_sub(good.peak_bytes);
        if std::env::var_os("LORAFIT_BOMBS_TABLE").is_some() {
            let mib = |bytes: u64| bytes as f64 / MIB as f64;
            let extra = cost.time.saturating_sub(good.time).as_millis();
            println!("| `{}` | {} | {:.2} | {extra} | {:.0} |", bomb.file, bomb.what, mib(size), mib(growth));
        }
        assert!(!cost.succeeded, "{name}: accepted");
        assert!(cost.stderr.contains(bomb.error), "{name}: {}", cost.stderr);
        assert!(!cost.stderr.contains("panicked"), "{name}: {}", cost.stderr);
        assert!(cost.stderr.len() < 10_000, "{name}: the error has {} bytes", cost.stderr.len());
        assert!(growth <= 2 * size + 64 * MIB, "{name}: {growth} bytes more, the file has {size}");
        assert!(cost.time < LONGEST, "{name}: {:?}", cost.time);
        match before {
            Some(bytes) => fs::write(&target, bytes).expect("written"),
            None => fs::remove_file(&target).expect("removed"),
        }
        if is_index {
            fs::rename(&aside, &single).expect("moved");
        }
        if how == How::Checkpoint {
            // A damaged checkpoint is set aside.
            fs::remove_dir_all(place.path("run")).expect("removed");
            train(&place);
        }
    }
}

#[test]
fn bombs_in_model_folders_are_refused_in_little_memory_and_time() {
    explode(How::Folder);
}

#[test]
fn bombs_in_gguf_files_are_refused_in_little_memory_and_time() {
    explode(How::Gguf);
}

#[test]
fn bombs_in_adapters_are_refused_in_little_memory_and_time() {
    explode(How::Adapter);
}

#[test]
fn bombs_in_rows_are_refused_in_little_memory_and_time() {
    explode(How::Rows);
}

#[test]
fn bombs_in_templates_are_refused_in_little_memory_and_time() {
    explode(How::Template);
}

#[test]
fn bombs_in_checkpoints_are_refused_in_little_memory_and_time() {
    explode(How::Checkpoint);
}
