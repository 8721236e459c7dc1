//! OpenAI's API over one base model with any number of adapters, mixed in one batch. Floor 2.

pub mod constrain;
pub mod page;
pub mod tools;
