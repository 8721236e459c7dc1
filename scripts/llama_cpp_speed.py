"""Tokens a second of llama.cpp: of one answer, three times, and of a prompt of 500 tokens. Compare with
`cargo run --release -p lorafit-model --example generation_speed`.

Usage: CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python       (compiled for this processor)
       scripts/llama_cpp_speed.py MODEL.gguf [--threads 2] [--new-tokens 100]
"""
import argparse
import time

import numpy as np
from llama_cpp import Llama

PROMPT = 500

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--new-tokens", type=int, default=100)
args = parser.parse_args()

model = Llama(args.model, n_threads=args.threads, n_threads_batch=args.threads, n_ctx=1024, n_batch=512, verbose=False)
ids = model.tokenize(b"The quick brown fox jumps over the lazy dog.")
for _ in range(3):
    model.reset()
    model.eval(ids)
    start = time.time()
    for _ in range(args.new_tokens):
        model.eval([int(np.argmax(model.scores[model.n_tokens - 1]))])
    print(f"one answer: {args.new_tokens / (time.time() - start):.1f} tokens/s")
model.reset()
start = time.time()
model.eval((ids * PROMPT)[:PROMPT])
print(f"a prompt of {PROMPT} tokens: {PROMPT / (time.time() - start):.1f} tokens/s")
