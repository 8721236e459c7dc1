#!/usr/bin/env bash
# Makes the archive of a release for one target, and the wheel for Python, of the files that are committed:
#   dist/lorafit-VERSION-TARGET.tar.gz   program, licences, man pages, completions, list of components (SBOM)
#   dist/lorafit-VERSION-TARGET.cdx.json the same list of components, in CycloneDX
#   dist/lorafit-VERSION-cp39-abi3-manylinux_2_28_PROCESSOR.whl    library and program for pip
#   dist/SHA256SUMS                      of everything in dist/
#
#   scripts/release.sh                                     x86-64 Linux, glibc from 2.28 on
#   scripts/release.sh --target aarch64-unknown-linux-gnu  64-bit ARM Linux, glibc from 2.28 on
#   scripts/release.sh --twice                             builds again in another folder and compares the archives
#
# The bytes of an archive follow from the commit, the compiler and scripts/requirements-release.txt alone. docs/releasing.md
# has what it needs and how a release is made.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
glibc=2.28 # RHEL 8; Debian 10 and later
out=dist
twice=false
usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; }
fail() { # MESSAGE HINT
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}
while [ $# -gt 0 ]; do
  case "$1" in
    --target | --out)
      [ $# -ge 2 ] || fail "$1 has no value" "scripts/release.sh $1 VALUE"
      [ "$1" = --out ] && out="$2" || target="$2"
      shift 2
      ;;
    --twice) twice=true && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && fail "unknown argument $1" "the lines above are all there are" ;;
  esac
done
case "$target" in
  x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
  *) fail "no releases are made for $target" "x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu" ;;
esac

[[ "$PWD" != *[[:space:]]* ]] || fail "the folder has a blank in its path: $PWD" "flags of C compilers cannot have one"
say() { printf '\n== %s\n' "$*"; }
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)"
name="lorafit-$version-$target"
# What has the times of files in the archive. A folder without history says it itself.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" || fail "there is no commit here" "set SOURCE_DATE_EPOCH to the seconds of a date"
fi
export SOURCE_DATE_EPOCH
commit="$(git rev-parse HEAD 2>/dev/null || true)"
! "$twice" || [ -n "$commit" ] || fail "--twice has no commit to build from" "run it where the history is"
if changed="$(git status --porcelain 2>/dev/null)" && [ -n "$changed" ]; then
  fail "files are not committed: $(head -n 3 <<< "$changed" | tr '\n' ' ')" "commit or remove them: a release is made of a commit"
fi

say "what a release is made with"
sysroot="$(rustc --print sysroot)"
rustc --version
if ! compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" > /dev/null; then
  fail "this compiler has no standard library for $target" "rustup target add $target; \
of Debian's compiler: apt-get install libstd-rust-dev:$([ "${target%%-*}" = aarch64 ] && echo arm64 || echo amd64); \
where there is neither, scripts/aarch64_env.sh runs this script in a Debian that has it"
fi
for tool in readelf gzip tar sha256sum python3; do
  [ -n "$(command -v "$tool")" ] || fail "$tool is missing" "install binutils, gzip, tar, coreutils and python3"
done
# The program writes its man pages and completions itself, so this machine has to run it.
machine="$(uname -m)"
runner=()
if [ "${target%%-*}" != "$machine" ]; then
  runner_of_cargo="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<< "$target")_RUNNER"
  read -r -a runner <<< "${!runner_of_cargo:-}"
  if [ ${#runner[@]} -eq 0 ]; then
    qemu="qemu-${target%%-*}"
    [ -n "$(command -v "$qemu")" ] || fail "this $machine machine does not run programs for $target" \
      "install $qemu and the C library of $target (Debian: qemu-user, libc6-arm64-cross), or set $runner_of_cargo"
    runner=("$qemu" -L "/usr/${target/-unknown/}")
  fi
fi
unset CARGO_BUILD_TARGET # tools are for this machine
target_folder="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
tools="$target_folder/release-tools"
[ -x "$tools/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$tools/venv"
"$tools/venv/bin/pip" install --disable-pip-version-check --quiet -r scripts/requirements-release.txt
"$tools/venv/bin/python" -m ziglang version | sed 's/^/zig /'
tool() { # PACKAGE VERSION: a program that cargo installs
  [ -x "$tools/bin/$1" ] && [ "$("$tools/bin/$1" "${1#cargo-}" --version | awk '{ print $2 }')" = "$2" ] \
    || cargo install --locked --quiet --root "$tools" "$1@$2"
  "$tools/bin/$1" "${1#cargo-}" --version
}
tool cargo-cyclonedx 0.5.9
# The linker and C compiler of both builds below: cargo-zigbuild and maturin would each write its own, and all crates be compiled twice.
mkdir -p "$tools/$target"
for name_of_tool in cc c++; do
  printf '#!/bin/sh\nexec "%s" zig %s -- -g -fno-sanitize=all -target "%s" "$@"\n' \
    "$tools/venv/bin/cargo-zigbuild" "$name_of_tool" "${target/-unknown/}.$glibc" > "$tools/$target/$name_of_tool"
done
for name_of_tool in ar ranlib; do
  printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$tools/venv/bin/python" "$name_of_tool" > "$tools/$target/$name_of_tool"
done
chmod +x "$tools/$target"/*

say "the program"
# Paths of this machine stand in no message of the program.
cargo_home="${CARGO_HOME:-$HOME/.cargo}"
maps=("$PWD=lorafit" "$cargo_home=cargo" "$target_folder=target")
rust_flags="" c_flags=""
for map in "${maps[@]}"; do
  rust_flags+="${rust_flags:+$'\x1f'}--remap-path-prefix=$map"
  c_flags+=" -ffile-prefix-map=$map"
done
build() ( # COMMAND...: linked by Zig, with mapped paths
  export PATH="$tools/venv/bin:$PATH" CARGO_INCREMENTAL=0
  export CARGO_ENCODED_RUSTFLAGS="$rust_flags" "CFLAGS_${target//-/_}=$c_flags"
  export CARGO_ZIGBUILD_ZIG_PATH="$tools/venv/bin/python-zig"
  export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<< "$target")_LINKER=$tools/$target/cc" "CC_${target//-/_}=$tools/$target/cc"
  export "CXX_${target//-/_}=$tools/$target/c++" "AR_${target//-/_}=$tools/$target/ar" "RANLIB_${target//-/_}=$tools/$target/ranlib"
  unset RUSTC_WRAPPER RUSTFLAGS
  "$@"
)
check_built() { # FILE: for any machine with this glibc
  scripts/check_glibc.py "$1" "$glibc"
  for place in "$PWD/" "$cargo_home/"; do
    # A short one, such as /source/, stands within paths of ours, too.
    ! LC_ALL=C grep -qaP "(?<![A-Za-z0-9_.-])\\Q$place\\E" "$1" || fail "$1 has paths of this machine: $place" "see what --remap-path-prefix leaves"
  done
}
build cargo zigbuild --release --locked -p lorafit --target "$target.$glibc"
program="$target_folder/$target/release/lorafit"
check_built "$program"
"${runner[@]}" "$program" --version

say "the wheel for Python"
wheels="target/dist/wheels-$target"
rm -rf "$wheels"
mkdir -p "$wheels"
# Beside pyproject.toml, which names it; git ignores it.
licenses_of_wheel=crates/python/THIRD-PARTY-LICENSES.txt
trap 'rm -f "$licenses_of_wheel"' EXIT
scripts/third_party_licenses.py --crate python --target "$target" --out "$licenses_of_wheel"
scripts/sbom.py --crate python --target "$target" --cyclonedx "$tools/bin/cargo-cyclonedx" --out "$wheels/lorafit.cdx.json"
build maturin build --quiet --release --locked --manifest-path crates/python/Cargo.toml --target "$target" \
  --zig --compatibility "manylinux_${glibc/./_}" --sbom-include "$PWD/$wheels/lorafit.cdx.json" --out "$wheels"
rm -f "$licenses_of_wheel"
wheel="$(basename "$wheels"/lorafit-"$version"-*.whl)"
python3 -m zipfile -e "$wheels/$wheel" "$wheels/content"
check_built "$wheels/content/lorafit/_lorafit.abi3.so"
for file in licenses/LICENSE-MIT licenses/LICENSE-APACHE licenses/THIRD-PARTY-LICENSES.txt sboms/lorafit.cdx.json; do
  [ -s "$wheels/content/lorafit-$version.dist-info/$file" ] \
    || fail "the wheel has no $file" "see license-files and sbom in crates/python/pyproject.toml"
done

say "what goes with it"
stage="target/dist/$name"
rm -rf "$stage"
mkdir -p "$stage/completions" "$stage/man/man1" "$out"
cp "$program" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$stage/"
"${runner[@]}" "$program" manual --out "$stage/man/man1"
"${runner[@]}" "$program" completions bash > "$stage/completions/lorafit.bash"
"${runner[@]}" "$program" completions zsh > "$stage/completions/_lorafit"
"${runner[@]}" "$program" completions fish > "$stage/completions/lorafit.fish"
scripts/third_party_licenses.py --target "$target" --out "$stage/THIRD-PARTY-LICENSES.txt"
scripts/sbom.py --target "$target" --cyclonedx "$tools/bin/cargo-cyclonedx" --out "$stage/lorafit.cdx.json"

say "the archive"
chmod -R u=rwX,go=rX "$stage"
archive="$out/$name.tar.gz"
tar --create --directory "$(dirname "$stage")" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
  --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip --best --no-name > "$archive"
cp "$stage/lorafit.cdx.json" "$out/$name.cdx.json"
cp "$wheels/$wheel" "$out/$wheel"
(cd "$out" && sha256sum -- *.tar.gz *.cdx.json *.whl > SHA256SUMS)
ls -l "$archive"
cat "$out/SHA256SUMS"

if "$twice"; then
  say "again, in another folder"
  again="$(mktemp -d)"
  trap 'rm -rf "$again"' EXIT
  mkdir -p "$again/source/target"
  git archive "$commit" | tar --extract --directory "$again/source"
  # The tools are the same; everything that is compiled is compiled again.
  ln -s "$tools" "$again/source/target/release-tools"
  env --unset=CARGO_TARGET_DIR "$again/source/scripts/release.sh" --target "$target" --out "$again/dist"
  for file in "$name.tar.gz" "$name.cdx.json" "$wheel"; do
    cmp "$out/$file" "$again/dist/$file" || fail "$file differs between two builds" "diffoscope shows where"
  done
  say "both builds are the same, byte by byte"
fi
