#!/usr/bin/env python3
"""LoRA against full fine-tuning of SmolLM2-135M-Instruct: three tasks, the learning rate searched for each method.

    scripts/lora_against_full.sh [--minutes 40] [--task TASK] [--threads N]

Every run is written to docs/data/lora_against_full.jsonl when it ends, and a run that is there is not made again: call
it until it says that nothing is left (about 4 hours on 2 cores in all). lora_against_full_figure.py shows what is there.

Then `--lr auto` and `lorafit train` without any setting are run on each task, to be held against what the search found.

Rates lie on a grid of three to a decade. The search begins with three around a guess and goes on until the best has a
worse one on both sides and at least four were tried. The best is then run with two more seeds, and its rows are answered.
"""
import argparse
import datetime
import itertools
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/data/lora_against_full.jsonl"
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 4
SEEDS = [0, 1, 2]
FEWEST_RATES = 4
ATTENTION = "q_proj,k_proj,v_proj,o_proj"

# Flags of each method, and where on the grid its search begins: rate = 10 ** (place / 3).
METHODS = {
    "full": (["--method", "full", "--save-dtype", "f32"], -11),
    "lora r=1": (["--rank", "1", "--alpha", "2"], -8),
    "lora r=8": (["--rank", "8", "--alpha", "16"], -8),
    "lora r=64": (["--rank", "64", "--alpha", "128"], -8),
    "lora r=8, attention": (["--rank", "8", "--alpha", "16", "--target-modules", ATTENTION], -7),
    "lora r=64, attention": (["--rank", "64", "--alpha", "128", "--target-modules", ATTENTION], -7),
    "dora r=8": (["--rank", "8", "--alpha", "16", "--dora"], -8),
}

# What lorafit chooses by itself, held against rank 8: flags, and whether the length of the run is given.
CHOSEN = {"lr auto": (["--preset", "off", "--rank", "8", "--alpha", "16", "--lr", "auto"], True), "preset good": ([], False)}


def rate(place):
    return float(f"{10 ** (place / 3):.2g}")


# --- the tasks: rows to train on, rows to judge by, passes over the rows ---

def e2e():
    """Data to text: rows of the E2E challenge (Novikova et al. 2017, CC BY-SA 4.0)."""
    rows = [json.loads(line) for line in (ROOT / "docs/data/lora_against_full_e2e.jsonl").read_text().splitlines()]
    return rows[:240], rows[240:], 1


def commands():
    """The demo's requests as JSON commands; no command of the rows to judge by is in those to train on."""
    read = lambda name: [json.loads(line) for line in (ROOT / "demo" / name).read_text().splitlines()]
    return read("train.jsonl")[:240], read("test.jsonl")[:48], 1


def facts():
    """Numbers of made-up people: nothing but memory helps, so that the rows to judge by are some of those to train on."""
    chance = random.Random(17)
    syllables = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "ne", "po", "ra", "su", "ta", "ve", "wo", "zi"]
    names = set()
    while len(names) < 160:
        names.add("".join(chance.choice(syllables) for _ in range(3)).capitalize())
    rows = [{"prompt": f"{name}:", "completion": f" {chance.randrange(1000):03}"} for name in sorted(names)]
    chance.shuffle(rows)
    return rows, rows[:48], 12


TASKS = {"commands": commands, "facts": facts, "e2e": e2e}


# --- one run ---

class Runner:
    def __init__(self, args):
        self.args, self.until = args, time.time() + 60 * args.minutes
        self.folder = ROOT / "runs/lora_against_full"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tasks = {name: make() for name, make in TASKS.items()}
        for name, (training, judging, _) in self.tasks.items():
            for part, rows in (("train", training), ("judge", judging)):
                path = self.folder / f"{name}_{part}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(self, *command):
        command = [str(self.args.lorafit), *map(str, command), "--threads", str(self.args.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def run(self, task, method, place, seed):
        """One run of the search with its evaluation loss."""
        flags = ["--lr", rate(place), "--epochs", self.tasks[task][2], "--preset", "off", *METHODS[method][0]]
        return self.train(task, method, seed, flags, {"lr": rate(place), "place": place})

    def chosen(self, task, method, seed):
        """One run whose learning rate, or all of whose settings, lorafit chooses."""
        flags, has_length = CHOSEN[method]
        result = self.train(task, method, seed, flags + (["--epochs", self.tasks[task][2]] if has_length else []), {})
        settings = tomllib.loads((self.folder / "run/config.toml").read_text())
        result["chose"] = {name: settings[name] for name in ("lr", "rank", "epochs", "patience", "restarts") if name in settings}
        return result

    def train(self, task, method, seed, flags, more):
        out = self.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        data = [self.folder / f"{task}_{part}.jsonl" for part in ("train", "judge")]
        started = time.time()
        self.call("train", "--model", MODEL, "--data", data[0], "--eval-data", data[1], "--out", out, "--seed", seed,
                  "--batch-size", BATCH, "--checkpoint-every", 0, "--no-card", *flags)
        seconds = time.time() - started
        read = lambda name: [json.loads(line) for line in (out / name).read_text().splitlines()]
        steps, losses = read("metrics.jsonl"), read("evaluations.jsonl")
        steps = [step for step in steps if "loss" in step]
        tokens, computing = sum(s["tokens"] for s in steps), sum(s["seconds"] for s in steps)
        return {
            "task": task, "method": method, **more, "seed": seed, "steps": len(steps),
            "base_loss": losses[0]["loss"], "loss": losses[-1]["loss"], "best_loss": min(map(loss_of, losses)),
            "tokens_per_s": tokens / computing, "peak_rss_mib": max(s["peak_rss_bytes"] for s in steps) / 2**20,
            "seconds": round(seconds, 1), "threads": self.args.threads, "busy": os.getloadavg()[0],
            "processor": processor(), "date": datetime.date.today().isoformat(),
        }

    def answers(self, task, method):
        """What the answers of the run that was made last are worth, by metric."""
        out = self.folder / "run"
        model = ["--model", out / "model"] if method == "full" else ["--model", MODEL, "--adapter", out]
        found = self.call("eval", *model, "--data", self.folder / f"{task}_judge.jsonl", "--generate", "--max-new-tokens",
                          48, "--metric", "exact_match", "--metric", "rouge_l", "--json")
        return {name: metric["mean"] for name, metric in json.loads(found)["metrics"].items()}

    def is_over(self):
        return time.time() > self.until


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


# --- the search ---

def read_results():
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def next_run(results, task, method):
    """What to run next of a method on a task: (place, seed), or nothing."""
    of_seed_0 = {r["place"]: loss_of(r) for r in results
                 if (r["task"], r["method"], r["seed"]) == (task, method, SEEDS[0])}
    guess = METHODS[method][1]
    for place in (guess, guess - 1, guess + 1):
        if place not in of_seed_0:
            return place, SEEDS[0]
    best = min(of_seed_0, key=of_seed_0.get)
    for place in (best - 1, best + 1):
        if place not in of_seed_0:
            return place, SEEDS[0]
    if len(of_seed_0) < FEWEST_RATES:
        return best + 2 if of_seed_0[best + 1] < of_seed_0[best - 1] else best - 2, SEEDS[0]
    seeds = {r["seed"] for r in results if (r["task"], r["method"], r.get("place")) == (task, method, best)
             and "answers" in r}
    left = [seed for seed in SEEDS if seed not in seeds]
    return (best, left[0]) if left else None


def loss_of(result):
    return result["loss"] if result["loss"] is not None else float("inf")


def search(runner):
    for task in runner.tasks:
        if runner.args.task and task != runner.args.task:
            continue
        for method in METHODS:
            while (found := next_run(read_results(), task, method)) is not None:
                if runner.is_over():
                    print("time is over; call it again to go on")
                    return
                place, seed = found
                known = [r for r in read_results() if (r["task"], r["method"], r.get("place"), r["seed"]) ==
                         (task, method, place, seed)]
                result = runner.run(task, method, place, seed)
                # The best rate is known now: seeds of it are answered, the first one's run again for it.
                if known or seed != SEEDS[0]:
                    result["answers"] = runner.answers(task, method)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"{task}, {method}, lr {result['lr']}, seed {seed}: loss {result['loss']}, {result['seconds']} s",
                      flush=True)
        for method, seed in itertools.product(CHOSEN, SEEDS):
            made = [(r["task"], r["method"], r["seed"]) for r in read_results()]
            if runner.is_over() or (task, method, seed) in made:
                continue
            result = runner.chosen(task, method, seed)
            result["answers"] = runner.answers(task, method)
            with RESULTS.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{task}, {method}, seed {seed}: {result['chose']}, best loss {result['best_loss']}, {result['seconds']} s", flush=True)
    print("time is over; call it again to go on" if runner.is_over() else "nothing is left to run")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40, help="begin no run after so many minutes")
    parser.add_argument("--task", choices=list(TASKS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--lorafit", default=ROOT / "target/release/lorafit")
    search(Runner(parser.parse_args()))


if __name__ == "__main__":
    main()
