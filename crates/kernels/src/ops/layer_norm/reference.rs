//! The definition in f64.

pub(super) fn forward(x: &[f64], weight: &[f64], bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let width = weight.len();
    let of_row = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / width as f64;
        let scaled = row.iter().zip(weight).map(|(v, w)| (v - mean) / (variance + eps).sqrt() * w);
        scaled.enumerate().map(|(i, v)| v + bias.map_or(0.0, |bias| bias[i])).collect()
    };
    x.chunks_exact(width).flat_map(of_row).collect()
}
