#!/usr/bin/env bash
# What a GPU runs first, in ten minutes: each stage has a limit and logs of its own, and goes on whatever the one before did.
# Needs a release build and the NVIDIA driver, cuBLASLt and NVRTC; compute-sanitizer and a Python with numpy and safetensors are
# used where they are. The table of the stages and the logs are in OUT.
#   scripts/gpu_first_contact.sh OUT
#   LORAFIT=PROGRAM    instead of target/release/lorafit
#   SMALL=1            rehearses on a slow device: small shapes, no timings
#   END=SECONDS        no stage begins later, 540
set -u
out="${1:?a folder for the results}"
mkdir -p "$out/log" "$out/runs"
out="$(cd "$out" && pwd)"
cd "$(dirname "$0")/.."
lorafit="${LORAFIT:-$PWD/target/release/lorafit}"
python="${PYTHON:-python3}"
end="${END:-540}"
small="${SMALL:-}"
table="$out/table.txt"
: > "$table"
say() { printf '%s\n' "$*" | tee -a "$table"; }

stage() { # NAME LIMIT COMMAND...: 0 where it ended well
  local name="$1" limit="$2" code=0 began=$SECONDS note=""
  shift 2
  if [ "$SECONDS" -gt "$end" ]; then
    say "$(printf '%-22s not begun, %d s are over' "$name" "$end")"
    return 99
  fi
  timeout -k 5 "$limit" "$@" > "$out/log/$name.out" 2> "$out/log/$name.err" < /dev/null || code=$?
  [ "$code" = 0 ] || note="$(grep -ahE 'error|FAILED|panicked' "$out/log/$name.err" "$out/log/$name.out" | head -2 | cut -c1-200 | tr '\n' '|')"
  say "$(printf '%-22s exit %-3d %4d s (at %3d) %s' "$name" "$code" $((SECONDS - began)) "$SECONDS" "$note")"
  return "$code"
}
check() { # NAME LIMIT FLAGS...
  stage "$1" "$2" "$lorafit" selfcheck --device cuda:0 "${@:3}"
}

# ---- The machine.
machine() {
  date; uname -a; nproc; free -g; ldd --version | head -1
  nvidia-smi
  nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,compute_mode,mig.mode.current --format=csv
  command -v nvcc compute-sanitizer "$python"
  ldconfig -p | grep -E 'libcuda\.|nvrtc|cublasLt'
  ls -d /usr/local/cuda*
}
export -f machine
export python
stage machine 20 bash -c 'machine; true'

# ---- One kernel: libraries, context, memory, pinned memory, a module, a launch.
check contact 60 --no-speed --compute-dtype f32 --only "sum of squares"
head -1 "$out/log/contact.out" | tee -a "$table"

# ---- Every op and whole steps, in both types; a check that fails takes no other with it.
check selfcheck-f32 120 --no-speed --isolate --compute-dtype f32
f32=$?
check selfcheck-bf16 120 --no-speed --isolate
bf16=$?
grep -hE 'FAILED|checks passed' "$out"/log/selfcheck-{f32,bf16}.out | tee -a "$table"

# ---- Races, barriers and addresses as NVIDIA's tools see them; our kernels alone.
sanitizers() {
  command -v compute-sanitizer > /dev/null || { say "no compute-sanitizer here"; return; }
  local ours='regex=attention|norm|rope|gate|activation|dropout|cross_entropy|adamw|decode|rows|sum|convert|round|columns|add|scale|softcap'
  local tool
  for tool in memcheck racecheck synccheck; do
    stage "sanitizer-$tool" 60 compute-sanitizer --tool "$tool" --print-limit 20 --error-exitcode 9 --kernel-name "$ours" \
      "$lorafit" selfcheck --device cuda:0 --no-speed --only attention,norm,sum,rows,cross,AdamW
    grep -a 'SUMMARY' "$out/log/sanitizer-$tool.out" | tail -1 | tee -a "$table"
  done
}
# At once where something is wrong, else with the time that is left.
[ "$f32$bf16" = 00 ] || sanitizers

# ---- What ops reach.
if [ -z "$small" ]; then
  check speed 90 --only speed
  sed -n '/share/,$p' "$out/log/speed.out" | tee -a "$table"
fi

# ---- Whole runs against the processor's losses, the same run twice, and with recomputation.
model="fixtures/models/chat_bpe"
head -n "$([ -n "$small" ] && echo 16 || echo 96)" demo/train.jsonl > "$out/rows.jsonl"
train() { # NAME DEVICE FLAGS...
  stage "train-$1" 90 "$lorafit" train --model "$model" --data "$out/rows.jsonl" --out "$out/runs/$1" --overwrite --device "$2" \
    --max-steps "$([ -n "$small" ] && echo 3 || echo 12)" --batch-size 8 --lr 1e-3 --target-modules all-linear --quiet "${@:3}"
}
train cpu-f32 cpu --compute-dtype f32
train gpu-f32 cuda:0 --compute-dtype f32
train gpu-bf16 cuda:0
train gpu-bf16-again cuda:0
train cpu-nf4 cpu --quant nf4 --double-quant --compute-dtype f32
train gpu-nf4 cuda:0 --quant nf4 --double-quant
train gpu-nf4-recompute cuda:0 --quant nf4 --double-quant --recompute full
"$python" - "$out/runs" <<'PY' | tee -a "$table"
import json, pathlib, sys

def losses(name):
    try:
        lines = (pathlib.Path(sys.argv[1]) / name / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line)["loss"] for line in lines if '"loss"' in line]

for name, other in [("gpu-f32", "cpu-f32"), ("gpu-bf16", "cpu-f32"), ("gpu-bf16-again", "gpu-bf16"), ("gpu-nf4", "cpu-nf4"),
                    ("gpu-nf4-recompute", "gpu-nf4")]:
    x, y = losses(name), losses(other)
    apart = f"{len(x)} steps, at most {max(abs(p - q) for p, q in zip(x, y)):.2e} apart" if x and len(x) == len(y) else "MISSING"
    print(f"  losses of {name:<18} beside {other:<9} {apart}")
PY

# ---- Steps of a 7B shape; scripts/bench_gpu.sh has PEFT beside them.
if [ -z "$small" ]; then
  bench() { stage "bench-$1" 120 "$lorafit" bench --device cuda:0 --shape llama-2-7b --rank 16 --json --steps 4 "${@:2}"; }
  bench bf16 --batch 4 --seq 2048 --micro-batch-tokens 8192
  bench nf4 --batch 4 --seq 2048 --micro-batch-tokens 8192 --quant nf4 --double-quant --recompute none
  bench nf4-least --batch 1 --seq 512 --micro-batch-tokens 512 --quant nf4 --double-quant --recompute full
  "$python" - "$out/log" <<'PY' | tee -a "$table"
import json, pathlib, sys
print(f"{'run':<12}{'tokens/s':>10}{'of ceiling':>12}{'peak MiB':>10}{'planned':>9}")
for name in ("bf16", "nf4", "nf4-least"):
    try:
        run = json.loads((pathlib.Path(sys.argv[1]) / f"bench-{name}.out").read_text())
    except (OSError, ValueError):
        print(f"{name:<12} MISSING")
        continue
    mib = lambda key: f"{(run.get(key) or 0) / 2**20:.0f}"
    print(f"{name:<12}{run['tokens_per_s']:>10.0f}{100 * run.get('mfu', 0):>11.0f}%{mib('peak_device_bytes'):>10}{mib('planned_bytes'):>9}")
PY
fi
[ "$f32$bf16" = 00 ] && sanitizers
say "ended after $SECONDS s"
