//! An adapter added to the weights of its base: `W' = W + scale * B A` for every projection that it adapts.
//!
//! `B A` is summed in f32 by the matrix product and added to the decoded f32 value; the sum is rounded once, to the nearest
//! value of the type that is written, to even where two are. Source: Hu et al. 2021, section 4.1; PEFT's
//! `merge_and_unload` computes the same for a base in f32. With DoRA each row of the sum is then brought to its magnitude,
//! `W'_j = m_j / |W_j + scale (B A)_j| (W_j + scale (B A)_j)`, with the norm in f64. Several adapters become one first ([`combine`]).
//! A weight that an adapter saves whole replaces the base's, and rows of tokens replace rows.
//!
//! Nothing is merged before it is written: [`Merged::sources`] computes rows as a file asks for them, on the thread that asks,
//! so that beside the factors a few megabytes are held, and pages of the base that were read are given back.

mod combine;
mod origin;

use std::ops::Range;

use lorafit_kernels::ops::matmul::{self, Right, Term, View};
use lorafit_kernels::{FrozenWeight, Tensor};

pub use combine::{Combination, CombineError, MajoritySign, Method, Weighted, combine};
pub use origin::foreign_weight;

use crate::adapter::{Adapter, EmbeddingFactors, LoraGroup, LoraPart, TokenRows};
use crate::error::FileError;
use crate::files::{SaveDtype, TensorData, TensorSource};
use crate::shape::{Config, HEAD, Names, WeightShape, module_at, module_shape, weight_shapes};
use crate::weights::{BaseStorage, ModelFiles};

/// The weights of a model with an adapter added, by checkpoint name.
#[derive(Debug)]
pub struct Merged<'a> {
    tensors: Vec<MergedTensor<'a>>,
    names: &'static Names,
}

#[derive(Debug)]
struct MergedTensor<'a> {
    name: String,
    shape: Vec<usize>,
    /// Whether folders have it as `[in, out]`.
    transposed: bool,
    dtype: SaveDtype,
    values: Values<'a>,
}

#[derive(Debug)]
enum Values<'a> {
    Vector(Vec<f32>),
    Matrix(FrozenWeight),
    Adapted(Adapted<'a>),
    /// The embedding, and its factors.
    Embedding(FrozenWeight, &'a EmbeddingFactors),
    /// The embedding or the head, and rows of tokens.
    Rows(FrozenWeight, &'a TokenRows),
    /// A whole weight of the adapter, of which files have this much less.
    Saved(&'a Tensor, f32),
}

/// A projection and its factors.
#[derive(Debug)]
struct Adapted<'a> {
    weight: FrozenWeight,
    group: &'a LoraGroup,
    part: &'a LoraPart,
}

impl<'a> Merged<'a> {
    /// The weights of `files` with `adapter`, which is on the CPU, to be written in `dtype`; without one each as it is stored
    /// or, of a model that is quantised or in a GGUF file, all alike: in the type of its projections or, where those are
    /// quantised, 16 bits. Every tensor is looked up; none is read.
    ///
    /// # Errors
    /// A weight that is missing or has another shape.
    pub fn new(
        files: &ModelFiles,
        adapter: &'a Adapter,
        dtype: Option<SaveDtype>,
    ) -> Result<Self, FileError> {
        let config = files.config();
        let saved = |name: &str| {
            let name = match adapter.saved.ties && name.strip_suffix(".weight") == Some(HEAD) {
                true => format!("{}.weight", config.names.embedding),
                false => name.to_owned(),
            };
            adapter.saved.copy_of(&name)
        };
        let is_whole = |path: &str| saved(&format!("{path}.weight")).is_some();
        if let Some(row) = adapter.tokens.lacking(config, files.stored_rows(), is_whole) {
            let problem = format!(
                "row {row} of the embedding or the head is in no file: no token of the adapter has it"
            );
            return Err(FileError::new(files.path(), problem)
                .with_hint("train the rows of all tokens that were added to the model, on both sides of a head of its own"));
        }
        let dtype = match (dtype, files.storage()?) {
            (Some(dtype), _) => Some(dtype),
            (None, BaseStorage::Quantized(_)) => Some(SaveDtype::Bf16),
            (None, BaseStorage::Float(dtype)) => files.gguf().is_some().then_some(dtype),
        };
        let adapted = |name: &str| {
            if name.strip_suffix(".weight") == Some(HEAD) {
                return adapter.head.as_ref().map(|head| (head, &head.parts[0]));
            }
            let (layer, module) = module_at(adapter.modules(), name.strip_suffix(".weight")?)?;
            adapter.factors(layer, module)
        };
        let of_embedding = |name: &str| {
            let is_it = name.strip_suffix(".weight") == Some(config.names.embedding);
            adapter.embedding.as_ref().filter(|_| is_it)
        };
        let tensor = |WeightShape { name, dims: shape, transposed, .. }: WeightShape| {
            let stored = |format| dtype.or_else(|| SaveDtype::of(format?)).unwrap_or(SaveDtype::Bf16);
            let (dtype, values) = match shape[..] {
                [rows, cols] => {
                    let weight = files.weight(&name, rows, cols)?;
                    let dtype = stored(weight.format());
                    let values = match (saved(&name), adapted(&name)) {
                        (Some((values, less)), _) => Values::Saved(values, less),
                        (None, Some((group, part))) => Values::Adapted(Adapted { weight, group, part }),
                        (None, None) => {
                            match (of_embedding(&name), adapter.tokens.of_weight(config, &name)) {
                                (Some(factors), _) => Values::Embedding(weight, factors),
                                (None, Some(rows)) => Values::Rows(weight, rows),
                                (None, None) => Values::Matrix(weight),
                            }
                        }
                    };
                    (dtype, values)
                }
                _ => {
                    let len = shape.iter().product();
                    let dtype = stored(Some(files.vector_format(&name, len)?));
                    match saved(&name) {
                        Some((values, less)) => (dtype, Values::Saved(values, less)),
                        None => (dtype, Values::Vector(files.vector(&name, len)?)),
                    }
                }
            };
            Ok(MergedTensor { name, shape, transposed, dtype, values })
        };
        let shapes = weight_shapes(config).into_iter();
        let tensors = shapes.map(tensor).collect::<Result<_, _>>()?;
        Ok(Merged { tensors, names: config.names })
    }

    /// The type of the projections, for the model's configuration.
    pub fn dtype(&self) -> SaveDtype {
        let projection = self.tensors.iter().find(|tensor| tensor.name.contains("_proj."));
        projection.map_or(SaveDtype::Bf16, |tensor| tensor.dtype)
    }

    /// Tensors that the adapter changes.
    pub fn changed(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.is_changed()).count()
    }

    /// All tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// False: a model has weights.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of the tensors when they are written.
    pub fn bytes(&self) -> u64 {
        self.sources().iter().map(TensorSource::bytes).sum()
    }

    /// The tensors that the adapter changes, computed as they are asked for.
    pub fn changed_sources(&self) -> impl Iterator<Item = TensorSource<'_>> {
        let changed = self.tensors.iter().filter(|tensor| tensor.is_changed());
        changed.map(MergedTensor::source)
    }

    /// The tensors as a folder of the language model alone has them, computed as they are asked for.
    pub fn sources(&self) -> Vec<TensorSource<'_>> {
        let sources = self.upright_sources().zip(&self.tensors);
        let in_folder = sources.map(|(source, tensor)| {
            let source = source.transposed_if(tensor.transposed);
            TensorSource { name: self.names.alone(&source.name), ..source }
        });
        in_folder.collect()
    }

    /// The tensors as they are computed with, every matrix as `[out, in]`.
    pub(crate) fn upright_sources(&self) -> impl Iterator<Item = TensorSource<'_>> {
        self.tensors.iter().map(|tensor| tensor.source())
    }
}

impl MergedTensor<'_> {
    /// Whether the adapter changes it.
    fn is_changed(&self) -> bool {
        matches!(
            self.values,
            Values::Adapted(_) | Values::Embedding(..) | Values::Rows(..) | Values::Saved(..)
        )
    }

    fn source(&self) -> TensorSource<'_> {
        let dtype = self.dtype;
        let data = match &self.values {
            Values::Vector(values) => {
                TensorData::Computed(dtype, Box::new(|range, out| out.copy_from_slice(&values[range])))
            }
            Values::Embedding(weight, factors) => TensorData::Computed(
                dtype,
                Box::new(move |range, out| {
                    weight.decode_range(range.clone(), out);
                    let (width, rank) = (weight.cols(), factors.rank);
                    let rows = range.start / width..range.end / width;
                    let a_t = factors.a_t.trained().expect("rows that are trained");
                    let left = View::rows(a_t, rank).from_row(rows.start);
                    let right = Right::View(View::rows(&factors.b_t, width));
                    let term = Term { left, right, k: rank };
                    matmul::add_scaled(rows.len(), width, term, factors.scale, out);
                    release(weight, range);
                }),
            ),
            Values::Rows(weight, rows) => TensorData::Computed(
                dtype,
                Box::new(move |range, out| {
                    weight.decode_range(range.clone(), out);
                    let width = weight.cols();
                    for (row, out) in (range.start / width..).zip(out.chunks_exact_mut(width)) {
                        if let Some(own) = rows.row_of(row) {
                            rows.values.read(own * width..(own + 1) * width, out);
                        }
                    }
                    release(weight, range);
                }),
            ),
            Values::Saved(values, less) => TensorData::Computed(
                dtype,
                Box::new(move |range, out| {
                    values.read(range.start, out);
                    out.iter_mut().for_each(|value| *value -= less);
                }),
            ),
            Values::Matrix(weight) => match weight.blocks() {
                Some(bytes) if weight.format().and_then(SaveDtype::of) == Some(dtype) => {
                    TensorData::Stored(dtype, bytes.clone())
                }
                _ => TensorData::Computed(
                    dtype,
                    Box::new(|range, out| {
                        weight.decode_range(range.clone(), out);
                        release(weight, range);
                    }),
                ),
            },
            Values::Adapted(adapted) => TensorData::Computed(
                dtype,
                Box::new(move |range, out| {
                    adapted.weight.decode_range(range.clone(), out);
                    adapted.add_update(range.clone(), out);
                    release(&adapted.weight, range);
                }),
            ),
        };
        TensorSource { name: self.name.clone(), shape: self.shape.clone(), data }
    }
}

impl Adapted<'_> {
    /// Adds the values `range`, of whole rows, of `scale * B A`, `[out, in]`, to `out`, which holds those of the weight; then
    /// magnitudes are theirs.
    fn add_update(&self, range: Range<usize>, out: &mut [f32]) {
        let (outputs, inputs) = (self.weight.rows(), self.weight.cols());
        debug_assert!(range.start.is_multiple_of(inputs) && range.end.is_multiple_of(inputs));
        let rows = range.start / inputs..range.end / inputs;
        let b = View::rows(&self.part.b_t, outputs).from_col(rows.start).t();
        let a = View::rows(&self.group.a, inputs).from_row(self.part.first);
        let term = Term { left: b, right: Right::View(a), k: self.part.rank };
        matmul::add_scaled(rows.len(), inputs, term, self.part.scale, out);
        if let Some(magnitude) = &self.part.magnitude {
            let mut magnitudes = vec![0.0; rows.len()];
            magnitude.values.read(rows.start, &mut magnitudes);
            for (row, magnitude) in out.chunks_exact_mut(inputs).zip(magnitudes) {
                let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                // A row of zeros stays one.
                let factor = if norm > 0.0 { (f64::from(magnitude) / norm) as f32 } else { 0.0 };
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
    }
}

/// Gives back the pages of the rows that were read to their end with the values `range`.
fn release(weight: &FrozenWeight, range: Range<usize>) {
    let cols = weight.cols().max(1);
    match range.end == weight.rows() * weight.cols() {
        true => weight.release(),
        false => weight.release_rows(range.start / cols..range.end / cols),
    }
}

/// Refuses factors and whole weights that hold a value that is no number: the merged weights would have it, too.
///
/// # Errors
/// The path of the projection.
pub fn check_finite(adapter: &Adapter, config: &Config) -> Result<(), CombineError> {
    for (layer, module, group, part) in adapter.parts() {
        let (_, inputs) = module_shape(config, module);
        let mut a = vec![0.0; part.rank * inputs];
        group.a.read(part.first * inputs, &mut a);
        let b = part.b_t.to_vec(part.b_t.len());
        let magnitudes =
            part.magnitude.as_ref().map(|magnitude| magnitude.values.to_vec(magnitude.values.len()));
        let mut values = a.iter().chain(&b).chain(magnitudes.iter().flatten());
        if !values.all(|value| value.is_finite()) || !part.scale.is_finite() {
            return Err(CombineError::NotFinite { path: module.path(layer) });
        }
    }
    let of_head = adapter.head.iter().flat_map(|head| [&head.a, &head.parts[0].b_t]);
    if !of_head.flat_map(|tensor| tensor.to_vec(tensor.len())).all(f32::is_finite) {
        return Err(CombineError::NotFinite { path: HEAD.to_owned() });
    }
    let of_embedding = adapter.embedding.iter().flat_map(EmbeddingFactors::tensors);
    if !of_embedding.flat_map(|tensor| tensor.to_vec(tensor.len())).all(f32::is_finite) {
        return Err(CombineError::NotFinite { path: config.names.embedding.to_owned() });
    }
    for (path, rows) in adapter.tokens.named(config.names.embedding) {
        if !rows.tensor().to_vec(rows.tensor().len()).into_iter().all(f32::is_finite) {
            return Err(CombineError::NotFinite { path: path.to_owned() });
        }
    }
    for (weight, values) in adapter.saved.weights.iter().zip(adapter.saved.tensors()) {
        if !values.to_vec(values.len()).iter().all(|value| value.is_finite()) {
            return Err(CombineError::NotFinite { path: weight.shape.path().to_owned() });
        }
    }
    Ok(())
}
