"""The tables behind build_times.sh.

docs/data/build_times.json is a list of entries, the newest last. An entry has the compiler, the processor, and
  release  seconds of the clock, CPU seconds (of all, and of the compiler by crate), bytes of the stripped program
  tests    the same for all test programs and the program that they run (Cargo's dev profile); `text_bytes` is the program's
           machine code, `relative` the compiler's CPU seconds as a multiple of those for the crates in YARDSTICK
  llvm     lines of LLVM IR of each of our crates in a release, and of its ten largest functions
  bloat    bytes of machine code of a release by crate, the largest 25

Processors differ in speed, so what is compared from one machine to another is `relative` and `text_bytes`.

  build_times.py add ENTRIES FOLDER           makes an entry of what build_times.sh left in FOLDER
  build_times.py check ENTRIES TIMES PROGRAM  compares a build of the tests with the newest entry
"""
import collections
import datetime
import json
import pathlib
import platform
import re
import subprocess
import sys

# Dependencies that take long enough to be measured well. Their versions are those of Cargo.lock.
YARDSTICK = ["clap_builder", "minijinja", "parquet", "regex_automata", "rustls", "serde_json", "tokenizers"]
# What a build may cost, as a multiple of the newest entry, before CI asks for another. Machine code is the same wherever it
# is compiled. Times are not: on a machine that is busy with something else `relative` was 4.6 to 5.4 for the same code.
ALLOWED = {"relative": 1.25, "text_bytes": 1.10}


def compiler():
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def compile_seconds(path):
    """CPU seconds by crate; programs of tests and build scripts are summed under one name each."""
    seconds = collections.Counter()
    for line in pathlib.Path(path).read_text().splitlines():
        name, kind, spent = line.split("\t")
        if kind != "check":
            seconds["tests of " + name if kind == "test" else name] += float(spent)
    return seconds


def text_bytes(program):
    """The size of the machine code: section .text, as `size -A` prints it."""
    out = subprocess.run(["size", "-A", str(program)], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"^\.text\s+(\d+)", out, re.M)[1])


def build(folder, name):
    clock, user, system = map(float, (folder / f"{name}.time").read_text().split())
    crates = compile_seconds(folder / f"{name}.tsv")
    return {
        "clock_seconds": round(clock), "cpu_seconds": round(user + system), "compiler_cpu_seconds": round(sum(crates.values())),
        "crates": {crate: round(spent, 1) for crate, spent in crates.most_common() if spent >= 1},
    }, crates


def relative(crates):
    missing = [crate for crate in YARDSTICK if crates[crate] == 0]
    return None if missing else round(sum(crates.values()) / sum(crates[crate] for crate in YARDSTICK), 3)


def add(entries, folder):
    folder = pathlib.Path(folder)
    release, _ = build(folder, "release")
    release["program_bytes"] = (folder / "lorafit").stat().st_size
    tests, crates = build(folder, "tests")
    tests["text_bytes"] = text_bytes(folder / "target/debug/lorafit")
    tests["relative"] = relative(crates)
    llvm = {}
    for path in sorted(folder.glob("lines-*.txt")):
        rows = [line.split(None, 1)[0:2] for line in path.read_text().splitlines()[2:]]
        largest = [[int(lines), rest.rsplit(")  ", 1)[-1].strip()] for lines, rest in rows[1:11]]
        llvm[path.stem.removeprefix("lines-")] = {"lines": int(rows[0][0]), "largest": largest}
    bloat = json.loads((folder / "bloat.json").read_text())["crates"]
    entry = {
        "date": datetime.date.today().isoformat(), "compiler": compiler(), "processor": processor(),
        "release": release, "tests": tests, "llvm": llvm, "bloat": {c["name"]: c["size"] for c in bloat},
    }
    path = pathlib.Path(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps(known + [entry], indent=1, ensure_ascii=False) + "\n")
    print(f"{entries}: entry of {entry['date']} added")
    for name in ("release", "tests"):
        table(name, entry[name])


def table(name, build):
    print(f"\n{name}: {build['clock_seconds']} s of the clock, {build['cpu_seconds']} s of the processor; the most of it:")
    for crate, spent in list(build["crates"].items())[:12]:
        print(f"{spent:8.1f} s  {crate}")


def check(entries, times, program):
    crates = compile_seconds(times)
    print(f"compiling took {sum(crates.values()):.0f} CPU seconds; the most of it:")
    for crate, spent in crates.most_common(8):
        print(f"{spent:8.1f} s  {crate}")
    entry = json.loads(pathlib.Path(entries).read_text())[-1]
    if compiler() != entry["compiler"]:
        print(f"skipped: the newest entry is of {entry['compiler']}, this is {compiler()}")
        return 0
    if not pathlib.Path(program).exists():
        print(f"error: {program} is not there")
        print("hint: build the tests first: cargo test --workspace --locked --no-run")
        return 1
    now = {"relative": relative(crates), "text_bytes": text_bytes(program)}
    if now["relative"] is None:
        print("skipped: not everything was compiled, so the times cannot be compared")
        return 0
    words = {"relative": "CPU seconds, as a multiple of the yardstick's", "text_bytes": "bytes of machine code"}
    worse = []
    for key, value in now.items():
        before = entry["tests"][key]
        ratio = value / before
        worse += [key] if ratio > ALLOWED[key] else []
        print(f"{words[key]}: {value:,}, {before:,} on {entry['date']}, ratio {ratio:.3f} of at most {ALLOWED[key]:.2f}")
    for key in worse:
        print(f"error: {words[key]}: over {ALLOWED[key] - 1:.0%} more than the newest entry of {entries}")
    if worse:
        print("hint: see what grew in the table above; if it is worth it, run scripts/build_times.sh and commit the new entry")
    return int(bool(worse))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    sys.exit({"add": add, "check": check}[command](*arguments))
