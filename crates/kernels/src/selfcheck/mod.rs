//! Whether a device computes as it should: every op on it and on the processor, over awkward shapes, and its speed.
//!
//! A case is one piece of code that runs on any device, so that both get the same calls. Its inputs are values that the
//! device's type of activations holds exactly; what may differ is the order of sums and the rounding of results. Every case
//! runs twice on the device, which has to give the same bits.

mod cases;
mod speed;

use std::fmt;

use crate::gpu::Float;
use crate::random::uniform;
use crate::tensor::{Device, Tensor};

pub use speed::{Speed, Work, measure, product_peak};

/// What was found of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Op and shape.
    pub name: String,
    /// The largest difference from the processor's result, relative to the largest value of the output it is in.
    pub error: f32,
    /// What it may be.
    pub tolerance: f32,
    /// Whether both runs gave the same bits.
    pub repeats: bool,
}

impl Outcome {
    /// Whether the device computes this as it should.
    pub fn passed(&self) -> bool {
        self.repeats && self.error <= self.tolerance
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { name, error, tolerance, repeats } = self;
        let bits = if *repeats { "" } else { ", and other bits when repeated" };
        write!(f, "{name}: differs by {error:.1e} of {tolerance:.1e}{bits}")
    }
}

/// Runs every case on `device` and tells what was found.
pub fn run(device: Device, mut on_outcome: impl FnMut(Outcome)) {
    let float = device.placement().activation_float();
    for case in cases::all_cases() {
        let name = format!("{} ({})", case.name, float.name());
        let tolerance = case.accuracy.tolerance(float);
        let expected = (case.run)(&Place { device: Device::Cpu, float });
        let [found, again] = [0; 2].map(|_| (case.run)(&Place { device, float }));
        let bits = |outputs: &Outputs| outputs.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        let repeats = bits(&found) == bits(&again);
        on_outcome(Outcome { name, error: error(&found, &expected), tolerance, repeats });
    }
}

/// The largest difference relative to the largest value of its output; infinite where something is not a number. An output
/// that is zero but for rounding, as the gradient of the only score of a softmax, is held against the case's others.
fn error(found: &Outputs, expected: &Outputs) -> f32 {
    const ROUNDING: f32 = 1e-5;
    assert_eq!(found.len(), expected.len(), "a case has the same outputs everywhere");
    let largest = |values: &mut dyn Iterator<Item = &f32>| values.fold(1e-30f32, |most, v| most.max(v.abs()));
    let of_all = largest(&mut expected.iter().flatten());
    let of_output = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(found.len(), expected.len(), "outputs are of the same length everywhere");
        let of_this = largest(&mut expected.iter());
        let scale = if of_this > ROUNDING * of_all { of_this } else { of_all };
        let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs() / scale);
        differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
    };
    found.iter().zip(expected).map(of_output).fold(0.0, f32::max)
}

/// What a case has computed.
type Outputs = Vec<Vec<f32>>;

/// An op with its inputs.
struct Case {
    name: String,
    accuracy: Accuracy,
    run: Box<dyn Fn(&Place) -> Outputs>,
}

impl Case {
    fn new(name: impl Into<String>, accuracy: Accuracy, run: impl Fn(&Place) -> Outputs + 'static) -> Self {
        Case { name: name.into(), accuracy, run: Box::new(run) }
    }
}

/// What a result may differ by.
#[derive(Clone, Copy, Debug)]
enum Accuracy {
    /// Nothing: values are moved, or computed to the same bits.
    Exact,
    /// Sums in another order, and one rounding of the result.
    Rounded,
    /// Intermediate values are rounded to the device's type as well, and several results are added in it.
    Composed,
}

impl Accuracy {
    fn tolerance(self, float: Float) -> f32 {
        match (self, float) {
            (Accuracy::Exact, _) => 0.0,
            // Some thousand terms in f32; a few units in the last place of exp and rsqrt.
            (Accuracy::Rounded | Accuracy::Composed, Float::F32) => 2e-5,
            // Half a unit in the last place of bf16 is 2^-9 of a value just above a power of two.
            (Accuracy::Rounded, Float::Bf16) => 1.0 / 256.0,
            (Accuracy::Composed, Float::Bf16) => 1.0 / 64.0,
        }
    }
}

/// Where a case runs, and what its inputs are rounded to.
struct Place {
    device: Device,
    float: Float,
}

impl Place {
    /// `len` values around zero, bell-shaped, of which the device's type of activations holds each.
    fn values(&self, seed: u64, len: usize) -> Vec<f32> {
        let value = |i: u64| (0..4).map(|j| uniform(seed, 4 * i + j)).sum::<f32>() * 1.7 - 3.4;
        (0..len as u64).map(|i| self.rounded(value(i))).collect()
    }

    fn rounded(&self, value: f32) -> f32 {
        match self.float {
            Float::F32 => value,
            Float::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }

    /// Activations of given values.
    fn activation_of(&self, values: &[f32]) -> Tensor {
        let mut tensor = Tensor::activation(self.device, values.len());
        tensor.write(0, values);
        tensor
    }

    /// Activations of random values.
    fn activation(&self, seed: u64, len: usize) -> Tensor {
        self.activation_of(&self.values(seed, len))
    }

    /// Activations to be written.
    fn output(&self, len: usize) -> Tensor {
        Tensor::activation(self.device, len)
    }

    /// f32 of random values: weights of norms, factors, gradients of what is trained.
    fn parameter(&self, seed: u64, len: usize) -> Tensor {
        Tensor::from_slice(self.device, &self.values(seed, len))
    }

    /// f32 to be written.
    fn statistic(&self, len: usize) -> Tensor {
        Tensor::zeros(self.device, len)
    }
}

/// All values of a tensor.
fn all(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec(tensor.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cuda::{self, SOURCES};
    use crate::gpu::Gpu;

    #[test]
    fn the_processor_agrees_with_itself() {
        let mut count = 0;
        run(Device::Cpu, |outcome| {
            assert!(outcome.passed() && outcome.error == 0.0, "{outcome}");
            count += 1;
        });
        assert!(count > 50, "{count} cases");
    }

    /// Of a device that computes nothing the results are wrong; what is asked of it is right: sizes, bounds, lifetimes,
    /// kernels and their arguments.
    #[test]
    fn every_call_keeps_the_rules_of_a_device() {
        let mut asked = BTreeMap::new();
        for float in [Float::F32, Float::Bf16] {
            let recorder = cuda::recorder(1 << 30);
            let gpu = Gpu::over(recorder.clone(), float);
            let mut failed = 0;
            run(Device::Cuda(gpu), |outcome| failed += u32::from(!outcome.passed()));
            assert!(failed > 50, "{failed} cases are seen to be wrong");
            assert_eq!(gpu.bytes_in_use(), 0, "everything is given back");
            asked.extend(recorder.take_counts().launches);
        }
        let entries = SOURCES.iter().flat_map(|source| source.entries);
        let forgotten: Vec<_> = entries.filter(|entry| !asked.contains_key(**entry)).collect();
        assert!(forgotten.is_empty(), "no case asks for {forgotten:?}");
    }

    #[test]
    fn a_difference_and_what_is_not_a_number_are_seen() {
        let expected = vec![vec![1.0, -4.0], vec![0.5]];
        assert_eq!(error(&vec![vec![1.0, -4.0], vec![0.25]], &expected), 0.5);
        let zero = vec![vec![8.0], vec![0.0]];
        assert!(error(&vec![vec![8.0], vec![8e-7]], &zero) < 2e-7);
        assert!(error(&vec![vec![8.0], vec![8e-3]], &zero) > 9e-4);
        assert_eq!(error(&vec![vec![f32::NAN, -4.0], vec![0.5]], &expected), f32::INFINITY);
        let outcome = Outcome { name: "x".to_owned(), error: 0.0, tolerance: 0.0, repeats: false };
        assert!(!outcome.passed());
    }
}
