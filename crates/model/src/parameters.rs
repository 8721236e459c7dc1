//! What a run trains, as its loop, optimizer and checkpoints see it: a list of f32 tensors in the model they belong to.

use lorafit_kernels::Tensor;

use crate::adapter::{Adapter, TargetError};
use crate::block::weights::{WeightMut, WeightRef};
use crate::files::{SaveDtype, TensorData, TensorReader, TensorSource, Values};
use crate::gradients::Gradients;
use crate::model::Model;
use crate::selection::WeightSelection;
use crate::shape::{WeightShape, stored_less, weight_shapes};

/// Tensors that are trained, with the model that they are trained in.
#[derive(Debug)]
pub enum Parameters<'a> {
    /// The factors of an adapter over a frozen model.
    Adapter {
        /// The model.
        model: &'a Model,
        /// The adapter.
        adapter: &'a mut Adapter,
    },
    /// Those weights of a model that [`Model::train`] was told.
    Weights(&'a mut Model),
}

impl Parameters<'_> {
    /// The model that computes.
    pub fn model(&self) -> &Model {
        match self {
            Parameters::Adapter { model, .. } => model,
            Parameters::Weights(model) => model,
        }
    }

    /// The adapter that it computes with, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        match self {
            Parameters::Adapter { adapter, .. } => Some(adapter),
            Parameters::Weights(_) => None,
        }
    }

    /// All tensors, in the order of [`Gradients::tensors`].
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Parameters::Adapter { adapter, .. } => adapter.tensors().collect(),
            Parameters::Weights(model) => model.trained_tensors().map(|(_, tensor)| tensor).collect(),
        }
    }

    /// As [`Parameters::tensors`], writable.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            Parameters::Adapter { adapter, .. } => adapter.tensors_mut().collect(),
            Parameters::Weights(model) => model.trained_tensors_mut().collect(),
        }
    }

    /// Has the model ready to compute with them after they were made or changed ([`Model::prepare`]).
    pub fn prepare(&mut self) {
        match self {
            Parameters::Adapter { model, adapter } => model.prepare(adapter),
            Parameters::Weights(_) => {}
        }
    }

    /// Of each tensor, whether weight decay applies: to matrices, and not to norms and biases.
    pub fn decayed(&self) -> Vec<bool> {
        match self {
            Parameters::Adapter { adapter, .. } => adapter.decayed().collect(),
            Parameters::Weights(model) => {
                let is_matrix = |(weight, _)| matches!(weight, WeightRef::Matrix(_));
                model.trained_tensors().map(is_matrix).collect()
            }
        }
    }

    /// What the learning rate of each tensor is multiplied by: the `A` of an adapter and whole weights have it as it is, all else of
    /// an adapter `b_ratio` times it (LoRA+, Hayou et al. 2024).
    pub fn rate_factors(&self, b_ratio: f64) -> Vec<f64> {
        match self {
            Parameters::Adapter { adapter, .. } => {
                adapter.take_base_rate().map(|base| if base { 1.0 } else { b_ratio }).collect()
            }
            Parameters::Weights(model) => model.trained_tensors().map(|_| 1.0).collect(),
        }
    }

    /// Number of trainable values.
    pub fn count(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }

    /// Gradients of the same shapes, zero.
    pub fn zero_gradients(&self) -> Gradients {
        Gradients::new(self.model(), self.adapter())
    }

    /// Dropout on the input of what is trained.
    pub fn dropout(&self) -> f32 {
        self.adapter().map_or(0.0, |adapter| adapter.config().dropout)
    }
}

impl Model {
    /// Makes weights trainable: each gets a master copy in f32, decoded if it is stored otherwise, one after the other.
    ///
    /// # Errors
    /// As [`WeightSelection::of`].
    pub fn train(&mut self, selection: &WeightSelection) -> Result<(), TargetError> {
        let names = selection.names(&self.config)?;
        let (device, shapes) = (self.device, weight_shapes(&self.config));
        for (weight, shape) in self.weights_mut().zip(shapes) {
            match weight {
                _ if !names.contains(&shape.name) => {}
                WeightMut::Matrix(matrix) => matrix.train(device),
                WeightMut::Vector(vector) => vector.is_trained = true,
            }
        }
        Ok(())
    }

    /// Bytes of the weights in memory once [`Model::train`] has made those of `selection` trainable.
    ///
    /// # Errors
    /// As [`WeightSelection::of`].
    pub fn weight_bytes(&self, selection: Option<&WeightSelection>) -> Result<u64, TargetError> {
        let trained = selection.map(|s| s.names(&self.config)).transpose()?.unwrap_or_default();
        let bytes = |(weight, shape): (WeightRef<'_>, WeightShape)| match weight {
            WeightRef::Matrix(matrix) if !trained.contains(&shape.name) => matrix.stored_bytes() as u64,
            WeightRef::Matrix(_) | WeightRef::Vector(_) => 4 * shape.len() as u64,
        };
        Ok(self.weights().zip(weight_shapes(&self.config)).map(bytes).sum())
    }

    /// Whether matrices are stored in 16 bits.
    pub fn is_16_bit(&self) -> bool {
        self.stores(2)
    }

    /// Whether matrices are stored in 16 or 32 bits, and not quantised.
    pub fn is_float(&self) -> bool {
        self.stores(2) || self.stores(4)
    }

    fn stores(&self, value_bytes: usize) -> bool {
        let first = self.blocks.first().and_then(|block| block.groups().next()?.projections.first());
        let matrix = first.map_or(&self.embedding, |linear| &linear.weight);
        matrix.stored_bytes() == value_bytes * matrix.rows() * matrix.cols()
    }

    /// The weights that are trained, in the order of [`Gradients::tensors`].
    pub(crate) fn trained_tensors(&self) -> impl Iterator<Item = (WeightRef<'_>, &Tensor)> {
        self.weights().filter_map(|weight| {
            let tensor = match weight {
                WeightRef::Matrix(matrix) => matrix.trained(),
                WeightRef::Vector(vector) => vector.trained(),
            };
            Some((weight, tensor?))
        })
    }

    fn trained_tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.weights_mut().filter_map(|weight| match weight {
            WeightMut::Matrix(matrix) => matrix.trained_mut(),
            WeightMut::Vector(vector) => vector.is_trained.then_some(&mut vector.values),
        })
    }

    /// The names and shapes of the weights that are trained, in the order of [`Parameters::tensors`].
    pub fn trained_shapes(&self) -> Vec<WeightShape> {
        let is_trained = |weight: WeightRef<'_>| match weight {
            WeightRef::Matrix(matrix) => matrix.trained().is_some(),
            WeightRef::Vector(vector) => vector.is_trained,
        };
        let weights = self.weights().zip(weight_shapes(&self.config));
        weights.filter(|(weight, _)| is_trained(*weight)).map(|(_, shape)| shape).collect()
    }

    /// All weights by the names that a folder of the language model alone has, to be written in `dtype`; a tied head is written once, as the embedding.
    pub fn sources(&self, dtype: SaveDtype) -> Vec<TensorSource<'_>> {
        let weights = self.weights().zip(weight_shapes(&self.config));
        let less = |shape: &WeightShape| stored_less(&self.config, &shape.name);
        let source = |(weight, shape): (_, WeightShape)| {
            let transposed = shape.transposed;
            let source = source(weight, less(&shape), shape, dtype).transposed_if(transposed);
            TensorSource { name: self.config.names.alone(&source.name), ..source }
        };
        weights.map(source).collect()
    }

    /// The weights that are trained, as they are.
    pub fn trained_sources(&self) -> Vec<TensorSource<'_>> {
        let weights = self.trained_tensors().zip(self.trained_shapes());
        weights.map(|((weight, _), shape)| source(weight, 0.0, shape, SaveDtype::F32)).collect()
    }

    /// Reads the weights that are trained from a file of [`Model::trained_sources`].
    ///
    /// # Errors
    /// What is wrong with the file: other weights than those that are trained here, or damage.
    pub fn restore_trained(&mut self, file: &mut TensorReader) -> Result<(), String> {
        let shapes = self.trained_shapes();
        if file.tensors() != shapes.len() {
            return Err(format!("it has {} tensors, the run trains {}", file.tensors(), shapes.len()));
        }
        for (tensor, shape) in self.trained_tensors_mut().zip(shapes) {
            file.read_floats(&shape.name, &shape.dims, |first, values| tensor.write(first, values))?;
        }
        Ok(())
    }
}

/// A weight by its name; of a vector, `less` less than its values.
fn source(weight: WeightRef<'_>, less: f32, shape: WeightShape, dtype: SaveDtype) -> TensorSource<'_> {
    let values: Values<'_> = match weight {
        WeightRef::Matrix(matrix) => Box::new(|range, out| matrix.read(range, out)),
        WeightRef::Vector(vector) => Box::new(move |range, out| {
            vector.read(range.start, out);
            if less != 0.0 {
                out.iter_mut().for_each(|value| *value -= less);
            }
        }),
    };
    TensorSource { name: shape.name, shape: shape.dims, data: TensorData::Floats(dtype, values) }
}
