#!/usr/bin/env bash
# Whether two builds of lorafit compute the same bits: trains on tiny models and on the demo model, under several policies, and compares the logs of the steps and the weights.
#   scripts/compare_builds.sh OLD NEW       paths of two programs; run where the fixtures and the demo model are. Both have to know --preset off.
set -euo pipefail
cd "$(dirname "$0")/.."
old="$1" new="$2"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
rows="$work/rows.jsonl"
head -n 24 demo/train.jsonl > "$rows"
printf '{"text": "a b c d e f g h"}\n{"text": "b c d"}\n{"text": "the end of it all"}\n' > "$work/text.jsonl"

# What a run computed: losses and gradient norms of its steps, and what it trained.
bits() { # FOLDER
  python3 - "$1" <<'PY'
import hashlib, json, pathlib, sys
run = pathlib.Path(sys.argv[1])
steps = [json.loads(line) for line in open(run / "metrics.jsonl")]
kept = [[step[key] for key in ("step", "loss", "grad_norm", "learning_rate")] for step in steps]
assert kept, "no steps in metrics.jsonl"
print(hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16])
weights = sorted(run.rglob("*.safetensors"))
assert weights, "no weights"
for path in weights:
    print(path.relative_to(run), hashlib.sha256(path.read_bytes()).hexdigest()[:16])
PY
}

differing=0 runs=0
both() { # NAME FLAGS...
  local name="$1" build
  shift
  for build in old new; do
    "${!build}" train --out "$work/$name.$build" --preset off --quiet --seed 7 "$@" > "$work/$name.$build.out" 2>&1 ||
      { echo "$name: $build failed"; cat "$work/$name.$build.out"; exit 1; }
    bits "$work/$name.$build" > "$work/$name.$build.bits"
  done
  runs=$((runs + 1))
  if diff "$work/$name.old.bits" "$work/$name.new.bits" > "$work/diff"; then
    echo "same       $name"
  else
    echo "DIFFERENT  $name"
    cat "$work/diff"
    differing=$((differing + 1))
  fi
}

demo=(--model "$model" --data "$rows" --max-steps 3 --batch-size 4)
both demo "${demo[@]}"
both demo_bf16_recomputed "${demo[@]}" --activation-dtype bf16 --recompute full
both demo_dropout "${demo[@]}" --dropout 0.1 --target-modules all-linear
for name in chat_bpe chat_spm; do
  tiny=(--model "fixtures/models/$name" --data "$rows" --max-steps 4 --batch-size 4 --max-seq-len 64)
  both "$name" "${tiny[@]}"
  both "${name}_full" "${tiny[@]}" --method full
  both "${name}_nf4" "${tiny[@]}" --quant nf4
  both "${name}_int8" "${tiny[@]}" --quant int8 --optimizer adamw-8bit
  both "${name}_gguf" --model "fixtures/gguf/$name-f32.gguf" "${tiny[@]:2}"
done
echo "$((runs - differing)) of $runs runs are the same bits"
[ "$differing" -eq 0 ]
