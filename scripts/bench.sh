#!/usr/bin/env bash
# Training speed of three model shapes, smallest first, with random weights. Further flags go to each run:
#   scripts/bench.sh --threads 2 --json
set -euo pipefail
cd "$(dirname "$0")/.."
lorafit=target/release/lorafit
[ -x "$lorafit" ] || cargo build --release --locked -p lorafit
"$lorafit" bench --shape smollm2-135m --batch 4 --seq 256 "$@"
"$lorafit" bench --shape tinyllama-1.1b --batch 4 --seq 256 --dtype bf16 --steps 2 "$@"
"$lorafit" bench --shape llama-2-7b --batch 1 --seq 256 --dtype bf16 --steps 1 "$@"
