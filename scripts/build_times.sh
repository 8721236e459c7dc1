#!/usr/bin/env bash
# What building costs: CPU seconds per crate, lines of LLVM IR, and the size of the program by crate.
#
#   scripts/build_times.sh               builds tests and release from scratch and adds an entry to docs/data/build_times.json
#   scripts/build_times.sh --check FILE  holds a build of the tests that just ended against the newest entry. FILE is what
#                                        rustc_times.sh wrote. Fails if the build costs much more (`ALLOWED` in build_times.py).
#
# A full run takes about 15 minutes on 2 cores, and fetches cargo-llvm-lines and cargo-bloat the first time. Nothing else
# should run meanwhile: a busy neighbour adds a tenth and more to CPU seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
report="scripts/build_times.py"
entries="docs/data/build_times.json"

if [ "${1:-}" = --check ]; then
  exec python3 "$report" check "$entries" "$2" "${CARGO_TARGET_DIR:-target}/debug/lorafit"
fi

work="$PWD/target/build_times"
tools="$PWD/target/tools"
rm -rf "$work" && mkdir -p "$work"
# The release keeps its symbols until the end, by which cargo-bloat tells crates apart.
export CARGO_TARGET_DIR="$work/target" CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_STRIP=none
cargo fetch --locked --quiet
for tool in cargo-llvm-lines cargo-bloat; do
  [ -x "$tools/bin/$tool" ] || CARGO_TARGET_DIR="$work/tools" cargo install --quiet --locked --root "$tools" "$tool"
done
export PATH="$tools/bin:$PATH"

build() { # NAME COMMAND...: from scratch; its times go to NAME.tsv and, as a whole, to NAME.time
  local name="$1"
  shift
  echo "building: $*"
  TIMEFORMAT='%R %U %S'
  { time RUSTC_WRAPPER="$PWD/scripts/rustc_times.sh" RUSTC_TIMES="$work/$name.tsv" "$@" >&2; } 2> "$work/$name.log"
  tail -n 1 "$work/$name.log" > "$work/$name.time"
}
build release cargo build --release --locked -p lorafit
build tests cargo test --workspace --locked --no-run

for crate in kernels data model train; do
  cargo llvm-lines --release --locked --quiet -p "lorafit-$crate" --lib > "$work/lines-lorafit-$crate.txt"
done
cargo llvm-lines --release --locked --quiet -p lorafit --lib > "$work/lines-lorafit.txt"
cargo bloat --release --locked --crates -n 25 --message-format json -p lorafit > "$work/bloat.json"
strip -o "$work/lorafit" "$CARGO_TARGET_DIR/release/lorafit"

python3 "$report" add "$entries" "$work"
