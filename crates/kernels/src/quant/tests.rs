use std::path::Path;

use safetensors::SafeTensors;

use super::Format;

/// gguf-py and this decoder do the same f32 arithmetic, so every bit agrees
/// (`scripts/make_quant_fixtures.py`).
#[test]
fn gguf_blocks_decode_to_the_bits_of_gguf_py() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/quant/gguf_blocks.safetensors");
    let bytes = std::fs::read(path).expect("the fixture");
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
