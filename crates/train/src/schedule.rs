//! Learning rate over the steps of a run, with the formulas of transformers' schedulers.

use std::fmt;
use std::str::FromStr;

/// The shape after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Falls to zero in a straight line.
    Linear,
    /// Falls to zero along half a cosine.
    #[default]
    Cosine,
    /// Stays at the peak, then falls to zero along half a cosine in its last steps (warm-up, stable, decay; Hu et al. 2024).
    Wsd,
}

impl ScheduleKind {
    /// All kinds, by name.
    pub const ALL: [(&'static str, ScheduleKind); 4] = [
        ("constant", ScheduleKind::Constant),
        ("linear", ScheduleKind::Linear),
        ("cosine", ScheduleKind::Cosine),
        ("wsd", ScheduleKind::Wsd),
    ];
}

impl FromStr for ScheduleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found
            .map(|(_, kind)| kind)
            .ok_or_else(|| format!("`{text}` is not one of constant, linear, cosine, wsd"))
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// Share of the steps that warm up where none is given.
pub const WARMUP_RATIO: f64 = 0.03;
/// Runs of fewer steps have no warm-up where none is given: its first step has rate zero, and would be a large part of them.
pub const LEAST_WARMED_UP: u64 = 10;

/// The learning rate of every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub peak: f64,
    /// Steps of linear rise from zero; the first step has rate zero, as in transformers.
    pub warmup_steps: u64,
    /// Steps at the end in which [`ScheduleKind::Wsd`] falls.
    pub decay_steps: u64,
    /// Steps of the run, or of its round.
    pub total_steps: u64,
    /// Steps of the rounds before, in a run that was restarted.
    pub earlier_steps: u64,
}

impl Schedule {
    /// A schedule whose warm-up and decay take these shares of the steps, both rounded up as in transformers; together no more than
    /// all. Without a share of its own the warm-up takes [`WARMUP_RATIO`], and of fewer steps than [`LEAST_WARMED_UP`] none.
    pub fn with_ratios(
        kind: ScheduleKind,
        peak: f64,
        warmup_ratio: Option<f64>,
        decay_ratio: f64,
        total_steps: u64,
    ) -> Self {
        let share = |ratio: f64| (ratio * total_steps as f64).ceil() as u64;
        let warmup_steps = match warmup_ratio {
            Some(ratio) => share(ratio),
            None if total_steps < LEAST_WARMED_UP => 0,
            None => share(WARMUP_RATIO),
        };
        let decay_steps = share(decay_ratio).min(total_steps.saturating_sub(warmup_steps));
        Schedule { kind, peak, warmup_steps, decay_steps, total_steps, earlier_steps: 0 }
    }

    /// Whether no step of it changes anything: all are at the beginning of the warm-up.
    pub fn is_idle(&self) -> bool {
        (1..=self.total_steps).all(|step| self.rate(self.earlier_steps + step) == 0.0)
    }

    /// The same course, begun after so many steps.
    pub fn after(self, earlier_steps: u64) -> Self {
        Schedule { earlier_steps, ..self }
    }

    /// The rate of step `step`, counted from 1; after the steps of earlier rounds.
    pub fn rate(&self, step: u64) -> f64 {
        let done = step - 1 - self.earlier_steps;
        if done < self.warmup_steps {
            return self.peak * done as f64 / self.warmup_steps as f64;
        }
        let left = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((done - self.warmup_steps) as f64 / left).min(1.0);
        let half_cosine = |progress: f64| 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => 1.0 - progress,
                ScheduleKind::Cosine => half_cosine(progress),
                ScheduleKind::Wsd => {
                    let falling = (done + self.decay_steps).saturating_sub(self.total_steps) as f64;
                    half_cosine((falling / self.decay_steps.max(1) as f64).min(1.0))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get_cosine_schedule_with_warmup` and its siblings of transformers, 2 warm-up steps of 6; of `get_wsd_schedule` the last 3
    /// decay.
    #[test]
    fn rates_are_those_of_transformers() {
        for (kind, expected) in [
            (ScheduleKind::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
            (ScheduleKind::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
            (ScheduleKind::Cosine, [0.0, 0.5, 1.0, 0.853_553_390_6, 0.5, 0.146_446_609_4]),
            (ScheduleKind::Wsd, [0.0, 0.5, 1.0, 1.0, 0.75, 0.25]),
        ] {
            let schedule = Schedule {
                kind,
                peak: 1.0,
                warmup_steps: 2,
                decay_steps: 3,
                total_steps: 6,
                earlier_steps: 0,
            };
            for (step, expected) in (1..).zip(expected) {
                let rate = schedule.rate(step);
                assert!((rate - expected).abs() < 1e-9, "{kind} step {step}: {rate}, expected {expected}");
            }
        }
    }

    /// `get_wsd_schedule` (`scripts/make_training_fixtures.py`).
    #[test]
    fn wsd_is_that_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/training/wsd.json");
        let text = std::fs::read_to_string(path).expect("there");
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        for case in cases {
            let steps = |key: &str| case[key].as_u64().expect("a number");
            let (warmup_steps, decay_steps) = (steps("warmup_steps"), steps("decay_steps"));
            let (kind, total_steps) = (ScheduleKind::Wsd, steps("total_steps"));
            let schedule =
                Schedule { kind, peak: 1.0, warmup_steps, decay_steps, total_steps, earlier_steps: 0 };
            for (step, expected) in (1..).zip(case["rates"].as_array().expect("rates")) {
                let (rate, expected) = (schedule.rate(step), expected.as_f64().expect("a rate"));
                assert!((rate - expected).abs() < 1e-12, "step {step} of {case}: {rate}");
            }
        }
    }

    /// The longest stable part there can be, and none.
    #[test]
    fn warm_up_and_decay_share_the_steps() {
        let rates = |warmup, decay| -> Vec<f64> {
            let schedule = Schedule::with_ratios(ScheduleKind::Wsd, 1.0, Some(warmup), decay, 4);
            (1..=4).map(|step| (schedule.rate(step) * 1e6).round() / 1e6).collect()
        };
        assert_eq!(rates(0.0, 0.0), [1.0; 4]);
        assert_eq!(rates(0.5, 0.5), [0.0, 0.5, 1.0, 0.5]);
        // Rounded up, both would be longer than the run.
        assert_eq!(rates(0.6, 0.4), [0.0, 0.333_333, 0.666_667, 1.0]);
    }

    #[test]
    fn a_round_has_the_course_of_a_run() {
        let run = Schedule::with_ratios(ScheduleKind::Cosine, 1.0, Some(0.25), 0.0, 8);
        let round = run.after(100);
        (1..=8).for_each(|step| assert_eq!(run.rate(step), round.rate(100 + step)));
    }

    /// `TrainingArguments(warmup_ratio=0.03)` of transformers gives a run of one step one step to warm up, at rate zero.
    #[test]
    fn every_step_of_a_short_run_trains_unless_a_warm_up_is_given() {
        let of = |kind, warmup, steps| Schedule::with_ratios(kind, 1.0, warmup, 0.2, steps);
        for (_, kind) in ScheduleKind::ALL {
            for steps in 1..LEAST_WARMED_UP {
                let schedule = of(kind, None, steps);
                assert!((1..=steps).all(|step| schedule.rate(step) > 0.0), "{kind}, {steps} steps");
                assert!(!schedule.is_idle());
            }
            assert!(of(kind, Some(0.03), 1).is_idle() && !of(kind, Some(0.03), 2).is_idle(), "{kind}");
            for steps in [LEAST_WARMED_UP, 33, 34, 1000] {
                assert_eq!(of(kind, None, steps), of(kind, Some(WARMUP_RATIO), steps));
                assert_eq!(of(kind, None, steps).rate(1), 0.0);
            }
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for (name, kind) in ScheduleKind::ALL {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        assert!("exponential".parse::<ScheduleKind>().is_err());
    }
}
