//! Loads rows as token ids, from the cache where it has them, and shows how it goes.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lorafit_data::{Cache, Dataset, Options, Source, Tokenizer};
use lorafit_remedy::amounts::{counted, duration, grouped};

use crate::args::cache::CacheArgs;
use crate::terminal::output;

/// Tokenising that took less is not worth a word.
const WORTH_TELLING: Duration = Duration::from_secs(2);
/// Rows between two looks at the clock.
const ROWS_UNTOLD: usize = 64;

/// Where tokenised data is kept unless a flag says otherwise.
pub fn default_cache_folder() -> Option<PathBuf> {
    // As the XDG base directory specification has it: a relative path is not looked at.
    let home = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cache")))?;
    Some(home.join("lorafit"))
}

impl CacheArgs {
    /// The cache; `None` if nothing is kept.
    pub fn cache(&self) -> Option<Cache> {
        if self.no_cache {
            return None;
        }
        // Who names a folder wants it used.
        if let Some(folder) = &self.cache_dir {
            return Some(Cache::new(folder).of_any_size());
        }
        default_cache_folder().map(Cache::new)
    }

    /// Loads a dataset, and shows how it goes unless `quiet`.
    pub fn load(
        &self,
        source: Source,
        tokenizer: &Tokenizer,
        options: Options,
        quiet: bool,
    ) -> anyhow::Result<Dataset> {
        let Some(cache) = self.cache() else { return Ok(Dataset::load(source, tokenizer, options)?) };
        let mut progress = Progress::new(quiet);
        let data = Dataset::load_cached(source, tokenizer, options, &cache, &mut |rows| progress.rows(rows));
        progress.finish();
        Ok(data?)
    }
}

/// Rows as they are tokenised: a line that changes on a terminal, one at the end elsewhere.
struct Progress {
    bar: ProgressBar,
    quiet: bool,
    started: Instant,
    rows: usize,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let hidden = quiet || !output::notes_are_on_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is a constant"));
        Progress { bar, quiet, started: Instant::now(), rows: 0 }
    }

    fn rows(&mut self, rows: usize) {
        // Hashing the file is not part of the rate.
        if self.rows == 0 {
            self.started = Instant::now();
        }
        self.rows = rows;
        if rows.is_multiple_of(ROWS_UNTOLD) {
            self.bar.set_message(format!("tokenising: {}", self.told()));
            self.bar.tick();
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        if !self.quiet && self.rows > 0 && self.started.elapsed() >= WORTH_TELLING {
            tell!("tokenised {}", self.told());
        }
    }

    fn told(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.rows as f64 / seconds.max(1e-3);
        let cores = rayon::current_num_threads();
        format!(
            "{} in {}, {} rows/s, {} on each of {}",
            counted(self.rows, "row", "rows"),
            duration(seconds),
            grouped(rate as u64),
            grouped((rate / cores as f64) as u64),
            counted(cores, "core", "cores")
        )
    }
}
