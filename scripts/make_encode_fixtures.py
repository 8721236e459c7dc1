"""Makes fixtures/quant/gguf_encoded.safetensors: values, and the GGUF blocks that llama.cpp writes for them.

For each CASE (a distribution):
  CASE.f32   F32 [values]
  CASE.TYPE  U8  [bytes]    for Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K: ggml_quantize_chunk without importances

Run: python scripts/make_encode_fixtures.py LIBGGML [GGUF]      (deterministic)

LIBGGML is the shared library libggml-base of llama.cpp or whisper.cpp, as the wheel of pywhispercpp 1.5.1 bundles it, whose
libgomp is to be loaded first (LD_PRELOAD). GGUF is SmolLM2-135M-Instruct in Q4_1, from which the two `weights` cases are
taken: part of the embedding, stored in Q8_0, and of a projection in Q4_1. Without it they are kept from the file there is.
"""
import ctypes
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "quant" / "gguf_encoded.safetensors"
LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
TYPES = [*LEGACY, "Q4_K", "Q5_K", "Q6_K"]
N = 2048


def distributions(rng):
    normal = lambda sigma: rng.normal(0, sigma, N)
    edges = normal(0.05).reshape(8, 256)
    edges[0] = 0.0
    edges[1] = -0.0
    edges[2], edges[3] = 0.75, -0.75
    edges[4, ::2] = 0.0  # zeros of both signs
    edges[4, 1::4] = -0.0
    edges[5] = np.abs(edges[5]) * 2.0**-120  # subnormal f32 in part
    edges[5, :32] = 1e-44
    edges[6] = np.repeat(np.linspace(-1, 1, 8), 32)  # a constant a sub-block
    edges[7, 1:] = 0.0  # one value
    return {
        "gaussian": normal(0.02),
        "student_t3": rng.standard_t(3, N) * 0.02,
        "student_t1.5": rng.standard_t(1.5, N) * 0.02,
        "uniform": rng.uniform(-1, 1, N),
        "sparse": normal(1.0) * (rng.random(N) < 0.05),
        "positive": 1 + normal(0.1),
        "scales_vary": normal(1.0) * np.repeat(np.exp(rng.normal(0, 1.5, N // 32)), 32),
        "tiny": normal(1e-5),
        "below_f16": normal(3e-7),
        "huge": normal(8e3),
        "edges": edges.ravel(),
    }


def weights(path):
    if path is None:
        old = load_file(OUT)
        return {case: old[f"{case}.f32"] for case in ("weights_q8_0", "weights_q4_1")}
    tensors = {t.name: t for t in GGUFReader(path).tensors}
    embedding, projection = tensors["token_embd.weight"], tensors["blk.3.ffn_down.weight"]
    return {
        "weights_q8_0": dequantize(embedding.data[1000:1004], embedding.tensor_type).ravel()[:N],
        "weights_q4_1": dequantize(projection.data[:2], projection.tensor_type).ravel()[:N],
    }


def main():
    chunk = ctypes.CDLL(sys.argv[1]).ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    tensors = {}
    cases = distributions(np.random.default_rng(11)) | weights(sys.argv[2] if len(sys.argv) > 2 else None)
    for case, values in cases.items():
        values = tensors[f"{case}.f32"] = np.ascontiguousarray(values, np.float32)
        for name in TYPES:
            kind = GGMLQuantizationType[name]
            elements, size = GGML_QUANT_SIZES[kind]
            raw = tensors[f"{case}.{name}"] = np.zeros(N // elements * size, np.uint8)
            written = chunk(int(kind), values.ctypes.data, raw.ctypes.data, 0, N // 256, 256, None)
            assert written == raw.size
            decoded = dequantize(raw.reshape(-1, size), kind).ravel()
            assert np.isfinite(decoded).all(), (case, name)
            error = np.sqrt(np.mean((decoded.astype(np.float64) - values) ** 2))
            if name in LEGACY and not (quantize(values.reshape(-1, elements), kind).ravel() == raw).all():
                print(f"{case} {name}: gguf-py writes other bytes")
            print(f"{case} {name}: rms error {error:.4e}")
    save_file(tensors, OUT)
    OUT.chmod(0o644)


main()
