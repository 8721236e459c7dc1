//! Tokenised data that is kept: the same samples as without, found again only where everything is the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{CHATML, tiny_chatml, tiny_metadata};
use lorafit_data::{Cache, DataError, Dataset, Options, Part, Source, Tokenizer, TrainOn};

struct Fixture {
    folder: tempfile::TempDir,
    source: PathBuf,
    cache: Cache,
}

const ROWS: usize = 2500;

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("rows.jsonl");
    let row = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{i}\"}}, \
             {{\"role\": \"assistant\", \"content\": \"{}\"}}]}}\n",
            "xy ".repeat(i % 9) + "z"
        )
    };
    fs::write(&source, (0..ROWS).map(row).collect::<String>()).unwrap();
    let cache = Cache::new(folder.path().join("cache")).of_any_size();
    Fixture { folder, source, cache }
}

impl Fixture {
    /// The dataset, and whether it had to be tokenised.
    fn load(&self, tokenizer: &Tokenizer, options: Options) -> (Dataset, bool) {
        let mut rows = 0;
        let load =
            Dataset::load_cached(self.source.as_path(), tokenizer, options, &self.cache, &mut |done| {
                rows = done
            });
        assert!(rows == 0 || rows == ROWS, "{rows} rows");
        (load.unwrap(), rows > 0)
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache.folder()).map(|entries| entries.map(|e| e.unwrap().path()));
        let Ok(entries) = entries else { return vec![] };
        entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
    }
}

#[test]
fn cached_samples_are_those_of_memory_and_are_tokenised_once() {
    let fixture = fixture();
    let tokenizer = tiny_chatml();
    let in_memory = Dataset::load(&fixture.source, &tokenizer, Options::default()).unwrap();
    let (first, tokenised) = fixture.load(&tokenizer, Options::default());
    assert!(tokenised);
    // Another process has its own tokenizer.
    let (second, tokenised) = fixture.load(&tiny_chatml(), Options::default());
    assert!(!tokenised);
    for cached in [&first, &second] {
        assert_eq!(cached.samples, in_memory.samples);
        assert_eq!(cached.samples.fingerprint(), in_memory.samples.fingerprint());
        assert_eq!(cached.report, in_memory.report);
    }
}

#[test]
fn another_file_tokenizer_template_or_option_is_tokenised_anew() {
    let fixture = fixture();
    let tokenizer = tiny_chatml();
    let options = Options::default();
    assert!(fixture.load(&tokenizer, options).1);
    assert!(fixture.load(&tokenizer, Options { train_on: TrainOn::All, ..options }).1);
    assert!(fixture.load(&tokenizer, Options { max_seq_len: 100, ..options }).1);
    let other = |merges: &[&str], template: &str| {
        let mut meta = tiny_metadata("gpt-2", merges);
        meta.chat_template = Some(template.into());
        Tokenizer::from_gguf(meta).unwrap()
    };
    assert!(!fixture.load(&other(&[], CHATML), options).1);
    assert!(fixture.load(&other(&["x y"], CHATML), options).1);
    assert!(fixture.load(&other(&[], &CHATML.replace('\n', "\n\n")), options).1);
    let text = fs::read_to_string(&fixture.source).unwrap();
    fs::write(&fixture.source, text.replacen("xy", "yx", 1)).unwrap();
    assert!(fixture.load(&tokenizer, options).1);
    assert!(!fixture.load(&tokenizer, options).1);
    // The content counts, not the name.
    let renamed = fixture.folder.path().join("renamed");
    fs::rename(&fixture.source, &renamed).unwrap();
    assert!(!Fixture { source: renamed, ..fixture }.load(&tokenizer, options).1);
}

#[test]
fn a_template_that_tells_the_day_is_rendered_anew_each_day() {
    let fixture = fixture();
    let dated = |format: &str, clock: i64| {
        let mut meta = tiny_metadata("gpt-2", &[]);
        meta.chat_template = Some(format!("{{{{ strftime_now('{format}') }}}}{CHATML}"));
        let mut tokenizer = Tokenizer::from_gguf(meta).unwrap();
        tokenizer.set_clock(clock);
        tokenizer
    };
    let noon = 1_700_049_600;
    let tokenised = |format, clock| fixture.load(&dated(format, clock), Options::default()).1;
    assert!(tokenised("%d %b %Y", noon));
    assert!(!tokenised("%d %b %Y", noon + 60));
    assert!(tokenised("%d %b %Y", noon + 24 * 60 * 60));
    assert!(tokenised("%d %H", noon));
    assert!(tokenised("%d %H", noon + 60));
    assert_eq!(tiny_chatml().visible_clock(), None);
}

#[test]
fn a_bad_row_leaves_nothing_in_the_cache() {
    let fixture = fixture();
    let mut text = fs::read_to_string(&fixture.source).unwrap();
    text.push_str("{\"messages\": 7}\n");
    fs::write(&fixture.source, text).unwrap();
    let load = || {
        Dataset::load_cached(&fixture.source, &tiny_chatml(), Options::default(), &fixture.cache, &mut |_| ())
    };
    for _ in 0..2 {
        assert!(matches!(load(), Err(DataError::Row { place, .. }) if place.number == ROWS + 1));
        assert!(fixture.files("").iter().all(|f| f.extension() == Some("hash".as_ref())));
    }
}

#[test]
fn a_damaged_file_is_made_again() {
    let fixture = fixture();
    let whole = fixture.load(&tiny_chatml(), Options::default()).0;
    let path = fixture.files(".samples").pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (again, tokenised) = fixture.load(&tiny_chatml(), Options::default());
    assert!(tokenised);
    assert_eq!(again.samples.fingerprint(), whole.samples.fingerprint());
    assert!(!fixture.load(&tiny_chatml(), Options::default()).1);
}

#[test]
fn several_at_once_do_not_disturb_each_other() {
    let fixture = fixture();
    let expected = Dataset::load(&fixture.source, &tiny_chatml(), Options::default()).unwrap();
    std::thread::scope(|scope| {
        let load = || fixture.load(&tiny_chatml(), Options::default()).0;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().samples, expected.samples);
        }
    });
    assert_eq!(fixture.files(".samples").len(), 1);
}

#[test]
fn small_files_are_not_cached() {
    let fixture = fixture();
    let cache = Cache::new(fixture.cache.folder());
    Dataset::load_cached(&fixture.source, &tiny_chatml(), Options::default(), &cache, &mut |_| ()).unwrap();
    assert!(!cache.folder().exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let fixture = fixture();
    let folder = fixture.source.join("in a file");
    let cache = Cache::new(&folder).of_any_size();
    let load = Dataset::load_cached(&fixture.source, &tiny_chatml(), Options::default(), &cache, &mut |_| ());
    let error = load.unwrap_err();
    assert!(matches!(&error, DataError::Cache { path, .. } if path == &folder), "{error}");
    assert!(error.hint().unwrap().to_string().contains("cache_dir DIR"));
}

#[test]
fn a_missing_file_is_named() {
    let fixture = fixture();
    let missing = Path::new("/nonexistent/x.jsonl");
    let load = Dataset::load_cached(missing, &tiny_chatml(), Options::default(), &fixture.cache, &mut |_| ());
    assert!(matches!(load, Err(DataError::Io { path, .. }) if path == missing));
}

#[test]
fn rows_from_the_cache_are_told_by_the_files_of_today() {
    let fixture = fixture();
    let [first, second, renamed] = ["a.jsonl", "b.jsonl", "c.jsonl"].map(|n| fixture.folder.path().join(n));
    fs::copy(&fixture.source, &first).unwrap();
    fs::copy(&fixture.source, &second).unwrap();
    let load = |paths: [&PathBuf; 2], weight: f64, seed: u64| {
        let part = |path: &PathBuf| Part { location: path.to_str().unwrap().to_owned(), weight };
        let source = Source { seed, ..Source::new(paths.map(part).to_vec()) };
        let mut rows = 0;
        let options = Options::default();
        let data =
            Dataset::load_cached(source, &tiny_chatml(), options, &fixture.cache, &mut |done| rows = done)
                .unwrap();
        (data, rows > 0)
    };
    let (fresh, tokenised) = load([&first, &second], 1.0, 0);
    assert!(tokenised);
    fs::rename(&second, &renamed).unwrap();
    let (found, tokenised) = load([&first, &renamed], 1.0, 1);
    assert!(!tokenised, "neither a name nor a seed that decides nothing changes the rows");
    assert_eq!(found.samples, fresh.samples);
    let last = found.samples.iter().last().unwrap().row;
    assert!(fresh.origin.place(last).contains("b.jsonl"), "{}", fresh.origin.place(last));
    assert!(found.origin.place(last).contains("c.jsonl"), "{}", found.origin.place(last));
    // A half of the rows is drawn by the seed.
    assert!(load([&first, &renamed], 0.5, 1).1);
    assert!(load([&first, &renamed], 0.5, 2).1);
    assert!(!load([&first, &renamed], 0.5, 2).1);
}
