//! Launches of `cuda.cu`, elementwise in f32.

use super::Step;
use super::cpu::Constants;
use crate::cuda::{Arg, Launch, Region};

/// [`super::step`] on a device.
pub fn step(
    parameter: Region,
    gradient: Region,
    first: Region,
    second: Region,
    len: u64,
    step: &Step,
) -> Launch {
    let c = Constants::of(step);
    let mut args = vec![
        Arg::Out(parameter.words(len)),
        Arg::In(gradient.words(len)),
        Arg::Out(first.words(len)),
        Arg::Out(second.words(len)),
        Arg::U64(len),
    ];
    let constants = [c.keep, c.beta1, c.rest1, c.beta2, c.rest2, c.step_size, c.correction, c.eps, c.scale];
    args.extend(constants.map(Arg::F32));
    Launch::over_values("adamw", len, args)
}
