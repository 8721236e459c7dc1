//! The self-check of a device, on one whose kernels the CPU runs: what the host asks of a device (regions, tiles, conversions,
//! what is kept) computes what the CPU computes, and the same bits again.

use std::sync::{Arc, Mutex};

use lorafit_kernels::gpu::recorder::Recorder;
use lorafit_kernels::gpu::{
    DeviceError, DeviceInfo, Driver, Float, Gemm, Gpu, Launch, Region, TensorCores, taken,
};
use lorafit_kernels::ops::matmul::{Base, Product, Right, Term, View, cuda, run};
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::{Device, FrozenWeight, RowOrder, SharedBytes, Tensor, Weight, selfcheck};

use crate::driver::{check, check_with, gpu};
use crate::{FLOATS, values};

#[test]
fn every_op_equals_the_processor_in_f32() {
    check(Float::F32, 80, selfcheck::checks);
}

#[test]
fn every_op_equals_the_processor_in_bf16() {
    check(Float::Bf16, 80, selfcheck::checks);
}

#[test]
fn attention_by_warpgroups_equals_the_processor() {
    let attention = |float| {
        let mut checks = selfcheck::checks(float);
        checks.retain(|check| check.name.starts_with("attention"));
        checks
    };
    check_with(TensorCores::Warpgroups, Float::Bf16, 20, attention);
}

/// A large weight is decoded in several tiles: each gives some columns of the output, with whole sums.
#[test]
fn products_in_several_tiles_have_the_bits_of_those_in_one() {
    let (m, rows, cols) = (3, 20, 28);
    for float in FLOATS {
        let Some(gpu) = gpu(float) else { return };
        let source = FrozenWeight::from_f32(rows, cols, &values(float, 1, rows * cols));
        let stored = source.with_row_order(RowOrder::RotaryPairs { head_dim: 10 });
        let weights = [stored.quantize(Quantization::Int8).expect("finite"), stored];
        for weight in weights.map(|weight| Weight::on(Device::Cuda(gpu), weight)) {
            for (n, k, right) in
                [(rows, cols, Right::WeightTransposed(&weight)), (cols, rows, Right::Weight(&weight))]
            {
                let [x, mut whole, mut in_tiles] = [m * k, m * n, m * n].map(|len| {
                    let mut tensor = Tensor::activation(Device::Cuda(gpu), len);
                    tensor.write(0, &values(float, 2, len));
                    tensor
                });
                let before = whole.to_vec(m * n);
                let mut other = Tensor::activation(Device::Cuda(gpu), m * n);
                other.write(0, &values(float, 3, m * n));
                let term = Term { left: View::rows(&x, k), right, k };
                for base in [Base::Zero, Base::Output, Base::Of(&other)] {
                    whole.write(0, &before);
                    in_tiles.write(0, &before);
                    run(&mut [Product { base, ..Product::new(m, n, term, &mut whole) }]);
                    // Eight rows or columns a tile, and four in the last.
                    let product = Product { base, ..Product::new(m, n, term, &mut in_tiles) };
                    cuda::run_in_tiles(gpu, &mut [product], 8 * k + 1);
                    let (found, expected) = (in_tiles.to_vec(m * n), whole.to_vec(m * n));
                    assert_eq!(found, expected, "{float:?}, {n} columns, {base:?}");
                }
            }
        }
    }
}

/// A device that computes nothing and keeps what is multiplied.
#[derive(Clone, Debug)]
struct Listener {
    recorder: Recorder,
    products: Arc<Mutex<Vec<Gemm>>>,
}

impl Listener {
    fn new() -> Self {
        Listener { recorder: lorafit_kernels::cuda::recorder(8 << 30), products: Arc::default() }
    }

    fn heard(&self) -> Vec<Gemm> {
        std::mem::take(&mut self.products.lock().expect("products"))
    }
}

impl Driver for Listener {
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        self.recorder.map(from, bytes)
    }

    fn allocated(&self, region: Region) {
        self.recorder.allocated(region);
    }

    fn released(&self, region: Region) {
        self.recorder.released(region);
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.recorder.launch(launch)
    }

    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        self.products.lock().expect("products").push(*gemm);
        self.recorder.multiply(gemm)
    }

    fn clear(&self, region: Region) -> Result<(), DeviceError> {
        self.recorder.clear(region)
    }

    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError> {
        self.recorder.copy(from, to)
    }

    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError> {
        self.recorder.upload(bytes, to)
    }

    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.recorder.download(from, bytes)
    }

    fn info(&self) -> DeviceInfo {
        self.recorder.info()
    }
}

/// Forward and backward products of `m` rows with a weight of `shape`, as columns of the output in each tile.
fn tiles((m, rows, cols): (usize, usize, usize)) -> [Vec<u64>; 2] {
    let listener = Listener::new();
    let gpu = Gpu::over(listener.clone(), Float::Bf16);
    let bytes = SharedBytes::from_vec(vec![0; rows * cols / 32 * Format::Q4_0.block_bytes()]);
    let weight = FrozenWeight::new(rows, cols, Format::Q4_0, bytes).expect("whole blocks");
    let weight = Weight::on(Device::Cuda(gpu), weight);
    let [x, mut y] = [0, 1].map(|_| Tensor::activation(Device::Cuda(gpu), m * rows.max(cols)));
    let in_use = gpu.bytes_in_use();
    let ways = [(rows, cols, Right::WeightTransposed(&weight)), (cols, rows, Right::Weight(&weight))];
    let widths = ways.map(|(n, k, right)| {
        run(&mut [Product::new(m, n, Term { left: View::rows(&x, k), right, k }, &mut y)]);
        listener.heard().iter().map(|gemm| gemm.n).collect()
    });
    let planned = taken(cuda::decoded_bytes(Float::Bf16, m, rows, cols));
    assert_eq!(gpu.peak_bytes() - in_use, planned, "what is planned");
    widths
}

#[test]
fn tiles_depend_on_the_shape_of_a_product_and_take_what_is_planned() {
    // The largest matrices of a 7B model, with few rows: the smallest tiles.
    assert_eq!(tiles((512, 11008, 4096)), [vec![3840, 3840, 3328], vec![1368, 1368, 1360]]);
    assert_eq!(tiles((1024, 11008, 4096)), [vec![5632, 5376], vec![2048, 2048]]);
    // With more rows each is decoded at once.
    assert_eq!(tiles((2048, 11008, 4096)), [vec![11008], vec![4096]]);
    // A matrix beyond the largest tile is cut, however many rows there are.
    assert_eq!(tiles((2048, 25600, 5120)), [vec![12800, 12800], vec![2560, 2560]]);
    assert_eq!(tiles((9, 40, 64)), [vec![40], vec![64]]);
}

/// The lengths of the sums of a product of `m` rows in order, and of each what it is added to: nothing, the output, another tensor.
fn order_of_terms(m: usize, base: &str) -> Vec<(u64, &'static str)> {
    let (n, k, rank) = (64, 96, 16);
    let listener = Listener::new();
    let gpu = Gpu::over(listener.clone(), Float::Bf16);
    let weight = FrozenWeight::from_f32(n, k, &vec![0.5; n * k]);
    let weight = Weight::on(Device::Cuda(gpu), weight.quantize(Quantization::Int8).expect("finite"));
    let [x, u, b_t, other, mut y] =
        [m * k, m * rank, rank * n, m * n, m * n].map(|len| Tensor::activation(Device::Cuda(gpu), len));
    let bias = Tensor::zeros(Device::Cuda(gpu), n);
    let terms = vec![
        Term { left: View::rows(&x, k), right: Right::WeightTransposed(&weight), k },
        Term { left: View::rows(&u, rank), right: Right::View(View::rows(&b_t, n)), k: rank },
    ];
    let product = Product { terms: terms.clone(), ..Product::new(m, n, terms[0], &mut y) };
    let (of_base, bias) = match base {
        "bias" => (Base::Zero, Some(&bias)),
        "output" => (Base::Output, None),
        "other" => (Base::Of(&other), None),
        _ => (Base::Zero, None),
    };
    // Two tiles.
    cuda::run_in_tiles(gpu, &mut [Product { base: of_base, bias, ..product }], 32 * k);
    let name = |gemm: &Gemm| match gemm.base {
        None => "nothing",
        Some(base) if base == gemm.out.region => "output",
        Some(_) => "other",
    };
    listener.heard().iter().map(|gemm| (gemm.k, name(gemm))).collect()
}

#[test]
fn of_terms_that_are_added_to_nothing_the_shortest_comes_first() {
    let low_rank_first = [(16, "nothing"), (96, "output"), (96, "output")];
    assert_eq!(order_of_terms(9, "nothing"), low_rank_first);
    let in_order = |first| [(96, first), (96, first), (16, "output")];
    for base in ["output", "other"] {
        assert_eq!(order_of_terms(9, base), in_order(base));
    }
    // The bias has written the output.
    assert_eq!(order_of_terms(9, "bias"), in_order("output"));
    // A kernel of its own has multiplied few rows with the weight.
    assert_eq!(order_of_terms(8, "nothing"), [(16, "output")]);
}

/// As a model is saved whose frozen matrices lie on a GPU: pieces of them, which begin and end within rows.
#[test]
fn a_frozen_matrix_on_a_device_is_read_as_on_the_host() {
    let (rows, cols) = (20, 24);
    for float in FLOATS {
        let Some(gpu) = gpu(float) else { return };
        let source = FrozenWeight::from_f32(rows, cols, &values(float, 1, rows * cols));
        let stored = source.with_row_order(RowOrder::RotaryPairs { head_dim: 10 });
        for weight in [stored.quantize(Quantization::Int8).expect("finite"), stored] {
            let expected = weight.to_vec();
            let weight = Weight::on(Device::Cuda(gpu), weight);
            for range in [0..rows * cols, 7..100, 48..72, 479..480, 5..5] {
                let mut found = vec![9.0; range.len()];
                weight.read(range.clone(), &mut found);
                assert_eq!(found, expected[range.clone()], "{float:?} {range:?}");
            }
        }
    }
}
