//! Text to token ids, from outside the crate: one program, so that what its parts share is compiled and linked once.

mod batch;
mod cache;
mod common;
mod dataset;
mod go_templates;
mod jinja_constructs;
mod sentencepiece;
mod smollm2;
mod source;
mod template;
mod template_corpus;
mod template_families;
mod tokenizer;
