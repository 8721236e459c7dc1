"""Runs the launches of a folder that the example `ptx_cases` wrote, and holds their results to f64.

    check.py FOLDER            everything
    check.py FOLDER --short    attention with heads of 64 and 128 values, a gate, gradients of a term, NF4 and Q4_K: about a minute
"""

import argparse
import pathlib
import re
import sys
import time

import numpy as np

import ptx

BASE = 0x7000_0000_0000
# What a result may be apart from f64's, relative to the norm of it all. Rounding to bf16 is 2^-9 at most of each value; inputs of
# the last product are rounded as well.
OF_ATTENTION = 5e-3


class Case:
    def __init__(self, words):
        self.words, self.segments, self.buffers, self.launches = words, [], {}, []

    @property
    def name(self):
        return " ".join(self.words)


def read_cases(path):
    cases = []
    for line in path.read_text().splitlines():
        word, *rest = line.split()
        if word == "case":
            cases.append(Case(rest))
        elif word == "segment":
            cases[-1].segments.append([int(number) for number in rest])
        elif word == "buffer":
            holds = bytes.fromhex(rest[3]) if len(rest) > 3 else b"\xff" * int(rest[2])
            cases[-1].buffers[rest[0]] = (int(rest[1]), np.frombuffer(holds, np.uint8).copy())
        elif word == "launch":
            *numbers, threads, shared = (int(number) for number in rest[:5])
            entry = " ".join(rest[5:])
            cases[-1].launches.append({"entry": entry, "grid": numbers, "threads": threads, "shared": shared, "words": []})
        else:
            cases[-1].launches[-1]["words"].append((word, [int(number) for number in rest]))
    return cases


class Kernels:
    """The kernels of a folder's modules, by entries."""

    def __init__(self, folder):
        self.texts, self.known = {}, {}
        for path in folder.glob("*-compute_*.module"):
            head, module = path.read_bytes().split(b"\n\n", 1)
            texts = ptx.kernels(module.rstrip(b"\0").decode())
            for line in head.decode().splitlines():
                entry, name = line.split("\t")
                self.texts[entry] = texts[name]

    def get(self, entry, fault=None):
        if fault:
            return ptx.Kernel(*self.texts[entry], faults=[fault])
        if entry not in self.known:
            self.known[entry] = ptx.Kernel(*self.texts[entry])
        return self.known[entry]


def run(case, kernels, launch, seed, fault=None):
    """Runs a launch; its regions are parts of the case's buffers."""
    regions, arguments = [], []
    for word, numbers in launch["words"]:
        if word == "number":
            arguments.append(numbers[0])
            continue
        offset, length = numbers
        start, data = next(b for b in case.buffers.values() if b[0] <= offset and offset + length <= b[0] + len(b[1]))
        regions.append((BASE + offset, data[offset - start : offset - start + length], word != "in"))
        arguments.append(BASE + offset)
    kernel = kernels.get(launch["entry"], fault)
    return ptx.run(kernel, launch | {"memory": ptx.Memory(regions), "arguments": arguments}, seed)


def visible(case, tokens):
    """Whether a token sees another: its ancestors' and, of its own segment, those up to itself."""
    seen = np.zeros((tokens, tokens), bool)
    for start, length, parent in case.segments:
        for token in range(start, start + length):
            seen[token, start : token + 1] = True
            at = parent
            while at >= 0:
                first, count, above = case.segments[at]
                seen[token, first : first + count] = True
                at = above
    return seen


def turned(x, angles):
    """Pairs of halves of heads, [tokens, heads, dim], turned by the angles of their tokens."""
    low, high = np.split(x, 2, axis=-1)
    cosine, sine = (of(angles.astype(np.float64))[:, None] for of in (np.cos, np.sin))
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], -1)


def attention(case, tokens, heads, kv_heads, dim):
    """Fills the inputs; gives all outputs in f64. Queries are turned by forward where the case has angles, keys before."""
    chance = np.random.default_rng(dim + tokens)
    inputs = {}
    for name in ("q", "k", "v", "d_out"):
        of = kv_heads if name in ("k", "v") else heads
        bits = ptx.bf16_bits(chance.standard_normal((tokens, of, dim)).astype(np.float32)).astype(np.uint16)
        case.buffers[name][1][:] = bits.view(np.uint8).reshape(-1)
        values = ptx.bf16_values(bits).astype(np.float64)
        inputs[name] = np.repeat(values, heads // of, 1)
    q, k, v, d_out = (inputs[name] for name in ("q", "k", "v", "d_out"))
    back = lambda x: x
    if "cosine" in case.buffers:
        angles = chance.uniform(0, 2 * np.pi, (tokens, dim // 2)).astype(np.float32)
        for name, of in (("cosine", np.cos), ("sine", np.sin)):
            case.buffers[name][1][:] = of(angles).astype(np.float32).view(np.uint8).reshape(-1)
        q = ptx.bf16_values(ptx.bf16_bits(turned(q, angles).astype(np.float32))).astype(np.float64)
        back = lambda x: turned(x, -angles)
    scale = 1 / np.sqrt(np.float32(dim))
    scores = np.where(visible(case, tokens), np.einsum("ihd,jhd->hij", q, k) * scale, -np.inf)
    most = scores.max(-1, keepdims=True)
    total = np.exp(scores - most).sum(-1, keepdims=True)
    weights = np.exp(scores - most) / total
    out = np.einsum("hij,jhd->ihd", weights, v)
    d_weights = np.einsum("ihd,jhd->hij", d_out, v)
    d_scores = weights * (d_weights - (d_out * out).sum(-1).T[..., None]) * scale
    shared = lambda x: x.reshape(tokens, kv_heads, heads // kv_heads, dim).sum(2)
    return {
        "out": out,
        "lse": (most + np.log(total))[..., 0].T,
        "q": q,
        "d_q": back(np.einsum("hij,jhd->ihd", d_scores, k)),
        "d_k": back(shared(np.einsum("hij,ihd->jhd", d_scores, q))),
        "d_v": shared(np.einsum("hij,ihd->jhd", weights, d_out)),
    }


def apart(found, expected):
    distance = np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)
    return float(distance) if np.isfinite(distance) else np.inf


def check_attention(case, kernels, seed, fault=None):
    """How far outputs are from f64's; with a fault in the forward kernel, its outputs alone."""
    expected = attention(case, *(int(word) for word in case.words[1:]))
    steps = 0
    for i, launch in enumerate(case.launches[:1] if fault else case.launches):
        steps += run(case, kernels, launch, seed + i, fault)
    errors = {}
    for name, values in expected.items():
        if fault and name not in ("q", "out", "lse"):
            continue
        bits = case.buffers[name][1]
        found = bits.view(np.float32) if name == "lse" else ptx.bf16_values(bits.view(np.uint16))
        errors[name] = apart(found.reshape(values.shape), values)
    return errors, steps


def check_gate(case, kernels, seed):
    """How far the gradients of a gate, and the product of its output, are from f64's."""
    rows, width, rank = (int(word) for word in case.words[1:])
    chance = np.random.default_rng(rows)
    inputs = {}
    for name, columns in (("d_y", width), ("gate", width), ("up", width), ("left", rank)):
        bits = ptx.bf16_bits(chance.standard_normal((rows, columns)).astype(np.float32)).astype(np.uint16)
        case.buffers[name][1][:] = bits.view(np.uint8).reshape(-1)
        inputs[name] = ptx.bf16_values(bits).astype(np.float64)
    before = chance.standard_normal((rank, width)).astype(np.float32)
    case.buffers["product"][1][:] = before.view(np.uint8).reshape(-1)
    steps = sum(run(case, kernels, launch, seed + i) for i, launch in enumerate(case.launches))
    part = 1 / (1 + np.exp(-inputs["gate"]))
    silu = inputs["gate"] * part
    expected = {
        "gate": inputs["d_y"] * inputs["up"] * (part + silu * (1 - part)),
        "up": inputs["d_y"] * silu,
        "product": before + inputs["left"].T @ (silu * inputs["up"]),
    }
    errors = {}
    for name, values in expected.items():
        bits = case.buffers[name][1]
        found = bits.view(np.float32) if name == "product" else ptx.bf16_values(bits.view(np.uint16))
        errors[name] = apart(found.reshape(values.shape), values)
    return errors, steps


def check_term(case, kernels, seed):
    """How far the gradients of a low-rank term are from f64's."""
    rows, width, rank = (int(word) for word in case.words[1:])
    chance = np.random.default_rng(rows)
    inputs = {}
    for name, shape in (("d_y", (rows, width)), ("u", (rows, rank)), ("b_t", (rank, width))):
        bits = ptx.bf16_bits(chance.standard_normal(shape).astype(np.float32)).astype(np.uint16)
        case.buffers[name][1][:] = bits.view(np.uint8).reshape(-1)
        inputs[name] = ptx.bf16_values(bits).astype(np.float64)
    before = chance.standard_normal((rank, width)).astype(np.float32)
    case.buffers["d_b_t"][1][:] = before.view(np.uint8).reshape(-1)
    steps = sum(run(case, kernels, launch, seed + i) for i, launch in enumerate(case.launches))
    d_u = 0.5 * inputs["d_y"] @ inputs["b_t"].T
    d_b_t = before + inputs["u"].T @ inputs["d_y"]
    found = ptx.bf16_values(case.buffers["d_u"][1].view(np.uint16)).reshape(d_u.shape)
    of_factor = case.buffers["d_b_t"][1].view(np.float32).reshape(d_b_t.shape)
    return {"d_u": apart(found, d_u), "d_b_t": apart(of_factor, d_b_t)}, steps


def check_decoding(case, kernels, seed):
    steps = sum(run(case, kernels, launch, seed + i) for i, launch in enumerate(case.launches))
    expected = case.buffers["expected"][1].view(np.float32)
    found, rounded = case.buffers["float"][1].view(np.float32), case.buffers["bf16"][1].view(np.uint16)
    # Where the compiler joins a product and a sum, as in doubly quantised scales, a scale is rounded once less.
    same = found == expected
    near = np.abs(found - expected) <= np.abs(expected).max() * 2.0**-23
    steps_apart = np.abs(rounded.astype(np.int64) - ptx.bf16_bits(expected))
    wrong = {"float": int((~near).sum()), "bf16": int((steps_apart > np.where(same, 0, 1)).sum())}
    return wrong, int((~same).sum()), steps


def replaced(pattern, by, count=0):
    """A fault: lines that are changed. That there is none would test nothing."""

    def plant(lines):
        changed, done = [], 0
        for line in lines:
            new = re.sub(pattern, by, line) if not count or done < count else line
            done += new != line
            changed.append(new)
        assert done, f"no line matches {pattern}"
        return changed

    return plant


def without_barrier(which):
    """A fault: the barrier of that number is left out."""

    def plant(lines):
        found = [i for i, line in enumerate(lines) if is_barrier(line)]
        lines[found[which]] = "mov.pred %p1, %p1;"
        return lines

    return plant


def is_barrier(line):
    return re.match(r"bar\.sync|barrier\.", line) is not None


def faults(kernel):
    """By names. What comes after a fault that is seen is not run."""
    planted = {
        "halves of pairs are swapped": replaced(r"(cvt\.rn\.bf16x2\.f32 \S+), (\S+), (\S+);", r"\1, \3, \2;"),
        "a matrix is not transposed": replaced(r"\.x4\.trans", ".x4"),
        "a power is not taken": replaced(r"ex2\.approx\.ftz\.f32 (\S+), (\S+);", r"neg.f32 \1, \2;", 1),
        "copies are waited for too late": replaced(r"cp\.async\.wait_group\s+1", "cp.async.wait_group 2"),
        "copies are not waited for": replaced(r"cp\.async\.wait_group\s+\d+", "cp.async.wait_group 9"),
    }
    for i in range(sum(map(is_barrier, kernel.lines))):
        planted[f"barrier {i + 1} is missing"] = without_barrier(i)
    return planted


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("folder", type=pathlib.Path)
    flags.add_argument("--short", action="store_true")
    flags = flags.parse_args()
    kernels, cases = Kernels(flags.folder), read_cases(flags.folder / "cases.txt")
    assert cases and kernels.texts, "nothing to run"
    started, failed = time.time(), 0

    def tell(name, passed, what, began):
        nonlocal failed
        failed += not passed
        print(f"{'passed' if passed else 'FAILED'}  {name}: {what}, {time.time() - began:.1f} s", flush=True)

    for case in cases:
        kind, *rest = case.words
        short = {
            "attention": rest[-1] in ("64", "128"),
            "gate": rest[-1] == "16",
            "term": rest[-1] == "16",
            "decode": rest[0] in ("nf4", "Q4_K"),
        }
        if flags.short and not short[kind]:
            continue
        began = time.time()
        try:
            if kind != "decode":
                check = {"attention": check_attention, "gate": check_gate, "term": check_term}[kind]
                errors, steps = check(case, kernels, seed=1)
                passed = max(errors.values()) < OF_ATTENTION
                what = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            else:
                wrong, apart_by_a_bit, steps = check_decoding(case, kernels, seed=1)
                passed = not any(wrong.values())
                what = "to the bits of the processor" if passed else f"other values: {wrong}"
                what += f", but for the last bits of {apart_by_a_bit} in f32" if apart_by_a_bit else ""
            what += f" ({steps:,} instructions of warps)"
        except ptx.Fault as fault:
            passed, what = False, str(fault)
        tell(case.name, passed, what, began)
    first = next(case for case in cases if case.words[0] == "attention")
    for name, fault in faults(kernels.get(first.launches[0]["entry"])).items():
        began = time.time()
        try:
            errors, _ = check_attention(first, kernels, 1, fault)
            caught, what = max(errors.values()) > OF_ATTENTION, f"caught by its results, {max(errors.values()):.1e} apart"
        except ptx.Fault as told:
            caught, what = True, f"caught: {str(told)[:150]}"
        tell(f"planted: {name}", caught, what if caught else "NOT caught", began)
    print(f"{failed} failed, {time.time() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
