#!/usr/bin/env bash
# Several processes over MPI: losses of 1, 2 and 4 agree, bits are the same every time, a killed process costs nothing, and what has
# to be refused is. Installs Open MPI where there is none, and skips where it cannot.
# usage: scripts/check_mpi.sh [--keep DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"

if ! command -v "${MPICC:-mpicc}" > /dev/null || ! command -v mpirun > /dev/null; then
  install() { apt-get update -qq && apt-get install -y -qq --no-install-recommends libopenmpi-dev openmpi-bin; }
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null || ! install > /tmp/install_mpi.log 2>&1; then
    echo "skipped: training over MPI, since there is no MPI and it could not be installed"
    exit 0
  fi
fi

cargo build --locked -p lorafit -p lorafit-mpi --features lorafit/mpi,lorafit-mpi/mpi --bin lorafit --example exchange
cargo clippy --locked -p lorafit-mpi --features mpi --all-targets -- -D warnings
exec python3 scripts/check_mpi.py "$root/target/debug" "$@"
