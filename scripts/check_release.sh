#!/usr/bin/env bash
# Tries the archive of a release in a minimal Debian 11 (glibc 2.31, Python 3.9): the program, its man pages, a training run, the demo;
# and the wheel beside it: pip, a training run from Python with the same bits, the program of the wheel, docs/tutorial.ipynb.
#   scripts/check_release.sh dist/lorafit-0.1.0-x86_64-unknown-linux-gnu.tar.gz [SUITE]
# Needs root, debootstrap and PyPI; makes target/debian-SUITE-ARCHITECTURE once (bullseye unless another is named), fetches the model of
# the demo into models/, and changes nothing else. An archive for ARM is tried on an emulated processor, but for the demo, which would
# take an hour there: by the qemu of scripts/aarch64_env.sh or of Debian's qemu-user-static, and Linux 6.7 or later.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
fail() { # MESSAGE HINT
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}
archive="$(realpath "$1")"
suite="${2:-bullseye}"
machine="$(sed -n 's/.*-\(x86_64\|aarch64\)-unknown-linux-gnu\.tar\.gz$/\1/p' <<< "$archive")"
case "$machine" in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) fail "$archive is no archive of a release" "scripts/release.sh makes one" ;;
esac
emulator=""
if [ "$machine" != "$(uname -m)" ]; then
  found="$(command -v "qemu-$machine-static" || true)"
  emulator="${found:-$PWD/target/aarch64/system/usr/bin/qemu-$machine}"
  [ -x "$emulator" ] || fail "there is no qemu-$machine" "install qemu-user-static, or run scripts/aarch64_env.sh true once"
fi
(cd "$(dirname "$archive")" && sha256sum --check --ignore-missing SHA256SUMS)

system="$PWD/target/debian-$suite-$architecture"
if [ ! -e "$system/ready" ]; then
  rm -rf "$system"
  debootstrap --foreign --arch="$architecture" --variant=minbase --include=python3-venv "$suite" "$system" http://deb.debian.org/debian
  # Nothing of it is set up, which would take programs of that processor; what is tried here does not miss it.
  for package in "$system"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$system"
  done
  # In a container debootstrap makes a link of it.
  [ ! -L "$system/proc" ] || rm "$system/proc"
  mkdir -p "$system/proc" "$system/dev"
  [ -e "$system/bin/sh" ] || ln -s dash "$system/bin/sh"
  echo "root:x:0:0:root:/root:/bin/sh" > "$system/etc/passwd"
  touch "$system/ready"
fi
# Names and certificates are those that this machine trusts.
cp /etc/resolv.conf "$system/etc/resolv.conf"
settings=(PATH=/try:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 LORAFIT_ROOT=/try)
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then
  mkdir -p "$system/etc/ssl/certs"
  cp "$certificates" "$system$certificates"
  settings+=(PIP_CERT="$certificates")
fi

scripts/fetch_model.sh
rm -rf "$system/try"
mkdir -p "$system/try/fixtures/models" "$system/try/models" "$system/try/scripts" "$system/try/docs"
wheels=("$(dirname "$archive")"/lorafit-*-manylinux_*_"$machine".whl)
cp "${wheels[0]}" "$system/try/"
tar --extract --gzip --file "$archive" --directory "$system/try" --strip-components=1
cp -r fixtures/models/chat_bpe "$system/try/fixtures/models/"
head -n 60 demo/train.jsonl > "$system/try/train.jsonl"
cp -r demo "$system/try/"
cp docs/tutorial.ipynb "$system/try/docs/"
cp models/SmolLM2-135M-Instruct.Q4_1.gguf "$system/try/models/"
cp scripts/demo.sh scripts/fetch_model.sh scripts/compare_answers.py "$system/try/scripts/"

# What is mounted in a namespace of its own is gone with the command; so is the emulator, which the kernel starts there for programs of
# another processor.
namespace=(--mount)
[ -z "$emulator" ] || namespace+=(--user --map-root-user)
# shellcheck disable=SC2016
inside='
  set -eu
  system="$1" emulator="$2"
  shift 2
  mount --rbind /proc "$system/proc"
  mount --rbind /dev "$system/dev"
  if [ -n "$emulator" ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    magic="\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
    mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
    printf "%s" ":other:M::$magic:$mask:$emulator:F" > /proc/sys/fs/binfmt_misc/register
  fi
  exec chroot "$system" "$@"'
call() { # COMMAND...: in the system, in the folder of the archive
  printf '$ %s\n' "$*"
  unshare "${namespace[@]}" bash -c "$inside" bash "$system" "$emulator" \
    /usr/bin/env -i "${settings[@]}" sh -c 'cd /try && exec "$@"' sh "$@"
}
model=fixtures/models/chat_bpe
call sh -c '. /etc/os-release && echo "$PRETTY_NAME" && uname -m && /lib/*-linux-gnu/libc.so.6 | head -n 1'
call lorafit --version
call lorafit doctor
call lorafit plan --model llama-2-7b --memory 24GB
call lorafit train --model "$model" --data train.jsonl --out run --max-steps 20 --preset off --lr 1e-2
call lorafit generate --model "$model" --adapter run --chat --prompt "Lights on in the bathroom" --max-new-tokens 8
call lorafit merge --model "$model" --adapter run --out merged
call sh -c 'test -s man/man1/lorafit-train.1 && test -s completions/lorafit.bash && test -s THIRD-PARTY-LICENSES.txt && test -s lorafit.cdx.json'
if [ -z "$emulator" ]; then
  call env LORAFIT_PROGRAM=/try/lorafit bash scripts/demo.sh
else
  echo "skipped: the demo, on an emulated processor"
fi

call python3 -m venv venv
call sh -c 'venv/bin/pip install --quiet --no-index lorafit-*.whl'
call venv/bin/lorafit --version
call venv/bin/python -c '
import lorafit
run = lorafit.train("fixtures/models/chat_bpe", "train.jsonl", out="run-python", max_steps=20, preset="off", lr=1e-2)
print(run)'
call cmp run/adapter_model.safetensors run-python/adapter_model.safetensors
call sh -c 'venv/bin/pip install --quiet nbconvert ipykernel "$(echo lorafit-*.whl)[pandas]"'
call venv/bin/jupyter nbconvert --to notebook --execute --log-level WARN --output-dir executed docs/tutorial.ipynb
call test -s executed/tutorial.ipynb
rm -rf "$system/try"
echo "archive and wheel run in Debian's $suite on $machine"
