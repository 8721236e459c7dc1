//! OpenAI's API over one base model with any number of adapters, mixed in one batch. Floor 2.
//!
//! ```
//! use std::io::{Read as _, Write as _};
//! use std::net::{TcpListener, TcpStream};
//! use std::sync::atomic::{AtomicBool, Ordering};
//!
//! use lorafit_data::Tokenizer;
//! use lorafit_kernels::Device;
//! use lorafit_model::{Model, weights::ModelFiles};
//! use lorafit_serve::{Guard, Limits, Served, Server, Views};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! static STOP: AtomicBool = AtomicBool::new(false);
//! let folder = "../../fixtures/models/chat_bpe";
//! let served = Served {
//!     name: "tiny".to_owned(),
//!     model: Box::leak(Box::new(Model::load(&ModelFiles::open(folder.as_ref())?, Device::Cpu)?)),
//!     tokenizer: Box::leak(Box::new(Tokenizer::from_folder(folder)?)),
//!     adapters: Vec::new(),
//!     from: None,
//!     guard: Guard::default(),
//!     limits: Limits::USUAL,
//!     views: Views::default(),
//! };
//! let server = Server::new(served, TcpListener::bind("127.0.0.1:0")?)?;
//! let address = server.address()?;
//! let thread = std::thread::spawn(move || server.run(&STOP, |_| ()));
//!
//! let mut client = TcpStream::connect(address)?;
//! write!(client, "GET /v1/models HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert!(answer.contains("\"id\":\"tiny\""), "{answer}");
//!
//! STOP.store(true, Ordering::Relaxed);
//! thread.join().expect("no panic")?;
//! # Ok(())
//! # }
//! ```
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
mod held_calls;
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
mod unwritten;
mod views;
mod vocabulary;
mod worker;
mod writing;

pub use guard::{Guard, SHORTEST_KEY};
pub use limits::Limits;
pub use models::{MOST_STRENGTH, NamedAdapter, Open, Opened, wrong_adapter_name, wrong_base_name};
pub use server::{ServeError, Served, Server};
pub use views::{AnswerView, View, Views};
