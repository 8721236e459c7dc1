//! Whether a model was quantised from another: by the values of both, since names and shapes say little.

use crate::error::FileError;
use crate::shape::{WeightShape, weight_shapes};
use crate::weights::ModelFiles;

/// Rows of a matrix that are compared.
const ROWS: usize = 64;
/// Rounding to 4 bits moves a matrix by about 0.1 of its norm, to 8 bits by 0.01. Two matrices that have nothing to do with each
/// other differ by the root of 2.
const MATRIX: f64 = 0.5;
/// Vectors are not quantised. Rounding to bf16 moves one by less than 0.004 of its norm.
const VECTOR: f64 = 0.01;

/// The first weight of `derived` that was not made from that of `original`, a model of the same shape: the norms and biases of
/// all blocks and the first projection of the first block are compared.
///
/// # Errors
/// A weight that is missing or has another shape.
pub fn foreign_weight(original: &ModelFiles, derived: &ModelFiles) -> Result<Option<String>, FileError> {
    let mut matrices = 0;
    for WeightShape { name, layer, dims, .. } in weight_shapes(derived.config()) {
        let (found, expected, most) = match dims[..] {
            [rows, cols] if layer.is_some() && matrices == 0 => {
                matrices += 1;
                let read = |files: &ModelFiles| -> Result<Vec<f32>, FileError> {
                    let weight = files.weight(&name, rows, cols)?;
                    let mut values = vec![0.0; rows.min(ROWS) * cols];
                    for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                        weight.decode(row, 0..cols, out);
                    }
                    Ok(values)
                };
                (read(derived)?, read(original)?, MATRIX)
            }
            [len] => (derived.vector(&name, len)?, original.vector(&name, len)?, VECTOR),
            _ => continue,
        };
        if relative_difference(&found, &expected) > most {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// `‖a - b‖ / ‖b‖`, summed in f64; 0 of equal values, infinite where only `b` is 0.
fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    match difference == 0.0 {
        true => 0.0,
        false => difference / squares(&mut b.iter().map(|b| f64::from(*b))),
    }
}
