#!/usr/bin/env bash
# Runs the tutorial (docs/tutorial.sh) and the stories of docs/stories/ (NAME.sh) and writes what they print into pages beside
# them.
#
#   scripts/tell_stories.sh [NAME...]      takes 20 minutes on 2 cores, after `make build` and scripts/fetch_model.sh
#
# Each story begins in a folder that has docs/, demo/, models/ and crates/ of this one, and leaves its runs there; cargo runs in
# this one. Of NAME.sh a comment becomes text, one that is indented by four blanks becomes code, and every command stands above
# its output. A command that fails ends the story and the script.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
export root="$PWD"
PATH="$root/${CARGO_TARGET_DIR:-target}/release:$PATH"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
ln -s "$root/docs" "$root/demo" "$root/models" "$root/crates" "$work"
cargo() { (builtin cd "$root" && command cargo "$@"); }
export -f cargo
mkdir "$work/runs"
cd "$work"

tell() { # STORY: its page
  local line command="" open=no
  fence() { # yes or no: whether code follows
    [ "$open" = "$1" ] || printf '```\n'
    open=$1
  }
  while IFS= read -r line; do
    case "$line" in
      '#!'*) ;;
      '#     '*) fence yes && printf '%s\n' "${line#'#     '}" ;;
      '#'*) fence no && line="${line#\#}" && printf '%s\n' "${line# }" ;;
      '') fence no && printf '\n' ;;
      *)
        command+="$line"
        # A command goes on in the next line.
        [ "${line: -1}" = '\' ] && command+=$'\n' && continue
        fence yes
        printf '$ %s\n' "$command"
        # Names of this machine's folders are not part of the story.
        bash -euo pipefail -c "$command" 2>&1 </dev/null | sed -e "s#$work/##g" -e "s#$root/##g" -e 's/[[:space:]]*$//'
        command=""
        ;;
    esac
  done < "$1"
  fence no
}

[ $# -gt 0 ] || set -- tutorial support assistant table
for name in "$@"; do
  started=$SECONDS
  story="docs/stories/$name"
  [ "$name" != tutorial ] || story="docs/$name"
  page="$work/$name.md"
  trap 'tail -n 20 "$page" >&2' ERR
  tell "$story.sh" > "$page"
  {
    cat "$page"
    printf '\n`scripts/tell_stories.sh %s` wrote this page in %d seconds on %s (%s).\n' \
      "$name" $((SECONDS - started)) "$(date +%F)" "$(lorafit doctor | sed -n 's/^processor *//p')"
  } > "$root/$story.md"
  echo "$story.md"
done
