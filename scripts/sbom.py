#!/usr/bin/env python3
"""Writes the list of all that is linked into the program or the Python package, as CycloneDX (an SBOM).

    scripts/sbom.py --target x86_64-unknown-linux-gnu --cyclonedx target/release-tools/bin/cargo-cyclonedx --out lorafit.cdx.json

`cargo cyclonedx` makes it; with SOURCE_DATE_EPOCH set it has no random number and that time. It writes a list beside the
manifest of every crate of the workspace; here that of one crate is taken and the others are removed, and the paths of this
machine become paths in the workspace.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "sbom_being_made"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, help="the target triple whose program is meant")
    parser.add_argument("--crate", default="lorafit", help="the folder in crates/ of what is linked (python: the package)")
    parser.add_argument("--cyclonedx", required=True, type=Path, help="the program cargo-cyclonedx")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    arguments = parser.parse_args()

    command = [arguments.cyclonedx, "cyclonedx", "--quiet"]
    command += ["--manifest-path", ROOT / f"crates/{arguments.crate}/Cargo.toml"]
    command += ["--format", "json", "--spec-version", "1.5", "--target", arguments.target, "--no-build-deps"]
    try:
        subprocess.run([*command, "--override-filename", NAME], cwd=ROOT, check=True)
        text = (ROOT / f"crates/{arguments.crate}/{NAME}.json").read_text(encoding="utf-8")
    finally:
        for left in ROOT.glob(f"crates/*/{NAME}.json"):
            left.unlink()

    text = text.replace(f"{ROOT.as_uri()}/", "").replace(f"{ROOT}/", "")
    bom = json.loads(text)
    components = bom["components"]
    if len(components) < 100 or str(ROOT) in text:
        print(f"error: {len(components)} components, or a path of this machine: {ROOT}", file=sys.stderr)
        return 1
    arguments.out.write_text(json.dumps(bom, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(components)} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
