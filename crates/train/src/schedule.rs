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
}

impl ScheduleKind {
    /// All kinds, by name.
    pub const ALL: [(&'static str, ScheduleKind); 3] = [
        ("constant", ScheduleKind::Constant),
        ("linear", ScheduleKind::Linear),
        ("cosine", ScheduleKind::Cosine),
    ];
}

impl FromStr for ScheduleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| kind).ok_or_else(|| format!("`{text}` is not one of constant, linear, cosine"))
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// The learning rate of every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub peak: f64,
    /// Steps of linear rise from zero; the first step has rate zero, as in transformers.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

impl Schedule {
    /// A schedule whose warm-up takes `ratio` of the steps, rounded up.
    pub fn with_warmup_ratio(kind: ScheduleKind, peak: f64, ratio: f64, total_steps: u64) -> Self {
        let warmup_steps = (ratio * total_steps as f64).ceil() as u64;
        Schedule { kind, peak, warmup_steps, total_steps }
    }

    /// The rate of step `step`, counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        let done = step - 1;
        if done < self.warmup_steps {
            return self.peak * done as f64 / self.warmup_steps as f64;
        }
        let left = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((done - self.warmup_steps) as f64 / left).min(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => 1.0 - progress,
                ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get_cosine_schedule_with_warmup` and its siblings of transformers, 2 warm-up steps of 6.
    #[test]
    fn rates_are_those_of_transformers() {
        for (kind, expected) in [
            (ScheduleKind::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
            (ScheduleKind::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
            (ScheduleKind::Cosine, [0.0, 0.5, 1.0, 0.853_553_390_6, 0.5, 0.146_446_609_4]),
        ] {
            let schedule = Schedule { kind, peak: 1.0, warmup_steps: 2, total_steps: 6 };
            for (step, expected) in (1..).zip(expected) {
                let rate = schedule.rate(step);
                assert!((rate - expected).abs() < 1e-9, "{kind} step {step}: {rate}, expected {expected}");
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
