//! The CPU that takes launches as a device: whole ops and models run on the kernels' text where no GPU is.

// Each test binary uses a part.
#![allow(dead_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::bf16;
use lorafit_kernels::Device;
use lorafit_kernels::cuda;
use lorafit_kernels::gpu::recorder::Recorder;
use lorafit_kernels::gpu::{
    DeviceError, DeviceInfo, Driver, Float, Gemm, Gpu, Launch, Matrix, Region, TensorCores,
};
use lorafit_kernels::selfcheck::Check;

use crate::machine::{Machine, Order};

/// Memory of the device.
const TOTAL_BYTES: u64 = 256 << 20;

/// A device without a GPU: kernels run on a [`Machine`], products are loops, and a [`Recorder`] holds every call to its
/// rules before it is done.
#[derive(Clone, Debug)]
pub struct ShimDriver {
    recorder: Recorder,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    launches: u64,
}

/// A device of its own with activations in `float`; `None`, and "skipped" said, where kernels cannot be compiled.
pub fn gpu(float: Float) -> Option<Gpu> {
    ShimDriver::new().map(|driver| Gpu::over(driver, float))
}

/// Runs checks on such a device, which have `least` outcomes at least, and all pass.
#[track_caller]
pub fn check(float: Float, least: usize, checks: impl FnOnce(Float) -> Vec<Check>) {
    check_with(TensorCores::Warps, float, least, checks);
}

/// The same with such tensor cores.
#[track_caller]
pub fn check_with(cores: TensorCores, float: Float, least: usize, checks: impl FnOnce(Float) -> Vec<Check>) {
    let Some(driver) = ShimDriver::new() else { return };
    let recorder = driver.recorder.with_tensor_cores(cores);
    let gpu = Gpu::over(ShimDriver { recorder, ..driver }, float);
    let checks = checks(float);
    let outcomes: Vec<_> = checks.iter().flat_map(|check| check.run(Device::Cuda(gpu)).outcomes).collect();
    let failed: Vec<String> =
        outcomes.iter().filter(|outcome| !outcome.passed()).map(ToString::to_string).collect();
    let count = outcomes.len();
    assert!(failed.is_empty() && count >= least, "{count} outcomes, failed:\n{}", failed.join("\n"));
    assert_eq!(gpu.bytes_in_use(), 0, "everything is given back");
}

impl ShimDriver {
    /// As [`Machine::new`].
    pub fn new() -> Option<Self> {
        let state = State { machine: Machine::new()?, launches: 0 };
        Some(ShimDriver { recorder: cuda::recorder(TOTAL_BYTES), state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A matrix of `rows` rows and `cols` columns, row-major.
    fn values(&self, matrix: Matrix, rows: u64, cols: u64) -> Vec<f32> {
        let stored = self.machine.get_floats(matrix.float, matrix.region);
        let (down, right) = if matrix.transposed { (1, matrix.stride) } else { (matrix.stride, 1) };
        (0..rows * cols).map(|i| stored[(i / cols * down + i % cols * right) as usize]).collect()
    }
}

impl Driver for ShimDriver {
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        self.recorder.map(from, bytes)?;
        self.state().machine.extend(bytes as usize);
        Ok(())
    }

    fn allocated(&self, region: Region) {
        self.recorder.allocated(region);
        // What is not written first is not a number.
        self.state().machine.get_mut(region).fill(0xff);
    }

    fn released(&self, region: Region) {
        self.recorder.released(region);
    }

    /// In one order of threads, every other time the other, so that what depends on it differs from run to run.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.recorder.launch(launch)?;
        let mut state = self.state();
        state.launches += 1;
        let order = if state.launches.is_multiple_of(2) { Order::Descending } else { Order::Ascending };
        state.machine.run_in(order, launch);
        Ok(())
    }

    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        self.recorder.multiply(gemm)?;
        let mut state = self.state();
        let Gemm { m, n, k, left, right, out, scale, base } = *gemm;
        let (left, right) = (state.values(left, m, k), state.values(right, k, n));
        let mut sums = vec![0.0; (m * n) as usize];
        for (left, sums) in left.chunks_exact(k as usize).zip(sums.chunks_exact_mut(n as usize)) {
            for (x, right) in left.iter().zip(right.chunks_exact(n as usize)) {
                sums.iter_mut().zip(right).for_each(|(sum, y)| *sum += x * y);
            }
        }
        sums.iter_mut().for_each(|sum| *sum *= scale.value());
        if let Some(region) = base {
            let before = state.values(Matrix { region, ..out }, m, n);
            sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
        }
        let row_bytes = out.float.bytes(n);
        for (i, sums) in (0..m).zip(sums.chunks_exact(n as usize)) {
            let row = out.region.part(out.float.bytes(i * out.stride), row_bytes);
            let bytes: Vec<u8> = match out.float {
                Float::F32 => sums.iter().flat_map(|sum| sum.to_le_bytes()).collect(),
                Float::Bf16 => sums.iter().flat_map(|sum| bf16::from_f32(*sum).to_le_bytes()).collect(),
            };
            state.machine.get_mut(row).copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn clear(&self, region: Region) -> Result<(), DeviceError> {
        self.recorder.clear(region)?;
        self.state().machine.get_mut(region).fill(0);
        Ok(())
    }

    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError> {
        self.recorder.copy(from, to)?;
        let mut state = self.state();
        let bytes = state.machine.get(from).to_vec();
        state.machine.get_mut(to).copy_from_slice(&bytes);
        Ok(())
    }

    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError> {
        self.recorder.upload(bytes, to)?;
        self.state().machine.get_mut(to).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.recorder.download(from, bytes)?;
        bytes.copy_from_slice(self.state().machine.get(from));
        Ok(())
    }

    fn tensor_cores(&self) -> TensorCores {
        self.recorder.tensor_cores()
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "shim".to_owned(), ..self.recorder.info() }
    }
}
