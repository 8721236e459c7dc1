//! Whole embeddings in an adapter's file. PEFT saves them where the vocabulary seems to have grown, where it cannot tell, and
//! where it is told to (`save_embedding_layers`); most are the base's own.

use std::path::Path;

use half::{bf16, f16};
use lorafit_kernels::quant::Format;
use safetensors::tensor::TensorView;

use super::names::merged_in_peft;
use super::peft::format_of;
use crate::error::FileError;
use crate::weights::ModelFiles;

/// Whether the tensor `name`, a whole copy of the checkpoint's `weight`, is the model's own, rounded to the type it is
/// stored in. Of rows that the model's files have not, those of `tokens` are read elsewhere, and there may be no others.
///
/// # Errors
/// Another type or shape, other values, or no model to compare with.
pub(super) fn passed_over(
    name: &str,
    weight: &str,
    view: &TensorView<'_>,
    base: Option<&ModelFiles>,
    tokens: &[u32],
) -> Result<(), FileError> {
    let differs = |what: String| {
        FileError::new(Path::new(""), format!("{name} is a whole {}, {what}", weight.trim_end_matches(".weight")))
            .with_hint(
                merged_in_peft().or(
                    "save it again with save_pretrained(DIR, save_embedding_layers=False), if no tokens were added".into(),
                ),
            )
    };
    let Some(files) = base else {
        return Err(differs("which only its base model can be compared with".into()));
    };
    let config = files.config();
    let (rows, cols) = (config.vocab_size, config.hidden_size);
    if view.shape() != [rows, cols] {
        return Err(differs(format!("of {:?}, while the model's is [{rows}, {cols}]", view.shape())));
    }
    let Some(format) = format_of(view) else {
        return Err(differs(format!("stored as {:?}, expected F32, F16 or BF16", view.dtype())));
    };
    let embedding = format!("{}.weight", config.names.embedding);
    let own = if config.tie_word_embeddings { &embedding } else { weight };
    let own = files.weight(own, rows, cols)?;
    let stored_rows = files.stored_rows();
    if let Some(row) = (stored_rows..rows).find(|row| !tokens.iter().any(|id| *id as usize == *row)) {
        return Err(differs(format!(
            "whose row {row} was added, and is of no token whose rows were trained"
        )));
    }
    let (mut expected, mut found) = (vec![0.0f32; cols], vec![0.0f32; cols]);
    for (row, stored) in view.data().chunks_exact(cols * format.block_bytes()).take(stored_rows).enumerate() {
        own.decode(row, 0..cols, &mut expected);
        format.decode(stored, &mut found);
        if expected.iter().zip(&found).any(|(expected, found)| round(format, *expected) != *found) {
            return Err(differs(format!("whose row {row} differs from the model's: it was trained, too")));
        }
    }
    Ok(())
}

/// `value` as `format` stores it.
fn round(format: Format, value: f32) -> f32 {
    match format {
        Format::F16 => f16::from_f32(value).to_f32(),
        Format::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}
