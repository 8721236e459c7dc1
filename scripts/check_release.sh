#!/usr/bin/env bash
# Tries the archive of a release in a minimal Debian 11 (glibc 2.31, Python 3.9): the program, its man pages, a training run, the demo;
# and the wheel beside it: pip, a training run from Python with the same bits, the program of the wheel, docs/tutorial.ipynb.
#   scripts/check_release.sh dist/lorafit-0.1.0-x86_64-unknown-linux-gnu.tar.gz [SUITE]
# Needs root, debootstrap and PyPI; makes target/debian-SUITE once (bullseye unless another is named), fetches the model of the demo
# into models/, and changes nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
archive="$(realpath "$1")"
suite="${2:-bullseye}"
system="target/debian-$suite"
(cd "$(dirname "$archive")" && sha256sum --check --ignore-missing SHA256SUMS)
[ -x "$system/bin/sh" ] || debootstrap --variant=minbase "$suite" "$system" http://deb.debian.org/debian

# Names and certificates are those that this machine trusts.
cp /etc/resolv.conf "$system/etc/resolv.conf"
settings=(PATH=/try:/usr/bin:/bin HOME=/tmp LORAFIT_ROOT=/try)
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then
  mkdir -p "$system/etc/ssl/certs"
  cp "$certificates" "$system$certificates"
  settings+=(PIP_CERT="$certificates")
fi

scripts/fetch_model.sh
rm -rf "$system/try"
mkdir -p "$system/try/models" "$system/try/scripts" "$system/try/docs"
wheels=("$(dirname "$archive")"/lorafit-*-manylinux_*_"$(uname -m)".whl)
cp "${wheels[0]}" "$system/try/"
tar --extract --gzip --file "$archive" --directory "$system/try" --strip-components=1
cp -r fixtures/models/chat_bpe "$system/try/model"
head -n 60 demo/train.jsonl > "$system/try/train.jsonl"
cp -r demo "$system/try/"
cp docs/tutorial.ipynb "$system/try/docs/"
cp models/SmolLM2-135M-Instruct.Q4_1.gguf "$system/try/models/"
cp scripts/demo.sh scripts/fetch_model.sh scripts/compare_answers.py "$system/try/scripts/"
call() { # COMMAND...: in the system, in the folder of the archive
  printf '$ %s\n' "$*"
  # What is mounted in a namespace of its own is gone with the command.
  unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$system" \
    env -i "${settings[@]}" sh -c 'cd /try && exec "$@"' sh "$@"
}
call sh -c '. /etc/os-release && echo "$PRETTY_NAME" && ldd --version | head -n 1'
call lorafit --version
call lorafit doctor
call lorafit plan --model llama-2-7b --memory 24GB
call lorafit train --model model --data train.jsonl --out run --max-steps 20 --preset off --lr 1e-2
call lorafit generate --model model --adapter run --chat --prompt "Lights on in the bathroom" --max-new-tokens 8
call lorafit merge --model model --adapter run --out merged
call sh -c 'test -s man/man1/lorafit-train.1 && test -s completions/lorafit.bash && test -s THIRD-PARTY-LICENSES.txt && test -s lorafit.cdx.json'
if ! call python3 -m venv --help > /dev/null 2>&1; then
  call sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv' > /dev/null
fi
call env LORAFIT_PROGRAM=/try/lorafit bash scripts/demo.sh

call python3 -m venv venv
call sh -c 'venv/bin/pip install --quiet --no-index lorafit-*.whl'
call venv/bin/lorafit --version
call venv/bin/python -c '
import lorafit
run = lorafit.train("model", "train.jsonl", out="run-python", max_steps=20, preset="off", lr=1e-2)
print(run)'
call cmp run/adapter_model.safetensors run-python/adapter_model.safetensors
# The notebook names the model as it lies in a checkout.
mkdir -p "$system/try/fixtures/models"
mv "$system/try/model" "$system/try/fixtures/models/chat_bpe"
call sh -c 'venv/bin/pip install --quiet nbconvert ipykernel "$(echo lorafit-*.whl)[pandas]"'
call venv/bin/jupyter nbconvert --to notebook --execute --log-level WARN --output-dir executed docs/tutorial.ipynb
call test -s executed/tutorial.ipynb
rm -rf "$system/try"
echo "archive and wheel run in Debian's $suite"
