//! The losses, one file each. A new one is a file and a line of [`OBJECTIVES`].

mod apo_down;
mod apo_zero;
mod bco;
mod cpo;
mod dpo;
mod hinge;
mod ipo;
mod kto;
mod orpo;
mod reward;
mod robust;
mod simpo;
#[cfg(test)]
mod tests;

use super::Objective;

/// Every objective for judged replies.
pub static OBJECTIVES: [Objective; 12] = [
    dpo::OBJECTIVE,
    ipo::OBJECTIVE,
    hinge::OBJECTIVE,
    robust::OBJECTIVE,
    apo_zero::OBJECTIVE,
    apo_down::OBJECTIVE,
    simpo::OBJECTIVE,
    orpo::OBJECTIVE,
    cpo::OBJECTIVE,
    kto::OBJECTIVE,
    bco::OBJECTIVE,
    reward::OBJECTIVE,
];
