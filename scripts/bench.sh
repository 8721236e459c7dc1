#!/usr/bin/env bash
# Training speed of three model shapes, smallest first, with random weights. Further flags go to each run:
#   scripts/bench.sh --threads 2 --json
#   scripts/bench.sh --record            appends what it measures to docs/data/benchmarks/steps.jsonl, and draws it
set -euo pipefail
cd "$(dirname "$0")/.."
lorafit=target/release/lorafit
[ -x "$lorafit" ] || cargo build --release --locked -p lorafit

record=
if [ "${1:-}" = --record ]; then
  record=docs/data/benchmarks/steps.jsonl
  shift
fi

bench() {
  if [ -z "$record" ]; then
    "$lorafit" bench "$@"
  else
    echo "bench $*" >&2
    "$lorafit" bench "$@" --json | python3 scripts/bench_figure.py --add "$record" -- "bench $*"
  fi
}

bench --shape smollm2-135m --batch 4 --seq 256 "$@"
[ -z "$record" ] || bench --shape smollm2-135m --batch 4 --seq 256 --dtype bf16 --compute-dtype bf16 "$@"
bench --shape tinyllama-1.1b --batch 4 --seq 256 --dtype bf16 --steps 2 "$@"
bench --shape llama-2-7b --batch 1 --seq 256 --dtype bf16 --steps 1 "$@"
[ -z "$record" ] || python3 scripts/bench_figure.py
