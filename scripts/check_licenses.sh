#!/usr/bin/env bash
# Whether every dependency has a licence that deny.toml allows and comes from crates.io.
#   scripts/check_licenses.sh                what Cargo.lock and the crates themselves say
#   scripts/check_licenses.sh --advisories   known vulnerabilities and yanked versions, too: fetches RustSec's database
#                                            from GitHub
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/release-tools
version=0.20.2
# Compiled without optimisation, which takes less time, since it reads for seconds all the same.
[ "$("$tools/bin/cargo-deny" --version 2>/dev/null | awk '{ print $2 }')" = "$version" ] \
  || cargo install --locked --quiet --debug --root "$tools" "cargo-deny@$version"
case "${1:-}" in
  "") "$tools/bin/cargo-deny" --locked check licenses bans sources ;;
  --advisories) "$tools/bin/cargo-deny" --locked check ;;
  *)
    echo "usage: scripts/check_licenses.sh [--advisories]" >&2
    exit 2
    ;;
esac
