#!/usr/bin/env python3
"""Keeps what `lorafit bench` measured, and draws the speed of a training step over time.

    scripts/bench_figure.py                                   draws docs/pictures/step_speed.svg
    lorafit bench ... --json | scripts/bench_figure.py --add FILE -- COMMAND     appends a line

Needs nothing but Python. A point is a sitting: the median of its figures.
"""
import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs/data/benchmarks/steps.jsonl"
PICTURE = ROOT / "docs/pictures/step_speed.svg"
SHAPE = "smollm2-135m"
COLOURS = {"Zen 4": "#b45309", "Sapphire Rapids": "#1d4ed8", "Zen 5": "#047857"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 56, 150, 24, 40


def processor():
    """What the tables of docs/benchmarks.md call this machine's processor."""
    facts = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    known = {("AuthenticAMD", "25"): "Zen 4", ("AuthenticAMD", "26"): "Zen 5", ("GenuineIntel", "143"): "Sapphire Rapids",
             ("GenuineIntel", "207"): "Sapphire Rapids"}
    vendor = facts.get("vendor_id", "")
    part = facts.get("cpu family" if vendor == "AuthenticAMD" else "model", "")
    return known.get((vendor, part), facts.get("model name", "unknown"))


def add(path, command):
    measured = json.load(sys.stdin)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    words = command.split()
    record = {
        "date": datetime.date.today().isoformat(), "processor": processor(), "commit": commit, "command": command,
        "shape": words[words.index("--shape") + 1], "arithmetic": "bf16" if "--compute-dtype bf16" in command else "f32",
        "threads": measured["threads"], "tokens_per_s": round(measured["tokens_per_s"], 1),
        "peak_mib": round(measured["peak_rss_bytes"] / 2**20),
    }
    with Path(path).open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{record['tokens_per_s']} tokens/s, {record['peak_mib']} MiB")


def points():
    """(processor, arithmetic) -> [(date, tokens/s)], a median for each day."""
    found = {}
    for line in RECORDS.read_text().splitlines():
        record = json.loads(line)
        if record["shape"] == SHAPE:
            of = found.setdefault((record["processor"], record["arithmetic"]), {})
            of.setdefault(datetime.date.fromisoformat(record["date"]), []).append(record["tokens_per_s"])
    return {key: sorted((day, statistics.median(all)) for day, all in of.items()) for key, of in found.items()}


def draw():
    series = points()
    days = [day for of in series.values() for day, _ in of]
    first, last = min(days), max(days)
    span = max((last - first).days, 1)
    most = max(speed for of in series.values() for _, speed in of)
    step = next(step for step in (50, 100, 200, 500, 1000, 2000) if most / step <= 7)
    top = step * -(-most // step)
    x = lambda day: LEFT + (day - first).days / span * (WIDTH - LEFT - RIGHT)
    y = lambda speed: HEIGHT - BOTTOM - speed / top * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12" role="img" '
           'aria-label="Tokens a second of a training step by date and processor">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="14" fill="#111827">tokens/s of a step, SmolLM2-135M shape, 4 x 256, two cores</text>']
    tick = 0
    while tick <= top:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#374151">{tick}</text>')
        tick += step
    labelled = None
    for day in sorted(set(days)):
        # Dates that would overlap are left out.
        if labelled is None or x(day) - x(labelled) > 44:
            out.append(f'<text x="{x(day):.1f}" y="{HEIGHT - 16}" text-anchor="middle" fill="#374151">{day.strftime("%d %b")}</text>')
            labelled = day
    ends = []
    for (name, arithmetic), of in sorted(series.items()):
        colour, dashes = COLOURS.get(name, "#6b7280"), ' stroke-dasharray="5 3"' if arithmetic == "bf16" else ""
        path = " ".join(f"{x(day):.1f},{y(speed):.1f}" for day, speed in of)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>')
        out += [f'<circle cx="{x(day):.1f}" cy="{y(speed):.1f}" r="3.5" fill="{colour}"><title>{day}: {speed:.0f}</title></circle>'
                for day, speed in of]
        ends.append((y(of[-1][1]), x(of[-1][0]), f"{name}, {arithmetic}", colour))
    # Labels in the right margin, moved apart.
    at = -100.0
    for height, end, label, colour in sorted(ends):
        at = max(height, at + 15)
        out.append(f'<line x1="{end + 5:.1f}" y1="{height:.1f}" x2="{WIDTH - RIGHT + 8}" y2="{at:.1f}" stroke="{colour}" stroke-width="0.5"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 12}" y="{at + 4:.1f}" fill="{colour}">{label}</text>')
    out.append("</svg>\n")
    PICTURE.write_text("\n".join(out))
    print(PICTURE.relative_to(ROOT))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", metavar="FILE", help="append what stands on standard input")
    parser.add_argument("command", nargs="*", help="the command that measured it")
    args = parser.parse_args()
    if args.add:
        add(args.add, " ".join(args.command))
    else:
        draw()


if __name__ == "__main__":
    main()
