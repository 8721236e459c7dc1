//! The parts of a decoder block, each with forward and backward side by side.

pub(crate) mod attention;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod vector;
