use safetensors::SafeTensors;

use super::four_bit::{Absmax, Code};
#[cfg(target_arch = "x86_64")]
use super::{AVX2, registers::Avx2};
use super::{Format, PLAIN, Quantization, decode_here};
use crate::testing::{Random, bits, fixture, floats};
use crate::weight::FrozenWeight;

/// gguf-py and this decoder do the same f32 arithmetic, so every bit agrees
/// (`scripts/make_quant_fixtures.py`).
#[test]
fn gguf_blocks_decode_to_the_bits_of_gguf_py() {
    let bytes = fixture("quant/gguf_blocks.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
        let raw = file.tensor(&format!("{format}.raw")).expect("raw blocks").data().to_vec();
        let expected = file.tensor(&format!("{format}.f32")).expect("values").data().to_vec();
        let expected: Vec<f32> = expected.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let mut found = vec![0.0; raw.len() / format.block_bytes() * format.block_len()];
        format.decode(&raw, &mut found);
        assert_eq!(found.len(), expected.len(), "{format}");
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(f.to_bits(), e.to_bits(), "{format} value {i}: {f}, expected {e}");
        }
    }
}

/// For the instruction sets of this processor, and numbers of blocks with and without a rest. Blocks are of encoded values, and of
/// random bytes, so that scales have either sign and any size. A NaN may have other bits.
#[test]
fn every_instruction_set_decodes_the_same_bits() {
    let mut random = Random::new(8);
    for format in Format::ALL {
        for blocks in [1, 2, 7, 8, 33, 70] {
            let values = random.normal(blocks * format.block_len());
            let mut encoded = vec![0; blocks * format.block_bytes()];
            format.encode(&values, &mut encoded).expect("finite");
            let at_random = random.normal(encoded.len()).iter().map(|v| (v * 1e4) as i64 as u8).collect();
            for stored in [encoded, at_random] {
                let decoded = |decode: fn(Format, &[u8], &mut [f32])| {
                    let mut values = vec![0.0; values.len()];
                    decode(format, &stored, &mut values);
                    values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f32::NAN);
                    bits(&values)
                };
                // SAFETY: plain loops need nothing.
                let plain = decoded(|format, src, dst| unsafe { decode_here::<PLAIN>(format, src, dst) });
                assert_eq!(decoded(Format::decode), plain, "{format}, {blocks} blocks, the best set");
                #[cfg(target_arch = "x86_64")]
                if Avx2::is_available() {
                    // SAFETY: the processor has the set.
                    let on_avx2 =
                        decoded(|format, src, dst| unsafe { decode_here::<AVX2>(format, src, dst) });
                    assert_eq!(on_avx2, plain, "{format}, {blocks} blocks, AVX2");
                }
            }
        }
    }
}

/// Codes, scales and decoded values of bitsandbytes 0.50.2, bit for bit: an outlier, a row of zeros, blocks that end
/// inside rows, a partial last block.
#[test]
fn four_bit_equals_bitsandbytes() {
    let bytes = fixture("quant/bitsandbytes_reference.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    for (case, rows, cols) in [("w", 96, 160), ("tail", 1, 100)] {
        let values = floats(&file, case);
        for (kind, code, double) in
            [("nf4", Code::Nf4, false), ("nf4dq", Code::Nf4, true), ("fp4", Code::Fp4, false)]
        {
            let name = |part: &str| format!("{case}.{kind}.{part}");
            let quantization = Quantization::FourBit { code, block_len: 64, double };
            let weight = FrozenWeight::from_f32(rows, cols, &values).quantize(quantization).expect("finite");
            let found = weight.four_bit().expect("4-bit");
            let packed = file.tensor(&name("packed")).expect("codes").data();
            assert!(found.codes.as_slice() == packed, "{case} {kind} codes");
            assert_eq!(weight.stored_bytes(), quantization.bytes(rows, cols), "{case} {kind}");
            let absmax = file.tensor(&name("absmax")).expect("scales").data();
            match &found.absmax {
                Absmax::Plain(scales) => assert_eq!(scales.as_slice(), absmax, "{case} {kind}"),
                Absmax::Double { codes, map, nested, offset } => {
                    assert!(
                        bits(&map[..]) == bits(&floats(&file, &name("nested_quant_map"))),
                        "the dynamic map"
                    );
                    assert_eq!(
                        offset.to_bits(),
                        floats(&file, &name("offset"))[0].to_bits(),
                        "{case} offset"
                    );
                    assert_eq!(
                        nested.as_slice(),
                        file.tensor(&name("nested_absmax")).expect("nested").data()
                    );
                    assert_eq!(codes.as_slice(), absmax, "{case} {kind}");
                }
            }
            let expected = floats(&file, &name("dequantised"));
            assert!(bits(&weight.to_vec()) == bits(&expected), "{case} {kind} decoded");
            // Any part of a row decodes to the same values, wherever it begins and ends.
            for row in [0, rows / 2, rows - 1] {
                for part in [1..2, 0..cols, 3..cols - 1, 7..71, 64..cols, cols - 1..cols] {
                    let mut out = vec![0.0; part.len()];
                    weight.decode(row, part.clone(), &mut out);
                    let expected = &expected[row * cols + part.start..row * cols + part.end];
                    assert_eq!(bits(&out), bits(expected), "{case} {kind} row {row} columns {part:?}");
                }
            }
        }
        if case == "w" {
            assert_eq!(Code::Fp4.table()[..], floats(&file, "fp4.quant_map"));
        }
    }
}

/// Rounding to 127 steps a row: no value moves by more than half a step, and the largest not at all.
#[test]
fn int8_stays_within_half_a_step() {
    let values: Vec<f32> =
        (0..6 * 40).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01 * (1 + i / 40) as f32).collect();
    let weight = FrozenWeight::from_f32(6, 40, &values).quantize(Quantization::Int8).expect("finite");
    for (row, (found, expected)) in weight.to_vec().chunks(40).zip(values.chunks(40)).enumerate() {
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (f, e) in found.iter().zip(expected) {
            // Values are rounded to f16 first, by up to 1/2048 of themselves.
            assert!((f - e).abs() <= largest * (1.0 / 254.0 + 1.0 / 2048.0), "row {row}: {f}, {e}");
        }
    }
    assert_eq!(
        FrozenWeight::from_f32(1, 4, &[0.0; 4]).quantize(Quantization::Int8).expect("finite").to_vec(),
        [0.0; 4]
    );
}

/// The matrix `case.input` of a fixture.
fn input(file: &SafeTensors<'_>, case: &str) -> FrozenWeight {
    let tensor = file.tensor(&format!("{case}.input")).expect("the input");
    let format = match tensor.dtype() {
        safetensors::Dtype::BF16 => Format::BF16,
        _ => Format::F32,
    };
    let data = crate::bytes::SharedBytes::from_vec(tensor.data().to_vec());
    FrozenWeight::new(tensor.shape()[0], tensor.shape()[1], format, data).expect("a matrix")
}

/// Hard inputs in all block sizes (`scripts/make_bnb_fixtures.py`): codes that straddle rows, ties, subnormal and huge
/// scales, bf16 inputs, several nested blocks, rows of int8.
#[test]
fn quantising_hard_inputs_equals_bitsandbytes() {
    let bytes = fixture("quant/bitsandbytes.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(bits(&super::dynamic_map::signed()[..]), bits(&floats(&file, "dynamic.quant_map")));
    for (name, packed) in file.tensors() {
        let Some(stem) = name.strip_suffix(".packed") else { continue };
        let [case, kind, block] = stem.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let code = if kind.starts_with("nf4") { Code::Nf4 } else { Code::Fp4 };
        let block_len = block[1..].parse().expect("a number");
        let quantization = Quantization::FourBit { code, block_len, double: kind.ends_with("dq") };
        let weight = input(&file, case).quantize(quantization).expect("finite");
        let found = weight.four_bit().expect("4-bit");
        assert!(found.codes.as_slice() == packed.data(), "{stem} codes");
        let data = |part: &str| file.tensor(&format!("{stem}.{part}")).expect(part).data();
        if let Absmax::Double { codes, nested, offset, .. } = &found.absmax {
            let expected = floats(&file, &format!("{stem}.offset"))[0];
            assert!(offset.to_bits() == expected.to_bits(), "{stem} offset");
            assert!(nested.as_slice() == data("nested_absmax"), "{stem} nested absmax");
            assert!(codes.as_slice() == data("absmax"), "{stem} absmax codes");
        }
        if let Absmax::Plain(scales) = &found.absmax {
            assert!(scales.as_slice() == data("absmax"), "{stem} absmax");
        }
        if file.tensor(&format!("{stem}.dequantised")).is_ok() {
            let expected = floats(&file, &format!("{stem}.dequantised"));
            assert!(bits(&weight.to_vec()) == bits(&expected), "{stem} decoded");
        }
    }

    for case in ["outlier", "bf16", "int8ties"] {
        let weight = input(&file, case).quantize(Quantization::Int8).expect("finite");
        let found = weight.int8().expect("int8");
        let data = |part: &str| file.tensor(&format!("{case}.int8.{part}")).expect(part).data();
        assert!(found.absmax.as_slice() == data("SCB"), "{case} SCB");
        assert!(found.codes.as_slice() == data("codes"), "{case} codes");
        let expected = floats(&file, &format!("{case}.int8.dequantised"));
        assert!(bits(&weight.to_vec()) == bits(&expected), "{case} decoded");
    }
}

/// bitsandbytes gives a NaN the code 15 and lets an infinite scale make its block NaN.
#[test]
fn values_that_are_not_finite_are_refused_where_they_are() {
    let four_bit = |double| Quantization::FourBit { code: Code::Nf4, block_len: 32, double };
    for (quantization, value) in [
        (four_bit(false), f32::NAN),
        (four_bit(true), f32::INFINITY),
        (Quantization::Int8, f32::NEG_INFINITY),
        (Quantization::Int8, f32::NAN),
        (Quantization::Int8, 65_520.0),
    ] {
        // Far enough behind the first that another piece has them.
        let mut values = vec![0.5; 6000 * 7];
        for at in [3 * 7 + 2, 5999 * 7] {
            values[at] = value;
        }
        let error = FrozenWeight::from_f32(6000, 7, &values).quantize(quantization).expect_err("refused");
        assert_eq!((error.row, error.col), (3, 2), "{error}");
        assert_eq!(
            error.to_string(),
            format!("row 3, column 2 is {value}, which cannot be quantised to {quantization}")
        );
    }
    assert!(FrozenWeight::from_f32(1, 2, &[f32::MAX, f32::MIN]).quantize(four_bit(false)).is_ok());
    assert!(FrozenWeight::from_f32(1, 2, &[65_519.0, -65_519.0]).quantize(Quantization::Int8).is_ok());
}
