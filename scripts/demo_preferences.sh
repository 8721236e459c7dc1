#!/usr/bin/env bash
# The demo of preferences: a 135M chat model answers questions, its own answers are judged by a rule (one sentence of 5 to 12
# words), and DPO on the better and the worse of them makes it keep to the rule more often, on questions it has not seen.
# Fails when the rate on the held-out questions does not rise by 30 percentage points. Writes runs/demo-preferences.
#
# It runs the program that the tests run (Cargo's dev profile: optimised, with checks), as scripts/demo.sh does.
set -euo pipefail
cd "$(dirname "$0")/.."
lorafit="${CARGO_TARGET_DIR:-target}/debug/lorafit"
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
data=demo/preferences
out=runs/demo-preferences
rule="regex:$(cat "$data/short.regex")"
least_rise=0.30

say() { printf '\n== %s\n' "$*"; }
call() { printf '$ %s\n' "$*"; "$@"; }

say "1 of 4: build lorafit and fetch the model (the first time about 5 minutes on 2 cores)"
call cargo build --locked -p lorafit
call scripts/fetch_model.sh
[ -x "$lorafit" ]
started=$SECONDS
rm -rf "$out" # what an earlier demo wrote
mkdir -p "$out"

rate() { # NAME FLAGS...: greedy answers to the held-out questions, and how many of them keep to the rule
  local name="$1"
  shift
  set -- "$lorafit" pairs --model "$model" "$@" --data "$data/test.jsonl" --judge "$rule" --format labels --samples 1 \
    --temperature 0 --max-new-tokens 40 --out "$out/$name.jsonl" --json --quiet
  printf '$ %s\n' "$*"
  "$@" > "$out/$name.json"
}

say "2 of 4: how often the base keeps to the rule, on 64 questions that are held out"
rate before

say "3 of 4: 40 questions, four answers each: the best with the worst; then DPO on the pairs"
call "$lorafit" pairs --model "$model" --data "$data/prompts.jsonl" --judge "$rule" --samples 4 --pairs-per-prompt 2 \
  --max-new-tokens 40 --out "$out/pairs.jsonl"
call "$lorafit" train --model "$model" --data "$out/pairs.jsonl" --objective dpo --config "$data/train.toml" --out "$out/run"

say "4 of 4: the same 64 questions with the adapter"
rate after --adapter "$out/run"

say "side by side"
python3 - "$out" "$least_rise" <<'PY'
import json, sys
out, least = sys.argv[1], float(sys.argv[2])
rates = [json.load(open(f"{out}/{name}.json"))["mean_score"] for name in ("before", "after")]
rows = [[json.loads(line) for line in open(f"{out}/{name}.jsonl")] for name in ("before", "after")]
# An answer without a word has no row.
after = {row["prompt"][-1]["content"]: row for row in rows[1]}
for row in rows[0][::11]:
    asked = row["prompt"][-1]["content"]
    print("question ", asked)
    for name, found in (("before", row), ("after", after.get(asked))):
        said = " ".join(found["completion"][0]["content"].split()) if found else "-"
        print(f"  {name:<7}{'good' if found and found['label'] else 'bad':<5} {said[:100]}")
print(f"\nanswers of one sentence of 5 to 12 words: before {rates[0]:.1%}, after {rates[1]:.1%}")
if rates[1] - rates[0] < least:
    sys.exit(f"error: the rate did not rise by {least:.0%}")
PY
echo "all after the build in $((SECONDS - started)) s, of which this process and its children computed:"
times
