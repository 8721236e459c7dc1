//! What the factors of a new adapter begin with, as PEFT's `init_lora_weights` has it.
//!
//! `default`: `A` Kaiming-uniform with a = sqrt(5), that is uniform in `+-1/sqrt(in)`, and `B` zero. `gaussian`: `A` normal with
//! standard deviation `1/r`, and `B` zero. `orthogonal`: with the rows of an orthogonal `[r, r]` matrix `Q` that is the QR factor of
//! normal numbers, `A = (N1 Q_odd)^T / 10` and `B = N2^T Q_even / 10`, `N1` `[in, r/2]` and `N2` `[r/2, out]` normal; since the rows of
//! `Q` are orthogonal, `B A` is zero.
//!
//! `pissa` (Meng et al. 2024): of the `r` largest singular values of the weight, `W ~ U S V^T`, `A0 = sqrt(S / scale) V^T` and
//! `B0 = U sqrt(S / scale)` are trained, and the base without them, `W - scale B0 A0`, stays. Here the base stays as it is stored, and the
//! adapter has twice the rank: `[B, -B0] [A; A0]`, of which `B0` and `A0` stay. That is what PEFT converts such an adapter to
//! (`path_initial_model_for_weight_conversion`), at every step of the run; at its beginning it is zero.
//!
//! The decomposition is randomised (Halko et al. 2011, algorithms 4.4 and 5.1): products with the weight in f32, all else in f64.

use lorafit_kernels::ops::elementwise::scale_columns;
use lorafit_kernels::ops::matmul::{self, Product, Right, Term, View};
use lorafit_kernels::{Device, Tensor, Weight, random};

use crate::adapter::analysis::linear_algebra::{Matrix, svd, thin_qr};
use crate::adapter::{Adapter, LoraConfig, PartShape, TargetError};
use crate::block::gradients::BlockGradients;
use crate::gradients::Gradients;
use crate::model::Model;
use crate::shape::{Config, module_shape};

/// What a new adapter begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Uniform `A`, and `B` zero.
    Default,
    /// Normal `A`, and `B` zero.
    Gaussian,
    /// Factors whose product is zero, although neither is.
    Orthogonal,
    /// The strongest directions of the base.
    Pissa,
}

/// Directions beside those that are asked for, and rounds through the weight: with four the error is next to the least there is.
const OVERSAMPLED: usize = 10;
const ROUNDS: usize = 4;

impl Adapter {
    /// A fresh adapter over `model`, whose function it leaves as it is.
    ///
    /// # Errors
    /// As [`Adapter::init`], an odd rank for `orthogonal`, and factors of the embedding or the head for all but the default.
    pub fn begin(model: &Model, lora: &LoraConfig, start: Start, seed: u64) -> Result<Self, TargetError> {
        let (config, device) = (model.config(), model.device());
        if start == Start::Default {
            return Adapter::init(config, lora, seed, device);
        }
        if lora.adapts_outside(config) {
            let text = "factors of embed_tokens and lm_head begin in the default way only".to_owned();
            return Err(TargetError::new(text, "leave those modules out, or have all factors begin so"));
        }
        let parts = lora.parts(config)?;
        if let (Start::Orthogonal, Some(odd)) = (start, parts.iter().find(|part| part.rank % 2 == 1)) {
            let text = format!(
                "orthogonal factors need an even rank, and {} has {}",
                odd.module.path(odd.layer),
                odd.rank
            );
            return Err(TargetError::new(text, "give it one more or one less"));
        }
        // Whole weights and magnitudes begin as they always do.
        let mut adapter = Adapter::init(config, lora, seed, device)?;
        for part in &parts {
            let (outputs, inputs) = module_shape(config, part.module);
            let normal = Normal::of(part, seed);
            let (a, b_t) = match start {
                Start::Default => unreachable!("made by init"),
                Start::Gaussian => {
                    let std = 1.0 / part.rank as f32;
                    (normal.take(0, part.rank * inputs).map(|value| std * value).collect(), None)
                }
                Start::Orthogonal => {
                    let (a, b_t) = orthogonal(part.rank, [inputs, outputs], &normal);
                    (a, Some(b_t))
                }
                Start::Pissa => {
                    let weight = model.projection(part.layer, part.module);
                    let (a, b_t) = principal_factors(weight, part.rank, f64::from(part.scale), &normal);
                    (a, Some(b_t))
                }
            };
            adapter.write_a(part, inputs, &a);
            if let Some(b_t) = b_t {
                adapter.write_b_t(part, &b_t);
            }
        }
        match start {
            Start::Pissa => adapter.with_its_start(model),
            Start::Default | Start::Gaussian | Start::Orthogonal => Ok(adapter),
        }
    }

    /// `[B, -B] [A; A]`, of which the second half stays: what trains on from this adapter without its start, over a base that has
    /// that taken off.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn with_its_start(&self, model: &Model) -> Result<Self, TargetError> {
        let config = model.config();
        let lora = self.config.doubled();
        let parts = lora.parts(config)?;
        let mut doubled = Adapter::init(config, &lora, 0, model.device())?;
        for (part, (_, [a, b_t])) in parts.iter().zip(self.factor_values()) {
            let (_, inputs) = module_shape(config, part.module);
            let minus: Vec<f32> = b_t.iter().map(|value| -value).collect();
            doubled.write_a(part, inputs, &[&a[..], &a].concat());
            doubled.write_b_t(part, &[b_t, minus].concat());
        }
        doubled.keep_start();
        Ok(doubled)
    }

    /// Whether half of it is what the other half began with, and stays.
    pub fn keeps_start(&self) -> bool {
        self.keeps_start
    }

    /// Says that the second half of each projection's directions stays as it is.
    pub fn keep_start(&mut self) {
        self.keeps_start = true;
    }
}

/// Matrices of values of 8 bytes, as tall as the longer side of a weight and as wide as its directions, that
/// [`principal_factors`] has at once: what it works on, the two factors of a decomposition, and copies that products take. Measured
/// with a weight of 8,192 x 2,048 at rank 8; at rank 64 it was seven.
const TALL_MATRICES: u64 = 10;

impl Start {
    /// The adapter that is trained, of the one that is asked for.
    pub fn trained(self, lora: &LoraConfig) -> LoraConfig {
        match self {
            Start::Pissa => lora.doubled(),
            Start::Default | Start::Gaussian | Start::Orthogonal => lora.clone(),
        }
    }

    /// Bytes that the start of `trained`, which is as [`Start::trained`] gives it, takes on the processor beside it, at most.
    ///
    /// # Errors
    /// Modules that the model does not have.
    pub fn bytes(self, config: &Config, trained: &LoraConfig) -> Result<u64, TargetError> {
        let Start::Pissa = self else { return Ok(0) };
        let of_weight = |part: &PartShape| {
            let (outputs, inputs) = module_shape(config, part.module);
            let (tall, directions) = (outputs.max(inputs), part.rank / 2 + OVERSAMPLED);
            4 * (outputs * inputs) as u64 + 8 * TALL_MATRICES * (tall * directions) as u64
        };
        let decomposed = trained.parts(config)?.iter().map(of_weight).max().unwrap_or(0);
        // The adapter of half the rank stays until the whole one is written, with a copy of its values.
        let factors: usize = trained.factor_lens(config)?.iter().sum();
        Ok(decomposed.max(4 * factors as u64))
    }
}

impl LoraConfig {
    /// Twice the ranks, at the same scales.
    fn doubled(&self) -> LoraConfig {
        let growth = if self.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
        let ranks = self.rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), 2 * rank));
        let alphas = self.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), growth * alpha));
        LoraConfig {
            rank: 2 * self.rank,
            alpha: growth * self.alpha,
            rank_pattern: ranks.collect(),
            alpha_pattern: alphas.collect(),
            ..self.clone()
        }
    }
}

impl Gradients {
    /// Zeros where an adapter keeps what it began with: no moment comes to be there, and nothing moves.
    pub fn clear_start(&mut self, adapter: &Adapter) {
        if !adapter.keeps_start {
            return;
        }
        let groups = adapter.layers.iter().flatten().flatten();
        for (group, gradients) in groups.zip(self.blocks.iter_mut().flat_map(BlockGradients::adapters_mut)) {
            let inputs = group.a.len() / group.rank;
            for (part, b_t) in group.parts.iter().zip(&mut gradients.b_t) {
                let (half, outputs) = (part.rank / 2, part.b_t.len() / part.rank);
                let (first, last) = ((part.first + half) * inputs, (part.first + part.rank) * inputs);
                scale_columns(&mut gradients.a, 1, group.a.len(), first..last, 0.0);
                scale_columns(b_t, 1, part.b_t.len(), half * outputs..part.rank * outputs, 0.0);
            }
        }
    }
}

/// The random numbers of a projection, by their positions.
struct Normal(u64);

impl Normal {
    fn of(part: &PartShape, seed: u64) -> Self {
        Normal(random::mix(seed) ^ random::mix((part.layer * 16 + part.module.index()) as u64))
    }

    fn take(&self, first: usize, len: usize) -> impl Iterator<Item = f32> {
        let stream = self.0;
        (first..first + len).map(move |i| random::normal(stream, i as u64))
    }
}

/// `A` `[rank, in]` and `B` transposed `[rank, out]` of the rule `orthogonal`.
fn orthogonal(rank: usize, [inputs, outputs]: [usize; 2], normal: &Normal) -> (Vec<f32>, Vec<f32>) {
    let half = rank / 2;
    let x: Vec<f32> = normal.take(0, rank * rank).collect();
    let n1: Vec<f32> = normal.take(rank * rank, inputs * half).collect();
    let n2: Vec<f32> = normal.take(rank * rank + inputs * half, half * outputs).collect();
    orthogonal_of(rank, &x, &n1, &n2)
}

/// As [`orthogonal`], from numbers as PEFT draws them: `x` `[rank, rank]`, `n1` `[in, rank / 2]`, `n2` `[rank / 2, out]`.
fn orthogonal_of(rank: usize, x: &[f32], n1: &[f32], n2: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let half = rank / 2;
    let (inputs, outputs) = (n1.len() / half, n2.len() / half);
    let column = |c: usize| x.iter().skip(c).step_by(rank).map(|value| f64::from(*value)).collect();
    let (q, _) = thin_qr(&Matrix::from_columns(rank, (0..rank).map(column).collect()));
    let (mut a, mut b_t) = (Vec::with_capacity(rank * inputs), Vec::with_capacity(rank * outputs));
    for r in 0..rank {
        // PEFT counts rows from 0 and calls 0, 2, ... odd.
        let sum = |of: &dyn Fn(usize) -> f32, first: usize| -> f32 {
            let terms = (0..half).map(|h| f64::from(of(h)) * q.at(2 * h + first, r));
            (terms.sum::<f64>() / 10.0) as f32
        };
        a.extend((0..inputs).map(|i| sum(&|h| n1[i * half + h], 0)));
        b_t.extend((0..outputs).map(|o| sum(&|h| n2[h * outputs + o], 1)));
    }
    (a, b_t)
}

/// `A0` `[rank, in]` and `B0` transposed `[rank, out]` of a weight.
fn principal_factors(weight: &Weight, rank: usize, scale: f64, normal: &Normal) -> (Vec<f32>, Vec<f32>) {
    let (outputs, inputs) = (weight.rows(), weight.cols());
    let mut values = Tensor::zeros(Device::Cpu, outputs * inputs);
    let mut row = vec![0.0; inputs];
    for first in (0..outputs * inputs).step_by(inputs) {
        weight.read(first..first + inputs, &mut row);
        values.write(first, &row);
    }
    let w = View::rows(&values, inputs);
    let directions = (rank + OVERSAMPLED).min(outputs).min(inputs);
    // What a round sees of the inputs, `[in, directions]`, and of the outputs.
    let mut seen: Vec<f32> = normal.take(0, inputs * directions).collect();
    let range_of = |seen: &[f32]| thin_qr(&times(w, [outputs, inputs], seen, directions)).0;
    let back = |q: &Matrix| times(w.t(), [inputs, outputs], &row_major(q), directions);
    for _ in 0..ROUNDS {
        seen = row_major(&thin_qr(&back(&range_of(&seen))).0);
    }
    // `W ~ Q (W^T Q)^T`, and `W^T Q = U S V^T`.
    let q = range_of(&seen);
    let within = svd(&back(&q));
    let (left, right) = (q.times(&within.v), within.u);
    // A small weight has fewer directions than are asked for.
    let rows = |of: &Matrix| -> Vec<f32> {
        let value = |r: usize, i: usize| match within.values.get(r) {
            Some(value) => ((value / scale).sqrt() * of.at(i, r)) as f32,
            None => 0.0,
        };
        (0..rank).flat_map(|r| (0..of.rows()).map(move |i| (r, i))).map(|(r, i)| value(r, i)).collect()
    };
    (rows(&right), rows(&left))
}

/// `left . right` for a left matrix `[rows, k]`, and a right one of `cols` columns, row by row.
fn times(left: View<'_>, [rows, k]: [usize; 2], right: &[f32], cols: usize) -> Matrix {
    let right = Tensor::from_slice(Device::Cpu, right);
    let mut out = Tensor::zeros(Device::Cpu, rows * cols);
    let term = Term { left, right: Right::View(View::rows(&right, cols)), k };
    matmul::run(&mut [Product::new(rows, cols, term, &mut out)]);
    let out = out.to_vec(rows * cols);
    let column = |c: usize| out.iter().skip(c).step_by(cols).map(|value| f64::from(*value)).collect();
    Matrix::from_columns(rows, (0..cols).map(column).collect())
}

fn row_major(matrix: &Matrix) -> Vec<f32> {
    let row = |r: usize| (0..matrix.cols()).map(move |c| (r, c));
    (0..matrix.rows()).flat_map(row).map(|(r, c)| matrix.at(r, c) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use lorafit_kernels::ops::attention::Segments;
    use lorafit_kernels::quant::Quantization;
    use lorafit_kernels::quant::four_bit::Code;
    use safetensors::SafeTensors;

    use super::*;
    use crate::adapter::Targets;
    use crate::weights::ModelFiles;
    use crate::{BaseQuantization, Buffers, Stream};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
    }

    fn models() -> [Model; 2] {
        let files = ModelFiles::open(&fixtures().join("models/llama")).expect("opens");
        let quantization = Quantization::FourBit { code: Code::Nf4, block_len: 64, double: false };
        let base = BaseQuantization { quantization, head: false };
        let quantized = Model::load_quantized(&files, base, Device::Cpu).expect("loads");
        [Model::load(&files, Device::Cpu).expect("loads"), quantized]
    }

    fn lora(rank: usize) -> LoraConfig {
        LoraConfig { rank, ..LoraConfig::new(Targets::AllLinear) }
    }

    fn logits(model: &Model, adapter: Option<&Adapter>) -> Vec<f32> {
        let ids: Vec<u32> = (1..20).collect();
        let positions: Vec<u32> = (0..19).collect();
        let segments = Segments::single(19);
        let stream = Stream { ids: &ids, positions: &positions, segments: &segments, targets: &[], below: 0 };
        let mut buffers = Buffers::for_evaluation(model.config(), adapter, Device::Cpu, 19);
        model.all_logits(adapter, stream, &mut buffers)
    }

    /// By hand: 11,008 x 4,096 values of 4 bytes, ten matrices of 11,008 x 18 of 8 bytes. Other starts take nothing, and of a small
    /// model the adapter of half the rank takes more.
    #[test]
    fn the_bytes_of_a_start_are_those_of_its_largest_weight() {
        let config = Config::named("llama-2-7b").expect("a name");
        let bytes = |start: Start| start.bytes(&config, &start.trained(&lora(8))).expect("modules");
        assert_eq!(bytes(Start::Pissa), 4 * 11_008 * 4_096 + 8 * 10 * 11_008 * 18);
        assert_eq!([Start::Default, Start::Gaussian, Start::Orthogonal].map(bytes), [0; 3]);
        let small = Config::named("smollm2-135m").expect("a name");
        let trained = Start::Pissa.trained(&lora(8));
        let found = Start::Pissa.bytes(&small, &trained).expect("modules");
        assert_eq!(found, 4 * trained.parameters(&small).expect("modules"));
    }

    #[test]
    fn every_start_leaves_the_function_of_the_model() {
        for model in models() {
            let expected = logits(&model, None);
            let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            for start in [Start::Default, Start::Gaussian, Start::Orthogonal, Start::Pissa] {
                for use_rslora in [false, true] {
                    let lora = LoraConfig { use_rslora, ..lora(6) };
                    let adapter = Adapter::begin(&model, &lora, start, 3).expect("fits");
                    let found = logits(&model, Some(&adapter));
                    let apart = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
                    assert!(apart <= 1e-5 * largest, "{start:?}: {apart} of {largest}");
                }
            }
        }
    }

    /// From the numbers that PyTorch drew (`scripts/make_training_fixtures.py`).
    #[test]
    fn orthogonal_factors_are_those_of_peft() {
        let bytes = std::fs::read(fixtures().join("training/orthogonal.safetensors")).expect("there");
        let file = SafeTensors::deserialize(&bytes).expect("tensors");
        let values = |name: &str| -> Vec<f32> {
            let view = file.tensor(name).expect("a tensor");
            view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let (rank, outputs) = (6, 7);
        let (a, b_t) = orthogonal_of(rank, &values("x"), &values("a"), &values("b"));
        let b = values("lora_B");
        let expected = (0..rank * outputs).map(|i| b[i % outputs * rank + i / outputs]);
        for (found, expected) in a.iter().zip(values("lora_A")).chain(b_t.iter().zip(expected)) {
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        }
        let odd = Adapter::begin(&models()[0], &lora(5), Start::Orthogonal, 0).expect_err("odd");
        assert!(odd.to_string().contains("even rank, and model.layers.0.self_attn.q_proj has 5"), "{odd}");
    }

    #[test]
    fn gaussian_factors_have_the_deviation_of_peft() {
        let [model, _] = models();
        let adapter = Adapter::begin(&model, &lora(16), Start::Gaussian, 1).expect("fits");
        let values: Vec<f64> =
            adapter.factor_values().flat_map(|(_, [a, _])| a).map(|value| f64::from(value) * 16.0).collect();
        let n = values.len() as f64;
        let moment = |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>() / n;
        // Five standard errors of the mean and of the mean square.
        let (mean, square) = (moment(1), moment(2));
        assert!(
            mean.abs() < 5.0 / n.sqrt() && (square - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
            "{mean} {square}"
        );
        assert!(adapter.factor_values().all(|(_, [_, b_t])| b_t.iter().all(|value| *value == 0.0)));
    }

    /// What is left of each weight is no more than what PEFT's exact decomposition leaves, but for a thousandth.
    #[test]
    fn pissa_takes_the_strongest_directions() {
        let [model, _] = models();
        let adapter = Adapter::begin(&model, &LoraConfig { alpha: 8.0, ..lora(4) }, Start::Pissa, 0);
        let adapter = adapter.expect("fits");
        assert_eq!((adapter.config().rank, adapter.config().alpha), (8, 16.0));
        let exact = crate::adapter::load(&fixtures().join("training/pissa"), model.config(), Device::Cpu);
        let exact = exact.expect("loads");
        let parts: Vec<_> = exact.parts().map(|(layer, module, ..)| (layer, module)).collect();
        let left = |weight: &Weight, a: &[f32], b_t: &[f32]| -> f64 {
            let (outputs, inputs) = (weight.rows(), weight.cols());
            let mut values = vec![0.0; outputs * inputs];
            weight.read(0..outputs * inputs, &mut values);
            let value = |o: usize, i: usize| {
                let taken: f64 =
                    (0..4).map(|r| f64::from(b_t[r * outputs + o]) * f64::from(a[r * inputs + i])).sum();
                (f64::from(values[o * inputs + i]) - 2.0 * taken).powi(2)
            };
            (0..outputs)
                .flat_map(|o| (0..inputs).map(move |i| (o, i)))
                .map(|(o, i)| value(o, i))
                .sum::<f64>()
                .sqrt()
        };
        let factors = adapter.factor_values().zip(exact.factor_values());
        for ((layer, module), ((_, [a, b_t]), (_, [exact_a, exact_b_t]))) in parts.into_iter().zip(factors) {
            let weight = model.projection(layer, module);
            let (found, least) = (left(weight, &a, &b_t), left(weight, &exact_a, &exact_b_t));
            assert!(found <= 1.001 * least, "{}: {found}, at least {least}", module.path(layer));
        }
    }
}
