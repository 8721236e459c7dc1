//! What references said, kept from run to run: another beta or learning rate does not change it.

use std::time::Duration;

use lorafit_data::Samples;
use lorafit_data::cache::{Cache, Key};

use crate::run_error::{RunError, io_error};
use crate::stream::Cut;

/// An answer that took less is not kept, unless the cache keeps everything.
const WORTH_KEEPING: Duration = Duration::from_secs(2);

/// A cache, and who is asked.
#[derive(Clone, Debug)]
pub struct ReferenceCache {
    cache: Cache,
    /// All that decides the log-probabilities of given samples, but for how they are cut.
    key: Key,
}

impl ReferenceCache {
    /// Keeps answers in `cache`. `reference` has to have everything that decides their bits: the base and how it is computed with, the
    /// adapter of the reference, the program.
    pub fn new(cache: Cache, reference: &[(&str, String)]) -> Self {
        ReferenceCache { cache, key: Key::of_parts("log-probabilities of replies", reference) }
    }

    /// What is kept of samples that are cut in this way.
    pub(crate) fn find(&self, samples: &Samples, cut: Cut) -> Option<Vec<f64>> {
        let found = self.cache.open_values(&self.key_of(samples, cut))?;
        (found.len() == samples.len() && found.iter().all(|value| value.is_finite())).then_some(found)
    }

    /// Keeps what is said of samples, if it took long enough.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn keep(
        &self,
        samples: &Samples,
        cut: Cut,
        log_probabilities: &[f64],
        took: Duration,
    ) -> Result<(), RunError> {
        if took < WORTH_KEEPING && !self.cache.keeps_everything() {
            return Ok(());
        }
        let kept = self.cache.insert_values(&self.key_of(samples, cut), log_probabilities);
        kept.map_err(io_error(self.cache.folder()))
    }

    fn key_of(&self, samples: &Samples, cut: Cut) -> Key {
        let mut key = self.key.clone();
        key.add("samples", &samples.fingerprint());
        // Sums are in another order where samples are cut in another way.
        key.add("cut", format!("{cut:?}").as_bytes());
        key
    }
}
