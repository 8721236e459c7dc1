use safetensors::SafeTensors;

use super::{Format, encode_here};
use crate::testing::{Random, bits, fixture, floats};

const LEGACY: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];
const K: [Format; 3] = [Format::Q4K, Format::Q5K, Format::Q6K];

fn encode(format: Format, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0xaa; values.len() / format.block_len() * format.block_bytes()];
    format.encode(values, &mut blocks).unwrap_or_else(|e| panic!("{e}"));
    blocks
}

fn decode(format: Format, blocks: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
    format.decode(blocks, &mut values);
    values
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

/// Values of each distribution of `scripts/make_encode_fixtures.py`, with the file.
fn each_case(mut test: impl FnMut(&SafeTensors<'_>, &str, &[f32])) {
    let bytes = fixture("quant/gguf_encoded.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let names = file.names();
    let cases: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".f32")).collect();
    assert_eq!(cases.len(), 13);
    for case in cases {
        test(&file, case, &floats(&file, &format!("{case}.f32")));
    }
}

/// Gaussian, heavy tails, zeros of both signs, constants, values whose scales are subnormal or zero as f16 or have no
/// inverse, real weights.
#[test]
fn blocks_of_32_are_the_bytes_of_llama_cpp() {
    each_case(|file, case, values| {
        for format in LEGACY {
            let expected = file.tensor(&format!("{case}.{format}")).expect("blocks").data();
            let found = encode(format, values);
            for (i, (found, expected)) in
                found.chunks(format.block_bytes()).zip(expected.chunks(format.block_bytes())).enumerate()
            {
                assert_eq!(found, expected, "{case} {format} block {i}");
            }
        }
    });
}

/// A part of 2048 values: on 65,536 of each distribution the errors are 0.99 times those of llama.cpp or less.
#[test]
fn super_blocks_err_less_than_those_of_llama_cpp() {
    each_case(|file, case, values| {
        for format in K {
            let theirs = decode(format, file.tensor(&format!("{case}.{format}")).expect("blocks").data());
            let (ours, theirs) =
                (rms(values, &decode(format, &encode(format, values))), rms(values, &theirs));
            println!("{case} {format}: {:.4}", ours / theirs);
            assert!(
                ours <= 0.995 * theirs,
                "{case} {format}: rms error {ours:e}, that of llama.cpp {theirs:e}"
            );
        }
    });
}

/// What a format decodes to it encodes to the same values. The search for super-blocks may end with other scales than those
/// the values were decoded with: then a second encoding adds to the error of the first, most where it was small.
#[test]
fn decoded_values_encode_to_themselves() {
    each_case(|_, case, values| {
        for format in LEGACY.into_iter().chain(K) {
            let once = decode(format, &encode(format, values));
            let twice = decode(format, &encode(format, &once));
            let (first, second) = (rms(values, &once), rms(values, &twice));
            println!("{case} {format}: {:.4}", second / first);
            let same = match format {
                Format::Q4K | Format::Q5K => false,
                Format::Q6K => {
                    matches!(case, "gaussian" | "uniform" | "positive" | "weights_q8_0" | "weights_q4_1")
                }
                _ => true,
            };
            assert!(!same || once == twice, "{case} {format}: other values");
            let allowed = if matches!(case, "sparse" | "edges" | "below_f16") { 1.35 } else { 1.04 };
            assert!(second <= allowed * first, "{case} {format}: rms {second:e} after {first:e}");
        }
    });
}

/// The one found here against the one that the compiler takes for granted (for super-blocks see `k_quants`).
#[test]
fn every_instruction_set_encodes_the_same_bytes() {
    each_case(|_, case, values| {
        for format in Format::ALL {
            let found = encode(format, values);
            let mut plain = vec![0x55; found.len()];
            encode_here(format, values, &mut plain).expect("finite");
            assert!(found == plain, "{case} {format}");
        }
    });
}

/// Every code is the best for its value, but for what the scale loses as f16 (1/2048 of the value), ties, and the value
/// that is cut off at the positive end of Q4_0 and Q5_0.
#[test]
fn codes_are_nearest_to_their_values() {
    for format in LEGACY {
        let levels = match format {
            Format::Q4_0 | Format::Q4_1 => 16,
            Format::Q5_0 | Format::Q5_1 => 32,
            _ => 255,
        };
        let values = Random::new(3).normal(64 * 32);
        let found = decode(format, &encode(format, &values));
        for (values, found) in values.chunks(32).zip(found.chunks(32)) {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let largest = high.max(-low);
            let step = match format {
                Format::Q4_0 | Format::Q5_0 => largest / (levels / 2) as f32,
                Format::Q8_0 => largest / 127.0,
                _ => (high - low) / (levels - 1) as f32,
            };
            for (v, f) in values.iter().zip(found) {
                let cut = matches!(format, Format::Q4_0 | Format::Q5_0) && v.abs() > largest - step;
                let allowed = step * if cut { 1.0 } else { 0.5 } + 2.0 * largest / 2048.0;
                assert!((v - f).abs() <= allowed, "{format}: {v} became {f}, step {step}");
            }
        }
    }
}

/// The least sum of squared errors of a sub-block of 32 over a fine grid of scales and minima, which are kept exactly.
fn least_affine(values: &[f32], top: f64) -> f64 {
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = f64::from(high - low);
    let mut least = f64::INFINITY;
    for scale in 0..100 {
        let s = range / top * (0.8 + 0.25 * f64::from(scale) / 100.0);
        for minimum in 0..60 {
            let m = f64::from(-low) - s * (f64::from(minimum) / 20.0 - 1.0);
            let error = |x: &f32| {
                let x = f64::from(*x);
                (x - (s * ((x + m) / s).round().clamp(0.0, top) - m)).powi(2)
            };
            least = least.min(values.iter().map(error).sum());
        }
    }
    least
}

/// The same for a sub-block of Q6_K, over scales of both signs.
fn least_symmetric(values: &[f32]) -> f64 {
    let largest = f64::from(values.iter().fold(0.0f32, |m, v| m.max(v.abs())));
    let mut least = f64::INFINITY;
    for scale in 0..2000 {
        for sign in [1.0, -1.0] {
            let s = sign * largest / (25.0 + 9.0 * f64::from(scale) / 2000.0);
            let error =
                |x: &f32| (f64::from(*x) - s * (f64::from(*x) / s).round().clamp(-32.0, 31.0)).powi(2);
            least = least.min(values.iter().map(error).sum());
        }
    }
    least
}

/// The bound knows neither 6-bit scales nor f16: that they cost so little means that they were chosen well.
#[test]
fn super_blocks_come_close_to_the_best_of_each_sub_block() {
    let values = Random::new(5).normal(8 * 256);
    for (format, sub_len, allowed) in
        [(Format::Q4K, 32, 1.02), (Format::Q5K, 32, 1.04), (Format::Q6K, 16, 1.04)]
    {
        let least: f64 = values
            .chunks(sub_len)
            .map(|sub| match format {
                Format::Q4K => least_affine(sub, 15.0),
                Format::Q5K => least_affine(sub, 31.0),
                _ => least_symmetric(sub),
            })
            .sum();
        let bound = (least / values.len() as f64).sqrt();
        let found = rms(&values, &decode(format, &encode(format, &values)));
        println!("{format}: {:.4}", found / bound);
        assert!(found <= allowed * bound, "{format}: rms error {found}, bound {bound}");
    }
}

#[test]
fn zeros_and_constants_keep_their_values() {
    for format in LEGACY.into_iter().chain(K) {
        for zero in [0.0, -0.0, 1e-45, -1e-40] {
            let found = decode(format, &encode(format, &[zero; 256]));
            assert!(found.iter().all(|v| *v == 0.0), "{format}: {zero:e} became {:e}", found[0]);
        }
        for constant in [1.0, -1.0, 0.3, -3e4] {
            let found = decode(format, &encode(format, &[constant; 256]));
            // An f16 scale loses half of this, the minimum of Q4_1 and Q5_1 too.
            let error = found.iter().fold(0.0f32, |m, v| m.max((v / constant - 1.0).abs()));
            assert!(error <= 1.0 / 2048.0, "{format}: {constant} became {}", found[0]);
        }
    }
    // One value among zeros.
    for format in K {
        let mut values = [0.0; 256];
        values[77] = -0.4;
        let found = decode(format, &encode(format, &values));
        for (v, f) in values.iter().zip(found) {
            assert!((v - f).abs() < 1e-4, "{format}: {v} became {f}");
        }
    }
}

#[test]
fn values_without_a_place_are_refused() {
    for format in LEGACY.into_iter().chain(K) {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9, -1e9, f32::MAX, f32::MIN] {
            let mut values = vec![0.5; 1024];
            (values[700], values[800]) = (value, value);
            let mut blocks = vec![0; 1024 / format.block_len() * format.block_bytes()];
            let error = format.encode(&values, &mut blocks).expect_err("refused");
            assert_eq!((error.at, error.format), (700, format), "{value}");
            assert_eq!(error.value.to_bits(), value.to_bits());
            assert_eq!(error.to_string(), format!("value 700 is {value:?}, which {format} cannot store"));
        }
        // Any block of magnitudes up to the largest f16 has scales.
        let mut values = Random::new(9).normal(256);
        values.iter_mut().for_each(|v| *v = if *v > 0.0 { 65_504.0 } else { -65_504.0 });
        let found = decode(format, &encode(format, &values));
        // One end of Q4_0 is cut off by an eighth.
        assert!(values.iter().zip(&found).all(|(v, f)| (v - f).abs() <= 65_504.0 * 0.126), "{format}");
    }
}

#[test]
fn floats_round_or_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45] {
        for format in [Format::F32, Format::F16, Format::BF16] {
            let found = decode(format, &encode(format, &[value]))[0];
            assert!(
                found == value || found.is_nan() && value.is_nan() || found == 0.0 && value == 1e-45,
                "{format}: {value}"
            );
            assert_eq!(found.is_sign_negative(), value.is_sign_negative(), "{format}: {value}");
        }
    }
    for (format, largest) in [(Format::F16, 65_520.0f32), (Format::BF16, f32::from_bits(0x7f7f_8000))] {
        assert!(decode(format, &encode(format, &[-largest.next_down()]))[0].is_finite());
        let error = format.encode(&[0.0, f32::NAN, -largest], &mut [0; 6]).expect_err("refused");
        assert_eq!((error.at, error.value), (2, -largest));
    }
    for format in [Format::F16, Format::BF16] {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let values = decode(format, &all);
        let again = decode(format, &encode(format, &values));
        for (v, a) in values.iter().zip(&again) {
            assert!(v.to_bits() == a.to_bits() || v.is_nan() && a.is_nan(), "{format}: {v}");
        }
    }
    // Halfway between two bfloat16, whose even one is nearer by convention, and just beside.
    let halfway = f32::from_bits(0x3f80_8000);
    let found = decode(Format::BF16, &encode(Format::BF16, &[halfway, halfway.next_up(), -halfway]));
    assert_eq!(bits(&found), [0x3f80_0000, 0x3f81_0000, 0xbf80_0000]);
    for (format, seed) in [(Format::F16, 1), (Format::BF16, 2)] {
        let values = Random::new(seed).normal(4096);
        let expected: Vec<f32> = match format {
            Format::F16 => values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect(),
            _ => values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect(),
        };
        assert_eq!(bits(&decode(format, &encode(format, &values))), bits(&expected), "{format}");
    }
}
