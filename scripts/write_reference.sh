#!/usr/bin/env bash
# Writes what is made from the declarations of flags: docs/cli.md, the reference of the command line, and the types of Python's
# keyword arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --quiet --locked -p lorafit -- manual --format markdown --out docs/cli.md
cargo run --quiet --locked -p lorafit -- manual --format pyi --out crates/python/python/lorafit/_flag_types.pyi
