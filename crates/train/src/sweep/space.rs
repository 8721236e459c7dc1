//! The options that are searched: every combination of listed values, or seeded draws.

use lorafit_kernels::random::mix;
use serde_json::{Map, Number, Value};

/// The options of one trial by their flags' names.
pub type Options = Map<String, Value>;

/// More trials than this are a mistake in the file.
pub const MAX_TRIALS: usize = 10_000;
/// Draws in a row that repeat earlier trials before a space counts as exhausted.
const MOST_REPEATS: u64 = 1_000;

/// The values an option may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Axis {
    /// One of these.
    Choice(Vec<Value>),
    /// Evenly from `low` to `high`; whole numbers where both bounds are, ends included.
    Uniform {
        /// The lowest.
        low: Number,
        /// The highest.
        high: Number,
    },
    /// As [`Axis::Uniform`], evenly in the logarithm.
    LogUniform {
        /// The lowest, above 0.
        low: Number,
        /// The highest.
        high: Number,
    },
}

/// Why a space has no such trials.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpaceError {
    /// A range has no end of values.
    #[error("`{name}` is a range, which has no grid")]
    Range {
        /// The option.
        name: String,
    },
    /// The combinations are too many.
    #[error("the search has more than {MAX_TRIALS} trials")]
    TooMany,
}

/// Options with their values, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Space(pub Vec<(String, Axis)>);

impl Space {
    /// Every combination; the last option varies fastest.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn grid(&self) -> Result<Vec<Options>, SpaceError> {
        let mut trials = vec![Options::new()];
        for (name, axis) in &self.0 {
            let Axis::Choice(values) = axis else { return Err(SpaceError::Range { name: name.clone() }) };
            if trials.len() * values.len() > MAX_TRIALS {
                return Err(SpaceError::TooMany);
            }
            let with = |options: &Options, value: &Value| {
                let mut options = options.clone();
                options.insert(name.clone(), value.clone());
                options
            };
            trials = trials
                .iter()
                .flat_map(|options| values.iter().map(move |value| with(options, value)))
                .collect();
        }
        Ok(trials)
    }

    /// `trials` different draws, or as many as there are. More trials begin with those of fewer.
    pub fn draws(&self, trials: usize, seed: u64) -> Vec<Options> {
        let mut drawn: Vec<Options> = Vec::new();
        let (mut position, mut repeats) = (0, 0);
        while drawn.len() < trials.min(MAX_TRIALS) && repeats < MOST_REPEATS {
            let draw = self.draw(mix(seed ^ mix(position)));
            position += 1;
            if drawn.contains(&draw) {
                repeats += 1;
            } else {
                repeats = 0;
                drawn.push(draw);
            }
        }
        drawn
    }

    fn draw(&self, bits: u64) -> Options {
        let at = |(i, (name, axis)): (usize, &(String, Axis))| {
            let uniform = (mix(bits ^ mix(i as u64)) >> 11) as f64 / (1u64 << 53) as f64;
            (name.clone(), axis.at(uniform))
        };
        self.0.iter().enumerate().map(at).collect()
    }
}

impl Axis {
    /// The value at `place` in [0, 1) of the distribution.
    fn at(&self, place: f64) -> Value {
        match self {
            Axis::Choice(values) => values[(place * values.len() as f64) as usize].clone(),
            Axis::Uniform { low, high } => between(low, high, |x| x, |x| x, place),
            Axis::LogUniform { low, high } => between(low, high, f64::ln, f64::exp, place),
        }
    }
}

/// The value at `place` between two numbers after `map`, whose inverse is `back`. Each whole number has the part of the
/// distribution within a half of it.
fn between(low: &Number, high: &Number, map: fn(f64) -> f64, back: fn(f64) -> f64, place: f64) -> Value {
    let value = |low: f64, high: f64| back(map(low) + place * (map(high) - map(low)));
    if let (Some(low), Some(high)) = (low.as_u64(), high.as_u64()) {
        let found = value(low as f64 - 0.5, high as f64 + 0.5).round() as u64;
        return found.clamp(low, high).into();
    }
    let (low, high) = (low.as_f64().unwrap_or(0.0), high.as_f64().unwrap_or(0.0));
    // Four digits are as many as anyone reads, and make a command that gives the same number.
    let text = format!("{:.3e}", value(low, high).clamp(low, high));
    Number::from_f64(text.parse().unwrap_or(low)).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn space(axes: &[(&str, Axis)]) -> Space {
        Space(axes.iter().map(|(name, axis)| ((*name).to_owned(), axis.clone())).collect())
    }

    fn choice(values: &[i64]) -> Axis {
        Axis::Choice(values.iter().map(|&v| v.into()).collect())
    }

    fn range(low: &Value, high: &Value) -> (Number, Number) {
        (low.as_number().expect("a number").clone(), high.as_number().expect("a number").clone())
    }

    fn log_uniform(low: Value, high: Value) -> Axis {
        let (low, high) = range(&low, &high);
        Axis::LogUniform { low, high }
    }

    fn uniform(low: Value, high: Value) -> Axis {
        let (low, high) = range(&low, &high);
        Axis::Uniform { low, high }
    }

    #[test]
    fn a_grid_is_every_combination_the_last_option_fastest() {
        let trials = space(&[("rank", choice(&[8, 16])), ("alpha", choice(&[1, 2]))]).grid().expect("a grid");
        let expected = [(8, 1), (8, 2), (16, 1), (16, 2)];
        let found: Vec<Value> = trials.into_iter().map(Value::Object).collect();
        assert_eq!(found, expected.map(|(rank, alpha)| json!({ "rank": rank, "alpha": alpha })));
        assert_eq!(Space::default().grid().expect("a grid").len(), 1, "nothing searched is one trial");
    }

    #[test]
    fn what_has_no_grid_is_refused() {
        let lr = space(&[("lr", uniform(json!(0.1), json!(0.2)))]);
        assert_eq!(lr.grid(), Err(SpaceError::Range { name: "lr".into() }));
        let hundred = choice(&(0..101).collect::<Vec<i64>>());
        assert_eq!(space(&[("a", hundred.clone()), ("b", hundred)]).grid(), Err(SpaceError::TooMany));
    }

    #[test]
    fn draws_depend_on_the_seed_alone_and_more_begin_with_fewer() {
        let space = space(&[("lr", log_uniform(json!(1e-5), json!(1e-3))), ("rank", choice(&[4, 8, 16]))]);
        let twenty = space.draws(20, 7);
        assert_eq!(twenty, space.draws(20, 7));
        assert_eq!(twenty[..5], space.draws(5, 7));
        assert_ne!(twenty[..5], space.draws(5, 8));
    }

    #[test]
    fn draws_are_different_and_end_where_the_space_does() {
        let mut found = space(&[("rank", choice(&[4, 8, 16]))]).draws(9, 0);
        found.sort_by_key(|options| options["rank"].as_u64());
        let found: Vec<Value> = found.into_iter().map(Value::Object).collect();
        assert_eq!(found, [4, 8, 16].map(|rank| json!({ "rank": rank })));
    }

    /// Of 4,000 draws each half of the range has 2,000, give or take five standard errors (of 32).
    #[test]
    fn ranges_are_drawn_evenly_in_their_measure() {
        for (axis, low, middle, high) in [
            (log_uniform(json!(1e-5), json!(1e-3)), 1e-5, 1e-4, 1e-3),
            (uniform(json!(-1.0), json!(3)), -1.0, 1.0, 3.0),
        ] {
            let places = (0..4000).map(|i| (mix(i) >> 11) as f64 / (1u64 << 53) as f64);
            let values: Vec<f64> = places.map(|place| axis.at(place).as_f64().expect("a number")).collect();
            assert!(values.iter().all(|v| (low..=high).contains(v)));
            let below = values.iter().filter(|v| **v < middle).count();
            assert!((1840..=2160).contains(&below), "{below}");
        }
    }

    #[test]
    fn whole_bounds_draw_whole_numbers_ends_included() {
        for axis in [uniform(json!(1), json!(4)), log_uniform(json!(1), json!(4))] {
            let mut seen: Vec<u64> =
                (0..100).map(|i| axis.at(i as f64 / 100.0).as_u64().expect("whole")).collect();
            seen.dedup();
            assert_eq!(seen, [1, 2, 3, 4]);
        }
    }
}
