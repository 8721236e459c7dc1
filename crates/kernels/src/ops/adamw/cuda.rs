//! Launches of `cuda.cu`: parameters and gradients in f32, moments as [`super`] has them.

use super::cpu::Constants;
use super::{BLOCK_LEN, Step};
use crate::gpu::launch::{THREADS, WARP};
use crate::gpu::{Arg, Launch, Region};
use crate::quant::dynamic_map::{signed, unsigned};

/// [`super::step`] on a device.
pub fn step(
    parameter: Region,
    gradient: Region,
    first: Region,
    second: Region,
    len: u64,
    step: &Step,
) -> Launch {
    let mut args = vec![
        Arg::Update(parameter.words(len)),
        Arg::In(gradient.words(len)),
        Arg::Update(first.words(len)),
        Arg::Update(second.words(len)),
        Arg::U64(len),
    ];
    args.extend(constants(step));
    Launch::over_values("adamw", len, args)
}

fn constants(step: &Step) -> [Arg; 9] {
    let c = Constants::of(step);
    [c.keep, c.beta1, c.rest1, c.beta2, c.rest2, c.step_size, c.correction, c.eps, c.scale].map(Arg::F32)
}

/// The bytes of what [`step_8bit`] reads as `maps`: both dynamic codes.
pub fn map_bytes() -> Vec<u8> {
    signed().iter().chain(unsigned()).flat_map(|value| value.to_le_bytes()).collect()
}

/// A [`super::Moment8`] in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMoment8 {
    /// A byte for every parameter.
    pub codes: Region,
    /// f32, one for every block of [`BLOCK_LEN`] parameters.
    pub absmax: Region,
}

/// [`super::step_8bit`] on a device, to the same bits; `maps` holds [`map_bytes`].
pub fn step_8bit(
    parameter: Region,
    gradient: Region,
    first: DeviceMoment8,
    second: DeviceMoment8,
    maps: Region,
    len: u64,
    step: &Step,
) -> Launch {
    let blocks = len.div_ceil(BLOCK_LEN as u64);
    let mut args = vec![
        Arg::Update(parameter.words(len)),
        Arg::In(gradient.words(len)),
        Arg::Update(first.codes.first(len)),
        Arg::Update(first.absmax.words(blocks)),
        Arg::Update(second.codes.first(len)),
        Arg::Update(second.absmax.words(blocks)),
        Arg::In(maps.words(512)),
        Arg::U64(len),
    ];
    args.extend(constants(step));
    Launch::new("adamw_8bit", blocks.div_ceil(u64::from(THREADS / WARP)), THREADS, args)
}
