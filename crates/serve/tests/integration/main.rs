//! The server over a tiny model, asked over loopback.

mod answers;
mod common;
mod counts;
mod forms;
mod hostile;
mod limits;
mod views;
