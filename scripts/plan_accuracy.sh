#!/usr/bin/env bash
# The memory plan against the measured peak of the process, over formats, policies, lengths and two shapes: the table
# of docs/memory.md. Takes some minutes.
#   scripts/plan_accuracy.sh > table.md
set -euo pipefail
cd "$(dirname "$0")/.."
lorafit="${LORAFIT:-target/release/lorafit}"
model="${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}"
row() { # name planned measured
  awk -v n="$1" -v p="$2" -v m="$3" 'BEGIN { printf "| %s | %.0f | %.0f | %+.1f %% |\n", n, p / 1048576, m / 1048576, 100 * (m - p) / p }'
}
echo "| run | planned MiB | measured MiB | difference |"
echo "|---|---|---|---|"
bench() {
  local out
  out=$("$lorafit" bench --json --quiet --steps 1 "$@")
  row "bench $*" "$(grep -o '"planned_bytes":[0-9]*' <<<"$out" | cut -d: -f2)" "$(grep -o '"peak_rss_bytes":[0-9]*' <<<"$out" | cut -d: -f2)"
}
train() {
  local dir out
  dir=$(mktemp -d)
  "$lorafit" train --quiet --model "$model" --data fixtures/data/e2e_train_64.jsonl --out "$dir/run" --preset off --max-steps 16 --no-shuffle "$@"
  out=$(tail -n 1 "$dir/run/metrics.jsonl")
  row "train, Q4_1 file, E2E rows $*" "$(grep -o '"planned_bytes": *[0-9]*' "$dir/run/plan.json" | cut -d: -f2)" "$(grep -o '"peak_rss_bytes":[0-9]*' <<<"$out" | cut -d: -f2)"
  rm -r "$dir"
}
evaluate() {
  local out
  out=$("$lorafit" eval --json --quiet --model "$model" --data fixtures/data/e2e_train_64.jsonl "$@")
  row "eval, Q4_1 file, E2E rows $*" "$(grep -o '"planned_bytes":[0-9]*' <<<"$out" | cut -d: -f2)" "$(grep -o '"peak_rss_bytes":[0-9]*' <<<"$out" | cut -d: -f2)"
}
sweep() { # trials with a batch size, then flags of `sweep`
  local dir batch="$1" data planned trial
  shift
  dir=$(mktemp -d)
  data="$PWD/fixtures/data/e2e_train_64.jsonl"
  cat >"$dir/sweep.toml" <<EOF
model = "$(realpath "$model")"
data = "$data"
eval-data = "$data"
max-steps = 4
eval-every = 2
batch-size = $batch
[search]
rank = [4, 16]
lr = [1e-4, 2e-4]
EOF
  planned=$("$lorafit" sweep "$dir/sweep.toml" --out "$dir/sweep" --dry-run --json "$@" | grep -o '"planned_bytes":[0-9]*' | cut -d: -f2)
  "$lorafit" sweep "$dir/sweep.toml" --out "$dir/sweep" --quiet "$@" >/dev/null
  if [[ "$*" == *--trials-at-once* ]]; then
    # Trials at once have one peak.
    row "sweep, Q4_1 file, E2E rows, batches of $batch, $*" "$planned" \
      "$(cat "$dir"/sweep/trials/*/metrics.jsonl | grep -o '"peak_rss_bytes":[0-9]*' | cut -d: -f2 | sort -n | tail -n 1)"
  else
    for trial in "$dir"/sweep/trials/*; do
      row "trial $(basename "$trial") of a sweep, Q4_1 file, E2E rows, batches of $batch" \
        "$(grep -o '"planned_bytes": *[0-9]*' "$trial/plan.json" | grep -o '[0-9]*$')" \
        "$(tail -n 1 "$trial/metrics.jsonl" | grep -o '"peak_rss_bytes":[0-9]*' | cut -d: -f2)"
    done
  fi
  rm -r "$dir"
}
small="--shape smollm2-135m --batch 2"
bench $small --seq 256 --recompute none
bench $small --seq 256 --recompute full
bench $small --seq 512 --recompute none
bench $small --seq 512 --dtype bf16 --recompute none
bench $small --seq 512 --dtype bf16 --memory 600MiB
bench $small --seq 256 --dtype bf16 --recompute none --activation-dtype bf16
bench $small --seq 256 --quant nf4 --double-quant --recompute none
bench $small --seq 512 --quant nf4 --double-quant --recompute full
train --recompute none
train --recompute full
train --recompute none --activation-dtype bf16
train --method full --recompute none
train --method full --layers 15- --optimizer adamw-8bit --recompute full
sweep 2
sweep 8
sweep 4 --trials-at-once 2
evaluate
evaluate --micro-batch-tokens 2048
evaluate --generate --max-new-tokens 48
evaluate --generate --max-new-tokens 48 --memory 245MiB
large="--shape tinyllama-1.1b --batch 1"
bench $large --seq 256 --recompute full
bench $large --seq 256 --dtype bf16 --recompute none
bench $large --seq 512 --dtype bf16 --recompute full
bench $large --seq 256 --quant nf4 --double-quant --recompute none
bench $large --seq 512 --quant nf4 --double-quant --recompute full
bench $large --seq 512 --quant nf4 --double-quant --recompute none --activation-dtype bf16
bench $large --seq 512 --quant nf4 --double-quant --memory 1.3GiB
