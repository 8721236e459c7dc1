"""Instructions that a warp of an attention kernel issues for a tile, against the time of its tensor cores.

Needs no GPU: NVRTC compiles the kernels and nvdisasm shows their machine code.
    pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm
    python3 scripts/attention_slots.py [ARCHITECTURE ...]

A tile is one round of the loop that multiplies. Of its paths the shortest that has all products and copies counts: that of a
tile that no mask cuts, in a segment without ancestors, whose powers need no larger shift. Loops inside that copy run as often as
the tile has copies; others run once. A scheduler issues an instruction a cycle, and an m16n8k16 product takes a tensor core of Hopper 4 cycles: 1024 multiply-adds a
cycle and multiprocessor for each of its four cores is its peak.
"""

import ctypes
import glob
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CYCLES_OF_A_PRODUCT = 4
THREADS = 128
SOURCES = Path(__file__).parent.parent / "crates/kernels/src"
TEXT = "".join(
    f'#line 1 "{name}"\n' + (SOURCES / name).read_text()
    for name in ["cuda/ptx.cuh", "cuda/device.cuh", "ops/attention/cuda.cu"]
)


def installed(pattern):
    found = [file for folder in sys.path for file in glob.glob(f"{folder}/nvidia/{pattern}")]
    if not found:
        sys.exit(f"nvidia/{pattern} is not installed: see the head of this file")
    return found[0]


def compiled(entry, architecture):
    """The cubin of an entry, and the mangled name of its kernel."""
    nvrtc = ctypes.CDLL(installed("*/lib/libnvrtc.so.1[0-9]"))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), TEXT.encode(), b"attention.cu", 0, None, None)
    nvrtc.nvrtcAddNameExpression(program, entry.encode())
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if failed:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"{entry}: {log.value.decode()}")
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    name = ctypes.c_char_p()
    nvrtc.nvrtcGetLoweredName(program, entry.encode(), ctypes.byref(name))
    return cubin.raw, name.value.decode()


def disassembled(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = installed("*/bin/nvdisasm")
        return subprocess.run([tool, "-c", file.name], check=True, capture_output=True, text=True).stdout


def blocks_of(text, name):
    """Basic blocks of a kernel: instructions and the blocks that may follow."""
    body = text.split(f".text.{name}:", 1)[1].split("\n\t.section", 1)[0]
    lines, labels = [], {}
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(instruction[1].strip())
    targets = {}
    for i, line in enumerate(lines):
        if re.search(r"\bBRA\b", line) and (label := re.search(r"`\((\.L_x_\d+)\)", line)):
            targets[i] = labels[label[1]]
    starts = sorted({0, *labels.values(), *(i + 1 for i in targets)} - {len(lines)})
    blocks = []
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        last, after = lines[end - 1], []
        if end - 1 in targets:
            after.append(starts.index(targets[end - 1]))
        conditional = last.startswith("@") or re.search(r"\bBRA\b.*\bU?P\d", last)
        if not re.search(r"\b(BRA|EXIT|RET)\b", last) or conditional:
            if end < len(lines):
                after.append(starts.index(end))
        blocks.append((lines[start:end], after))
    return blocks


def count(blocks, pattern, among=None):
    chosen = range(len(blocks)) if among is None else among
    return sum(bool(re.search(pattern, line)) for b in chosen for line in blocks[b][0])


def loops_of(blocks):
    """Natural loops by their heads, from edges back in the order of the text."""
    loops = {}
    before = {b: [a for a, (_, after) in enumerate(blocks) if b in after] for b in range(len(blocks))}
    for tail, (_, after) in enumerate(blocks):
        for head in after:
            if head <= tail:
                inside, open_ = {head}, [tail]
                while open_:
                    b = open_.pop()
                    if b not in inside:
                        inside.add(b)
                        open_ += [a for a in before[b] if a >= head]
                loops.setdefault(head, set()).update(inside)
    return loops


def tile_loops(blocks):
    """The loops that multiply tiles, innermost around all products of one: by heads, and all loops."""
    loops = loops_of(blocks)
    products = {head: count(blocks, r"\bHMMA", loop) for head, loop in loops.items()}
    multiply = [head for head in loops if products[head] > 0]
    return [head for head in multiply if not any(loops[other] < loops[head] for other in multiply)], loops


def slots(blocks, tile, loops, copies):
    """Instructions of a tile, and its products."""
    inside = loops[tile]
    inner = {head: loop for head, loop in loops.items() if head != tile and loop < inside}
    copied = count(blocks, r"\bLDGSTS", inside)
    in_loops = {b for loop in inner.values() for b in loop if count(blocks, r"\bLDGSTS", loop)}
    straight = copied - count(blocks, r"\bLDGSTS", in_loops)
    rounds = max(1.0, (copies - straight) / max(1, count(blocks, r"\bLDGSTS", in_loops)))
    # Of each block the products, copies and instructions of the best way there.
    best = {tile: (0, 0, 0.0)}
    result = None

    def rank(way):
        return -way[0], -way[1], way[2]

    for b in sorted(inside):
        if b not in best:
            continue
        products, copied, instructions = best[b]
        products += count(blocks, r"\bHMMA", [b])
        copied += count(blocks, r"\bLDGSTS", [b])
        instructions += len(blocks[b][0]) * (rounds if b in in_loops else 1)
        for after in blocks[b][1]:
            way = (products, copied, instructions)
            if after == tile:
                result = min(result or way, way, key=rank)
            elif after in inside and after > b:
                best[after] = min(best.get(after, way), way, key=rank)
    return result[2], result[0]


def main():
    architectures = sys.argv[1:] or ["80", "90"]
    print(f"{'tile of':<32} {'':>6} {'slots':>7} {'products':>9} {'slots / tensor cycles':>22}")
    for dim in [64, 128]:
        inner = 64 if dim <= 64 else 32
        # Of the two loops of backward that of the queries has three products, the other four.
        for entry, tiles, rows in [
            (f"attention_forward<{dim}>", ["forward"], 2 * 64),
            (f"attention_backward<{dim}, {dim}>", ["gradient of queries", "gradients of keys and values"], 2 * inner),
        ]:
            for architecture in architectures:
                cubin, name = compiled(entry, architecture)
                blocks = blocks_of(disassembled(cubin), name)
                heads, loops = tile_loops(blocks)
                counted = sorted((slots(blocks, head, loops, rows * dim // 8 / THREADS) for head in heads), key=lambda s: s[1])
                assert len(counted) == len(tiles), f"{entry}: {len(counted)} loops"
                for tile, (instructions, products) in zip(tiles, counted):
                    ratio = instructions / (products * CYCLES_OF_A_PRODUCT)
                    what = f"{tile}, {dim}"
                    print(f"{what:<32} sm_{architecture} {instructions:>7.0f} {products:>9} {ratio:>22.2f}")


if __name__ == "__main__":
    main()
