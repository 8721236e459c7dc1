#!/usr/bin/env bash
# Makes .venv at the project's root with the Python peers (PyTorch, transformers, PEFT, gguf-py).
# lorafit itself needs none of it: this is for remaking fixtures/ and for the comparisons by hand.
#   scripts/python_env.sh && .venv/bin/python scripts/make_tiny_fixtures.py
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# A CPU-only PyTorch carries the local version "+cpu"; an index that has it saves gigabytes. Where it
# is absent, the ordinary build of the same version computes the same on the CPU.
cpu="$(sed -n 's/^torch==\(.*\)$/torch==\1+cpu/p' scripts/requirements.txt)"
if ! .venv/bin/pip install --quiet "$cpu" 2>/dev/null; then
  echo "no $cpu on this index: taking the ordinary build"
fi
# "torch==X" is satisfied by an installed "X+cpu".
.venv/bin/pip install --quiet -r scripts/requirements.txt
.venv/bin/python - <<'PY'
import torch, transformers, peft
print("torch", torch.__version__, "(CPU build)" if torch.version.cuda is None else "(CUDA build, used on the CPU)")
print("transformers", transformers.__version__, "peft", peft.__version__)
PY
