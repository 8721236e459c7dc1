#!/usr/bin/env bash
# Runs on the processor, instruction by instruction, what NVRTC makes of attention and of the decoders, and holds the results to
# f64; and plants faults, which have to be seen (crates/kernels/tests/ptx_emulator). Needs no GPU.
#   scripts/emulate_ptx.sh            all head sizes and formats
#   scripts/emulate_ptx.sh --short    some of them
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/cuda_env.sh
target="${CARGO_TARGET_DIR:-target}"
cargo build --quiet --locked --workspace --example ptx_cases
rm -rf "$target/ptx_cases"
"$target/debug/examples/ptx_cases" "$target/ptx_cases"
.venv-cuda/bin/python crates/kernels/tests/ptx_emulator/check.py "$target/ptx_cases" "$@"
