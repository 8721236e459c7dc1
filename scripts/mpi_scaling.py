#!/usr/bin/env python3
"""The tables of docs/cluster.md: time per step of N processes, from what was measured of one and of the network.

  step(N) = tokens / rate + (2 + 2 P) ((N-1) o + L) + 2 B (N-1)/N / W + B / M

tokens: of a step and process, rate: tokens/s of a process, o: time a process spends on one message, L: latency of the network,
B: bytes of the gradient, P: pieces of 64 MiB that it is added up in, W: bandwidth of a process in each direction, M: bytes of
gradient per second that a process copies and adds up. A step exchanges who is to stop, the loss, and of each piece slices and sums; in each
exchange a process sends every other a message. That all wait for the slowest is not in it.
"""

import math

O, L, M = 2e-6, 2e-5, 3e9
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
PROCESSES = [1, 2, 4, 8, 16, 64, 256, 1024]
# Name, bytes of the gradient, tokens/s of a process.
RUNS = [
    ("135M, LoRA of rank 8", 4 * 2_442_240, 13_000.0),
    ("7B in NF4, LoRA of rank 16", 4 * 39_976_960, 200.0),
    ("135M in full", 4 * 134_515_008, 8_700.0),
]


def exchange(n: int, gradient: float, bandwidth: float) -> float:
    if n == 1:
        return 0.0
    exchanges = 2 + 2 * math.ceil(gradient / (64 << 20))
    return exchanges * ((n - 1) * O + L) + 2 * gradient * (n - 1) / n / bandwidth + gradient / M


def in_words(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def main() -> None:
    tokens = 8192
    print(f"Each process has {tokens:,} tokens of a step (more processes, a larger step):\n")
    columns = [f"{name}, {network}" for name, *_ in RUNS for network in NETWORKS]
    print("| processes | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for n in PROCESSES[1:]:
        cells = []
        for _, gradient, rate in RUNS:
            for bandwidth in NETWORKS.values():
                cost, compute = exchange(n, gradient, bandwidth), tokens / rate
                cells.append(f"{in_words(cost)}, {100 * compute / (compute + cost):.1f} %")
        print(f"| {n:,} | " + " | ".join(cells) + " |")
    total = 131_072
    print(f"\nA step of {total:,} tokens, divided:\n")
    print("| processes | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for n in PROCESSES:
        cells = []
        for _, gradient, rate in RUNS:
            for bandwidth in NETWORKS.values():
                compute = total / rate
                step = compute / n + exchange(n, gradient, bandwidth)
                cells.append(f"{in_words(step)}, {compute / step:.0f} times" if n > 1 else in_words(step))
        print(f"| {n:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
