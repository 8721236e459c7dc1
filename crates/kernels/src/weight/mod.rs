//! The matrix that a layer multiplies with. It is one of three: frozen as its file stores it ([`FrozenWeight`]), frozen in the
//! memory of a device ([`DeviceWeight`]), or f32 values that are trained ([`TrainedWeight`]).
//!
//! Files give frozen matrices, and whoever reads files has nothing to do with the others. Ops ask a [`Weight`] for what the
//! processor reads ([`HostWeight`]) or for what a GPU reads ([`GpuWeight`]), where they match on the device.

mod device;
mod frozen;
mod trained;

use std::ops::Range;

pub use device::DeviceWeight;
pub use frozen::{FrozenWeight, RowOrder, UnquantizableValue, WeightError};
#[cfg(target_arch = "x86_64")]
pub(crate) use frozen::{StoredAs, StoredRowsOf};
pub use trained::TrainedWeight;

use crate::gpu::{Float, Gpu, Region, count};
use crate::quant::Format;
use crate::quant::cuda::{FewRows, Stored, Tile};
use crate::tensor::{Device, Halves, Tensor};

/// How a weight is multiplied. Sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeDtype {
    /// As f32, which every storage format decodes to.
    #[default]
    F32,
    /// Weight and activations rounded to bf16: the 16-bit compute type of QLoRA (Dettmers et al. 2023, section 3).
    /// Twice as fast where the processor multiplies pairs of them. Products of a few rows, as in generation, stay f32:
    /// there decoding and memory set the speed.
    Bf16,
    /// Weight and activations, or gradients, rounded to 8 bits, 64 values that follow each other in the sum sharing a scale
    /// on either side. Sums of such blocks are exact, and are added in f32. Products of a few rows stay f32, as with bf16.
    Int8,
}

/// A `[rows, cols]` matrix as a layer has it (`[out, in]` for a projection, `[vocab, hidden]` for an embedding), and how it is
/// multiplied.
#[derive(Debug)]
pub struct Weight {
    matrix: Matrix,
    compute_dtype: ComputeDtype,
}

#[derive(Debug)]
enum Matrix {
    Frozen(FrozenWeight),
    Device(DeviceWeight),
    Trained(TrainedWeight),
}

impl From<FrozenWeight> for Weight {
    /// Computed with on the host, as f32.
    fn from(weight: FrozenWeight) -> Self {
        Weight { matrix: Matrix::Frozen(weight), compute_dtype: ComputeDtype::F32 }
    }
}

impl Weight {
    /// `weight`, to be computed with on `device` as f32. Of mapped bytes that are copied there no page is held afterwards.
    pub fn on(device: Device, weight: FrozenWeight) -> Self {
        match device {
            Device::Cpu => weight.into(),
            Device::Cuda(gpu) => Weight {
                matrix: Matrix::Device(DeviceWeight::copied(&weight, gpu)),
                compute_dtype: ComputeDtype::F32,
            },
        }
    }

    /// A matrix of zeros on `device` that is trained, to be computed with as f32.
    pub fn trained_zeros(device: Device, rows: usize, cols: usize) -> Self {
        let matrix = Matrix::Trained(TrainedWeight::zeros(device, rows, cols));
        Weight { matrix, compute_dtype: ComputeDtype::F32 }
    }

    /// Makes the matrix trainable: it gets a master copy in f32 on `device`, or where it is. Of mapped bytes no page is held
    /// afterwards.
    pub fn train(&mut self, device: Device) {
        self.matrix = Matrix::Trained(match &self.matrix {
            Matrix::Frozen(weight) => TrainedWeight::of_frozen(weight, device),
            Matrix::Device(weight) => TrainedWeight::of_device(weight),
            Matrix::Trained(_) => return,
        });
    }

    /// The values, if they are trained.
    pub fn trained(&self) -> Option<&Tensor> {
        match &self.matrix {
            Matrix::Trained(weight) => Some(&weight.values),
            Matrix::Frozen(_) | Matrix::Device(_) => None,
        }
    }

    /// As [`Weight::trained`], writable.
    pub fn trained_mut(&mut self) -> Option<&mut Tensor> {
        match &mut self.matrix {
            Matrix::Trained(weight) => Some(&mut weight.values),
            Matrix::Frozen(_) | Matrix::Device(_) => None,
        }
    }

    /// Says how products with the matrix are to be computed.
    pub fn set_compute_dtype(&mut self, dtype: ComputeDtype) {
        self.compute_dtype = dtype;
    }

    /// How products with the matrix are computed.
    pub fn compute_dtype(&self) -> ComputeDtype {
        self.compute_dtype
    }

    /// Number of rows (outputs of a projection).
    pub fn rows(&self) -> usize {
        match &self.matrix {
            Matrix::Frozen(weight) => weight.rows(),
            Matrix::Device(weight) => weight.rows(),
            Matrix::Trained(weight) => weight.rows(),
        }
    }

    /// Values per row (inputs of a projection).
    pub fn cols(&self) -> usize {
        match &self.matrix {
            Matrix::Frozen(weight) => weight.cols(),
            Matrix::Device(weight) => weight.cols(),
            Matrix::Trained(weight) => weight.cols(),
        }
    }

    /// Bytes as they are held.
    pub fn stored_bytes(&self) -> usize {
        match &self.matrix {
            Matrix::Frozen(weight) => weight.stored_bytes(),
            Matrix::Device(weight) => weight.stored_bytes(),
            Matrix::Trained(weight) => 4 * weight.values.len(),
        }
    }

    /// Copies the values `range`, counted in row-major checkpoint order, to `out` on the host, wherever they are.
    pub fn read(&self, range: Range<usize>, out: &mut [f32]) {
        match &self.matrix {
            Matrix::Frozen(weight) => weight.decode_range(range, out),
            Matrix::Device(weight) => weight.read(range, out),
            Matrix::Trained(weight) => weight.read(range, out),
        }
    }

    /// The matrix as the processor reads it.
    ///
    /// # Panics
    /// When it is in the memory of a device, as [`Tensor::cpu`] does.
    pub(crate) fn host(&self) -> HostWeight<'_> {
        let matrix = match &self.matrix {
            Matrix::Frozen(weight) => HostMatrix::Frozen(weight),
            Matrix::Trained(weight) => {
                HostMatrix::Values { values: weight.values.cpu(), rows: weight.rows(), cols: weight.cols() }
            }
            Matrix::Device(_) => panic!("a matrix on a device in an op on the host"),
        };
        HostWeight { matrix, compute_dtype: self.compute_dtype }
    }

    /// The matrix as a GPU reads it.
    ///
    /// # Panics
    /// When it is on the host, as [`Tensor::region`] does.
    pub(crate) fn gpu(&self) -> GpuWeight<'_> {
        match &self.matrix {
            Matrix::Device(weight) => GpuWeight::Frozen(weight),
            Matrix::Trained(weight) => GpuWeight::Trained(weight),
            Matrix::Frozen(_) => panic!("a matrix on the host in an op on a device"),
        }
    }
}

/// A matrix that the processor reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostWeight<'a> {
    matrix: HostMatrix<'a>,
    compute_dtype: ComputeDtype,
}

#[derive(Clone, Copy, Debug)]
enum HostMatrix<'a> {
    Frozen(&'a FrozenWeight),
    Values { values: &'a [f32], rows: usize, cols: usize },
    Halves { values: Halves<'a>, rows: usize, cols: usize },
}

impl<'a> HostWeight<'a> {
    /// A matrix of values of 16 bits, multiplied as f32.
    pub(crate) fn of_halves(values: Halves<'a>, rows: usize, cols: usize) -> Self {
        HostWeight { matrix: HostMatrix::Halves { values, rows, cols }, compute_dtype: ComputeDtype::F32 }
    }

    pub(crate) fn rows(&self) -> usize {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.rows(),
            HostMatrix::Values { rows, .. } | HostMatrix::Halves { rows, .. } => rows,
        }
    }

    pub(crate) fn cols(&self) -> usize {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.cols(),
            HostMatrix::Values { cols, .. } | HostMatrix::Halves { cols, .. } => cols,
        }
    }

    pub(crate) fn compute_dtype(&self) -> ComputeDtype {
        self.compute_dtype
    }

    /// See [`FrozenWeight::decode`].
    pub(crate) fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.decode(row, cols, out),
            HostMatrix::Values { values, cols: width, .. } => {
                out.copy_from_slice(&values[row * width..][cols]);
            }
            HostMatrix::Halves { values, cols: width, .. } => {
                values.decode(row * width + cols.start..row * width + cols.end, out);
            }
        }
    }

    /// See [`FrozenWeight::decode_rows`].
    pub(crate) fn decode_rows(&self, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.decode_rows(rows, cols, stride, out),
            HostMatrix::Values { .. } | HostMatrix::Halves { .. } => {
                for (row, out) in rows.zip(out.chunks_mut(stride)) {
                    self.decode(row, cols.clone(), &mut out[..cols.len()]);
                }
            }
        }
    }

    /// See [`FrozenWeight::as_f32`].
    pub(crate) fn as_f32(&self) -> Option<&'a [f32]> {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.as_f32(),
            HostMatrix::Values { values, .. } => Some(values),
            HostMatrix::Halves { .. } => None,
        }
    }

    /// See [`FrozenWeight::as_bf16`].
    pub(crate) fn as_bf16(&self) -> Option<&'a [u16]> {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.as_bf16(),
            // Values of 16 bits are multiplied as f32.
            HostMatrix::Values { .. } | HostMatrix::Halves { .. } => None,
        }
    }

    /// The frozen weight, if the matrix is one.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn frozen(&self) -> Option<&'a FrozenWeight> {
        match self.matrix {
            HostMatrix::Frozen(weight) => Some(weight),
            HostMatrix::Values { .. } | HostMatrix::Halves { .. } => None,
        }
    }

    /// See [`FrozenWeight::stored_bytes_of`].
    pub(crate) fn stored_bytes_of(&self, row: usize, cols: Range<usize>) -> &'a [u8] {
        match self.matrix {
            HostMatrix::Frozen(weight) => weight.stored_bytes_of(row, cols),
            HostMatrix::Values { values, cols: width, .. } => {
                // SAFETY: every f32 is four bytes.
                unsafe { values[row * width..][cols].align_to::<u8>().1 }
            }
            HostMatrix::Halves { values, cols: width, .. } => {
                values.bytes(row * width + cols.start..row * width + cols.end)
            }
        }
    }
}

/// A matrix that a GPU reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GpuWeight<'a> {
    Frozen(&'a DeviceWeight),
    Trained(&'a TrainedWeight),
}

impl GpuWeight<'_> {
    /// All values, `[rows, cols]`, if they are of type `float` and nothing has to be decoded.
    pub(crate) fn values(&self, float: Float) -> Option<Region> {
        match self {
            GpuWeight::Frozen(weight) => weight.region(float),
            GpuWeight::Trained(weight) => (float == Float::F32).then(|| weight.values.region()),
        }
    }

    /// Decodes a tile to `out`; the order of its rows is the matrix's.
    pub(crate) fn decode(&self, gpu: Gpu, tile: Tile, float: Float, out: Region) {
        match self {
            GpuWeight::Frozen(weight) => weight.decode(tile, float, out),
            GpuWeight::Trained(weight) => {
                let tile = Tile { order: RowOrder::Stored, ..tile };
                gpu.run(&Stored::Blocks(Format::F32, weight.values.region()).decode(float, tile, out));
            }
        }
    }

    /// Multiplies few rows, of type `float`, with the matrix, whose order and shape `few` has from here.
    pub(crate) fn multiply(&self, gpu: Gpu, float: Float, few: FewRows) {
        match self {
            GpuWeight::Frozen(weight) => weight.multiply(float, few),
            GpuWeight::Trained(weight) => {
                let few = FewRows {
                    order: RowOrder::Stored,
                    shape: (count(weight.rows()), count(weight.cols())),
                    ..few
                };
                gpu.run(&Stored::Blocks(Format::F32, weight.values.region()).multiply(float, few));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_copy_has_the_values_of_the_file_in_checkpoint_order() {
        let values: Vec<f32> = (0..8 * 5).map(|i| i as f32 - 11.5).collect();
        let frozen =
            FrozenWeight::from_f32(8, 5, &values).with_row_order(RowOrder::RotaryPairs { head_dim: 4 });
        let expected = frozen.to_vec();
        assert_ne!(expected, values);
        let mut weight = Weight::from(frozen);
        weight.set_compute_dtype(ComputeDtype::Bf16);
        assert!(weight.trained().is_none() && weight.trained_mut().is_none());
        assert_eq!(weight.host().as_f32(), None, "rows are in another order");
        weight.train(Device::Cpu);
        assert_eq!(weight.trained().expect("trained").cpu(), expected);
        assert_eq!(weight.host().as_f32(), Some(&expected[..]));
        assert_eq!((weight.rows(), weight.cols(), weight.stored_bytes()), (8, 5, 160));
        assert_eq!(weight.compute_dtype(), ComputeDtype::Bf16);

        let mut piece = [0.0; 9];
        weight.read(13..22, &mut piece);
        assert_eq!(piece, expected[13..22]);
        weight.host().decode(3, 1..4, &mut piece[..3]);
        assert_eq!(piece[..3], expected[16..19]);
        let bytes: Vec<u8> = expected[16..19].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(weight.host().stored_bytes_of(3, 1..4), bytes);

        // What is trained stays as it is.
        weight.trained_mut().expect("trained").write(0, &[7.0]);
        weight.train(Device::Cpu);
        assert_eq!(weight.trained().expect("trained").cpu()[0], 7.0);
    }

    #[test]
    #[should_panic(expected = "a matrix on the host in an op on a device")]
    fn an_op_on_a_device_refuses_a_matrix_on_the_host() {
        Weight::from(FrozenWeight::from_f32(1, 1, &[0.0])).gpu();
    }
}
