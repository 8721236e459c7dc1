//! Runs, from outside the crate: one program, so that what its parts share is compiled and linked once.

#[path = "../../../kernels/tests/cuda_shim/driver.rs"]
mod driver;
#[path = "../../../kernels/tests/cuda_shim/machine.rs"]
mod machine;

mod device_plan;
mod on_gpu;
mod options;
mod smollm2;
mod tokenizers;
