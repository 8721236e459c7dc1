#!/bin/sh
# LoRA against full fine-tuning on three tasks; see lora_against_full.py. Everything it needs but the program is made here.
#
# Usage: scripts/lora_against_full.sh [--minutes 40] [--task TASK]
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked -p lorafit
scripts/fetch_model.sh
exec python3 scripts/lora_against_full.py "$@"
