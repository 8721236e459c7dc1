//! CUDA: kernels in CUDA C beside their op (`ops/<op>/cuda.cu`, `quant/cuda.cu`), their compiler, and NVIDIA's driver.
//!
//! A kernel's text is [`Source`]; [`nvrtc`] compiles it for a device. Beside each `cuda.cu` a `cuda.rs` makes the
//! [`Launch`](crate::gpu::Launch)es of an op: geometry, sizes and arguments, checked without a device. Kernels use nothing but
//! the wrappers of `ptx.cuh`, so that tests compile the same text as C++ and run it on the CPU (`tests/cuda_shim`).
//!
//! [`open`] gives a [`Gpu`] whose driver is CUDA's ([`device`]), [`recorder`] a driver that checks every call.

mod aligned;
mod choices;
pub mod cublas;
pub mod device;
mod ffi;
mod library;
mod memory;
pub mod modules;
pub mod nvrtc;
mod signatures;
mod staging;
mod user_cache;

use self::nvrtc::{HOPPER, Target};
use crate::gpu::recorder::Recorder;
use crate::gpu::{DeviceError, Float, Gpu};

/// Opens device number `ordinal`, with activations in `float`.
///
/// # Errors
/// As [`device::CudaDevice::open`].
pub fn open(ordinal: usize, float: Float) -> Result<Gpu, DeviceError> {
    Ok(Gpu::over(device::CudaDevice::open(ordinal)?, float))
}

/// A device of `total_bytes` bytes that computes nothing and holds every call to its rules: kernels to those of [`SOURCES`].
pub fn recorder(total_bytes: u64) -> Recorder {
    Recorder::new(total_bytes, signatures::kernels())
}

/// The wrappers around PTX: the first part of a program for a device.
pub const PTX: &str = include_str!("ptx.cuh");

/// What kernels share: the second part of every program.
pub const COMMON: &str = include_str!("device.cuh");

/// The kernels of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The op.
    pub name: &'static str,
    /// Path from the crate's root.
    pub path: &'static str,
    /// Its CUDA C, with that of the file which it continues.
    pub text: &'static str,
    /// The instances that are compiled, as C++ names them.
    pub entries: &'static [&'static str],
}

impl Source {
    /// Whether only models with something uncommon ask for it.
    pub fn is_special(&self) -> bool {
        self.name.ends_with("_special")
    }

    /// Whether there is code of it for `target`: what multiplies by warpgroups is machine code of Hopper alone.
    pub fn is_for(&self, target: Target) -> bool {
        !self.by_warpgroups() || target == HOPPER
    }

    /// Whether it multiplies by the instructions of a warpgroup.
    fn by_warpgroups(&self) -> bool {
        self.name.ends_with("_warpgroups")
    }

    /// The whole program behind `machine`, which is [`PTX`] or what stands for it.
    pub fn program(&self, machine: &str) -> String {
        let part = |path: &str, text: &str| format!("#line 1 \"{path}\"\n{text}");
        [part("ptx.cuh", machine), part("device.cuh", COMMON), part(self.path, self.text)].concat()
    }
}

/// A [`Source`] from its name, its path under `src/` (behind that of a file which it continues) and its entries.
macro_rules! source {
    ($name:literal, $path:literal behind $before:literal, [$($entry:literal),* $(,)?]) => {
        Source {
            name: $name,
            path: concat!("src/", $path),
            text: concat!(include_str!(concat!("../", $before)), include_str!(concat!("../", $path))),
            entries: &[$($entry),*],
        }
    };
    ($name:literal, $path:literal, [$($entry:literal),* $(,)?]) => {
        Source {
            name: $name,
            path: concat!("src/", $path),
            text: include_str!(concat!("../", $path)),
            entries: &[$($entry),*],
        }
    };
}

/// All kernels. A large op is several sources, which compile side by side.
pub const SOURCES: &[Source] = &[
    source!(
        "elementwise",
        "ops/elementwise/cuda.cu",
        [
            "fill_rows<float>",
            "fill_rows<bf16>",
            "add_to_rows<float>",
            "add_to_rows<bf16>",
            "add<float>",
            "add<bf16>",
            "scale<float>",
            "scale<bf16>",
            "add_scaled<float>",
            "add_scaled<bf16>",
            "softcap<float>",
            "softcap<bf16>",
            "softcap_backward<float>",
            "softcap_backward<bf16>",
            "copy_columns<float>",
            "copy_columns<bf16>",
            "convert<float, bf16>",
            "convert<bf16, float>",
            "round_to_bf16",
            "add_column_sums<float>",
            "add_column_sums<bf16>",
            "scale_columns<float>",
            "scale_columns<bf16>",
            "scale_rows<float>",
            "scale_rows<bf16>",
            "gather_rows<float>",
            "gather_rows<bf16>",
            "scatter_add_rows<float, float>",
            "scatter_add_rows<bf16, float>",
            "scatter_add_rows<bf16, bf16>",
            "sum_squares",
            "sum_partials",
            "add_parts",
        ]
    ),
    source!(
        "rms_norm",
        "ops/rms_norm/cuda.cu",
        [
            "rms_norm_forward<float>",
            "rms_norm_forward<bf16>",
            "rms_norm_recompute<float>",
            "rms_norm_recompute<bf16>",
            "rms_norm_backward<float>",
            "rms_norm_backward<bf16>",
            "rms_norm_backward_weight<float>",
            "rms_norm_backward_weight<bf16>",
        ]
    ),
    source!(
        "layer_norm",
        "ops/layer_norm/cuda.cu",
        [
            "layer_norm_forward<float>",
            "layer_norm_forward<bf16>",
            "layer_norm_recompute<float>",
            "layer_norm_recompute<bf16>",
            "layer_norm_backward<float>",
            "layer_norm_backward<bf16>",
            "layer_norm_backward_weight<float>",
            "layer_norm_backward_weight<bf16>",
        ]
    ),
    source!(
        "magnitude",
        "ops/magnitude/cuda.cu",
        [
            "magnitude_factors<float>",
            "magnitude_factors<bf16>",
            "magnitude_apply<float>",
            "magnitude_apply<bf16>",
            "magnitude_gradient<float>",
            "magnitude_gradient<bf16>",
        ]
    ),
    source!(
        "rope",
        "ops/rope/cuda.cu",
        [
            "rope_angles",
            "rope_turn<float>",
            "rope_turn<bf16>",
            "rope_turn_neighbours<float>",
            "rope_turn_neighbours<bf16>",
        ]
    ),
    source!(
        "gate",
        "ops/gate/cuda.cu",
        [
            "gate_forward<float, Silu>",
            "gate_forward<bf16, Silu>",
            "gate_forward<float, GeluTanh>",
            "gate_forward<bf16, GeluTanh>",
            "gate_forward<float, Gelu>",
            "gate_forward<bf16, Gelu>",
            "gate_forward<float, Relu2>",
            "gate_forward<bf16, Relu2>",
            "gate_backward<float, Silu>",
            "gate_backward<bf16, Silu>",
            "gate_backward<float, GeluTanh>",
            "gate_backward<bf16, GeluTanh>",
            "gate_backward<float, Gelu>",
            "gate_backward<bf16, Gelu>",
            "gate_backward<float, Relu2>",
            "gate_backward<bf16, Relu2>",
            "activation_forward<float, Silu>",
            "activation_forward<bf16, Silu>",
            "activation_forward<float, GeluTanh>",
            "activation_forward<bf16, GeluTanh>",
            "activation_forward<float, Gelu>",
            "activation_forward<bf16, Gelu>",
            "activation_forward<float, Relu2>",
            "activation_forward<bf16, Relu2>",
            "activation_backward<float, Silu>",
            "activation_backward<bf16, Silu>",
            "activation_backward<float, GeluTanh>",
            "activation_backward<bf16, GeluTanh>",
            "activation_backward<float, Gelu>",
            "activation_backward<bf16, Gelu>",
            "activation_backward<float, Relu2>",
            "activation_backward<bf16, Relu2>",
        ]
    ),
    source!(
        "gate_product",
        "ops/gate/cuda.cu",
        [
            "gate_backward_product<Silu, 16>",
            "gate_backward_product<Silu, 32>",
            "gate_backward_product<Silu, 64>",
            "gate_backward_product<GeluTanh, 16>",
            "gate_backward_product<GeluTanh, 32>",
            "gate_backward_product<GeluTanh, 64>",
            "gate_backward_product<Gelu, 16>",
            "gate_backward_product<Gelu, 32>",
            "gate_backward_product<Gelu, 64>",
            "gate_backward_product<Relu2, 16>",
            "gate_backward_product<Relu2, 32>",
            "gate_backward_product<Relu2, 64>",
        ]
    ),
    source!(
        "low_rank",
        "ops/low_rank/cuda.cu",
        ["low_rank_gradients<16>", "low_rank_gradients<32>", "sum_low_rank_gradients"]
    ),
    source!(
        "dropout",
        "ops/dropout/cuda.cu",
        [
            "dropout_forward<float>",
            "dropout_forward<bf16>",
            "dropout_backward<float>",
            "dropout_backward<bf16>",
        ]
    ),
    source!("noise", "ops/noise/cuda.cu", ["add_noise<float>", "add_noise<bf16>"]),
    source!(
        "cross_entropy",
        "ops/cross_entropy/cuda.cu",
        [
            "cross_entropy_loss<float>",
            "cross_entropy_loss<bf16>",
            "cross_entropy_gradient<float>",
            "cross_entropy_gradient<bf16>",
        ]
    ),
    source!(
        "attention_forward",
        "ops/attention/cuda.cu",
        [
            "attention_forward<64>",
            "attention_forward<80>",
            "attention_forward<96>",
            "attention_forward<128>",
            "attention_forward<256>",
        ]
    ),
    source!(
        "attention_backward",
        "ops/attention/cuda.cu",
        [
            "attention_backward<64, 64>",
            "attention_backward<80, 80>",
            "attention_backward<96, 96>",
            "attention_delta<64>",
            "attention_delta<80>",
            "attention_delta<96>",
        ]
    ),
    source!(
        "attention_backward_long",
        "ops/attention/cuda.cu",
        [
            "attention_backward<128, 128>",
            "attention_backward<256, 128>",
            "attention_delta<128>",
            "attention_delta<256>",
        ]
    ),
    source!(
        "attention_warpgroups",
        "ops/attention/warpgroups.cu" behind "ops/attention/cuda.cu",
        [
            "attention_forward_warpgroups<64>",
            "attention_forward_warpgroups<128>",
            "attention_backward_warpgroups<64>",
            "attention_backward_warpgroups<128>",
        ]
    ),
    source!(
        "attention_forward_special",
        "ops/attention/cuda.cu",
        [
            "attention_forward<64, true>",
            "attention_forward<80, true>",
            "attention_forward<96, true>",
            "attention_forward<128, true>",
            "attention_forward<256, true>",
        ]
    ),
    source!(
        "attention_backward_special",
        "ops/attention/cuda.cu",
        [
            "attention_backward<64, 64, true>",
            "attention_backward<80, 80, true>",
            "attention_backward<96, 96, true>",
        ]
    ),
    source!(
        "attention_backward_long_special",
        "ops/attention/cuda.cu",
        ["attention_backward<128, 128, true>", "attention_backward<256, 128, true>",]
    ),
    source!(
        "attention_plain",
        "ops/attention/cuda.cu",
        [
            "plain_attention_forward<float, 2>",
            "plain_attention_forward<float, 4>",
            "plain_attention_forward<float, 8>",
            "plain_attention_forward<bf16, 2>",
            "plain_attention_forward<bf16, 4>",
            "plain_attention_forward<bf16, 8>",
            "plain_attention_delta<float>",
            "plain_attention_delta<bf16>",
            "plain_attention_backward_queries<float, 2>",
            "plain_attention_backward_queries<float, 4>",
            "plain_attention_backward_queries<float, 8>",
            "plain_attention_backward_queries<bf16, 2>",
            "plain_attention_backward_queries<bf16, 4>",
            "plain_attention_backward_queries<bf16, 8>",
            "plain_attention_backward_keys<float, 2>",
            "plain_attention_backward_keys<float, 4>",
            "plain_attention_backward_keys<float, 8>",
            "plain_attention_backward_keys<bf16, 2>",
            "plain_attention_backward_keys<bf16, 4>",
            "plain_attention_backward_keys<bf16, 8>",
        ]
    ),
    source!(
        "attention_cached",
        "ops/attention/cuda.cu",
        [
            "attention_cached_parts<float, 2>",
            "attention_cached_parts<float, 4>",
            "attention_cached_parts<float, 8>",
            "attention_cached_parts<bf16, 2>",
            "attention_cached_parts<bf16, 4>",
            "attention_cached_parts<bf16, 8>",
            "attention_cached_join<float>",
            "attention_cached_join<bf16>",
        ]
    ),
    source!(
        "attention_plain_special",
        "ops/attention/cuda.cu",
        [
            "plain_attention_forward<float, 2, true>",
            "plain_attention_forward<float, 4, true>",
            "plain_attention_forward<float, 8, true>",
            "plain_attention_forward<bf16, 2, true>",
            "plain_attention_forward<bf16, 4, true>",
            "plain_attention_forward<bf16, 8, true>",
            "plain_attention_backward_queries<float, 2, true>",
            "plain_attention_backward_queries<float, 4, true>",
            "plain_attention_backward_queries<float, 8, true>",
            "plain_attention_backward_queries<bf16, 2, true>",
            "plain_attention_backward_queries<bf16, 4, true>",
            "plain_attention_backward_queries<bf16, 8, true>",
            "plain_attention_backward_keys<float, 2, true>",
            "plain_attention_backward_keys<float, 4, true>",
            "plain_attention_backward_keys<float, 8, true>",
            "plain_attention_backward_keys<bf16, 2, true>",
            "plain_attention_backward_keys<bf16, 4, true>",
            "plain_attention_backward_keys<bf16, 8, true>",
        ]
    ),
    source!(
        "attention_cached_special",
        "ops/attention/cuda.cu",
        [
            "attention_cached_parts<float, 2, true>",
            "attention_cached_parts<float, 4, true>",
            "attention_cached_parts<float, 8, true>",
            "attention_cached_parts<bf16, 2, true>",
            "attention_cached_parts<bf16, 4, true>",
            "attention_cached_parts<bf16, 8, true>",
        ]
    ),
    source!("adamw", "ops/adamw/cuda.cu", ["adamw", "adamw_8bit"]),
    source!(
        "quant",
        "quant/cuda.cu",
        [
            "decode_floats<float, float>",
            "decode_floats<float, bf16>",
            "decode_floats<half_bits, float>",
            "decode_floats<half_bits, bf16>",
            "decode_floats<bf16, float>",
            "decode_floats<bf16, bf16>",
            "decode_blocks<Q4_0, float>",
            "decode_blocks<Q4_0, bf16>",
            "decode_blocks<Q4_1, float>",
            "decode_blocks<Q4_1, bf16>",
            "decode_blocks<Q5_0, float>",
            "decode_blocks<Q5_0, bf16>",
            "decode_blocks<Q5_1, float>",
            "decode_blocks<Q5_1, bf16>",
            "decode_blocks<Q8_0, float>",
            "decode_blocks<Q8_0, bf16>",
            "decode_blocks<Q4_K, float>",
            "decode_blocks<Q4_K, bf16>",
            "decode_blocks<Q5_K, float>",
            "decode_blocks<Q5_K, bf16>",
            "decode_blocks<Q6_K, float>",
            "decode_blocks<Q6_K, bf16>",
            "decode_int8<float>",
            "decode_int8<bf16>",
            "decode_four_bit_plain<float>",
            "decode_four_bit_plain<bf16>",
            "decode_four_bit_double<float>",
            "decode_four_bit_double<bf16>",
        ]
    ),
    source!(
        "quant_few_rows",
        "quant/cuda.cu",
        [
            "multiply_floats<float, float>",
            "multiply_floats<float, bf16>",
            "multiply_floats<half_bits, float>",
            "multiply_floats<bf16, float>",
            "multiply_floats<bf16, bf16>",
            "multiply_blocks<Q4_0, float>",
            "multiply_blocks<Q4_0, bf16>",
            "multiply_blocks<Q4_1, float>",
            "multiply_blocks<Q4_1, bf16>",
            "multiply_blocks<Q5_0, float>",
            "multiply_blocks<Q5_0, bf16>",
            "multiply_blocks<Q5_1, float>",
            "multiply_blocks<Q5_1, bf16>",
            "multiply_blocks<Q8_0, float>",
            "multiply_blocks<Q8_0, bf16>",
            "multiply_blocks<Q4_K, float>",
            "multiply_blocks<Q4_K, bf16>",
            "multiply_blocks<Q5_K, float>",
            "multiply_blocks<Q5_K, bf16>",
            "multiply_blocks<Q6_K, float>",
            "multiply_blocks<Q6_K, bf16>",
            "multiply_int8<float>",
            "multiply_int8<bf16>",
            "multiply_four_bit_plain<float>",
            "multiply_four_bit_plain<bf16>",
            "multiply_four_bit_double<float>",
            "multiply_four_bit_double<bf16>",
        ]
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{SOURCES, Source};

    /// Whether a source of the same file has an entry of the kernel.
    fn seen_anywhere(of: &Source, kernel: &str) -> bool {
        // A source that continues another begins as that one does.
        let same_file =
            SOURCES.iter().filter(|source| of.text.starts_with(source.text) || source.path == of.path);
        same_file.flat_map(|source| source.entries).any(|entry| entry.split('<').next() == Some(kernel))
    }

    #[test]
    fn every_kernel_of_the_sources_is_an_entry_and_entries_are_unique() {
        let mut seen = BTreeSet::new();
        for source in SOURCES {
            for entry in source.entries {
                assert!(seen.insert(entry), "{entry} is listed twice");
            }
            let kernels = source.text.split("KERNEL(").skip(1).map(|rest| {
                let signature = rest.split_once(')').expect("threads").1;
                signature.split_once('(').expect("a name").0.trim()
            });
            for kernel in kernels {
                let listed = seen_anywhere(source, kernel);
                assert!(listed, "{}: kernel {kernel} is not among the entries", source.path);
            }
        }
    }
}
