//! The average of what is trained over its last steps, kept beside it: `a += (1 - keep) (p - a)` after every step that is taken.
//!
//! `last:N` is the mean over the last `N` steps of the run (Izmailov et al. 2018; `keep = (n - 1) / n` at the `n`-th of them),
//! `ema:D` an exponential one (`keep = D`, from the first step on), as `torch.optim.swa_utils.AveragedModel` has them.

use std::fmt;
use std::str::FromStr;

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::elementwise::{add_scaled, scale};
use lorafit_model::Parameters;
use lorafit_model::weights::{TensorData, TensorReader, TensorSource};
use serde::{Deserialize, Serialize};

/// Over which steps; written `last:50` or `ema:0.99`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Averaging {
    /// The last of the run, each counting alike.
    Last(u64),
    /// All, the earlier ones counting less by this factor for each step.
    Ema(f64),
}

impl FromStr for Averaging {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = match text.split_once(':') {
            Some(("last", steps)) => steps.parse().ok().filter(|steps| *steps > 0).map(Averaging::Last),
            Some(("ema", decay)) => {
                decay.parse().ok().filter(|decay| (0.0..1.0).contains(decay)).map(Averaging::Ema)
            }
            Some(_) | None => None,
        };
        found.ok_or_else(|| {
            format!("`{text}` is neither last:STEPS, such as last:50, nor ema:DECAY from 0 to below 1, such as ema:0.99")
        })
    }
}

impl TryFrom<String> for Averaging {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Averaging> for String {
    fn from(averaging: Averaging) -> Self {
        averaging.to_string()
    }
}

impl fmt::Display for Averaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Averaging::Last(steps) => write!(f, "last:{steps}"),
            Averaging::Ema(decay) => write!(f, "ema:{decay}"),
        }
    }
}

/// Values that [`Average::swap`] exchanges at once.
const SWAPPED: usize = 1 << 12;

/// An average of the parameters, in f32.
#[derive(Debug)]
pub(crate) struct Average {
    averaging: Averaging,
    /// The first step that counts.
    first: u64,
    /// In the order of [`Parameters::tensors`].
    tensors: Vec<Tensor>,
    /// Steps in it.
    pub(crate) steps: u64,
}

impl Average {
    /// Of no step yet, in a run of `total_steps`.
    pub(crate) fn new(parameters: &Parameters<'_>, averaging: Averaging, total_steps: u64) -> Self {
        let lens: Vec<usize> = parameters.tensors().iter().map(|tensor| tensor.len()).collect();
        let first = match averaging {
            Averaging::Last(steps) => total_steps.saturating_sub(steps) + 1,
            Averaging::Ema(_) => 1,
        };
        let tensors = Tensor::zeros_together(parameters.model().device(), &lens, false);
        Average { averaging, first, tensors, steps: 0 }
    }

    /// Step `number` was taken.
    pub(crate) fn add(&mut self, parameters: &Parameters<'_>, number: u64) {
        if number < self.first {
            return;
        }
        self.steps += 1;
        let keep = match (self.averaging, self.steps) {
            (_, 1) => 0.0,
            (Averaging::Last(_), steps) => (steps - 1) as f64 / steps as f64,
            (Averaging::Ema(decay), _) => decay,
        };
        for (average, parameter) in self.tensors.iter_mut().zip(parameters.tensors()) {
            let len = average.len();
            scale(average, len, keep as f32);
            add_scaled(parameter, (1.0 - keep) as f32, len, average);
        }
    }

    /// Exchanges the average with what is trained: done twice, both are as they were.
    pub(crate) fn swap(&mut self, parameters: &mut Parameters<'_>) {
        // A piece at a time, so that it takes no memory to speak of.
        let [mut averaged, mut trained] = [const { [0.0; SWAPPED] }; 2];
        for (average, parameter) in self.tensors.iter_mut().zip(parameters.tensors_mut()) {
            for first in (0..average.len()).step_by(SWAPPED) {
                let len = SWAPPED.min(average.len() - first);
                average.read(first, &mut averaged[..len]);
                parameter.read(first, &mut trained[..len]);
                average.write(first, &trained[..len]);
                parameter.write(first, &averaged[..len]);
            }
        }
        parameters.prepare();
    }

    /// As tensors of a file, by their places.
    pub(crate) fn sources(&self) -> Vec<TensorSource<'_>> {
        let mut sources = Vec::new();
        for (i, tensor) in self.tensors.iter().enumerate() {
            let data = TensorData::f32(|range, out| tensor.read(range.start, out));
            sources.push(TensorSource { name: i.to_string(), shape: vec![tensor.len()], data });
        }
        sources
    }

    /// Takes the tensors of a file of [`Self::sources`] that was written after `steps` steps were added. What is wrong with the
    /// file otherwise.
    pub(crate) fn restore(&mut self, file: &mut TensorReader, steps: u64) -> Result<(), String> {
        if file.tensors() != self.tensors.len() {
            return Err(format!("it has {} tensors, the run needs {}", file.tensors(), self.tensors.len()));
        }
        for (i, tensor) in self.tensors.iter_mut().enumerate() {
            let shape = [tensor.len()];
            file.read_floats(&i.to_string(), &shape, |at, values| tensor.write(at, values))?;
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_read_as_they_are_written() {
        for text in ["last:5", "ema:0.99", "ema:0"] {
            assert_eq!(text.parse::<Averaging>().expect(text).to_string(), text);
        }
        for text in ["last", "last:0", "last:x", "last:0.5", "ema:1", "ema:-0.1", "ema:NaN", "mean:3", ""] {
            assert!(text.parse::<Averaging>().expect_err(text).contains("last:50"), "{text}");
        }
    }
}
