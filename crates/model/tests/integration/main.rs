//! Models, adapters and their files, from outside the crate: one program, so that what its parts share is compiled and linked once.

#[path = "../../../kernels/tests/cuda_shim/driver.rs"]
mod driver;
#[path = "../../../kernels/tests/cuda_shim/machine.rs"]
mod machine;

mod analysis;
mod bad_files;
mod common;
mod dora;
mod engine;
mod families;
mod full;
mod gguf;
mod gpt2;
mod merge;
mod of_several;
mod on_gpu;
mod passed_over;
mod quantized;
mod reference;
mod saved;
mod shrink;
mod source;
mod tokens;
