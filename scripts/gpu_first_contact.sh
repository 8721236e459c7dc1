#!/usr/bin/env bash
# What a GPU runs first, in ten minutes: each stage has a limit and logs of its own, and goes on whatever the one before did.
# Needs a release build and the NVIDIA driver, cuBLASLt and NVRTC (or kernels compiled ahead); compute-sanitizer is used where it
# is. The table of the stages and the logs are in OUT. A test rehearses all of it on a driver whose device is the processor.
#   scripts/gpu_first_contact.sh OUT
#   LORAFIT=PROGRAM    instead of target/release/lorafit
#   SMALL=1            rehearses on a slow device: some checks, small shapes
#   END=SECONDS        no stage begins later, 540
set -u
out="${1:?a folder for the results}"
mkdir -p "$out/log" "$out/runs"
out="$(cd "$out" && pwd)"
cd "$(dirname "$0")/.."
lorafit="${LORAFIT:-$PWD/target/release/lorafit}"
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
  command -v nvcc compute-sanitizer
  ldconfig -p | grep -E 'libcuda\.|nvrtc|cublasLt'
  ls -d /usr/local/cuda*
}
export -f machine
stage machine 20 bash -c 'machine; true'

# ---- One kernel: libraries, context, memory, pinned memory, a module, a launch.
check contact 60 --no-speed --compute-dtype f32 --only "sum of squares"
head -1 "$out/log/contact.out" | tee -a "$table"

# ---- Every op and whole steps, in both types; a check that fails takes no other with it.
some=()
[ -z "$small" ] || some=(--only "add,rope,AdamW,step of Llama in nf4")
check selfcheck-f32 120 --no-speed --isolate --compute-dtype f32 "${some[@]}"
f32=$?
check selfcheck-bf16 120 --no-speed --isolate "${some[@]}"
bf16=$?
grep -hE 'FAILED|checks passed' "$out"/log/selfcheck-{f32,bf16}.out | tee -a "$table"

# ---- Races, barriers and addresses as NVIDIA's tools see them; our kernels alone.
sanitizers() {
  command -v compute-sanitizer > /dev/null || { say "sanitizers skipped: no compute-sanitizer here"; return; }
  local ours='regex=attention|norm|rope|gate|activation|dropout|cross_entropy|adamw|decode|rows|sum|convert|round|columns|add|scale|softcap'
  local tool only="attention,norm,sum,rows,cross,AdamW"
  [ -z "$small" ] || only="AdamW"
  for tool in memcheck racecheck synccheck; do
    stage "sanitizer-$tool" 60 compute-sanitizer --tool "$tool" --print-limit 20 --error-exitcode 9 --kernel-name "$ours" \
      "$lorafit" selfcheck --device cuda:0 --no-speed --only "$only"
    grep -a 'SUMMARY' "$out/log/sanitizer-$tool.out" | tail -1 | tee -a "$table"
  done
}
# At once where something is wrong, else with the time that is left.
[ "$f32$bf16" = 00 ] || sanitizers

# ---- What ops reach.
check speed 90 --only speed
sed -n '/share/,$p' "$out/log/speed.out" | tee -a "$table"

# ---- Whole runs against the processor's losses, the same run twice, and with recomputation.
model="fixtures/models/chat_bpe"
if [ -n "$small" ]; then lines=8 steps=2 batch=2; else lines=96 steps=12 batch=8; fi
head -n "$lines" demo/train.jsonl > "$out/rows.jsonl"
train() { # NAME DEVICE FLAGS...
  stage "train-$1" 90 "$lorafit" train --model "$model" --data "$out/rows.jsonl" --out "$out/runs/$1" --overwrite --device "$2" \
    --preset off --max-steps "$steps" --batch-size "$batch" --lr 1e-3 --target-modules all-linear --quiet "${@:3}"
}
train cpu-f32 cpu --compute-dtype f32
train gpu-f32 cuda:0 --compute-dtype f32
train gpu-bf16 cuda:0
train gpu-bf16-again cuda:0
train cpu-nf4 cpu --quant nf4 --double-quant --compute-dtype f32
train gpu-nf4 cuda:0 --quant nf4 --double-quant
train gpu-nf4-recompute cuda:0 --quant nf4 --double-quant --recompute full
losses() { grep -o '"loss":[-+.0-9e]*' "$out/runs/$1/metrics.jsonl" 2> /dev/null | cut -d: -f2; }
beside() { # NAME OTHER: how far the losses of two runs are apart
  local apart
  apart="$(paste -d ' ' <(losses "$1") <(losses "$2") | awk '
    NF != 2 { missing = 1 }
    { apart = $1 > $2 ? $1 - $2 : $2 - $1; if (apart > most) most = apart }
    END { if (NR && !missing) printf "%d steps, at most %.2e apart", NR, most; else printf "MISSING" }')"
  say "$(printf '  losses of %-18s beside %-9s %s' "$1" "$2" "$apart")"
}
beside gpu-f32 cpu-f32
beside gpu-bf16 cpu-f32
beside gpu-bf16-again gpu-bf16
beside gpu-nf4 cpu-nf4
beside gpu-nf4-recompute gpu-nf4

# ---- Steps of a 7B shape; scripts/bench_gpu.sh has PEFT beside them.
shape=llama-2-7b rows=(--batch 4 --seq 2048 --micro-batch-tokens 8192) few=(--batch 1 --seq 512 --micro-batch-tokens 512)
if [ -n "$small" ]; then
  shape=fixtures/models/chat_bpe/config.json rows=(--batch 2 --seq 32 --micro-batch-tokens 64) few=(--batch 1 --seq 16 --micro-batch-tokens 16)
fi
value() { grep -o "\"$2\":[-+.0-9e]*" "$out/log/bench-$1.out" 2> /dev/null | cut -d: -f2; }
say "$(printf '%-12s%10s%12s%10s%9s' run tokens/s 'of ceiling' 'peak MiB' planned)"
bench() { # NAME FLAGS...
  stage "bench-$1" 120 "$lorafit" bench --device cuda:0 --shape "$shape" --rank 16 --json --steps 4 "${@:2}"
  say "$(awk -v name="$1" -v speed="$(value "$1" tokens_per_s)" -v share="$(value "$1" mfu)" \
    -v peak="$(value "$1" peak_device_bytes)" -v planned="$(value "$1" planned_bytes)" 'BEGIN {
      if (speed == "") printf "%-12s MISSING", name
      else printf "%-12s%10.0f%11.0f%%%10.0f%9.0f", name, speed, 100 * share, peak / 1048576, planned / 1048576 }')"
}
bench bf16 "${rows[@]}" --dtype bf16
bench nf4 "${rows[@]}" --quant nf4 --double-quant --recompute none
bench nf4-least "${few[@]}" --quant nf4 --double-quant --recompute full

# ---- What each kernel of a step takes.
if command -v ncu > /dev/null && [ -z "$small" ]; then
  stage profile 90 python3 scripts/gpu_profile.py "$out/profile" --lorafit "$lorafit"
  head -30 "$out/log/profile.out" | tee -a "$table"
else
  say "profile skipped: no ncu here"
fi
[ "$f32$bf16" != 00 ] || sanitizers
say "ended after $SECONDS s"
