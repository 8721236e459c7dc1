#!/usr/bin/env bash
# Builds the Python package, installs it as a user would, and checks it: tests, types, the tutorial. Takes about two minutes once
# Cargo's dev profile is built.
#   scripts/check_python.sh            a wheel of the dev profile, as tests use it
#   scripts/check_python.sh --release  the wheel that is handed on
# PYTHON names the interpreter (3.10 or newer; the wheel itself is for 3.9 and newer). LORAFIT_PROGRAM names the program that results
# are compared with (default: target/debug/lorafit where it is, else the script of the wheel).
set -euo pipefail
cd "$(dirname "$0")/.."
profile=dev
[ "${1:-}" != --release ] || profile=release
python="${PYTHON:-python3}"
venv=target/python-check wheels=target/wheels

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r crates/python/requirements-check.txt

rm -rf "$wheels"
(cd crates/python && "../../$venv/bin/maturin" build --quiet --locked --profile "$profile" --out "../../$wheels")
wheel=("$wheels"/lorafit-*.whl)
"$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "${wheel[0]}"
printf '%s: %d bytes\n' "${wheel[0]}" "$(stat -c %s "${wheel[0]}")"

# An environment with nothing else in it: the wheel needs no other package.
fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
"$python" -m venv "$fresh/venv"
"$fresh/venv/bin/pip" install --quiet --disable-pip-version-check "${wheel[0]}"
(cd "$fresh" && venv/bin/lorafit --version && venv/bin/python -c 'import lorafit; print(lorafit.plan("smollm2-135m")["model"])')

if [ -z "${LORAFIT_PROGRAM:-}" ] && [ "$profile" = dev ] && [ -x target/debug/lorafit ]; then
  LORAFIT_PROGRAM="$PWD/target/debug/lorafit"
fi
[ -z "${LORAFIT_PROGRAM:-}" ] || export LORAFIT_PROGRAM
# Whoever asks a program of another version would compare two of them.
(cd crates/python && PATH="$PWD/../../$venv/bin:$PATH" python -m pytest -q -p no:cacheprovider tests)
(cd crates/python && "../../$venv/bin/mypy" --cache-dir ../../target/mypy)
LORAFIT_ROOT="$PWD" "$venv/bin/jupyter" nbconvert --to notebook --execute --log-level WARN --output-dir "$fresh" docs/tutorial.ipynb
echo "the package, its types and the tutorial are as they should be"
