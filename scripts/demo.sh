#!/usr/bin/env bash
# The demo: teaches a real 135M chat model to answer plain requests with JSON commands, then holds the
# adapter against the base on requests it has not seen. Fails when the adapter is below 90 % or the base
# above 5 % exact answers. Writes runs/demo.
#
# It runs the program that the tests run (Cargo's dev profile: optimised, with checks), so that `make test && make demo`
# compile every crate once. LORAFIT_PROGRAM names another program, such as that of a release, and nothing is built then.
set -euo pipefail
cd "$(dirname "$0")/.."
lorafit="${LORAFIT_PROGRAM:-${CARGO_TARGET_DIR:-target}/debug/lorafit}"
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
run=runs/demo

say() { printf '\n== %s\n' "$*"; }
call() { printf '$ %s\n' "$*"; "$@"; }

say "1 of 3: build lorafit and fetch the model (the first time about 5 minutes on 2 cores)"
[ -n "${LORAFIT_PROGRAM:-}" ] || call cargo build --locked -p lorafit
call scripts/fetch_model.sh
[ -x "$lorafit" ]
started=$SECONDS

say "2 of 3: train an adapter on 360 requests (1 to 2 minutes)"
rm -rf "$run" # the run of an earlier demo
mkdir -p runs
call "$lorafit" train --model "$model" --data demo/train.jsonl --out "$run" --config demo/train.toml
trained=$SECONDS

say "3 of 3: answer 64 requests unseen in training, with the base alone and with the adapter (1 minute)"
judge() { # NAME FLAGS...
  local name="$1"
  shift
  set -- "$lorafit" eval --model "$model" "$@" --data demo/test.jsonl --generate --max-new-tokens 40 \
    --json --predictions "$run/$name.jsonl"
  printf '$ %s\n' "$*"
  "$@" > "$run/$name.json"
}
judge base
judge adapter --adapter "$run"

say "side by side"
python3 scripts/compare_answers.py "$run" demo/test.jsonl --show 6 --base-at-most 0.05 --adapter-at-least 0.90
echo "trained in $((trained - started)) s, all after the build in $((SECONDS - started)) s"
echo
echo "Talk to it:  $lorafit chat --model $model --adapter $run"
