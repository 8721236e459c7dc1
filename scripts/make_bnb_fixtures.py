"""Makes fixtures/quant/bitsandbytes.safetensors: what bitsandbytes computes on the CPU for small, hard inputs.

Tables, F32: nf4.quant_map [16], fp4.quant_map [16], dynamic.quant_map [256] (signed, of double quantisation and of the
first AdamW moment), udynamic.quant_map [256] (unsigned, of the second).

4-bit cases, each with CASE.input:
  outlier  F32 96x160   normal values, one outlier, one row of zeros; blocks of 32, 64, 128, 256 and 4096 (others: 64)
  tail     F32 1x100    the last block is partial
  odd      F32 7x33     bytes and blocks straddle rows, the last byte is half used, the last block is partial
  ties     F32 15x64    halfway between codes and one step beside it, at several scales; subnormal and zero blocks
  huge     F32 2x64     a block up to the largest f32, and one of ones
  bf16     BF16 64x128  normal values
  nested   F32 130x128  uniform, of row-wise scale: 260 blocks of 64, so two nested blocks of 256
For each KIND of nf4, nf4dq, fp4, fp4dq (dq: double quantisation) and block size B, as CASE.KIND.bB.NAME:
  packed         U8 [bytes]     two codes a byte, the first in the high half
  absmax         F32 [blocks], or U8 [blocks] with double quantisation, then also
  nested_absmax  F32 [nested blocks], offset F32 [1]
  dequantised    F32 [rows, cols]   blocks of 64 only; outlier and nested only with double quantisation
`dequantised` is code * absmax in f32 over the blocks of the flat matrix, with code 8 of fp4 as -0.0: the scalar decoder
of bitsandbytes. Its AVX-512 decoder takes the scales of wrong blocks where the block size does not divide the columns,
and writes +0.0 for that code, so `dequantize_4bit` is only checked against here (by value, where the size divides).

int8 (LLM.int8 rows), for outlier, bf16 and int8ties (F32 5x64: ties between codes, f16 subnormals, a row that f16
rounds to zero): CASE.int8.codes I8, CASE.int8.SCB F32 [rows], CASE.int8.dequantised F32 (`int8_vectorwise_dequant`).
The input is converted to f16 first, as Linear8bitLt does.

8-bit AdamW, 845 values (three blocks of 256 and 77), lr 2e-4, betas 0.9 0.999, eps 1e-8, weight decay 0.01:
  adamw8.p0 F32; for steps S of 1 to 5 adamw8.S.grad F32, .p F32 (after it), .state1 .state2 U8, .absmax1 .absmax2 F32.
States are a function of IEEE arithmetic alone; p holds PyTorch's square root, which is up to one ulp from it.

Needs: scripts/python_env.sh
Run: .venv/bin/python scripts/make_bnb_fixtures.py       (deterministic)
Also requantises the inputs of fixtures/quant/bitsandbytes_reference.safetensors and fails if a bit differs.
"""
import pathlib

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional as F
from safetensors import safe_open
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "quant"
KINDS = {"nf4": ("nf4", False), "nf4dq": ("nf4", True), "fp4": ("fp4", False), "fp4dq": ("fp4", True)}


def matrix(values):
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def ties():
    """Rows of one block of 64 each: halfway values and their neighbours, and scales at the lower end of f32."""
    rng, rows = np.random.default_rng(3), []
    for kind in ("nf4", "fp4"):
        table = np.sort(F.get_4bit_type(kind, "cpu").numpy())
        middle = (table[:-1] + table[1:]) / np.float32(2)
        beside = [np.nextafter(middle, np.float32(end)) for end in (2, -2)]
        row = np.concatenate([[1], middle, *beside, [0, -0.0]])
        row = np.pad(row.astype(np.float32), (0, 64 - len(row)))
        rows += [row, -row, row * np.float32(3), row * np.float32(2.0**-100), row * np.float32(0.1)]
    subnormal = rng.uniform(-1, 1, 64).astype(np.float32)
    rows += [subnormal * np.float32(scale) for scale in (1.1e-38, 9e-39, 3e-40)]  # around the smallest divisor, 1e-38
    rows.append(np.full(64, 1.4e-45, np.float32))
    rows.append(np.zeros(64, np.float32))
    return matrix(np.stack(rows))


def int8_ties():
    rng = np.random.default_rng(4)
    half = np.concatenate([[127], np.arange(31) + 0.5, -np.arange(31) - 0.5, [126.5]])  # scale 1: ties go to even
    return matrix(np.stack([half, rng.uniform(-1, 1, 64) * 3e-6, rng.uniform(-1, 1, 64) * 2e-8, rng.normal(size=64),
                            np.concatenate([[-65510], rng.uniform(-65000, 65000, 63)])]))


def cases():
    rng = np.random.default_rng(11)
    outlier = rng.normal(0, 0.05, (96, 160))
    outlier[17, 33], outlier[40] = 7.5, 0
    nested = rng.uniform(-1, 1, (130, 128)) * 10.0 ** rng.uniform(-3, 0, (130, 1))
    return {
        "outlier": matrix(outlier),
        "tail": matrix(rng.normal(0, 0.02, (1, 100))),
        "odd": matrix(rng.normal(0, 1, (7, 33))),
        "ties": ties(),
        "huge": matrix(np.stack([np.linspace(-3.4e38, 3.4e38, 64), np.ones(64)])),
        "bf16": matrix(rng.normal(0, 0.03, (64, 128))).to(torch.bfloat16),
        "nested": matrix(nested),
    }


def decode(packed, state):
    """The scalar decoder over the flat matrix."""
    table = state.code.clone()
    if state.quant_type == "fp4":
        table[8] = -0.0
    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    flat = packed.reshape(-1)
    codes = torch.stack([flat >> 4, flat & 15], 1).reshape(-1)[: state.shape.numel()].long()
    scales = absmax.repeat_interleave(state.blocksize)[: len(codes)]
    return (table[codes] * scales).reshape(state.shape)


def four_bit(tensors, case, values, block):
    for kind, (quant_type, double) in KINDS.items():
        name = lambda part: f"{case}.{kind}.b{block}.{part}"
        packed, state = F.quantize_4bit(values, blocksize=block, quant_type=quant_type, compress_statistics=double)
        tensors[name("packed")], tensors[name("absmax")] = packed.reshape(-1), state.absmax
        if double:
            tensors[name("nested_absmax")], tensors[name("offset")] = state.state2.absmax, state.offset.reshape(1)
        found = decode(packed, state)
        if values.shape[1] % block == 0:
            other = F.dequantize_4bit(packed, state)
            assert torch.equal(found.to(values.dtype), other), f"{case} {kind} b{block}: another decoding"
        if block == 64 and (double or case not in ("outlier", "nested")):
            tensors[name("dequantised")] = found
        error = (found - values.float()).abs().max()
        print(f"{case} {kind} b{block}: {state.absmax.numel()} blocks, largest error {error:.3g}")


def int8(tensors, case, values):
    codes, scb, _ = F.int8_vectorwise_quant(values.to(torch.float16))
    tensors[f"{case}.int8.codes"], tensors[f"{case}.int8.SCB"] = codes, scb
    tensors[f"{case}.int8.dequantised"] = F.int8_vectorwise_dequant(codes, scb)


def adamw8(tensors):
    rng, n = np.random.default_rng(5), 845
    p = torch.nn.Parameter(matrix(rng.normal(0, 0.02, n)))
    tensors["adamw8.p0"] = p.detach().clone()
    optimizer = bitsandbytes.optim.AdamW8bit([p], lr=2e-4, weight_decay=0.01, min_8bit_size=1)
    for step in range(1, 6):
        grad = rng.normal(0, 1, n) * 10.0 ** rng.uniform(-5, -1, n)
        if step < 3:
            grad[256:512] = 0  # a block whose moments stay zero
        p.grad = matrix(grad)
        optimizer.step()
        state = optimizer.state[p]
        found = {"grad": p.grad, "p": p.detach()} | {k: state[k] for k in ("state1", "state2", "absmax1", "absmax2")}
        for part, value in found.items():
            tensors[f"adamw8.{step}.{part}"] = value.clone()


def check_reference():
    bits = lambda t: t.contiguous().view(torch.uint8)
    with safe_open(OUT / "bitsandbytes_reference.safetensors", "pt") as f:
        get = f.get_tensor
        for case in ("w", "tail"):
            for kind in ("nf4", "nf4dq", "fp4"):
                quant_type, double = KINDS[kind]
                packed, state = F.quantize_4bit(get(case), quant_type=quant_type, compress_statistics=double)
                found = {"packed": packed, "absmax": state.absmax, "dequantised": decode(packed, state)}
                if double:
                    found |= {"nested_absmax": state.state2.absmax, "offset": state.offset.reshape(1),
                              "nested_quant_map": state.state2.code}
                for part, value in found.items():
                    assert torch.equal(bits(value), bits(get(f"{case}.{kind}.{part}"))), f"{case}.{kind}.{part} differs"
    print(f"bitsandbytes {bitsandbytes.__version__} reproduces bitsandbytes_reference.safetensors")


def main():
    torch.set_num_threads(1)  # the offset is a sum in f32, whose order depends on the threads above 32,767 blocks
    check_reference()
    tensors = {f"{n}dynamic.quant_map": F.create_dynamic_map(signed=n == "") for n in ("", "u")}
    for kind in ("nf4", "fp4"):
        tensors[f"{kind}.quant_map"] = F.get_4bit_type(kind, device="cpu")
    inputs = cases()
    for case, values in inputs.items():
        tensors[f"{case}.input"] = values
        for block in (32, 64, 128, 256, 4096) if case == "outlier" else (64,):
            four_bit(tensors, case, values, block)
    tensors["int8ties.input"] = inputs["int8ties"] = int8_ties()
    for case in ("outlier", "bf16", "int8ties"):
        int8(tensors, case, inputs[case])
    adamw8(tensors)
    path = OUT / "bitsandbytes.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size:,} bytes")


main()
