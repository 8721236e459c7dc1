"""Makes fixtures/quant/gguf_blocks.safetensors: raw GGUF blocks and what gguf-py decodes them to.

For each TYPE of Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K:
  TYPE.raw  U8  [blocks, bytes per block]     random bits; the f16 scale fields are finite, of both signs, some zero,
                                              some subnormal, some large
  TYPE.f32  F32 [blocks, elements per block]  gguf.quants.dequantize of them

Run: .venv/bin/python scripts/make_quant_fixtures.py       (deterministic)
"""
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "quant"
# type -> byte offsets of the f16 fields in a block
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def scales(rng, n):
    x = (2.0 ** rng.uniform(-12, 0, n) * rng.choice([-1, 1], n)).astype(np.float16)
    x[0], x[1], x[2], x[3], x[4] = 0.0, -0.0, 6e-8, -3e-5, 60.0  # zero, negative zero, subnormals, large
    return rng.permutation(x)


def main():
    rng = np.random.default_rng(7)
    tensors = {}
    for name, offsets in SCALES.items():
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        blocks = 256 if elements == 32 else 64
        raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        raw[5, :], raw[6, :] = 0, 255  # extreme codes
        for at in offsets:
            raw[:, at:at + 2] = scales(rng, blocks)[:, None].view(np.uint8)
        tensors[f"{name}.raw"] = raw
        tensors[f"{name}.f32"] = f32 = dequantize(raw, GGMLQuantizationType[name]).reshape(blocks, elements)
        assert f32.dtype == np.float32 and np.isfinite(f32).all()
        print(f"{name}: {blocks} blocks of {elements} in {size} bytes, largest {np.abs(f32).max():.3g}")
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / "gguf_blocks.safetensors")
    (OUT / "gguf_blocks.safetensors").chmod(0o644)


main()
