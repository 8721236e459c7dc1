//! A model from its files, or of a shape with random weights.

use std::ops::Range;

use lorafit_kernels::quant::Format;
use lorafit_kernels::{Device, FrozenWeight, Placement, SharedBytes, Tensor, Weight, random};
use rayon::prelude::*;

use crate::block::add::AddStep;
use crate::block::attend::AttendStep;
use crate::block::gate::GateStep;
use crate::block::linear::{Linear, LinearGroup};
use crate::block::norm::NormStep;
use crate::block::project::ProjectStep;
use crate::block::{Block, Step};
use crate::error::FileError;
use crate::model::Model;
use crate::norm::Norm;
use crate::shape::{self, AttendShape, BaseQuantization, Config, LinearShape, NormKind, NormShape, matrices};
use crate::vector::Vector;
use crate::weights::ModelFiles;

/// The logit of a token that a model does not know: far below any other, and a number in bf16, too.
const UNKNOWN_LOGIT: f32 = -1e30;

/// Bytes of a model's weights in memory, when `stored` tells those of a matrix that is not quantised. Norms and biases
/// are held in f32.
fn weight_bytes<E>(
    config: &Config,
    base: Option<BaseQuantization>,
    stored: impl Fn(&str, usize, usize) -> Result<u64, E>,
) -> Result<u64, E> {
    let (mut bytes, mut values) = (0, 0);
    for (name, rows, cols) in matrices(config) {
        values += rows as u64 * cols as u64;
        bytes += match base.and_then(|base| base.of(&name)) {
            Some(quantization) => quantization.bytes(rows, cols) as u64,
            None => stored(&name, rows, cols)?,
        };
    }
    Ok(bytes + 4 * (config.parameters() - values))
}

impl Config {
    /// Rows and columns of the matrices; a tied head is the embedding.
    pub fn matrix_shapes(&self) -> impl Iterator<Item = (usize, usize)> {
        matrices(self).map(|(_, rows, cols)| (rows, cols))
    }

    /// Bytes of the weights in memory, with `value_bytes` for a value that is not quantised.
    pub fn weight_bytes(&self, value_bytes: u64, base: Option<BaseQuantization>) -> u64 {
        let stored = |_: &str, rows: usize, cols: usize| Ok(value_bytes * rows as u64 * cols as u64);
        let Ok(bytes) = weight_bytes::<std::convert::Infallible>(self, base, stored);
        bytes
    }
}

impl ModelFiles {
    /// Bytes of the weights in the memory of a device of `placement`: those of the file where it is mapped, fewer where
    /// `base` quantises, and no more than a GPU computes with.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn weight_bytes(
        &self,
        base: Option<BaseQuantization>,
        placement: Placement,
    ) -> Result<u64, FileError> {
        weight_bytes(self.config(), base, |name, rows, cols| {
            let stored = self.matrix_bytes(name, rows, cols)?;
            let widest = placement.activation_float().bytes(rows as u64 * cols as u64);
            Ok(stored.min(widest))
        })
        .map(|bytes| match self.stored_rows() < self.config().vocab_size {
            true => bytes + placement.buffer_bytes(4 * self.config().vocab_size as u64),
            false => bytes,
        })
    }
}

impl Model {
    /// Maps the weights of `files`; nothing large is read before it is used.
    ///
    /// # Errors
    /// A weight that is missing or has another shape than the configuration says.
    pub fn load(files: &ModelFiles, device: Device) -> Result<Self, FileError> {
        Ok(Model::build(files.config(), device, files)?.without_added(files.stored_rows()))
    }

    /// As [`Model::load`], with weights quantised one after the other: beside the result, a matrix at a time is read.
    ///
    /// # Errors
    /// As [`Model::load`], and a weight that its file has quantised already.
    pub fn load_quantized(
        files: &ModelFiles,
        base: BaseQuantization,
        device: Device,
    ) -> Result<Self, FileError> {
        let model = Model::build(files.config(), device, &QuantizedFiles { files, base })?;
        Ok(model.without_added(files.stored_rows()))
    }

    /// As [`Model::load_quantized`] where there is a `base`, else as [`Model::load`]; tells `on_matrix` how many values a matrix
    /// has that is about to be put on the device, one after the other.
    ///
    /// # Errors
    /// As [`Model::load_quantized`].
    pub fn load_and_tell(
        files: &ModelFiles,
        base: Option<BaseQuantization>,
        device: Device,
        on_matrix: &dyn Fn(u64),
    ) -> Result<Self, FileError> {
        let config = files.config();
        let model = match base {
            Some(base) => {
                Model::build(config, device, &Told { source: QuantizedFiles { files, base }, on_matrix })
            }
            None => Model::build(config, device, &Told { source: files, on_matrix }),
        };
        Ok(model?.without_added(files.stored_rows()))
    }

    /// The same, where tokens from `stored` on are known by adapters alone.
    fn without_added(mut self, stored: usize) -> Self {
        let rows = self.config.vocab_size;
        self.unknown = (stored < rows && self.config.labels.is_none()).then(|| {
            let of_token = |id: usize| if id < stored { 0.0 } else { UNKNOWN_LOGIT };
            Tensor::from_slice(self.device, &(0..rows).map(of_token).collect::<Vec<f32>>())
        });
        self
    }

    /// A model of shape `config` with random weights: for benchmarks, and to train from nothing.
    pub fn random(config: &Config, weights: RandomWeights, device: Device) -> Self {
        let Ok(model) = Model::build(config, device, &weights);
        model
    }

    /// A model of shape `config` whose matrices are zeros in f32. They take no memory before they are written to, which
    /// makes it one for who asks for the shape until there are weights.
    pub fn zeros(config: &Config, device: Device) -> Self {
        let Ok(model) = Model::build(config, device, &Zeros);
        model
    }

    fn build<S: WeightSource>(config: &Config, device: Device, source: &S) -> Result<Self, S::Error> {
        let vector = |name: &str, len: usize| {
            source.vector(name, len, 0.0).map(|v| Vector::frozen(Tensor::from_slice(device, &v)))
        };
        let matrix =
            |name: &str, rows: usize, cols: usize| Ok(Weight::on(device, source.weight(name, rows, cols)?));
        let norm = |path: &str, shape: &NormShape| {
            let less = if shape.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
            let weight = source.vector(&format!("{path}.weight"), shape.width, less)?;
            Ok(Norm {
                kind: shape.kind,
                weight: Vector::frozen(Tensor::from_slice(device, &weight)),
                bias: shape.has_bias().then(|| vector(&format!("{path}.bias"), shape.width)).transpose()?,
                eps: config.norm_eps,
            })
        };
        let linear = |layer: usize, shape: &LinearShape| {
            let path = config.names.in_block(layer, shape.name.hf);
            let bias = shape.bias.then(|| vector(&format!("{path}.bias"), shape.outputs)).transpose()?;
            Ok(Linear { weight: matrix(&format!("{path}.weight"), shape.outputs, shape.inputs)?, bias })
        };
        let step = |layer: usize, step: &shape::Step| {
            let norm = |shape: &NormShape| norm(&config.names.in_block(layer, shape.name.hf), shape);
            Ok(match step {
                shape::Step::Norm { shape, from, stats } => {
                    Step::Norm(NormStep { norm: norm(shape)?, from: *from, stats: *stats })
                }
                shape::Step::Linear { projections, site, from, to, adds } => {
                    let joined = projections[0].joined.clone();
                    let projections = projections.iter().map(|shape| linear(layer, shape));
                    let group = LinearGroup { projections: projections.collect::<Result<_, S::Error>>()? };
                    Step::Project(ProjectStep {
                        group,
                        site: *site,
                        from: *from,
                        to: *to,
                        adds: *adds,
                        joined,
                    })
                }
                shape::Step::Attend { shape, stats } => {
                    let norms = shape.norms.map(|[q, k]| Ok([norm(&q)?, norm(&k)?])).transpose()?;
                    let AttendShape { heads, scores, rope, grows, .. } = *shape;
                    Step::Attend(AttendStep { norms, heads, scores, rope, grows, stats: *stats })
                }
                shape::Step::Gate(shape) => Step::Gate(GateStep(*shape)),
                shape::Step::Add { shape, of_norm } => {
                    Step::Add(AddStep { scale: shape.scale, of_norm: *of_norm })
                }
                shape::Step::Again(norm) => Step::Again(*norm),
            })
        };
        let block = |layer: usize| {
            let steps = config.block(layer).steps;
            Ok(Block {
                steps: steps.iter().map(|shape| step(layer, shape)).collect::<Result<_, S::Error>>()?,
            })
        };
        let table = |path: &str, rows: usize| matrix(&format!("{path}.weight"), rows, config.hidden_size);
        let embedding = table(config.names.embedding, config.vocab_size)?;
        let positions = config.positions().map(|rows| table(config.names.positions, rows)).transpose()?;
        let own_head = match config.tie_word_embeddings {
            true => None,
            false => Some(table(config.head_path(), config.outputs())?),
        };
        Ok(Model {
            device,
            embedding,
            positions,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_, S::Error>>()?,
            norm: norm(config.final_norm().name.hf, &config.final_norm())?,
            own_head,
            unknown: None,
            frequencies: config
                .ropes()
                .into_iter()
                .map(|rope| rope.fixed_frequencies(config.head_dim))
                .collect(),
            config: config.clone(),
        })
    }
}

/// Where a model's weights come from, by checkpoint name.
trait WeightSource {
    type Error;
    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, Self::Error>;
    /// The values to compute with, of which files have `less` less.
    fn vector(&self, name: &str, len: usize, less: f32) -> Result<Vec<f32>, Self::Error>;
}

impl WeightSource for ModelFiles {
    type Error = FileError;

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, FileError> {
        ModelFiles::weight(self, name, rows, cols)
    }

    fn vector(&self, name: &str, len: usize, less: f32) -> Result<Vec<f32>, FileError> {
        let mut values = ModelFiles::vector(self, name, len)?;
        if less != 0.0 {
            values.iter_mut().for_each(|value| *value += less);
        }
        Ok(values)
    }
}

impl<S: WeightSource> WeightSource for &S {
    type Error = S::Error;

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, S::Error> {
        S::weight(self, name, rows, cols)
    }

    fn vector(&self, name: &str, len: usize, less: f32) -> Result<Vec<f32>, S::Error> {
        S::vector(self, name, len, less)
    }
}

/// A source of weights that reports each matrix before it gives it.
struct Told<'a, S> {
    source: S,
    on_matrix: &'a dyn Fn(u64),
}

impl<S: WeightSource> WeightSource for Told<'_, S> {
    type Error = S::Error;

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, S::Error> {
        let weight = self.source.weight(name, rows, cols)?;
        (self.on_matrix)(rows as u64 * cols as u64);
        Ok(weight)
    }

    fn vector(&self, name: &str, len: usize, less: f32) -> Result<Vec<f32>, S::Error> {
        self.source.vector(name, len, less)
    }
}

/// Files whose matrices are quantised as they are asked for.
struct QuantizedFiles<'a> {
    files: &'a ModelFiles,
    base: BaseQuantization,
}

impl WeightSource for QuantizedFiles<'_> {
    type Error = FileError;

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, FileError> {
        self.files.quantized_weight(name, rows, cols, &self.base)
    }

    fn vector(&self, name: &str, len: usize, less: f32) -> Result<Vec<f32>, FileError> {
        WeightSource::vector(self.files, name, len, less)
    }
}

/// Matrices of zeros.
struct Zeros;

impl WeightSource for Zeros {
    type Error = std::convert::Infallible;

    fn weight(&self, _: &str, rows: usize, cols: usize) -> Result<FrozenWeight, Self::Error> {
        // Zeroed by the system when it is touched.
        let bytes = SharedBytes::from_vec(vec![0; 4 * rows * cols]);
        Ok(FrozenWeight::new(rows, cols, Format::F32, bytes).expect("sizes agree"))
    }

    fn vector(&self, name: &str, len: usize, _: f32) -> Result<Vec<f32>, Self::Error> {
        Ok(initial_vector(name, len))
    }
}

/// Norms are one (as they are computed with), biases zero.
fn initial_vector(name: &str, len: usize) -> Vec<f32> {
    vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; len]
}

/// What the values of random matrices are drawn from; mean 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// With standard deviation 0.02, quick to draw: for benchmarks.
    Uniform,
    /// As transformers initialises (`PreTrainedModel._init_weights`), with [`Config::initializer_range`].
    Normal {
        /// Standard deviation.
        std: f32,
    },
}

impl Distribution {
    /// The value at a position of a stream.
    fn draw(self, stream: u64, position: u64) -> f32 {
        match self {
            // A uniform distribution of half-width h has standard deviation h / sqrt(3).
            Distribution::Uniform => (2.0 * random::uniform(stream, position) - 1.0) * 0.02 * 3.0f32.sqrt(),
            Distribution::Normal { std } => std * random::normal(stream, position),
        }
    }
}

/// Random matrices; norms are one, biases zero. The seed, the name and the position decide a value, and no order or thread.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    /// Of the values.
    pub distribution: Distribution,
    /// Storage of what is not quantised: F32, F16 or BF16.
    pub format: Format,
    /// Storage of what is.
    pub quantization: Option<BaseQuantization>,
    /// Where chance comes from.
    pub seed: u64,
}

impl WeightSource for RandomWeights {
    type Error = std::convert::Infallible;

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<FrozenWeight, Self::Error> {
        let stream = name.bytes().fold(self.seed, |s, b| random::mix(s ^ u64::from(b)));
        let value = |i: usize| self.distribution.draw(stream, i as u64);
        if let Some(quantization) = self.quantization.and_then(|base| base.of(name)) {
            let fill = |range: Range<usize>, out: &mut [f32]| {
                range.zip(out).for_each(|(i, out)| *out = value(i));
            };
            let weight = FrozenWeight::quantized(rows, cols, quantization, fill);
            return Ok(weight.expect("random values are finite"));
        }
        let values = rows * cols;
        let bytes = match self.format {
            Format::F32 => encode(values, |i| value(i).to_le_bytes()),
            Format::BF16 => encode(values, |i| half::bf16::from_f32(value(i)).to_le_bytes()),
            Format::F16 => encode(values, |i| half::f16::from_f32(value(i)).to_le_bytes()),
            other => unreachable!("random weights come in floating-point formats, not {other}"),
        };
        Ok(FrozenWeight::new(rows, cols, self.format, SharedBytes::from_vec(bytes)).expect("sizes agree"))
    }

    fn vector(&self, name: &str, len: usize, _: f32) -> Result<Vec<f32>, Self::Error> {
        Ok(initial_vector(name, len))
    }
}

fn encode<const N: usize>(values: usize, value: impl Fn(usize) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values * N];
    bytes.par_chunks_exact_mut(N).enumerate().for_each(|(i, to)| to.copy_from_slice(&value(i)));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(seed: u64) -> RandomWeights {
        let distribution = Distribution::Normal { std: 0.05 };
        RandomWeights { distribution, format: Format::F32, quantization: None, seed }
    }

    #[test]
    fn random_matrices_are_normal_with_the_standard_deviation_asked_for() {
        let Ok(weight) = normal(7).weight("model.layers.0.mlp.up_proj.weight", 300, 400);
        let (values, n) = (weight.to_vec(), 120_000.0);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let std = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let within = values.iter().filter(|v| v.abs() < 0.05).count() as f64 / n;
        // Five standard errors each; 68.27 % of a normal distribution lie within one standard deviation.
        assert!(mean.abs() < 7.3e-4 && (std - 0.05).abs() < 5.2e-4, "{mean} {std}");
        assert!((within - 0.6827).abs() < 0.007, "{within}");
        let Ok(norm) = normal(7).vector("model.norm.weight", 3, 0.0);
        let Ok(bias) = normal(7).vector("model.layers.0.self_attn.q_proj.bias", 2, 0.0);
        assert_eq!((norm, bias), (vec![1.0; 3], vec![0.0; 2]));
    }

    #[test]
    fn seed_and_name_decide_the_bits_and_threads_do_not() {
        let bits = |seed: u64, name: &str, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let Ok(weight) = pool.install(|| normal(seed).weight(name, 64, 65));
            weight.to_vec().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(1, "a.weight", 1), bits(1, "a.weight", 3));
        assert_ne!(bits(1, "a.weight", 1), bits(2, "a.weight", 1));
        assert_ne!(bits(1, "a.weight", 1), bits(1, "b.weight", 1));
    }
}
