#!/usr/bin/env python3
"""Whether a program runs where the C library is as old as a version.

    scripts/check_glibc.py PROGRAM 2.28

Reads what the program asks of shared libraries (`readelf` of binutils, which reads programs of any processor). Fails where it
needs a newer version of a glibc symbol, or a library that a minimal system does not have.
"""

import re
import subprocess
import sys

# Parts of glibc, which every system with glibc has.
LIBRARIES = re.compile(r"(lib(c|m|dl|rt|util|pthread)\.so\.\d+|ld-linux.*\.so\.\d+)")


def readelf(option: str, program: str) -> str:
    return subprocess.run(["readelf", "--wide", option, program], check=True, capture_output=True, text=True).stdout


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def main() -> int:
    if len(sys.argv) != 3 or not re.fullmatch(r"\d+(\.\d+)+", sys.argv[2]):
        print("usage: check_glibc.py PROGRAM VERSION, as in: check_glibc.py target/release/lorafit 2.28", file=sys.stderr)
        return 2
    program, most = sys.argv[1:]
    symbols = re.findall(r"UND (\S+)@(?:GLIBC_)(\d+(?:\.\d+)+)", readelf("--dyn-syms", program))
    libraries = re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", readelf("--dynamic", program))
    if not symbols:
        print(f"error: {program} asks for no symbol of glibc: it is no program for Linux with glibc", file=sys.stderr)
        return 1
    newest = max((found for _, found in symbols), key=version)
    newer = sorted(f"{name} ({found})" for name, found in symbols if version(found) > version(most))
    others = sorted(name for name in libraries if not LIBRARIES.fullmatch(name))
    if newer:
        print(f"error: {program} needs a newer glibc than {most}: {', '.join(newer)}", file=sys.stderr)
    if others:
        print(f"error: {program} needs libraries beside glibc: {', '.join(others)}", file=sys.stderr)
    if newer or others:
        return 1
    print(f"{program}: runs from glibc {newest} on ({', '.join(sorted(libraries))})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
