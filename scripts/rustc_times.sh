#!/usr/bin/env bash
# Runs the compiler that its arguments name and appends to the file $RUSTC_TIMES what that took: crate, kind, CPU seconds
# (of user and system together). Cargo calls it as RUSTC_WRAPPER; see build_times.sh.
exec {out}>&1 {err}>&2 # descriptors that nobody has: cargo hands some of its own to the compiler
TIMEFORMAT='%U %S'
spent="$({ time "$@" 1>&$out 2>&$err; } 2>&1)"
code=$?
name="" kind="lib"
while [ $# -gt 0 ]; do
  case "$1" in
    --crate-name) name="$2" ;;
    --crate-type) kind="$2" ;;
    --test) kind="test" ;;
    --emit=*) case "$1" in *link*) ;; *) kind="check" ;; esac ;;
  esac
  shift
done
if [ -n "$name" ] && [ "$name" != ___ ]; then
  printf '%s\t%s\t%s\n' "$name" "$kind" "$(awk '{ print $1 + $2 }' <<< "$spent")" >> "$RUSTC_TIMES"
fi
exit "$code"
