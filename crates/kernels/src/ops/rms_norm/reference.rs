//! The definition in f64.

pub(super) fn forward(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    x.chunks_exact(weight.len())
        .flat_map(|row| {
            let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let rstd = 1.0 / (mean_square + eps).sqrt();
            row.iter().zip(weight).map(move |(v, &w)| v * rstd * f64::from(w)).collect::<Vec<_>>()
        })
        .collect()
}
