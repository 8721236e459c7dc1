#!/usr/bin/env bash
# Writes docs/cli.md, the reference of the command line, from the declarations of its flags.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --quiet --locked -p lorafit -- manual --format markdown --out docs/cli.md
