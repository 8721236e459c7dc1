//! Dev only: encode_dev FILE (raw f32) -> rms per format; writes FILE.FORMAT.
use lorafit_kernels::quant::Format;
use std::time::Instant;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let only = std::env::args().nth(2);
    let bytes = std::fs::read(&path).unwrap();
    let x: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for f in Format::ALL {
        if only.as_ref().is_some_and(|o| o != f.name()) {
            continue;
        }
        let mut out = vec![0u8; x.len() / f.block_len() * f.block_bytes()];
        let t = Instant::now();
        let r = f.encode(&x, &mut out);
        let dt = t.elapsed().as_secs_f64();
        let mut y = vec![0f32; x.len()];
        f.decode(&out, &mut y);
        let e: f64 = x.iter().zip(&y).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
            / x.len() as f64;
        println!("{f} {:?} rms {:.6e} {:.0} MB/s", r, e.sqrt(), bytes.len() as f64 / dt / 1e6);
        std::fs::write(format!("{path}.{f}"), &out).unwrap();
    }
}
