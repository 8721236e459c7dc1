//! Which rows are taken, and how often: weights of parts, and a division into training and validation.
//!
//! Rows are counted first, then drawn one by one as they come (Knuth, TAOCP 2, algorithm 3.4.2 S): exactly as many as
//! wanted, every choice as likely, in file order, and nothing is kept. Weights come first, so that the rows held out
//! are those of the mixture, and a row that is taken twice is on one side.

use crate::order::SplitMix64;

/// How many rows are kept out of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// This share of the rows, between 0 and 1.
    Share(f64),
    /// So many rows.
    Rows(usize),
    /// A tenth of the rows, at least 10 and at most 200, where there are 50 or more; else none.
    Auto,
}

impl HeldOut {
    /// Rows without which `Auto` holds out none: of fewer, training needs all.
    pub const LEAST_ROWS: usize = 50;

    /// How many of so many rows.
    fn of(self, rows: usize) -> usize {
        match self {
            Self::Share(share) => (share * rows as f64).round() as usize,
            Self::Rows(wanted) => wanted.min(rows),
            Self::Auto if rows < Self::LEAST_ROWS => 0,
            Self::Auto => (rows / 10).clamp(10, 200),
        }
    }
}

/// One side of a division into training and validation, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Subset {
    /// Every row.
    #[default]
    All,
    /// What is left when some are held out.
    Training(HeldOut),
    /// What is held out, each row once.
    Validation(HeldOut),
}

impl Subset {
    fn held_out(self) -> Option<HeldOut> {
        match self {
            Self::All => None,
            Self::Training(held_out) | Self::Validation(held_out) => Some(held_out),
        }
    }

    /// Whether the rows have to be counted before the first is taken from parts of these weights.
    pub(super) fn needs_count(self, mut weights: impl Iterator<Item = f64>) -> bool {
        self.held_out().is_some() || weights.any(|weight| weight.fract() != 0.0)
    }
}

/// Says for one row after the other how often it is taken.
pub(super) struct Choice {
    subset: Subset,
    parts: Vec<PartChoice>,
    held_out: Draw,
}

struct PartChoice {
    /// Each row is taken so often, and once more if it is drawn.
    whole: usize,
    again: Draw,
}

impl Choice {
    /// From the weight and the rows of each part; the rows don't matter where they [need no count](Subset::needs_count).
    pub fn new(subset: Subset, parts: &[(f64, usize)], seed: u64) -> Self {
        let mut seeds = SplitMix64::new(seed);
        let held_out_seed = seeds.next();
        let mut taken = 0;
        let parts = parts.iter().map(|&(weight, rows)| {
            let whole = weight.trunc() as usize;
            let again = (weight.fract() * rows as f64).round() as usize;
            taken += if whole > 0 { rows } else { again };
            PartChoice { whole, again: Draw::new(again, rows, seeds.next()) }
        });
        let parts = parts.collect();
        let wanted = subset.held_out().map_or(0, |held_out| held_out.of(taken));
        Self { subset, parts, held_out: Draw::new(wanted, taken, held_out_seed) }
    }

    /// How often the next row, of this part, is taken.
    pub fn times(&mut self, part: usize) -> usize {
        let PartChoice { whole, again } = &mut self.parts[part];
        let times = *whole + usize::from(again.next());
        if times == 0 {
            return 0;
        }
        match (self.subset, self.held_out.next()) {
            (Subset::All, _) | (Subset::Training(_), false) => times,
            (Subset::Validation(_), true) => 1,
            (Subset::Training(_), true) | (Subset::Validation(_), false) => 0,
        }
    }
}

/// Draws `wanted` of `left` rows.
struct Draw {
    wanted: u64,
    left: u64,
    random: SplitMix64,
}

impl Draw {
    fn new(wanted: usize, of: usize, seed: u64) -> Self {
        Self { wanted: wanted as u64, left: of as u64, random: SplitMix64::new(seed) }
    }

    /// Whether the next row is drawn. A file that grew since it was counted has no more.
    fn next(&mut self) -> bool {
        if self.wanted == 0 || self.left == 0 {
            return false;
        }
        let drawn = self.random.below(self.left) < self.wanted;
        self.left -= 1;
        self.wanted -= u64::from(drawn);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(subset: Subset, weight: f64, seed: u64) -> Vec<usize> {
        let mut choice = Choice::new(subset, &[(weight, 1000)], seed);
        (0..1000).map(|_| choice.times(0)).collect()
    }

    #[test]
    fn a_weight_is_how_often_rows_are_taken() {
        for (weight, want) in [(1.0, 1000), (2.0, 2000), (0.5, 500), (1.25, 1250), (0.001, 1)] {
            let times = taken(Subset::All, weight, 3);
            assert_eq!(times.iter().sum::<usize>(), want, "{weight}");
            let low = weight.trunc() as usize;
            assert!(times.iter().all(|&t| t == low || t == low + 1));
        }
        assert_eq!(taken(Subset::All, 0.5, 3), taken(Subset::All, 0.5, 3));
        assert_ne!(taken(Subset::All, 0.5, 3), taken(Subset::All, 0.5, 4));
    }

    #[test]
    fn auto_holds_out_a_tenth_within_bounds() {
        for (rows, want) in [(1, 0), (49, 0), (50, 10), (100, 10), (360, 36), (2000, 200), (100_000, 200)] {
            let times = |subset| {
                let mut choice = Choice::new(subset, &[(1.0, rows)], 7);
                (0..rows).map(|_| choice.times(0)).sum::<usize>()
            };
            assert_eq!(times(Subset::Validation(HeldOut::Auto)), want, "{rows}");
            assert_eq!(times(Subset::Training(HeldOut::Auto)), rows - want, "{rows}");
        }
    }

    #[test]
    fn training_and_validation_are_all_rows_and_share_none() {
        for held_out in [HeldOut::Share(0.05), HeldOut::Rows(50)] {
            for weight in [1.0, 2.0, 2.5] {
                let training = taken(Subset::Training(held_out), weight, 7);
                let validation = taken(Subset::Validation(held_out), weight, 7);
                assert_eq!(validation.iter().sum::<usize>(), 50);
                for (t, v) in training.iter().zip(&validation) {
                    assert!((*t == 0) == (*v == 1));
                }
            }
        }
        // Of a part of which a half is taken, 5 % of that half.
        let half = taken(Subset::Validation(HeldOut::Share(0.05)), 0.5, 7);
        assert_eq!(half.iter().sum::<usize>(), 25);
    }
}
