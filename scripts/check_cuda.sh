#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and prints registers, local memory and shared memory of each.
# Needs no GPU: NVRTC is installed into .venv-cuda at the project's root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/cuda_env.sh
# With the features of the whole workspace, as the tests are built, so that nothing is compiled twice.
cargo build --quiet --locked --workspace --example check_cuda
"${CARGO_TARGET_DIR:-target}/debug/examples/check_cuda" "$@"
