//! `--frozen-cache`: what the blocks below `--layers` make of the rows is computed once and kept in the cache.

use lorafit_data::Samples;
use lorafit_model::Config;
use lorafit_remedy::amounts::{counted, memory};
use lorafit_train::{FrozenCache, FrozenDtype, Identity, frozen_blocks};

use crate::args::base::ComputeChoice;
use crate::args::options::{FrozenCacheChoice, Init};
use crate::args::train::TrainArgs;
use crate::session::reference::of_the_base;
use crate::session::run::{Data, Shared};
use crate::session::trained::Trained;
use crate::terminal::error::CliError;

/// What `auto` keeps at most: half of what the cache holds before it removes what was unused for longest.
const MOST_BYTES: u64 = 16 << 30;
/// How many times as many tokens the frozen blocks have to compute without the cache for `auto` to use it.
const WORTHWHILE: f64 = 1.5;

impl TrainArgs {
    /// Decides how outputs of frozen blocks are kept where that is automatic, and refuses to keep them where that cannot be; the line
    /// that says it. The same data and settings always give the same choice.
    ///
    /// # Errors
    /// A choice that has no meaning here.
    pub fn settle_frozen(&mut self, shared: Shared<'_>, trained: &Trained) -> anyhow::Result<Option<String>> {
        let Shared { base, data, group, .. } = shared;
        let config = base.model.config();
        let blocks = frozen_blocks(config, trained.trainable())?;
        let asked = self.frozen_cache.unwrap_or(FrozenCacheChoice::Auto);
        let obstacle = [
            (
                blocks == 0,
                "no block is frozen below what is trained",
                "train the upper blocks alone: --layers 15-",
            ),
            (self.cache.no_cache, "--no-cache keeps nothing", "leave out --no-cache"),
            (self.cache.cache().is_none(), "there is no folder for the cache", "name one: --cache-dir DIR"),
            (
                self.neftune_alpha.is_some(),
                "--neftune-alpha changes what they read in every step",
                "leave out one of them",
            ),
            (self.init == Init::Random, "--init random draws other weights for every seed", "leave it out"),
            (group.size() > 1, "each of several processes computes other rows", "leave it out"),
        ];
        let obstacle = obstacle.into_iter().find(|(is_there, ..)| *is_there);
        match (asked, obstacle) {
            (FrozenCacheChoice::Off, _) | (FrozenCacheChoice::F32 | FrozenCacheChoice::Bf16, None) => {
                Ok(None)
            }
            (FrozenCacheChoice::Auto, None) => Ok(self.choose_frozen(blocks, config, data)),
            (FrozenCacheChoice::Auto, Some(_)) => {
                self.frozen_cache = None;
                Ok(None)
            }
            (choice, Some((_, why, hint))) => {
                let text = format!("--frozen-cache {choice} has no meaning here: {why}");
                Err(CliError::usage(text).hint(hint).into())
            }
        }
    }

    /// What `auto` is where outputs of so many blocks can be kept, and the line that says it.
    fn choose_frozen(&mut self, blocks: usize, config: &Config, data: &Data) -> Option<String> {
        let dtype = match self.compute.on(self.common.device, self.base.quant.is_some()) {
            ComputeChoice::F32 => FrozenDtype::F32,
            ComputeChoice::Bf16 | ComputeChoice::Int8 => FrozenDtype::Bf16,
        };
        let sets = || data.sets().map(|set| &set.samples);
        let bytes = sets().map(|samples| FrozenCache::most_bytes(samples, config, dtype)).sum();
        let passes = self.tokens_of_run(data) / sets().map(tokens_of).sum::<f64>();
        let blocks = counted(blocks, "frozen block", "frozen blocks");
        let (choice, line) = if passes < WORTHWHILE {
            (FrozenCacheChoice::Off, None)
        } else if bytes > MOST_BYTES {
            let line = format!("off, since the outputs of the {blocks} would take {} on disk", memory(bytes));
            (FrozenCacheChoice::Off, Some(line))
        } else {
            let choice = FrozenCacheChoice::of(dtype);
            let line = format!(
                "{choice}; each row passes the {blocks} once instead of {passes:.1} times, and their outputs take up to {} on disk",
                memory(bytes)
            );
            (choice, Some(line))
        };
        self.frozen_cache = Some(choice);
        line.map(|line| format!("--frozen-cache auto: {line}"))
    }

    /// The tokens that training and evaluations compute.
    fn tokens_of_run(&self, data: &Data) -> f64 {
        let options = self.loop_options();
        let rows = options.groups(&data.rows.samples).len();
        let steps = options.total_steps(rows);
        let rows_of_step = options.batch_size * options.gradient_accumulation;
        let epochs = (steps * rows_of_step as u64) as f64 / rows.max(1) as f64;
        // Before the first step, and after the last.
        let evaluations = 2 + options.eval_every.map_or(0, |every| steps.saturating_sub(1) / every.max(1));
        let held_out = data.held_out.as_ref().map_or(0.0, |held_out| tokens_of(&held_out.samples));
        epochs * tokens_of(&data.rows.samples) + evaluations as f64 * held_out
    }

    /// Where a run of this identity keeps what frozen blocks compute; `None` if nowhere.
    pub fn frozen_cache(&self, identity: &Identity) -> anyhow::Result<Option<FrozenCache>> {
        let dtype = match self.frozen_cache {
            Some(FrozenCacheChoice::F32) => FrozenDtype::F32,
            Some(FrozenCacheChoice::Bf16) => FrozenDtype::Bf16,
            Some(FrozenCacheChoice::Off | FrozenCacheChoice::Auto) | None => return Ok(None),
        };
        // Without it what the run computes from here on would differ in the last bits.
        let Some(cache) = self.cache.cache() else {
            let text = "the run keeps the outputs of its frozen blocks in a cache (--frozen-cache), and there is none";
            return Err(CliError::usage(text)
                .hint("leave out --no-cache, or name a folder with --cache-dir DIR")
                .into());
        };
        let Some(base) = of_the_base(self, identity)? else { return Ok(None) };
        Ok(Some(FrozenCache::new(cache, &base, dtype)))
    }
}

/// The tokens that one pass over samples computes, at most.
fn tokens_of(samples: &Samples) -> f64 {
    samples.iter().map(|sample| sample.inputs().len() as f64).sum()
}
