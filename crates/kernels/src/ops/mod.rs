//! The arithmetic of training, one op a folder: contract, readable reference, fast versions, tests.
//!
//! An op's `mod.rs` states its contract and matches on the device; the layers above call only that. A new
//! device adds one file beside each `cpu` version and one arm to each match.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gate;
pub mod layer_norm;
pub mod low_rank;
pub mod magnitude;
mod math;
pub mod matmul;
pub mod noise;
mod parallel;
pub mod rms_norm;
pub mod rope;
