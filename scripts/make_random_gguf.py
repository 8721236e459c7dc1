"""Writes a Llama model of random blocks, with the tokenizer of another file, to time programs that read GGUF with.

Usage: pip install gguf numpy
       scripts/make_random_gguf.py models/SmolLM2-135M-Instruct.Q4_1.gguf OUT.gguf --type Q4_K
           [--hidden 2048] [--inputs-of-down 8192] [--blocks 16] [--heads 32] [--kv-heads 8]

Without options the shape is that of Llama-3.2-1B, but for the vocabulary. Matrices have the type; the head is Q6_K in a file of
K-quants, as llama.cpp has it, and the embeddings are tied to it. Codes are random, scales small, so that no value overflows.
"""
import argparse

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

parser = argparse.ArgumentParser()
parser.add_argument("tokenizer")
parser.add_argument("out")
parser.add_argument("--type", default="Q4_K", choices=["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
parser.add_argument("--hidden", type=int, default=2048)
parser.add_argument("--inputs-of-down", type=int, default=8192)
parser.add_argument("--blocks", type=int, default=16)
parser.add_argument("--heads", type=int, default=32)
parser.add_argument("--kv-heads", type=int, default=8)
args = parser.parse_args()

# Where a block has its f16 scales, in halves.
SCALES = {Q.Q4_0: [0], Q.Q4_1: [0, 1], Q.Q5_0: [0], Q.Q5_1: [0, 1], Q.Q8_0: [0], Q.Q4_K: [0, 1], Q.Q5_K: [0, 1], Q.Q6_K: [104]}
random = np.random.default_rng(1)


def blocks(rows, cols, kind):
    if kind in (Q.F16, Q.BF16):
        values = random.normal(scale=0.02, size=(rows, cols)).astype(np.float32)
        return values.astype(np.float16) if kind == Q.F16 else (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    length, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, size=(rows, cols // length, size), dtype=np.uint8)
    halves = data.view(np.float16)
    for i, at in enumerate(SCALES[kind]):
        halves[:, :, at] = np.float16(-1e-3 if i else 1e-4)
    return data.reshape(rows, -1)


reader = gguf.GGUFReader(args.tokenizer)
writer = gguf.GGUFWriter(args.out, "llama")
for field in reader.fields.values():
    if field.name.startswith("tokenizer."):
        kind = field.types[0]
        sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub_type)
vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
head_dim = args.hidden // args.heads
writer.add_context_length(8192)
writer.add_embedding_length(args.hidden)
writer.add_block_count(args.blocks)
writer.add_feed_forward_length(args.inputs_of_down)
writer.add_head_count(args.heads)
writer.add_head_count_kv(args.kv_heads)
writer.add_rope_dimension_count(head_dim)
writer.add_rope_freq_base(500000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(vocabulary)

kind = Q[args.type]
head = Q.Q6_K if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K) else kind


def matrix(name, rows, cols, kind):
    writer.add_tensor(name, blocks(rows, cols, kind), raw_dtype=kind)


matrix("token_embd.weight", vocabulary, args.hidden, head)
writer.add_tensor("output_norm.weight", np.ones(args.hidden, dtype=np.float32))
for i in range(args.blocks):
    of = f"blk.{i}."
    writer.add_tensor(of + "attn_norm.weight", np.ones(args.hidden, dtype=np.float32))
    writer.add_tensor(of + "ffn_norm.weight", np.ones(args.hidden, dtype=np.float32))
    matrix(of + "attn_q.weight", args.hidden, args.hidden, kind)
    matrix(of + "attn_k.weight", args.kv_heads * head_dim, args.hidden, kind)
    matrix(of + "attn_v.weight", args.kv_heads * head_dim, args.hidden, kind)
    matrix(of + "attn_output.weight", args.hidden, args.hidden, kind)
    matrix(of + "ffn_gate.weight", args.inputs_of_down, args.hidden, kind)
    matrix(of + "ffn_up.weight", args.inputs_of_down, args.hidden, kind)
    matrix(of + "ffn_down.weight", args.hidden, args.inputs_of_down, kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
