#!/usr/bin/env python3
"""Writes the licences of everything that is linked into the program or the Python package: one text file for a release.

    scripts/third_party_licenses.py --target x86_64-unknown-linux-gnu --out THIRD-PARTY-LICENSES.txt

Reads `cargo metadata`, follows the dependencies that are linked (no macros, build scripts or tests), and takes every licence
file that a crate has, those of the C code inside it too. A crate without one is an error. Texts that differ in
blanks alone are written once.
Whether a licence is allowed at all is decided by deny.toml.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Names of licence files, in any case, at the root of a crate or of code that it brings.
NAMES = re.compile(r"^(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)
# What is not a crate and is in the program all the same.
FONT = ("DejaVu Sans (part of it)", "Bitstream Vera AND LicenseRef-DejaVu", "crates/lorafit/src/pages/figure/DejaVuSans-LICENSE.txt")
STANDARD_LIBRARY = (
    "The standard library of Rust (https://www.rust-lang.org), MIT OR Apache-2.0, copyright the Rust Project contributors, is\n"
    "linked in. So is what stands between it and the C library: parts of LLVM's compiler-rt and libunwind\n"
    "(https://llvm.org), Apache-2.0 WITH LLVM-exception. The texts of MIT and Apache-2.0 stand below and in LICENSE-MIT and\n"
    "LICENSE-APACHE.\n"
)


def linked(target: str, crate: str) -> list[dict]:
    """The packages of others that are linked into one of our crates, by name and version."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [package["id"] for package in metadata["packages"] if Path(package["manifest_path"]).parent == ROOT / "crates" / crate]
    found: dict[str, dict] = {}
    while todo:
        package = packages[todo.pop()]
        is_macro = any("proc-macro" in built["kind"] for built in package["targets"])
        if package["id"] in found or is_macro:
            continue
        found[package["id"]] = package
        for dependency in nodes[package["id"]]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    # Our own crates have no source: they are not from a registry.
    others = [package for package in found.values() if package["source"]]
    return sorted(others, key=lambda package: (package["name"], package["version"]))


def texts(package: dict) -> list[tuple[str, str]]:
    """The licence files of a package: name below its folder, and text."""
    folder = Path(package["manifest_path"]).parent
    # LICENSE-MIT, or LICENSES/MIT.txt.
    named = lambda path: NAMES.match(path.name) or NAMES.match(path.parent.name)
    files = {path for path in folder.rglob("*") if path.is_file() and named(path.relative_to(folder))}
    # A file of code may be called copying.c.
    files = {path for path in files if path.suffix.lower() not in {".rs", ".c", ".h", ".py", ".toml"}}
    if package.get("license_file"):
        files.add(folder / package["license_file"])
    read = lambda path: path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip()
    return [(path.relative_to(folder).as_posix(), read(path)) for path in sorted(files)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, help="the target triple whose program is meant")
    parser.add_argument("--crate", default="lorafit", help="the folder in crates/ of what is linked (python: the package)")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    arguments = parser.parse_args()

    packages = linked(arguments.target, arguments.crate)
    # By the words of a text: the text as the first has it, and who has it.
    users: dict[str, tuple[str, list[str]]] = {}
    has = lambda text, name: users.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    lacking = []
    table = [FONT[:2]]
    has((ROOT / FONT[2]).read_text(encoding="utf-8").strip(), FONT[0])
    for package in packages:
        name = f"{package['name']} {package['version']}"
        table.append((name, package["license"] or "see its file"))
        files = texts(package)
        if not files:
            lacking.append(name)
        for file, text in files:
            has(text, f"{name}: {file}")
    if lacking:
        print(f"error: crates without a licence file: {', '.join(lacking)}", file=sys.stderr)
        print("hint: choose another version, or add the text of their repository to this script", file=sys.stderr)
        return 1

    rule = "=" * 100
    with arguments.out.open("w", encoding="utf-8", newline="\n") as out:
        out.write("Code of others that is linked into lorafit, and its licences\n\n" + STANDARD_LIBRARY + "\n")
        out.writelines(f"{name:44} {licence}\n" for name, licence in table)
        for text, names in sorted(users.values(), key=lambda user: user[1]):
            out.write(f"\n{rule}\n" + "\n".join(names) + f"\n{rule}\n{text}\n")
    print(f"{arguments.out}: {len(table)} works, {len(users)} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
