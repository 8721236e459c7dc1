//! The definition in f64.

use super::Target;

/// The loss of each target.
pub(super) fn losses(logits: &[f64], vocab: usize, targets: &[Target]) -> Vec<f64> {
    targets
        .iter()
        .map(|t| {
            let row = &logits[t.row as usize * vocab..][..vocab];
            row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[t.id as usize]
        })
        .collect()
}
