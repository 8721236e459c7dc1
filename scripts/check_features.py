#!/usr/bin/env python3
"""Whether the tests of one crate are built with the dependencies of all.

Cargo gives a dependency the features that the chosen crates ask for. Where a crate alone asks for fewer than all together,
`cargo test -p CRATE` compiles that dependency and all above it again. `crates/features` asks for what is missing; this
script says what it lacks.
"""

import subprocess
import sys

CRATES = ["lorafit-remedy", "lorafit-kernels", "lorafit-data", "lorafit-model", "lorafit-train", "lorafit-serve", "lorafit-mpi", "lorafit"]
# Dependencies of the program and its tests alone, and all, with macros and build scripts.
EDGES = ["normal,dev,no-proc-macro", "normal,build,dev"]


def features(chosen: list[str], edges: str) -> dict[str, set[str]]:
    """The features of every dependency of the chosen crates, by name and version."""
    command = ["cargo", "tree", "--locked", *chosen, "--edges", edges, "--prefix", "none", "--format", "{p}|{f}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        name, _, listed = line.removesuffix(" (*)").partition("|")
        if name:
            found.setdefault(name, set()).update(filter(None, listed.removesuffix(" (*)").split(",")))
    return found


def main() -> int:
    lacking: dict[str, dict[str, list[str]]] = {}
    for edges in EDGES:
        whole = features(["--workspace"], edges)
        for crate in CRATES:
            for name, own in features(["--package", crate], edges).items():
                if missing := whole.get(name, set()) - own:
                    lacking.setdefault(name, {})[crate] = sorted(missing)
    for name, crates in sorted(lacking.items()):
        for crate, missing in crates.items():
            print(f"{name}: tests of {crate} alone lack {', '.join(missing)}")
    if lacking:
        print("hint: add these features to crates/features/Cargo.toml")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
