//! AdamW on the factors of an adapter; the arithmetic is in `kernels::ops::adamw`.

use std::borrow::Cow;

use lorafit_kernels::Tensor;
use lorafit_kernels::ops::adamw::{self, Moment8, Step};
use lorafit_model::adapter::{Adapter, Gradients};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, View};

/// How the moments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerKind {
    /// In f32: 8 bytes a parameter.
    AdamW,
    /// In 8 bits, in f32 for tensors of fewer than 4096 parameters (as bitsandbytes): 2 bytes a parameter.
    AdamW8bit,
}

impl OptimizerKind {
    /// Smaller tensors stay in f32: they take little, and are often the sensitive ones.
    const MIN_8BIT_LEN: usize = 4096;

    fn in_8bit(self, len: usize) -> bool {
        self == OptimizerKind::AdamW8bit && len >= Self::MIN_8BIT_LEN
    }

    /// Bytes of the state of a tensor of `len` parameters.
    pub fn state_bytes(self, len: usize) -> u64 {
        2 * if self.in_8bit(len) { Moment8::bytes(len) } else { (len * size_of::<f32>()) as u64 }
    }
}

/// First and second moment of a tensor.
#[derive(Debug)]
enum Moments {
    F32(Tensor, Tensor),
    EightBit(Moment8, Moment8),
}

/// The optimizer's state: two moments a parameter.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    /// Of every tensor, in the adapter's order.
    moments: Vec<Moments>,
}

impl AdamW {
    /// PyTorch's constants (0.9, 0.999, 1e-8) and zero moments.
    pub fn new(adapter: &Adapter, kind: OptimizerKind, weight_decay: f64) -> Self {
        let zeros = |t: &Tensor| match kind.in_8bit(t.len()) {
            true => Moments::EightBit(Moment8::zeros(t.len()), Moment8::zeros(t.len())),
            false => Moments::F32(Tensor::zeros(t.device(), t.len()), Tensor::zeros(t.device(), t.len())),
        };
        let moments = adapter.tensors().map(zeros).collect();
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, steps: 0, moments }
    }

    /// One update with `gradient_scale * gradients`.
    pub fn step(
        &mut self,
        adapter: &mut Adapter,
        gradients: &Gradients,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        self.steps += 1;
        let step = Step {
            learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            number: self.steps,
            gradient_scale,
        };
        let tensors: Vec<_> = adapter.tensors_mut().zip(gradients.tensors()).zip(&mut self.moments).collect();
        tensors.into_par_iter().for_each(|((parameter, gradient), moments)| {
            let len = parameter.len();
            match moments {
                Moments::F32(first, second) => adamw::step(parameter, gradient, first, second, len, &step),
                Moments::EightBit(first, second) => {
                    adamw::step_8bit(parameter, gradient, first, second, len, &step);
                }
            }
        });
    }

    /// Bytes of the state.
    pub fn state_bytes(&self) -> u64 {
        let bytes = |(_, part): (_, StatePart<'_>)| part.data_len() as u64;
        self.parts().into_iter().map(bytes).sum()
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.steps
    }

    /// The moments as a safetensors file: of tensor `i` in the adapter's order `i.first` and `i.second`, F32, or in 8
    /// bits `i.first.codes`, U8, and `i.first.absmax`, F32, and so on.
    pub(crate) fn to_safetensors(&self) -> Vec<u8> {
        safetensors::serialize(self.parts(), None).expect("names are unique")
    }

    /// Takes the moments of a file that [`Self::to_safetensors`] made after `updates` updates. What is wrong with the
    /// file otherwise.
    pub(crate) fn restore(&mut self, file: &SafeTensors<'_>, updates: u64) -> Result<(), String> {
        let expected = self.parts().len();
        if file.len() != expected {
            return Err(format!("it has {} tensors, the adapter needs {expected}", file.len()));
        }
        let data = |name: String, dtype: Dtype, len: usize| {
            let view = file.tensor(&name).map_err(|_| format!("tensor {name} is missing"))?;
            match (view.dtype(), view.shape()) == (dtype, &[len]) {
                true => Ok(view.data()),
                false => Err(format!(
                    "{name} is {:?} {:?}, the adapter needs {dtype:?} [{len}]",
                    view.dtype(),
                    view.shape()
                )),
            }
        };
        let floats = |name: String, len: usize| -> Result<Vec<f32>, String> {
            let bytes = data(name, Dtype::F32, len)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        for (i, moments) in self.moments.iter_mut().enumerate() {
            match moments {
                Moments::F32(first, second) => {
                    for (tensor, which) in [(first, "first"), (second, "second")] {
                        tensor.write(0, &floats(format!("{i}.{which}"), tensor.len())?);
                    }
                }
                Moments::EightBit(first, second) => {
                    for (moment, which) in [(first, "first"), (second, "second")] {
                        let codes = data(format!("{i}.{which}.codes"), Dtype::U8, moment.codes().len())?;
                        let absmax = floats(format!("{i}.{which}.absmax"), moment.absmax().len())?;
                        *moment = Moment8::from_parts(codes.to_vec(), absmax).expect("lengths were compared");
                    }
                }
            }
        }
        self.steps = updates;
        Ok(())
    }

    fn parts(&self) -> Vec<(String, StatePart<'_>)> {
        let mut parts = Vec::new();
        for (i, moments) in self.moments.iter().enumerate() {
            match moments {
                Moments::F32(first, second) => {
                    for (tensor, which) in [(first, "first"), (second, "second")] {
                        let part = StatePart { shape: [tensor.len()], values: Values::Tensor(tensor) };
                        parts.push((format!("{i}.{which}"), part));
                    }
                }
                Moments::EightBit(first, second) => {
                    for (moment, which) in [(first, "first"), (second, "second")] {
                        let (codes, absmax) = (moment.codes(), moment.absmax());
                        let part = StatePart { shape: [codes.len()], values: Values::Codes(codes) };
                        parts.push((format!("{i}.{which}.codes"), part));
                        let part = StatePart { shape: [absmax.len()], values: Values::Scales(absmax) };
                        parts.push((format!("{i}.{which}.absmax"), part));
                    }
                }
            }
        }
        parts
    }
}

/// A part of the state as its file has it; bytes are made as they are written, a tensor at a time.
struct StatePart<'a> {
    shape: [usize; 1],
    values: Values<'a>,
}

enum Values<'a> {
    Tensor(&'a Tensor),
    Codes(&'a [u8]),
    Scales(&'a [f32]),
}

impl View for StatePart<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Tensor(_) | Values::Scales(_) => Dtype::F32,
            Values::Codes(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        match self.values {
            Values::Tensor(tensor) => Cow::Owned(bytes(&tensor.to_vec(tensor.len()))),
            Values::Scales(scales) => Cow::Owned(bytes(scales)),
            Values::Codes(codes) => Cow::Borrowed(codes),
        }
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.dtype().bitsize() / 8
    }
}
