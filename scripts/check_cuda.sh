#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and prints registers, local memory and shared memory of each.
# Needs no GPU: NVRTC is installed into .venv-cuda at the project's root.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-cuda/bin/python ] || "${PYTHON:-python3}" -m venv .venv-cuda
.venv-cuda/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-cuda.txt
lib="$(.venv-cuda/bin/python -c 'import nvidia.cuda_nvrtc as m; print(m.__path__[0] + "/lib")')"
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# With the features of the whole workspace, as the tests are built, so that nothing is compiled twice.
cargo build --quiet --locked --workspace --example check_cuda
"${CARGO_TARGET_DIR:-target}/debug/examples/check_cuda" "$@"
