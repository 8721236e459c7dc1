#!/usr/bin/env bash
# Kills training runs with SIGKILL at seeded random moments, half of them inside a save, and resumes each to the end:
# loss log, checkpoints and adapter have to be the bits of the run that was never killed.
# usage: scripts/kill_test.sh [KILLS [SEED]]
set -euo pipefail
cd "$(dirname "$0")/.."
LORAFIT_KILLS="${1:-200}" LORAFIT_KILL_SEED="${2:-1}" cargo test --release --locked -p lorafit --test integration \
  a_run_killed_at_random_moments -- --nocapture
