#!/usr/bin/env bash
# Builds the documentation as a site into target/site, and checks that every link within it leads to a page and a place there.
#   scripts/site.sh           target/site/index.html; the first time cargo installs mdBook (minutes)
#   scripts/site.sh serve     shows it at http://127.0.0.1:3000/ and builds again what changes
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/release-tools
version=0.5.4
[ "$("$tools/bin/mdbook" --version 2>/dev/null)" = "mdbook v$version" ] \
  || cargo install --locked --quiet --root "$tools" "mdbook@$version"
case "${1:-build}" in
  build)
    rm -rf target/site
    "$tools/bin/mdbook" build
    scripts/check_site.py target/site
    ;;
  serve) "$tools/bin/mdbook" serve --port 3000 ;;
  *)
    echo "usage: scripts/site.sh [serve]" >&2
    exit 2
    ;;
esac
