//! A GPU, whoever made it: its memory, and what the host says to it.
//!
//! A [`Gpu`] is a device with its memory, an arena of regions. Ops make a [`Launch`] of a kernel or a [`Gemm`] and hand it to
//! the [`Gpu`], which gives it to a [`Driver`]: a maker's ([`crate::cuda`]), or in tests the CPU that takes launches, or a
//! [`recorder`] that only checks them. Nothing here knows a maker's library or language.

mod arena;
mod driver;
mod error;
mod handle;
pub mod launch;
pub mod recorder;

pub use arena::taken;
pub use driver::{DeviceInfo, Driver, Factor, Gemm, Matrix, TensorCores};
pub use error::DeviceError;
pub(crate) use handle::Buffer;
pub use handle::Gpu;
pub(crate) use launch::count;
pub use launch::{Arg, Float, Launch, Region};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn nothing_here_uses_what_is_nvidias() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu");
        let files: Vec<_> =
            fs::read_dir(folder).expect("this folder").map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 5, "{files:?}");
        for file in files {
            let text = fs::read_to_string(&file).expect("a text");
            // The quoted names are pieced together, so that this file has them in comments alone.
            for name in [concat!("crate::", "cuda"), concat!("lib", "loading")] {
                let uses =
                    text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(name));
                assert!(!uses, "{} uses {name}", file.display());
            }
        }
    }
}
