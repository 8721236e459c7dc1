"""Times `lorafit merge` of a made-up 7B (13.5 GB in bf16, every projection adapted) against copying the same files.

    python3 scripts/merge_speed.py LORAFIT FOLDER [--pairs 5]

FOLDER gets the model, an adapter and one result at a time: 28 GB of disk. A copy is `cp` and `sync` of the folder; a merge is
followed by `sync`, too. They run in turn, and what was read before is dropped from memory where the system lets us (root).
Prints seconds, ratios and the peak memory of the merge. Needs numpy.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import time

import numpy as np

HIDDEN, INNER, LAYERS, VOCABULARY = 4096, 11008, 32, 32000
PROJECTIONS = {f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkvo"}
PROJECTIONS |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
PARTS = 3


def tensors():
    """(name, shape) of every tensor of Llama 2 7B, in the order of its files."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        for module, shape in PROJECTIONS.items():
            yield f"model.layers.{layer}.{module}.weight", shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_model(folder):
    """Writes config.json, three files of weights and their index. The values repeat one random block of 64 MiB."""
    folder.mkdir(parents=True)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, intermediate_size=INNER,
                  num_hidden_layers=LAYERS, num_attention_heads=32, num_key_value_heads=32, vocab_size=VOCABULARY,
                  max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
                  hidden_act="silu", torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(config))
    values = np.random.default_rng(0).standard_normal(1 << 25).astype(np.float32) * 0.02
    block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    everything = list(tensors())
    part_size = -(-len(everything) // PARTS)
    places, total = {}, 0
    for part in range(PARTS):
        name = f"model-{part + 1:05}-of-{PARTS:05}.safetensors"
        header, at = {}, 0
        for tensor, shape in everything[part * part_size:(part + 1) * part_size]:
            size = 2 * int(np.prod(shape))
            header[tensor] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + size])
            at += size
            places[tensor] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            left = at
            while left:
                left -= file.write(block[:left])
        total += at
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata=dict(total_size=total), weight_map=places)))


def timed(command, result):
    """Seconds that `command` and `sync` take, with nothing of the files in memory beforehand; removes `result`."""
    subprocess.run(["sync"], check=True)
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync"], check=True)
    seconds = time.monotonic() - begin
    shutil.rmtree(result)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lorafit", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    model, adapter, result = (options.folder / name for name in ("model", "adapter", "result"))
    if not model.exists():
        write_model(model)
    if not adapter.exists():
        maker = pathlib.Path(__file__).with_name("make_large_adapter.py")
        subprocess.run([sys.executable, maker, adapter, "--steps", "1"], check=True)
    copy = ["cp", "-r", model, result]
    merge = [options.lorafit, "merge", "--model", model, "--adapter", adapter, "--out", result, "--quiet"]
    ratios = []
    for pair in range(options.pairs):
        first, second = (copy, merge) if pair % 2 == 0 else (merge, copy)
        seconds = {id(command): timed(command, result) for command in (first, second)}
        ratios.append(seconds[id(merge)] / seconds[id(copy)])
        print(f"copy {seconds[id(copy)]:.1f} s, merge {seconds[id(merge)]:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"median ratio {statistics.median(ratios):.2f} of {len(ratios)} pairs; peak memory of any child {peak:.0f} MiB")
    print(f"machine: {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
