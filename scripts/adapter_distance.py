"""How far PEFT adapters are from each other: the Frobenius norm of the difference over that of the second, per tensor.

Usage: .venv/bin/python scripts/adapter_distance.py ADAPTER_DIR ADAPTER_DIR [ADAPTER_DIR ...]
Prints a line for every two: how many tensors are beyond 1e-3, the median, and the worst three.
"""
import itertools
import statistics
import sys

import numpy as np
from safetensors.numpy import load_file

adapters = {folder: load_file(f"{folder}/adapter_model.safetensors") for folder in sys.argv[1:]}
for (one, x), (other, y) in itertools.combinations(adapters.items(), 2):
    assert x.keys() == y.keys(), f"{one} and {other} hold different tensors"
    distances = sorted(
        ((np.linalg.norm(x[name].astype(np.float64) - y[name]) / np.linalg.norm(y[name]), name) for name in y), reverse=True)
    beyond = sum(distance > 1e-3 for distance, _ in distances)
    worst = ", ".join(f"{distance:.2e} {name}" for distance, name in distances[:3])
    median = statistics.median(distance for distance, _ in distances)
    print(f"{one} | {other}: {beyond} of {len(distances)} beyond 1e-3, median {median:.1e}, worst {worst}")
