#!/usr/bin/env bash
# What a GPU is measured by, in one sitting: the self-check, then a 7B shape in bf16 and in NF4 beside Unsloth and PEFT on the
# same device, then the least memory of QLoRA. Needs a release build, the NVIDIA driver, cuBLASLt and NVRTC; the peers need a
# Python with torch for CUDA, transformers, peft, bitsandbytes and unsloth (PYTHON=...), and are skipped without.
#   scripts/bench_gpu.sh OUT_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:?a folder for the results}"
python="${PYTHON:-python3}"
lorafit=target/release/lorafit
[ -x "$lorafit" ] || cargo build --release --locked -p lorafit
mkdir -p "$out"

# CUDA's libraries are found in the packages of the first python3.
export PATH="$(dirname "$(command -v "$python")"):$PATH"

run() { # NAME COMMAND...: keeps what it prints, says how it went, and goes on
  local name="$1" code=0
  shift
  "$@" > "$out/$name.json" 2> "$out/$name.log" || code=$?
  printf '%-24s exit %d   %s\n' "$name" "$code" "$*"
}
ours() { run "$1" "$lorafit" bench --device cuda:0 --shape llama-2-7b --rank 16 --json "${@:2}"; }
peer() { # PEER NAME FLAGS...
  "$python" -c "import torch, $1; assert torch.cuda.is_available()" 2>/dev/null || { echo "$2: skipped, no $1 here"; return; }
  run "$2" "$python" "scripts/$1_shape_bench.py" --device cuda --shape llama-2-7b --rank 16 --alpha 32 --targets all-linear \
    --dtype bf16 "${@:3}"
}

nvidia-smi > "$out/nvidia-smi.txt" || true
run selfcheck-bf16 "$lorafit" selfcheck --device cuda:0 --json
run selfcheck-f32 "$lorafit" selfcheck --device cuda:0 --compute-dtype f32 --no-speed --json
# 8,192 tokens a step in rows of 2,048.
ours bf16 --dtype bf16 --batch 4 --seq 2048 --micro-batch-tokens 8192
peer unsloth unsloth-bf16 --batch 4 --seq 2048 --blocks eager
peer unsloth unsloth-bf16-compiled --batch 4 --seq 2048 --blocks block
peer peft peft-bf16 --batch 4 --seq 2048
ours nf4 --batch 4 --seq 2048 --micro-batch-tokens 8192 --quant nf4 --double-quant --recompute none
peer unsloth unsloth-nf4 --batch 4 --seq 2048 --quant nf4 --blocks eager
peer peft peft-nf4 --batch 4 --seq 2048 --quant nf4
ours nf4-least-memory --batch 1 --seq 512 --micro-batch-tokens 512 --quant nf4 --double-quant --recompute full

"$python" - "$out" <<'PY'
import json, pathlib, sys
print(f"{'run':<20}{'tokens/s':>10}{'of ceiling':>12}{'device MiB':>12}{'planned':>9}")
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    try:
        result = json.loads(path.read_text())
    except ValueError:
        continue
    if "tokens_per_s" in result:
        share = f"{100 * result['mfu']:.0f} %" if "mfu" in result else ""
        planned = f"{result['planned_bytes'] / 2**20:.0f}" if "planned_bytes" in result else ""
        peak = (result.get("peak_device_bytes") or 0) / 2**20
        print(f"{path.stem:<20}{result['tokens_per_s']:>10.0f}{share:>12}{peak:>12.0f}{planned:>9}")
    elif "checks" in result:
        passed = sum(check["passed"] for check in result["checks"])
        print(f"{path.stem:<20}{passed} of {len(result['checks'])} checks passed")
PY
