#!/usr/bin/env python3
"""Runs of several processes over MPI against runs of one (scripts/check_mpi.sh builds the program and calls this).

Each process has one thread, so that the cores of a small machine are enough.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "fixtures/models"
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Of a loss: sums of f32 in another order, over 12 steps of AdamW at a high rate. The losses are about 5, where neighbours in f32 are 5e-7
# apart.
TOLERANCE = 1e-6


def is_open_mpi() -> bool:
    said = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, env=ENVIRONMENT).stdout
    return "Open MPI" in said


LAUNCHER = ["mpirun", "--oversubscribe"] if is_open_mpi() else ["mpirun"]


def write_rows(path: Path) -> None:
    draw = random.Random(1)
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    some = lambda: " ".join(draw.choice(words) for _ in range(draw.randint(1, 12)))
    rows = [{"prompt": some(), "completion": some()} for _ in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def command(program: Path, processes: int, *flags: str) -> list[str]:
    launcher = [*LAUNCHER, "-n", str(processes)] if processes > 0 else []
    return [*launcher, str(program), *flags]


def run(line: list[str], expected: int | None = 0) -> str:
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    said = done.stdout + done.stderr
    if expected is not None and (done.returncode == 0) != (expected == 0):
        raise SystemExit(f"FAILED: {' '.join(line)}\nexit code {done.returncode}\n{said}")
    return said


def records(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def bits(folder: Path) -> dict[str, bytes]:
    """What a run has trained, and what it has written down, without what depends on time and memory."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        # Of a run that was stopped the checkpoint before the last is of another step.
        if "checkpoints" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    for name in ["metrics.jsonl", "evaluations.jsonl"]:
        kept = ["step", "loss", "grad_norm", "tokens", "computed_tokens", "rewards/margins", "best"]
        lines = [[record.get(key) for key in kept] for record in records(folder, name)]
        found[name] = json.dumps(lines).encode()
    return found


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def same(a: Path, b: Path) -> None:
    first, second = bits(a), bits(b)
    check(first.keys() == second.keys(), f"{a.name} has {sorted(first)}, {b.name} {sorted(second)}")
    for name in first:
        check(first[name] == second[name], f"{name} of {a.name} and {b.name} differ")


def close(folder: Path, alone: Path) -> float:
    most = 0.0
    for name in ["metrics.jsonl", "evaluations.jsonl"]:
        found, expected = records(folder, name), records(alone, name)
        check(len(found) == len(expected), f"{folder.name}: {len(found)} records, expected {len(expected)}")
        most = max([most, *(abs(a["loss"] / b["loss"] - 1) for a, b in zip(found, expected))])
    check(most < TOLERANCE, f"{folder.name}: a loss differs by {most} of itself from that of one process")
    return most


def ranks(launcher: int) -> dict[int, int]:
    """The processes that a launcher has started, by their numbers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            name = (folder / "comm").read_text().strip()
            above, at = [], int(folder.name)
            while at > 1:
                at = int((Path("/proc") / str(at) / "stat").read_text().rsplit(")", 1)[1].split()[1])
                above.append(at)
        except (OSError, ValueError):
            continue
        for variable in variables:
            key, _, value = variable.partition(b"=")
            if key in (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK") and name == "lorafit" and launcher in above:
                found[int(value)] = int(folder.name)
    return found


def ended_by(line: list[str], folder: Path, rank: int | None, sent: int) -> tuple[int, str]:
    """Runs until some steps are done, then sends a signal to a process, or to the launcher. Gives the exit code and what was said."""
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    metrics, started = folder / "metrics.jsonl", time.monotonic()
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 60:
        check(process.poll() is None and time.monotonic() - started < 60, f"{folder.name} takes no steps")
        time.sleep(0.02)
    os.kill(process.pid if rank is None else ranks(process.pid)[rank], sent)
    started = time.monotonic()
    try:
        said, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SystemExit(f"FAILED: {folder.name}: others wait for a process that is gone")
    print(f"  ended {time.monotonic() - started:.1f} s after the signal, with {len(records(folder))} steps")
    return process.returncode, said


def main() -> int:
    target = Path(sys.argv[1])
    program = target / "lorafit"
    keep = Path(sys.argv[3]) if sys.argv[2:3] == ["--keep"] else None
    place = keep or Path(tempfile.mkdtemp(prefix="lorafit_mpi_"))
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    write_rows(place / "rows.jsonl")
    fixed = ["--model", str(MODELS / "chat_bpe"), "--threads", "1", "--preset", "off", "--lr", "0.01"]
    rows = ["--data", "rows.jsonl", "--batch-size", "4", "--gradient-accumulation", "2", "--max-steps", "12", "--eval-every", "4"]

    print("exchanges of 4 processes")
    print(run(command(target / "examples/exchange", 4, "1")), end="")

    pairs = ["--data", str(ROOT / "fixtures/preference/pairs.jsonl"), "--objective", "dpo", "--batch-size", "4", "--max-steps", "6"]
    cases = {
        "lora": rows,
        "qlora": [*rows, "--quant", "nf4", "--compute-dtype", "f32"],
        "full": [*rows, "--method", "full"],
        "dpo": pairs,
    }
    for name, flags in cases.items():
        train = lambda processes, out: run(command(program, processes, "train", *fixed, *flags, "--out", out, "--overwrite"))
        train(0, f"{name}_1")
        for processes in [2, 4]:
            said = train(processes, f"{name}_{processes}")
            most = close(Path(f"{name}_{processes}"), Path(f"{name}_1"))
            line = next((line for line in said.splitlines() if line.startswith("reduction of the gradients")), None)
            check(line is not None, f"the time of the reduction is not printed:\n{said}")
            check(said.count("trainable parameters") == 1, f"more than one process speaks:\n{said}")
            check("reduction" in records(Path(f"{name}_{processes}"))[0], "the reduction is not in the log")
            print(f"{name}, {processes} processes: losses differ by {most:.1e} at most; {line}")
        train(4, f"{name}_4_again")
        same(Path(f"{name}_4"), Path(f"{name}_4_again"))

    long = ["--data", "rows.jsonl", "--batch-size", "16", "--max-steps", "400", "--eval-every", "100", "--dropout", "0.1", "--checkpoint-every", "50"]
    line = lambda out: command(program, 2, "train", *fixed, *long, "--out", out)
    run(line("undisturbed"))
    for name, rank, sent in [
        ("process 1 is killed", 1, signal.SIGKILL),
        ("process 0 is killed", 0, signal.SIGKILL),
        ("mpirun is asked to stop", None, signal.SIGTERM),
    ]:
        print(name)
        folder = Path(name.replace(" ", "_"))
        code, said = ended_by(line(str(folder)), folder, rank, sent)
        check(code != 0, f"{name}: exit code 0\n{said}")
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        check(bool(kept), f"{name}: there is no checkpoint\n{said}")
        said = run(command(program, 2, "train", "--resume", str(folder), "--threads", "1"))
        check(f"resumed from {folder}/checkpoints/{kept[-1]}" in said, f"{name}: {said}")
        same(folder, Path("undisturbed"))

    print("what is refused")
    other = command(program, 3, "train", "--resume", "lora_2")
    check("the run had 2 processes, and here it has 3 processes" in run(other, 1), "another number of processes")
    nothing = command(program, 2, "train", *fixed, "--data", "nothing.jsonl", "--out", "none")
    said = run(nothing, 1)
    check(said.count("cannot read nothing.jsonl") == 1, f"what is wrong everywhere is said once: {said}")
    if is_open_mpi():
        one = lambda rate: ["-n", "1", str(program), "train", *fixed[:-1], rate, *rows, "--out", "none"]
        said = run([*LAUNCHER, *one("0.01"), ":", *one("0.02")], 1)
        check("process 1 differs from process 0: --lr is 0.02, and 0.01 there" in said, f"other flags: {said}")
        lacking = ["-n", "1", str(program), "train", *fixed, "--data", "nothing.jsonl", "--out", "none"]
        said = run([*LAUNCHER, *one("0.01"), ":", *lacking], 1)
        check("process 1 of 2" in said and said.count("cannot read nothing.jsonl") == 1, f"an error of one: {said}")
    said = run(command(program, 2, "train", *fixed, *rows, "--device", "cuda:0", "--out", "none"), 1)
    check("several processes train on processors only" in said, f"a GPU: {said}")
    check(not Path("none").exists(), "a run that was refused leaves a folder")

    os.chdir(ROOT)
    if keep is None:
        shutil.rmtree(place)
    print("several processes train as one does")
    return 0


if __name__ == "__main__":
    sys.exit(main())
