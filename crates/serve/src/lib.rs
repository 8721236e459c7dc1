//! OpenAI's API over one base model with any number of adapters, mixed in one batch. Floor 2.
//!
//! The way of a request: a connection (`server`) is asked who it is (`guard`), an endpoint (`routes`) reads the request
//! (`chat`, `completion`, `texts`) and puts it into the `queue`; the one thread that computes (`worker`) takes it when
//! there is room, continues it beside the others (`running`), and sends `events`, of which an answer is written
//! (`writing`). The client's end of the events is all that holds a request: where it is dropped, the request is cancelled.

mod ask;
mod chat;
mod completion;
mod connection;
pub mod constrain;
mod error;
mod events;
mod fields;
mod guard;
mod json;
mod limits;
mod metrics;
mod models;
mod page;
mod queue;
mod reply;
mod routes;
mod running;
mod sampler;
mod server;
mod site;
mod stop;
mod texts;
pub mod tools;
mod views;
mod vocabulary;
mod worker;
mod writing;

pub use guard::{Guard, SHORTEST_KEY};
pub use limits::Limits;
pub use models::{MOST_STRENGTH, NamedAdapter, Open, wrong_adapter_name, wrong_base_name};
pub use server::{ServeError, Served, Server};
pub use views::{AnswerView, View, Views};
