//! Block composition of the supported architectures.
//!
//! Llama, Mistral, Qwen2 and Qwen3 compose a block alike; they differ in biases and query/key norms, which
//! [`crate::config::Config`] states.

pub(crate) mod decoder;
