//! AdamW on what is trained; the arithmetic is in `kernels::ops::adamw`.

use lorafit_kernels::ops::adamw::{self, Moment8, Step, Update};
use lorafit_kernels::{Placement, Tensor};
use lorafit_model::weights::{TensorData, TensorReader, TensorSource};
use lorafit_model::{Gradients, Parameters};
use rayon::prelude::*;

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

    /// Bytes of the state of tensors of `lens` parameters on a device of `placement`.
    pub fn state_bytes(self, placement: Placement, lens: &[usize]) -> u64 {
        let (in_8bit, in_f32): (Vec<usize>, Vec<usize>) = lens.iter().partition(|len| self.in_8bit(**len));
        let in_8bit = in_8bit.into_iter().map(|len| Moment8::bytes(placement, len)).sum::<u64>();
        2 * (in_8bit + placement.bytes_together(&in_f32, false))
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
    /// Of every tensor, in the order of [`Parameters::tensors`].
    weight_decay: Vec<f64>,
    /// Likewise, what the learning rate is multiplied by.
    rate_factors: Vec<f64>,
    steps: u64,
    /// Likewise.
    moments: Vec<Moments>,
}

impl AdamW {
    /// PyTorch's constants (0.9, 0.999, 1e-8) and zero moments. Norms and biases are not decayed, as transformers' Trainer
    /// does not. `B` of an adapter has `b_ratio` times the learning rate; decay goes with the rate, as in PEFT's
    /// `create_loraplus_optimizer`.
    pub fn new(parameters: &Parameters<'_>, kind: OptimizerKind, weight_decay: f64, b_ratio: f64) -> Self {
        let (tensors, device) = (parameters.tensors(), parameters.model().device());
        let lens = tensors.iter().map(|t| t.len()).filter(|len| !kind.in_8bit(*len)).collect::<Vec<_>>();
        let [mut firsts, mut seconds] =
            [0; 2].map(|_| Tensor::zeros_together(device, &lens, false).into_iter());
        let mut zeros = |t: &Tensor| match kind.in_8bit(t.len()) {
            true => Moments::EightBit(Moment8::zeros(device, t.len()), Moment8::zeros(device, t.len())),
            false => {
                let (first, second) = (firsts.next(), seconds.next());
                Moments::F32(first.expect("a first moment"), second.expect("a second moment"))
            }
        };
        let moments = tensors.into_iter().map(&mut zeros).collect();
        let decay = |decayed: bool| if decayed { weight_decay } else { 0.0 };
        let weight_decay = parameters.decayed().into_iter().map(decay).collect();
        AdamW { weight_decay, rate_factors: parameters.rate_factors(b_ratio), steps: 0, moments }
    }

    /// One update with `gradient_scale * gradients`.
    pub fn step(
        &mut self,
        parameters: &mut Parameters<'_>,
        gradients: &Gradients,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        self.steps += 1;
        let step = Step { gradient_scale, ..Step::new(self.steps, learning_rate) };
        let tensors = parameters.tensors_mut().into_iter().zip(gradients.tensors());
        let (mut in_f32, mut in_8bit) = (Vec::new(), Vec::new());
        for (((parameter, gradient), moments), (&weight_decay, factor)) in
            tensors.zip(&mut self.moments).zip(self.weight_decay.iter().zip(&self.rate_factors))
        {
            let step = Step { weight_decay, learning_rate: learning_rate * factor, ..step };
            match moments {
                Moments::F32(first, second) => {
                    in_f32.push(Update { parameter, gradient, first, second, step })
                }
                Moments::EightBit(first, second) => in_8bit.push((parameter, gradient, first, second, step)),
            }
        }
        adamw::step_all(in_f32);
        in_8bit.into_par_iter().for_each(|(parameter, gradient, first, second, step)| {
            adamw::step_8bit(parameter, gradient, first, second, gradient.len(), &step);
        });
    }

    /// Bytes of the state.
    pub fn state_bytes(&self) -> u64 {
        self.sources().iter().map(TensorSource::bytes).sum()
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.steps
    }

    /// The moments as tensors of a file: of tensor `i` in the order of the parameters `i.first` and `i.second`, F32, or
    /// in 8 bits `i.first.codes`, U8, and `i.first.absmax`, F32, and so on.
    pub(crate) fn sources(&self) -> Vec<TensorSource<'_>> {
        let mut sources = Vec::new();
        let mut add = |name, len, data| sources.push(TensorSource { name, shape: vec![len], data });
        for (i, moments) in self.moments.iter().enumerate() {
            match moments {
                Moments::F32(first, second) => {
                    for (tensor, which) in [(first, "first"), (second, "second")] {
                        let data = TensorData::f32(|range, out| tensor.read(range.start, out));
                        add(format!("{i}.{which}"), tensor.len(), data);
                    }
                }
                Moments::EightBit(first, second) => {
                    for (moment, which) in [(first, "first"), (second, "second")] {
                        let codes = TensorData::Bytes(Box::new(|| moment.codes()));
                        add(format!("{i}.{which}.codes"), moment.len(), codes);
                        let absmax = moment.absmax();
                        let data = TensorData::f32(|range, out| absmax.read(range.start, out));
                        add(format!("{i}.{which}.absmax"), absmax.len(), data);
                    }
                }
            }
        }
        sources
    }

    /// Takes the moments of a file of [`Self::sources`] made after `updates` updates. What is wrong with the file
    /// otherwise.
    pub(crate) fn restore(&mut self, file: &mut TensorReader, updates: u64) -> Result<(), String> {
        let expected = self.sources().len();
        if file.tensors() != expected {
            return Err(format!("it has {} tensors, the run needs {expected}", file.tensors()));
        }
        for (i, moments) in self.moments.iter_mut().enumerate() {
            match moments {
                Moments::F32(first, second) => {
                    for (tensor, which) in [(first, "first"), (second, "second")] {
                        let shape = [tensor.len()];
                        file.read_floats(&format!("{i}.{which}"), &shape, |at, v| tensor.write(at, v))?;
                    }
                }
                Moments::EightBit(first, second) => {
                    for (moment, which) in [(first, "first"), (second, "second")] {
                        let codes = file.read_bytes(&format!("{i}.{which}.codes"), moment.len())?;
                        moment.write_codes(&codes);
                        let (name, absmax) = (format!("{i}.{which}.absmax"), moment.absmax_mut());
                        let shape = [absmax.len()];
                        file.read_floats(&name, &shape, |at, v| absmax.write(at, v))?;
                    }
                }
            }
        }
        self.steps = updates;
        Ok(())
    }
}
