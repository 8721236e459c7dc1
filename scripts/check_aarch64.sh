#!/usr/bin/env bash
# Builds lorafit for 64-bit ARM and runs its tests there, on an emulated processor where this machine is no ARM one:
#   scripts/check_aarch64.sh            the tests of kernels, data, model and training, and a run of the program (an hour)
#   scripts/check_aarch64.sh --short    the kernels' products, attention and quantised formats, but for two long tests (CI)
# Says "skipped" where the Debian of scripts/aarch64_env.sh cannot be made: that takes root, debootstrap and a mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
short=false
case "${1:-}" in
  "") ;;
  --short) short=true ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac

skip() { # REASON
  printf 'skipped: %s\n' "$1"
  exit 0
}
if [ "$(uname -m)" = aarch64 ]; then
  in_arm() { "$@"; }
else
  [ "$(id -u)" = 0 ] || skip "a Debian for ARM takes root"
  if [ -z "$(command -v debootstrap)" ]; then
    { apt-get update -q && apt-get install -y -q debootstrap; } > /dev/null 2>&1 || skip "debootstrap cannot be installed"
  fi
  # No run of the tests, so that a mirror that does not answer ends nothing.
  log="$(mktemp)"
  timeout 600 scripts/aarch64_env.sh cargo --version > "$log" 2>&1 \
    || skip "the Debian for ARM cannot be made: $(tail -n 1 "$log")"
  in_arm() { scripts/aarch64_env.sh "$@"; }
fi

if "$short"; then
  in_arm cargo test --quiet --locked -p lorafit-kernels --lib -- matmul quant attention dot \
    --skip every_storage_format_is_multiplied_in_bf16 --skip bf16_products_are_those_of_rounded_operands
  exit
fi
in_arm cargo test --quiet --locked -p lorafit-kernels -p lorafit-data -p lorafit-model -p lorafit-train --lib
run=(cargo run --quiet --locked -p lorafit -- train --model fixtures/models/chat_bpe --data demo/train.jsonl --max-steps 20
  --preset off --lr 1e-2 --overwrite)
in_arm "${run[@]}" --out target/aarch64/run
if [ "$(uname -m)" != aarch64 ]; then
  # Sums in another order differ in their last bits, of which twenty steps make a little more.
  "${run[@]}" --out target/aarch64/run-here
  scripts/compare_losses.py target/aarch64/run target/aarch64/run-here --within 1e-3
fi
