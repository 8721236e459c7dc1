//! What the verbs work with: a base and rows that are open, runs that could begin, adapters, answers.

pub mod adapter_numbers;
pub mod answer;
pub mod base;
pub mod base_name;
pub mod data_set;
pub mod evaluation;
pub mod fit;
pub mod judged;
pub mod limits;
pub mod memory_table;
pub mod merge_inputs;
pub mod model_card;
pub mod model_folder;
pub mod other_base;
pub mod pieces;
pub mod preference;
pub mod preset;
pub mod readers;
pub mod resume;
pub mod rows;
pub mod run;
pub mod tokenise;
pub mod trained;
pub mod verdict;
