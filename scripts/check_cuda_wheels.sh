#!/usr/bin/env bash
# Whether the program finds the right libraries among NVIDIA's real wheels: those of CUDA 13 alone, of CUDA 12 alone, both, and
# a toolkit of CUDA 12 on the library path; with drivers of both versions. There need be no GPU: the driver is the tests' own
# (crates/kernels/tests/fake_driver). NVRTC compiles for it; cuBLASLt does not start on it, and its error names its file.
# Downloads 1.1 GB (PIP_FIND_LINKS and PIP_NO_INDEX work), unpacks as much into WORK.
#   scripts/check_cuda_wheels.sh WORK
set -euo pipefail
mkdir -p "${1:?a folder to work in}"
work="$(cd "$1" && pwd)"
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --quiet --locked -p lorafit
cargo test --quiet --locked -p lorafit-kernels --test fake_driver -- libraries > /dev/null
lorafit="$(cd "$target/debug" && pwd)/lorafit"
fake="$(cd "$target/tmp/fake_driver" && pwd)"

packages="lib/python3.12/site-packages"
install() { # FOLDER WHEEL...
  local folder="$work/$1/$packages"
  shift
  [ -d "$folder/nvidia" ] || python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "$@"
}
install cu13 nvidia-cuda-nvrtc nvidia-cublas
install cu12 nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12
mkdir -p "$work/both/$packages/nvidia" "$work/old" "$work/empty"
for wheel in "$work"/cu1[23]/"$packages"/nvidia/*; do ln -sfn "$wheel" "$work/both/$packages/nvidia/"; done
# As toolkits were: a name without a number that leads to them, and both libraries in one folder.
for library in "$work"/cu12/"$packages"/nvidia/*/lib/lib{nvrtc,cublasLt}*; do
  ln -sf "$library" "$work/old/"
  case "$library" in *.so.12) ln -sf "$library" "$work/old/$(basename "${library%.12}")" ;; esac
done

failed=0
run() { # VERSION ENVIRONMENT LIBRARY_PATH FLAGS...: what the program says
  env -i PATH="$work/empty" HOME="$work/empty" VIRTUAL_ENV="$work/$2" FAKE_CUDA_VERSION="$1" \
    LD_LIBRARY_PATH="$fake/driver$3" "$lorafit" selfcheck --device cuda:0 --no-speed --only add "${@:4}" 2>&1 || true
}
expect() { # NAME, EXPECTED TEXT, TEXT
  case "$3" in
    *"$2"*) printf 'as expected   %s: %s\n' "$1" "${2#"$work"/}" ;;
    *) failed=1; printf 'NOT           %s: %s\n%s\n' "$1" "$2" "$3" ;;
  esac
}
check() { # VERSION ENVIRONMENT LIBRARY_PATH FOLDER_OF_NVRTC FOLDER_OF_CUBLAS MAJOR
  local name="driver ${1%???}, wheels ${2}${3:+, a toolkit of 12 on the library path}"
  expect "$name" "$work/$5/libcublasLt.so.$6" "$(run "$1" "$2" "${3:+:$work/$3}")"
  # With a cuBLASLt that starts, kernels that the real NVRTC compiles are loaded and run.
  local told
  told="$(run "$1" "$2" ":$work/cublas_$6${3:+:$work/$3}")"
  expect "$name" "($work/$4/libnvrtc.so.$6)" "$told"
  expect "$name" "checks passed" "$(grep -E '^([0-9]+) of \1 checks passed' <<< "$told" || printf '%s' "${told/checks passed/}")"
}
for major in 12 13; do
  mkdir -p "$work/cublas_$major"
  cp "$fake/toolkit_$major/libcublasLt.so.$major" "$work/cublas_$major/"
done
of_13="$packages/nvidia/cu13/lib" nvrtc_12="$packages/nvidia/cuda_nvrtc/lib" cublas_12="$packages/nvidia/cublas/lib"
check 13000 cu13 "" "cu13/$of_13" "cu13/$of_13" 13
check 13000 cu12 "" "cu12/$nvrtc_12" "cu12/$cublas_12" 12
check 12080 cu12 "" "cu12/$nvrtc_12" "cu12/$cublas_12" 12
check 13000 both "" "both/$of_13" "both/$of_13" 13
check 12080 both "" "both/$nvrtc_12" "both/$cublas_12" 12
check 13000 cu13 old "cu13/$of_13" "cu13/$of_13" 13
check 12080 cu12 old old old 12
expect "driver 12, wheels cu13" "no libnvrtc.so.12 that opens" "$(run 12080 cu13 "")"
exit "$failed"
