//! A search over training options, as arithmetic alone: which trials there are ([`Space`]), which process runs them
//! ([`Shard`]), what runs next ([`Scheduler`]), what is given up early ([`is_losing`]) and which of several settings leads ([`difference`]). Nothing here reads a clock or a
//! file: the same records give the same decisions.

mod median;
mod scheduler;
mod seeds;
mod shard;
mod space;

pub use median::{Curve, is_losing};
pub use scheduler::{Job, Scheduler, TrialRecord, rungs};
pub use seeds::{BySeed, SeedMean, difference};
pub use shard::Shard;
pub use space::{Axis, MAX_TRIALS, Options, Space, SpaceError};
