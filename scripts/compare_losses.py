#!/usr/bin/env python3
"""Whether two runs have the same losses, step by step, up to the order in which processors add.

    scripts/compare_losses.py runs/one runs/other --within 1e-3

Reads metrics.jsonl of both. Fails where a run has other steps than the other, or a loss differs by more than that part of it.
"""

import argparse
import json
import math
import sys
from pathlib import Path


def losses(run: Path) -> dict[int, float]:
    """The loss of each step; one that is no number is NaN."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {record["step"]: math.nan if record["loss"] is None else record["loss"] for record in records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--within", type=float, default=1e-3, help="the largest difference, as a part of the loss")
    arguments = parser.parse_args()

    one, other = losses(arguments.run), losses(arguments.other)
    if not one or one.keys() != other.keys():
        print(f"error: {arguments.run} has {len(one)} steps and {arguments.other} has {len(other)}", file=sys.stderr)
        return 1
    apart = {step: abs(one[step] - other[step]) / abs(other[step]) for step in one}
    # A difference that is NaN is none that is small enough.
    worst = max(apart, key=lambda step: math.inf if math.isnan(apart[step]) else apart[step])
    print(f"{len(one)} losses, at most {apart[worst]:.2g} apart (step {worst}: {one[worst]:.6f} and {other[worst]:.6f})")
    return 0 if apart[worst] <= arguments.within else 1


if __name__ == "__main__":
    sys.exit(main())
