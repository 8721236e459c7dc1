#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and prints registers, local memory and shared memory of each.
# Needs no GPU: NVRTC is installed into .venv-cuda at the project's root.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-cuda/bin/python ] || "${PYTHON:-python3}" -m venv .venv-cuda
.venv-cuda/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-cuda.txt
lib="$(.venv-cuda/bin/python -c 'import nvidia.cuda_nvrtc as m; print(m.__path__[0] + "/lib")')"
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cargo run --quiet --locked -p lorafit-kernels --example check_cuda -- "$@"
