//! Which samples make up which optimizer step.
//!
//! An epoch visits every sample once, shuffled by Fisher-Yates with SplitMix64 (Steele, Lea and Flood 2014), or in
//! file order. Both are written out here and not taken from a crate, so that a seed means the same order in every
//! version. The order of an epoch depends on the seed and the epoch's number only, so a run resumes anywhere without
//! replaying what came before.

use serde::{Deserialize, Serialize};

/// SplitMix64: a 64-bit state stepped by a constant, each state hashed to one output.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

/// The order in which an epoch visits the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are in the file.
    File,
    /// Shuffled anew in every epoch.
    Shuffled {
        /// The same seed gives the same orders.
        seed: u64,
    },
}

impl Order {
    /// The indices of `samples` samples in the order of an epoch (from 0).
    pub fn epoch(self, samples: usize, epoch: u64) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..samples).collect();
        if let Self::Shuffled { seed } = self {
            // Hashed separately, so that seed 1 epoch 0 is not seed 0 epoch 1.
            let mut random = SplitMix64(SplitMix64(seed).next() ^ SplitMix64(!epoch).next());
            for last in (1..samples).rev() {
                indices.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        indices
    }
}

/// A place between two optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Samples of the epoch already visited.
    pub sample: usize,
}

/// The samples of one optimizer step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The samples' indices.
    pub indices: Vec<usize>,
    /// Where to resume after this step.
    pub next: Position,
}

/// Steps without end, epoch after epoch; none when there are no samples.
#[derive(Debug, Clone)]
pub struct Steps {
    order: Order,
    samples: usize,
    per_step: usize,
    position: Position,
    /// The order of the epoch at `position`, once it is needed.
    epoch: Option<Vec<usize>>,
}

impl Steps {
    /// Steps of `batch_size * gradient_accumulation` samples from the beginning. The last step of an epoch takes what
    /// is left, so that steps never mix epochs and no sample is left out.
    pub fn new(samples: usize, order: Order, batch_size: usize, gradient_accumulation: usize) -> Self {
        let per_step = batch_size.saturating_mul(gradient_accumulation).max(1);
        Self { order, samples, per_step, position: Position::default(), epoch: None }
    }

    /// The same steps from `position` on, which a [`Step::next`] or [`Self::position`] told.
    #[must_use]
    pub fn resume(mut self, position: Position) -> Self {
        self.position = match position.sample >= self.samples && position.sample > 0 {
            true => Position { epoch: position.epoch + 1, sample: 0 },
            false => position,
        };
        self.epoch = None;
        self
    }

    /// Where the next step begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Steps in one epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.samples.div_ceil(self.per_step)
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.samples == 0 {
            return None;
        }
        let Position { epoch, sample } = self.position;
        let order = self.epoch.get_or_insert_with(|| self.order.epoch(self.samples, epoch));
        let end = sample.saturating_add(self.per_step).min(self.samples);
        let indices = order[sample..end].to_vec();
        self.position = Position { epoch, sample: end };
        if end == self.samples {
            self.position = Position { epoch: epoch + 1, sample: 0 };
            self.epoch = None;
        }
        Some(Step { indices, next: self.position })
    }
}

#[cfg(test)]
mod tests {
    use super::SplitMix64;

    #[test]
    fn splitmix64_gives_the_published_numbers() {
        // The first outputs of Vigna's splitmix64.c for seed 1234567.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert_eq!(random.next(), 9_817_491_932_198_370_423);
    }
}
