"""Makes a run folder with an adapter of a 7B model's shape and a long log, to see how large a report gets and how long it takes.

    python3 scripts/make_large_adapter.py FOLDER [--rank 16] [--steps 20000]

32 layers of Llama 2 7B, all 7 projections: 224 modules; random factors whose B falls off, as trained ones do. Needs numpy.
"""
import argparse
import json
import math
import pathlib
import struct

import numpy as np

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--steps", type=int, default=20_000)
options = parser.parse_args()
folder, rank = options.folder, options.rank
folder.mkdir(parents=True)
HIDDEN, INNER = 4096, 11008
SHAPES = {f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkvo"}
SHAPES |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
random = np.random.default_rng(0)
falls = (0.7 ** np.arange(rank)).astype(np.float32)

header, pieces, at = {"__metadata__": {"format": "pt"}}, [], 0
for layer in range(32):
    for module, (outputs, inputs) in SHAPES.items():
        a = random.uniform(-1, 1, (rank, inputs)).astype(np.float32) / math.sqrt(inputs)
        b = random.standard_normal((outputs, rank)).astype(np.float32) * falls * (0.002 + 0.0002 * layer)
        for factor, values in (("A", a), ("B", b)):
            name = f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight"
            header[name] = dict(dtype="F32", shape=values.shape, data_offsets=[at, at + values.nbytes])
            at += values.nbytes
            pieces.append(values)
text = json.dumps(header).encode()
with open(folder / "adapter_model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for values in pieces:
        file.write(values.tobytes())
config = dict(peft_type="LORA", r=rank, lora_alpha=2 * rank, target_modules=[m.split(".")[1] for m in SHAPES],
              base_model_name_or_path="meta-llama/Llama-2-7b-hf", task_type="CAUSAL_LM")
(folder / "adapter_config.json").write_text(json.dumps(config))
with open(folder / "metrics.jsonl", "w") as file:
    for step in range(1, options.steps + 1):
        noise = random.standard_normal(2)
        record = dict(step=step, loss=1 + 2 * math.exp(-step / options.steps * 5) + 0.1 * noise[0], grad_norm=math.exp(noise[1]),
                      learning_rate=2e-4 * (1 - step / options.steps), tokens=2048, computed_tokens=1800,
                      supervised_tokens=700, seconds=4.0 + 0.1 * noise[1], tokens_per_s=2048 / (4.0 + 0.1 * noise[1]),
                      peak_rss_bytes=5 << 30)
        file.write(json.dumps(record) + "\n")
