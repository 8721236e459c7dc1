//! Processes that train together, over MPI: `Mpi` is a [`ProcessGroup`](lorafit_train::ProcessGroup) of `lorafit-train`.
//!
//! It is there with the feature `mpi` alone, which needs the `mpicc` of Open MPI or MPICH. The two have other binary interfaces, so
//! that what is called of MPI is a shim in C (`shim.c`), compiled by that `mpicc`; all unsafe code is in `sys.rs`.
//!
//! No exchange adds anything up: bytes travel, and sums are made by `lorafit-train` in an order of its own. `MPI_Allreduce`
//! promises no order. Exchanges are begun and then asked whether they are done, so that a process that is to stop does not wait
//! for one that is gone.

#[cfg(feature = "mpi")]
mod group;
#[cfg(feature = "mpi")]
mod sys;

#[cfg(feature = "mpi")]
pub use group::{Mpi, MpiError};
