#!/usr/bin/env bash
# All tests of the workspace. Those on the real model need models/ filled; without it they say "skipped".
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/fetch_model.sh || echo "skipped: the tests on the real model, which could not be fetched"
python3 demo/make_data.py --check
python3 demo/make_preference_data.py --check

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace --locked --no-fail-fast
  cargo test --workspace --locked --doc
else
  cargo test --workspace --locked --no-fail-fast
fi
