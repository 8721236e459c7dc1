//! Axes: from values to places, round ticks, and the range of values without outliers.

use lorafit_remedy::amounts::grouped;

/// A range of values, which is never empty.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// The range of the values that can be shown.
    pub fn of(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let shown = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (low, high) = shown.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        match (low <= high, low < high, log) {
            (false, _, _) => Scale { low: if log { 0.1 } else { 0.0 }, high: 1.0, log },
            (true, true, _) => Scale { low, high, log },
            (true, false, true) => Scale { low: low / 2.0, high: high * 2.0, log },
            (true, false, false) => {
                let room = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
                Scale { low: low - room, high: high + room, log }
            }
        }
    }

    /// With zero and a twentieth of room above, for bars.
    pub fn with_zero(self) -> Self {
        let high = self.high.max(0.0);
        Scale { low: self.low.min(0.0), high: if high > 0.0 { high * 1.05 } else { 1.0 }, ..self }
    }

    /// With a little room at both ends.
    pub fn roomy(self) -> Self {
        let Scale { low, high, log } = self;
        if log {
            let room = (high / low).powf(0.04);
            return Scale { low: low / room, high: high * room, log };
        }
        let room = (high - low) * 0.05;
        // What has nothing below zero shows nothing below zero.
        let lowest = if low >= 0.0 { 0.0 } else { f64::MIN };
        Scale { low: (low - room).max(lowest), high: high + room, log }
    }

    /// Where `value` is between 0 and 1; nowhere if it cannot be shown.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        place.is_finite().then_some(place)
    }

    /// Round values within the range, about `wanted` of them, with their texts.
    pub fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        self.ticks_by(round_step((self.high - self.low) / wanted.max(1) as f64), wanted)
    }

    /// As [`Self::ticks`], with steps of that size where they are even.
    fn ticks_by(&self, step: f64, wanted: usize) -> Vec<(f64, String)> {
        let decades = (self.high / self.low).log10();
        // Even steps would leave the lower part of a longer logarithmic axis bare.
        let values = if self.log && decades >= 0.8 {
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let every = ((last - first) as usize).div_ceil(wanted.max(1)).max(1);
            let digits: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let powers = (first..=last).step_by(every).map(|power| 10f64.powi(power));
            powers.flat_map(|power| digits.iter().map(move |digit| digit * power)).collect()
        } else {
            let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
            (0..=(last - first).clamp(0.0, 100.0) as usize)
                .map(|i| (first + i as f64) * step)
                .collect::<Vec<_>>()
        };
        let inside =
            |value: &f64| *value >= self.low * (1.0 - 1e-9) - 1e-300 && *value <= self.high * (1.0 + 1e-9);
        with_texts(values.into_iter().filter(|v| self.low < 0.0 || inside(v)).collect())
    }

    /// As [`Self::ticks`], at whole numbers only: of counts there is nothing between.
    pub fn whole_ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        // Of few values each is marked.
        let span = (self.high - self.low).floor().max(1.0);
        let step = round_step(span / (wanted as f64).min(span)).max(1.0);
        let ticks = self.ticks_by(step, wanted).into_iter();
        ticks.filter(|(value, _)| (value - value.round()).abs() < 1e-9).collect()
    }

    /// The ends.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|s| *s >= step * 0.999)
        .unwrap_or(10.0 * power)
}

/// Values of one axis with their texts, all in one notation: 1e-3 beside 5e-4.
pub fn with_texts(values: Vec<f64>) -> Vec<(f64, String)> {
    let sizes = || values.iter().map(|value| value.abs()).filter(|size| *size > 0.0);
    let has_powers = sizes().any(|size| size < 1e-3) && sizes().all(|size| size < 0.1);
    let text = |value: f64| if has_powers && value != 0.0 { with_power(value) } else { short(value) };
    values.into_iter().map(|value| (value, text(value))).collect()
}

/// 0.0002 as `2e-4`.
fn with_power(value: f64) -> String {
    // A little more, for powers whose logarithm is rounded.
    let power = (value.abs().log10() + 1e-9).floor();
    format!("{}e{power}", trimmed(&format!("{:.2}", value / 10f64.powf(power))))
}

/// A number in little room: `0.25`, `1500`, `20k`, `3e-5`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size > 0.0 && !(1e-3..1e9).contains(&size) {
        return with_power(value);
    }
    match size {
        1e6.. => format!("{}M", trimmed(&format!("{:.2}", value / 1e6))),
        1e4.. => format!("{}k", trimmed(&format!("{:.2}", value / 1e3))),
        100.0.. => trimmed(&format!("{value:.1}")),
        1.0.. => trimmed(&format!("{value:.3}")),
        _ => trimmed(&format!("{value:.5}")),
    }
}

/// A number with so many decimals or, where they would tell nothing beside its size, with three digits: `8.04e17`, `107,000`.
pub fn measured(value: f64, decimals: usize) -> String {
    match value.abs() {
        size if !size.is_finite() || size < 1e4 => format!("{value:.decimals$}"),
        ..1e9 => {
            format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped(three_digits(value.abs()) as u64))
        }
        _ => short(three_digits(value)),
    }
}

/// A value of a continuous scale as it is read off: three digits of it.
pub fn three_digits(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn trimmed(digits: &str) -> String {
    let text = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Fewer values than these have no outliers.
const LEAST_VALUES: usize = 8;

/// The range of `values` without those that lie more than three times the range of the middle half beyond it (Tukey 1977,
/// "far out"), if there are such.
pub fn without_outliers(values: &[f64]) -> Option<[f64; 2]> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    if sorted.len() < LEAST_VALUES {
        return None;
    }
    let at = |share: f64| sorted[(share * (sorted.len() - 1) as f64).round() as usize];
    let (lower, upper) = (at(0.25), at(0.75));
    let reach = 3.0 * (upper - lower);
    let inside = |value: &&f64| (lower - reach..=upper + reach).contains(*value);
    let (low, high) = (sorted.iter().find(inside)?, sorted.iter().rev().find(inside)?);
    let all = *low == sorted[0] && *high == sorted[sorted.len() - 1];
    (!all && low < high).then_some([*low, *high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_three_digits() {
        let texts = [803_363_585_947_036_672.0, 107_204.93, -54_399.9, 9999.99, 0.25, f64::INFINITY];
        let texts = texts.map(|value| measured(value, 2));
        assert_eq!(texts, ["8.03e17", "107,000", "-54,400", "9999.99", "0.25", "inf"]);
    }

    #[test]
    fn numbers_take_little_room() {
        let values = [0.0, 0.25, 3e-5, -0.002, 1.0, 12.5, 1500.0, 20_000.0, 2.5e6, 1e12, -1e-9];
        let texts = ["0", "0.25", "3e-5", "-0.002", "1", "12.5", "1500", "20k", "2.5M", "1e12", "-1e-9"];
        assert_eq!(values.map(short), texts);
    }

    #[test]
    fn the_values_of_an_axis_have_one_notation() {
        let texts = |values: &[f64]| {
            with_texts(values.to_vec()).into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(texts(&[0.0, 5e-4, 1e-3]), ["0", "5e-4", "1e-3"]);
        assert_eq!(texts(&[1e-6, 1e-4, 0.01, 1.0]), ["1e-6", "1e-4", "0.01", "1"]);
        assert_eq!(texts(&[0.005, 0.01]), ["0.005", "0.01"]);
    }

    #[test]
    fn the_ends_of_a_scale_have_three_digits() {
        let texts = [0.345_789, -12.3456, 0.0, 1999.0, 1.0e-7].map(|value| short(three_digits(value)));
        assert_eq!(texts, ["0.346", "-12.3", "0", "2000", "1e-7"]);
    }

    #[test]
    fn ticks_are_round_few_and_inside() {
        for (low, high, log) in [
            (0.0, 1.0, false),
            (0.013, 0.77, false),
            (-3.0, 8.0, false),
            (1.0, 135.0, false),
            (1e-5, 1e-3, true),
            (1e-30, 1.0, true),
            (2.0, 9.0, true),
            (0.08, 1.1, true),
            (2.1, 13.5, true),
            (7.0, 7.0, false),
            (0.0, 0.0, false),
        ] {
            let scale = Scale::of([low, high].into_iter(), log);
            let ticks = scale.ticks(5);
            assert!((2..=12).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            for (value, _) in ticks {
                let place = scale.place(value).unwrap();
                assert!((-1e-6..=1.0 + 1e-6).contains(&place), "{value} of {low} to {high}");
            }
        }
    }

    #[test]
    fn a_logarithmic_axis_is_marked_at_both_ends() {
        let texts: Vec<String> =
            Scale::of([0.08, 1.1].into_iter(), true).ticks(5).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["0.1", "0.2", "0.5", "1"]);
    }

    #[test]
    fn values_that_cannot_be_shown_have_no_place() {
        let scale = Scale::of([f64::NAN, -1.0, 1.0, 100.0, f64::INFINITY].into_iter(), true);
        assert_eq!(scale.ends(), (1.0, 100.0));
        assert!(scale.place(0.0).is_none() && scale.place(-1.0).is_none() && scale.place(f64::NAN).is_none());
        assert!((scale.place(10.0).unwrap() - 0.5).abs() < 1e-12);
        assert!(Scale::of(std::iter::empty(), false).place(0.5).is_some());
    }

    #[test]
    fn counts_are_marked_at_whole_numbers() {
        for (low, high, log) in
            [(1.0, 3.0, false), (0.0, 1.0, false), (1.0, 2.0, true), (1.0, 1.0, false), (1.0, 300.0, true)]
        {
            let ticks = Scale::of([low, high].into_iter(), log).whole_ticks(6);
            assert!(!ticks.is_empty() && ticks.len() <= 12, "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|(value, _)| value.fract() == 0.0), "{ticks:?}");
        }
    }

    #[test]
    fn few_counts_are_marked_each() {
        let marked = |most: f64| {
            let scale = Scale::of([0.0, most].into_iter(), false).with_zero();
            scale.whole_ticks(5).into_iter().map(|(value, _)| value).collect::<Vec<_>>()
        };
        assert_eq!(marked(1.0), [0.0, 1.0]);
        assert_eq!(marked(4.0), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(marked(25.0), [0.0, 10.0, 20.0]);
    }

    #[test]
    fn one_value_far_out_does_not_set_the_range() {
        let mut values: Vec<f64> = (0..20).map(f64::from).collect();
        assert_eq!(without_outliers(&values), None);
        values.push(1e6);
        assert_eq!(without_outliers(&values), Some([0.0, 19.0]));
        assert_eq!(without_outliers(&[1.0, 1.0, 1e6]), None, "too few to say");
        assert_eq!(without_outliers(&[1.0; 30]), None);
        let mut level = vec![1.0; 30];
        level.push(5.0);
        assert_eq!(without_outliers(&level), None, "one colour for all others would tell nothing");
    }
}
