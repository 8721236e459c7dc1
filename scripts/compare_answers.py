#!/usr/bin/env python3
"""Shows what base and adapter answered to the same requests; exits 1 when exact match misses its bounds.

Reads base.json, base.jsonl, adapter.json, adapter.jsonl of the folder: what `lorafit eval --json` printed
and what its --predictions wrote; and the chat rows they were judged on.
"""
import argparse
import json
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("rows", type=Path)
parser.add_argument("--show", type=int, default=6)
parser.add_argument("--base-at-most", type=float, default=0.05)
parser.add_argument("--adapter-at-least", type=float, default=0.90)
args = parser.parse_args()


def answers(name):
    return [json.loads(line) for line in (args.folder / f"{name}.jsonl").read_text().splitlines()]


def exact(name):
    return json.loads((args.folder / f"{name}.json").read_text())["metrics"]["exact_match"]["mean"]


def short(text, width=96):
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


base, adapter = answers("base"), answers("adapter")
rows = [json.loads(line)["messages"] for line in args.rows.read_text().splitlines()]
requests, replies = [row[-2]["content"] for row in rows], [row[-1]["content"] for row in rows]
for name, judged in (("base", base), ("adapter", adapter)):
    if [row["expected"].strip() for row in judged] != [reply.strip() for reply in replies]:
        sys.exit(f"error: {name}.jsonl is not about the rows of {args.rows}")
# Some of each kind: the first of every stretch, and before them what the adapter got wrong.
step = max(1, len(adapter) // args.show)
wrong = [i for i, row in enumerate(adapter) if row["scores"]["exact_match"] < 1]
for i in sorted(set(wrong[:2]) | set(list(range(0, len(adapter), step))[: args.show])):
    print(f"request  {short(requests[i])}")
    print(f"  base     {short(base[i]['answer'])}")
    print(f"  adapter  {short(adapter[i]['answer'])}")
    if i in wrong:
        print(f"  wanted   {short(adapter[i]['expected'])}")
print(f"\nexact match on {len(adapter)} rows: base {100 * exact('base'):.1f} %, adapter {100 * exact('adapter'):.1f} %")
if exact("base") > args.base_at_most:
    sys.exit(f"error: the base is above {args.base_at_most:.0%}: the task shows nothing")
if exact("adapter") < args.adapter_at_least:
    sys.exit(f"error: the adapter is below {args.adapter_at_least:.0%}")
