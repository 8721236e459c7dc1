//! The definition in f64.

use super::Target;

/// The loss of each target, of which a share `smoothing` is the mean over the vocabulary.
pub(super) fn losses(logits: &[f64], vocab: usize, targets: &[Target], smoothing: f64) -> Vec<f64> {
    targets
        .iter()
        .map(|t| {
            let row = &logits[t.row as usize * vocab..][..vocab];
            let log_sum = row.iter().map(|l| l.exp()).sum::<f64>().ln();
            let mean = row.iter().sum::<f64>() / vocab as f64;
            log_sum - (1.0 - smoothing) * row[t.id as usize] - smoothing * mean
        })
        .collect()
}
