//! Flags that say which column has the labels of a classifier's rows.

use clap::Args;
use lorafit_data::Classes;
use serde::{Deserialize, Serialize};

use crate::args::flags::Facts;

/// The flags.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct ClassArgs {
    /// The column that holds the label of a text, with --objective classify; its name in the file [default: label]
    #[arg(long, value_name = "COLUMN")]
    #[arg(add = Facts::ARITHMETIC)]
    pub label_column: Option<String>,
}

impl ClassArgs {
    /// The column.
    pub fn column(&self) -> &str {
        self.label_column.as_deref().unwrap_or("label")
    }

    /// How rows with these labels are read.
    pub fn classes(&self, labels: &[String]) -> Classes {
        Classes { column: self.column().to_owned(), labels: labels.to_vec() }
    }
}
