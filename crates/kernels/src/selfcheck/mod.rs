//! Whether a device computes as it should: every op on it and on the processor, over awkward shapes, and its speed.
//!
//! A case is one piece of code that runs on any device, so that both get the same calls. Its inputs are values that the
//! device's type of activations holds exactly; what may differ is the order of sums and the rounding of results. Every case
//! runs twice on the device, which has to give the same bits.
//!
//! A case is a [`Check`], which can be run by itself. One that does not come to its end has failed, and the next can go on
//! unless the device is lost: after an illegal access, say, CUDA refuses all that a process asks.

mod cases;
mod speed;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::gpu::{DeviceError, Float};
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
    /// Why there is no result.
    pub failure: Option<String>,
}

impl Outcome {
    /// The outcome of a check that has no result.
    pub fn without_result(name: String, failure: String) -> Self {
        Outcome { name, error: f32::INFINITY, tolerance: 0.0, repeats: false, failure: Some(failure) }
    }

    /// Whether the device computes this as it should.
    pub fn passed(&self) -> bool {
        self.failure.is_none() && self.repeats && self.error <= self.tolerance
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { name, error, tolerance, repeats, failure } = self;
        if let Some(failure) = failure {
            return write!(f, "{name}: {failure}");
        }
        let bits = if *repeats { "" } else { ", and other bits when repeated" };
        write!(f, "{name}: differs by {error:.1e} of {tolerance:.1e}{bits}")
    }
}

/// A check that can run alone.
pub struct Check {
    /// Of one check alone.
    pub name: String,
    run: Box<dyn Fn(Device) -> Vec<Outcome>>,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What was found, or that it did not come to its end.
    pub outcomes: Vec<Outcome>,
    /// Whether the device does nothing any more that this process asks.
    pub device_is_lost: bool,
}

impl Check {
    /// What `run` finds on a device.
    pub fn new(name: String, run: impl Fn(Device) -> Vec<Outcome> + 'static) -> Self {
        Check { name, run: Box::new(run) }
    }

    /// Runs it on `device`.
    pub fn run(&self, device: Device) -> Checked {
        // What unwinds gives back its memory of the device; nothing else outlives it.
        match catch_unwind(AssertUnwindSafe(|| (self.run)(device))) {
            Ok(outcomes) => Checked { outcomes, device_is_lost: false },
            Err(payload) => Checked {
                outcomes: vec![Outcome::without_result(self.name.clone(), reason(payload.as_ref()))],
                device_is_lost: is_lost(device),
            },
        }
    }
}

/// What unwound.
pub fn reason(payload: &(dyn Any + Send)) -> String {
    if let Some(error) = payload.downcast_ref::<DeviceError>() {
        return error.to_string();
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}

/// Whether a device that failed at one thing does not even move a byte. Its maker's list of errors after which a process
/// cannot go on is longer than ours would be.
fn is_lost(device: Device) -> bool {
    match device {
        Device::Cpu => false,
        Device::Cuda(gpu) => catch_unwind(AssertUnwindSafe(|| gpu.wait())).is_err_and(|payload| {
            // A device that is full is well.
            !matches!(payload.downcast_ref(), Some(DeviceError::Memory { .. }))
        }),
    }
}

/// Every op, on devices with activations in `float`.
pub fn checks(float: Float) -> Vec<Check> {
    let check = |case: Case| {
        let name = format!("{} ({})", case.name, float.name());
        Check::new(name.clone(), move |device| vec![outcome(name.clone(), &case, device, float)])
    };
    cases::all_cases().into_iter().map(check).collect()
}

fn outcome(name: String, case: &Case, device: Device, float: Float) -> Outcome {
    let tolerance = case.accuracy.tolerance(float);
    let expected = (case.run)(&Place { device: Device::Cpu, float });
    let [found, again] = [0; 2].map(|_| (case.run)(&Place { device, float }));
    let bits = |outputs: &Outputs| outputs.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
    let repeats = bits(&found) == bits(&again);
    Outcome { name, error: error(&found, &expected), tolerance, repeats, failure: None }
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
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cuda::{SOURCES, recorder};
    use crate::gpu::{Gpu, TensorCores};

    #[test]
    fn the_processor_agrees_with_itself() {
        let checks = checks(Float::F32);
        assert!(checks.len() > 50, "{} checks", checks.len());
        for outcome in checks.iter().flat_map(|check| check.run(Device::Cpu).outcomes) {
            assert!(outcome.passed() && outcome.error == 0.0, "{outcome}");
        }
    }

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let checks = checks(Float::Bf16);
        let names: BTreeSet<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names.len(), checks.len());
    }

    #[test]
    fn what_does_not_come_to_its_end_has_failed_and_the_device_goes_on() {
        let gpu = Gpu::over(recorder(1 << 20), Float::F32);
        // Not even one byte more is there.
        let too_much = Check::new("too much".to_owned(), |device| {
            Tensor::zeros(device, 1 << 20);
            vec![]
        });
        let Checked { outcomes, device_is_lost } = too_much.run(Device::Cuda(gpu));
        assert!(!device_is_lost, "a run that is too large may be followed by a smaller one");
        let [outcome] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(!outcome.passed());
        assert!(outcome.to_string().starts_with("too much: 4 MiB more device memory is needed"), "{outcome}");
        assert_eq!(gpu.bytes_in_use(), 0, "everything is given back");
    }

    /// Of a device that computes nothing the results are wrong; what is asked of it is right: sizes, bounds, lifetimes,
    /// kernels and their arguments.
    #[test]
    fn every_call_keeps_the_rules_of_a_device() {
        let mut asked = BTreeMap::new();
        let warps = [Float::F32, Float::Bf16].map(|float| (float, TensorCores::Warps));
        for (float, cores) in warps.into_iter().chain([(Float::Bf16, TensorCores::Warpgroups)]) {
            let recorder = recorder(1 << 30).with_tensor_cores(cores);
            let gpu = Gpu::over(recorder.clone(), float);
            let checks = checks(float);
            let outcomes = checks.iter().flat_map(|check| check.run(Device::Cuda(gpu)).outcomes);
            let wrong = outcomes.filter(|outcome| {
                assert_eq!(outcome.failure, None, "{}", outcome.name);
                !outcome.passed()
            });
            let wrong = wrong.count();
            assert!(wrong > 50, "{wrong} cases are seen to be wrong");
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
        let outcome =
            Outcome { name: "x".to_owned(), error: 0.0, tolerance: 0.0, repeats: false, failure: None };
        assert!(!outcome.passed());
    }
}
