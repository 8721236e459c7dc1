#!/usr/bin/env bash
# Runs the fuzz targets one after the other:
#   scripts/fuzz.sh [TARGET|all] [SECONDS]      660 seconds each without it
#   scripts/fuzz.sh --minimise [TARGET|all]     keeps of each corpus what adds coverage
#
# What a run finds new stays in fuzz/work, what it breaks on in fuzz/artifacts: mend it, and put the file into
# fuzz/corpus/TARGET, which the tests replay. A stable toolchain is enough: RUSTC_BOOTSTRAP=1 gives libFuzzer its coverage,
# and there is no sanitizer, since nearly all code here is safe Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

minimise=false
if [ "${1:-}" = --minimise ]; then
  minimise=true
  shift
fi
targets="${1:-all}"
seconds="${2:-660}"
if [ "$targets" = all ]; then
  targets="safetensors gguf tokenizer template rows adapter checkpoint"
fi

export RUSTC_BOOTSTRAP=1
command -v cargo-fuzz > /dev/null || cargo install cargo-fuzz --version 0.13.2 --locked

for target in $targets; do
  corpus="fuzz/corpus/$target"
  work="fuzz/work/$target"
  mkdir -p "$corpus" "$work"
  if $minimise; then
    cp -n "$corpus"/* "$work"/ 2> /dev/null || true
    cargo fuzz cmin --sanitizer none "$target" "$work"
    continue
  fi
  # One file may take 10 seconds and the process 2 GiB: more is a finding.
  cargo fuzz run --sanitizer none "$target" "$work" "$corpus" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 -verbosity=1
done
