#!/usr/bin/env python3
"""Draws docs/pictures/lora_against_full.svg from docs/data/lora_against_full.jsonl and prints the tables of its page.

    scripts/lora_against_full_figure.py

Needs nothing but Python. Every number of docs/lora_against_full.md that is not in a shown command is one of these.
"""
import math
import statistics

from lora_against_full import METHODS, ROOT, SEEDS, TASKS, loss_of, rate, read_results

PICTURE = ROOT / "docs/pictures/lora_against_full.svg"
TITLES = {"commands": "Commands", "facts": "Facts", "e2e": "E2E"}
COLOURS = {
    "full": "#111827", "lora r=1": "#60a5fa", "lora r=8": "#2563eb", "lora r=64": "#1e3a8a",
    "lora r=8, attention": "#059669", "lora r=64, attention": "#065f46", "dora r=8": "#c2410c",
}
SHOWN = {
    "full": "full", "lora r=1": "LoRA, rank 1", "lora r=8": "LoRA, rank 8", "lora r=64": "LoRA, rank 64",
    "lora r=8, attention": "LoRA, rank 8, attention", "lora r=64, attention": "LoRA, rank 64, attention",
    "dora r=8": "DoRA, rank 8",
}
PANEL, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 300, 250, 46, 30, 44, 50


def first_losses(results, task, method):
    """Loss of the first seed by place of the rate on the grid."""
    return {r["place"]: loss_of(r) for r in results if (r["task"], r["method"], r["seed"]) == (task, method, SEEDS[0])}


def best_runs(results, task, method):
    """The place of the best rate, and the newest run of each seed at it."""
    first = first_losses(results, task, method)
    best = min(first, key=first.get)
    runs = {r["seed"]: r for r in results if (r["task"], r["method"], r.get("place")) == (task, method, best)}
    return best, list(runs.values())


def mean_and_error(values):
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return statistics.mean(values), error


# --- the tables ---

def tables(results):
    for task in TASKS:
        judged = "ROUGE-L" if task == "e2e" else "answered exactly"
        gained = "of the numbers' bits" if task == "facts" else "of full's gain"
        print(f"\n{task}\n| method | best rate | rates tried | held-out loss | against full | {gained} | {judged} |\n|---|---|---|---|---|---|---|")
        full = None
        for method in METHODS:
            first = first_losses(results, task, method)
            if not first:
                continue
            best, runs = best_runs(results, task, method)
            mean, error = mean_and_error([loss_of(r) for r in runs])
            full, base = full or mean, runs[0]["base_loss"]
            # Of the facts: what is gone of the loss of who knows that three digits and an end follow, and nothing of them.
            chance = math.log(1000) / 5
            gain = f"{100 * (1 - mean / chance):.0f} %" if task == "facts" else f"{100 * (base - mean) / (base - full):.1f} %"
            metric = "rouge_l" if task == "e2e" else "exact_match"
            answers = [r["answers"][metric] for r in runs if "answers" in r]
            worth = statistics.mean(answers) if answers else math.nan
            worth = f"{worth:.3f}" if task == "e2e" else f"{100 * worth:.0f} %"
            print(f"| {SHOWN[method]} | {rate(best):g} | {len(first)} | {mean:.4f} ± {error:.4f} | {100 * (mean / full - 1):+.1f} % | {gain} | {worth} |")
    print("\n| method | peak memory, MiB |\n|---|---|")
    for method in METHODS:
        runs = [r["peak_rss_mib"] for r in results if (r["task"], r["method"]) == ("e2e", method)]
        if runs:
            print(f"| {SHOWN[method]} | {max(runs):.0f} |")
    chosen(results)


def chosen(results):
    """What lorafit chose, and what came of it, by task and seed."""
    for method in ("lr auto", "preset good"):
        print(f"\n{method}\n| task | rate | restarts of passes | steps | held-out loss, mean | answered exactly |\n|---|---|---|---|---|---|")
        for task in TASKS:
            runs = [r for r in results if (r["task"], r["method"]) == (task, method)]
            each = lambda read: ", ".join(f"{read(r):g}" for r in runs)
            if runs:
                mean, error = mean_and_error([r["best_loss"] for r in runs])
                passes = f"{runs[0]['chose'].get('restarts', 0)} of {runs[0]['chose']['epochs']:g}"
                exact = 100 * statistics.mean(r["answers"]["exact_match"] for r in runs)
                print(f"| {TITLES[task]} | {each(lambda r: r['chose']['lr'])} | {passes} | {each(lambda r: r['steps'])} "
                      f"| {mean:.4f} ± {error:.4f} ({each(lambda r: round(r['best_loss'], 4))}) | {exact:.0f} % |")


# --- the figure ---

class Panel:
    """Loss over the learning rate, both on a logarithmic scale."""

    def __init__(self, results, task, left):
        self.task, self.left = task, left
        self.series = {m: first_losses(results, task, m) for m in METHODS}
        self.runs = {m: best_runs(results, task, m)[1] for m in METHODS if self.series[m]}
        finite = [loss for of in self.series.values() for loss in of.values() if math.isfinite(loss)]
        finite += [loss_of(r) for of in self.runs.values() for r in of]
        places = [place for of in self.series.values() for place in of]
        # A tenth of the runs may lie above the figure, so that one that diverged does not flatten the others.
        highest = sorted(finite)[int(0.9 * (len(finite) - 1))]
        self.low, self.high = math.log10(min(finite)), math.log10(highest)
        pad = max(0.05 * (self.high - self.low), 0.01)
        self.low, self.high = self.low - pad, self.high + pad
        self.first, self.last = min(places), max(places)

    def x(self, place):
        return self.left + LEFT + (place - self.first) / max(self.last - self.first, 1) * (PANEL - LEFT - 14)

    def y(self, loss):
        share = min((math.log10(loss) - self.low) / (self.high - self.low), 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def ticks(self):
        """Losses that are labelled: 1, 2, 5 of each decade, or the decades alone where these are many."""
        digits = (1,) if self.high - self.low > 2.5 else (1, 2, 5) if self.high - self.low > 0.5 else range(1, 10)
        all_of = [digit * 10.0**power for power in range(-5, 3) for digit in digits]
        shown = [tick for tick in all_of if self.low <= math.log10(tick) <= self.high]
        if len(shown) < 3:
            shown = [round(10 ** (self.low + (self.high - self.low) * part / 4), 2) for part in range(1, 4)]
        return shown

    def draw(self):
        right = self.left + PANEL - 14
        out = [f'<text x="{self.left + LEFT}" y="18" fill="#111827" font-weight="bold">{TITLES[self.task]}</text>']
        for tick in self.ticks():
            y = self.y(tick)
            out.append(f'<line x1="{self.left + LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
            out.append(f'<text x="{self.left + LEFT - 5}" y="{y + 4:.1f}" text-anchor="end" fill="#374151">{tick:g}</text>')
        for place in range(self.first, self.last + 1):
            if place % 3 == 0:
                power = place // 3
                out.append(f'<text x="{self.x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#374151">1e{power}</text>')
                out.append(f'<line x1="{self.x(place):.1f}" x2="{self.x(place):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{(self.left + LEFT + right) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle" fill="#374151">learning rate</text>')
        for method, of in self.series.items():
            points = sorted((place, loss) for place, loss in of.items() if math.isfinite(loss))
            dashes = ' stroke-dasharray="5 3"' if "attention" in method else ""
            path = " ".join(f"{self.x(place):.1f},{self.y(loss):.1f}" for place, loss in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[method]}" stroke-width="1.5"{dashes}/>')
            out += [f'<circle cx="{self.x(place):.1f}" cy="{self.y(loss):.1f}" r="2.5" fill="{COLOURS[method]}">'
                    f'<title>{SHOWN[method]}, {rate(place):g}: {loss:.4f}</title></circle>' for place, loss in points]
        for method, runs in self.runs.items():
            out += [f'<circle cx="{self.x(r["place"]):.1f}" cy="{self.y(loss_of(r)):.1f}" r="4" fill="none" stroke="{COLOURS[method]}">'
                    f'<title>{SHOWN[method]}, seed {r["seed"]}: {loss_of(r):.4f}</title></circle>'
                    for r in runs if r["seed"] != SEEDS[0] and math.isfinite(loss_of(r))]
        return out


def draw(results):
    width = PANEL * len(TASKS)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT + LEGEND}" '
           f'viewBox="0 0 {width} {HEIGHT + LEGEND}" font-family="sans-serif" font-size="12" role="img" '
           'aria-label="Held-out loss by learning rate of full fine-tuning, LoRA and DoRA on three tasks">',
           f'<rect width="{width}" height="{HEIGHT + LEGEND}" fill="#ffffff"/>']
    for number, task in enumerate(TASKS):
        if any(r["task"] == task for r in results):
            out += Panel(results, task, PANEL * number).draw()
    for number, method in enumerate(METHODS):
        x, y = LEFT + number % 4 * 210, HEIGHT + 12 + number // 4 * 20
        dashes = ' stroke-dasharray="5 3"' if "attention" in method else ""
        out.append(f'<line x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}" stroke="{COLOURS[method]}" stroke-width="2"{dashes}/>')
        out.append(f'<text x="{x + 32}" y="{y + 4}" fill="#111827">{SHOWN[method]}</text>')
    out.append("</svg>\n")
    PICTURE.write_text("\n".join(out))
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    found = read_results()
    draw(found)
    tables(found)
