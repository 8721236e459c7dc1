#!/usr/bin/env bash
# Runs a command in a Debian that has a compiler, a linker and an emulator for 64-bit ARM, with this folder as its folder:
#   scripts/aarch64_env.sh cargo test -p lorafit-kernels          builds tests for ARM and runs them by qemu
#   scripts/aarch64_env.sh scripts/release.sh --target aarch64-unknown-linux-gnu
# For machines whose own compiler has no standard library for ARM and no rustup to get one. Needs root and debootstrap; makes
# target/aarch64 once (2 GB). Everything in it is a package of Debian. qemu emulates: results count, times do not.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
system="$PWD/target/aarch64/system"
mirror=http://deb.debian.org/debian

if [ ! -e "$system/ready" ]; then
  rm -rf "$system"
  debootstrap --variant=minbase --include=ca-certificates trixie "$system" "$mirror"
  printf 'deb %s trixie main\ndeb %s trixie-backports main\n' "$mirror" "$mirror" > "$system/etc/apt/sources.list"
  chroot "$system" sh -euxc '
    export DEBIAN_FRONTEND=noninteractive
    dpkg --add-architecture arm64
    apt-get update -q
    apt-get install -y -q --no-install-recommends -t trixie-backports rustc cargo libstd-rust-dev:arm64
    apt-get install -y -q --no-install-recommends gcc g++ make git python3-venv binutils qemu-user \
      gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross
    apt-get clean'
  mkdir -p "$system/source" "$system/cargo/registry"
  touch "$system/ready"
fi
# Names and certificates are those that this machine trusts.
cp /etc/resolv.conf "$system/etc/resolv.conf"
certificates=/etc/ssl/certs/ca-certificates.crt
[ ! -e "$certificates" ] || cp "$certificates" "$system$certificates"
registry="${CARGO_HOME:-$HOME/.cargo}/registry"
mkdir -p "$registry" target/aarch64/build
[ -n "${SOURCE_DATE_EPOCH:-}" ] || SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"

# What is mounted in a namespace of its own is gone with the command.
exec unshare --mount bash -euc '
  system="$1" registry="$2"
  shift 2
  mount --bind "$PWD" "$system/source"
  mount --bind "$registry" "$system/cargo/registry"
  mount -t proc proc "$system/proc"
  mount --bind /dev "$system/dev"
  exec chroot "$system" "$@"' bash "$system" "$registry" \
  env -i PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8 SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
  PIP_CERT="$certificates" SSL_CERT_FILE="$certificates" CARGO_HTTP_CAINFO="$certificates" \
  CARGO_HOME=/cargo CARGO_TARGET_DIR=/source/target/aarch64/build CARGO_INCREMENTAL=0 \
  CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
  sh -c 'cd /source && exec "$@"' sh "$@"
