//! How fast weights are encoded in each storage format, on one thread: MB/s of f32 values, the best of several runs.
//!
//! `cargo run --release -p lorafit-kernels --example encode_speed [FORMAT]`

use std::time::Instant;

use lorafit_kernels::quant::Format;
use lorafit_kernels::random::normal;

/// 4 MiB of values.
const LEN: usize = 1 << 20;
const RUNS: usize = 7;

fn main() {
    let only = std::env::args().nth(1);
    let values: Vec<f32> = (0..LEN as u64).map(|i| 0.02 * normal(1, i)).collect();
    for format in Format::ALL.into_iter().filter(|f| only.as_ref().is_none_or(|only| only == f.name())) {
        let mut blocks = vec![0u8; LEN / format.block_len() * format.block_bytes()];
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let start = Instant::now();
            format.encode(&values, &mut blocks).expect("finite values");
            best = best.min(start.elapsed().as_secs_f64());
        }
        let mut decoded = vec![0.0f32; LEN];
        format.decode(&blocks, &mut decoded);
        let squares = values.iter().zip(&decoded).map(|(v, d)| f64::from(v - d).powi(2)).sum::<f64>();
        let error = (squares / LEN as f64).sqrt() / 0.02;
        println!(
            "{format:5} {:7.0} MB/s   rms error {error:.5} of the standard deviation",
            4e-6 * LEN as f64 / best
        );
    }
}
