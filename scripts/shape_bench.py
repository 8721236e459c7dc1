"""What peft_shape_bench.py and unsloth_shape_bench.py share: the shapes, the arguments, and the memory of the process.

Imports the standard library alone: Unsloth has to be imported before PyTorch.
"""
import os
import platform
import resource

LLAMA = dict(rms_norm_eps=1e-5, tie_word_embeddings=False, max_position_embeddings=4096)
SHAPES = {
    "tiny": LLAMA | dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, vocab_size=512),
    "smollm2-135m": LLAMA | dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                                 num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
    "tinyllama-1.1b": LLAMA | dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                                   num_key_value_heads=4, vocab_size=32000),
    "llama-2-7b": LLAMA | dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                               num_key_value_heads=32, vocab_size=32000),
}


def add_arguments(parser, steps):
    """The arguments of both; `steps` is how many are timed by default."""
    parser.add_argument("--shape", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--targets", default="q_proj,k_proj,v_proj,o_proj")
    parser.add_argument("--quant", choices=["nf4"])


def peak_rss():
    """The largest resident set of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
