//! The definition in f64: pairs as complex numbers, turned by e^(i position frequency).

pub(super) fn forward(x: &[f64], positions: &[u32], frequencies: &[f32], heads: usize) -> Vec<f64> {
    let half = frequencies.len();
    let mut y = vec![0.0; x.len()];
    for (t, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let start = (t * heads + head) * 2 * half;
            for (j, &frequency) in frequencies.iter().enumerate() {
                let angle = f64::from(position as f32 * frequency);
                let (re, im) = (x[start + j], x[start + j + half]);
                y[start + j] = re * angle.cos() - im * angle.sin();
                y[start + j + half] = re * angle.sin() + im * angle.cos();
            }
        }
    }
    y
}
