"""Runs PTX on the processor, by the text of the PTX manual and not by the wrappers of `tests/cuda_shim`.

A warp is 32 lanes of numpy arrays. Where lanes part, those with the least program counter go first. Warps run in random order,
some instructions at a time. What a device may do late is done late: the target of an asynchronous copy is not a number until the
thread that began the copy waits for it. It reports these faults: an access outside the regions of a launch, an unaligned one, a
write to what is only read; a byte of shared memory that two warps use, one of them writing, without a barrier between; lanes or
warps that wait for others which never come; copies that nobody waits for.

What it does not have: time, and orders of lanes within a warp (which run together wherever the program lets them).
"""

import random
import re

import numpy as np

np.seterr(all="ignore")

LANES = 32
ALL = np.ones(LANES, bool)
LANE = np.arange(LANES)
TYPES = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "b32": np.uint32,
    "u32": np.uint32, "s32": np.int32, "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f16": np.float16,
    "f32": np.float32, "f64": np.float64,
}
BITS = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "f32": np.uint32, "f64": np.uint64}


class Fault(Exception):
    """What a device would not do, or not do alike every time."""


def bf16_bits(values):
    """Rounded to nearest even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint32)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded)


def bf16_values(bits):
    return (np.asarray(bits, np.uint32) << 16).view(np.float32)


class Memory:
    """Regions of a launch: address, bytes, whether they are written to."""

    def __init__(self, regions):
        self.regions = sorted(regions, key=lambda region: region[0])

    def find(self, first, last, size, writes, what):
        for base, data, writable in self.regions:
            if base <= first and last + size <= base + len(data):
                if writes and not writable:
                    raise Fault(f"{what}: writes to what is only read")
                return data, base
        raise Fault(f"{what}: {size} bytes at {first:#x} are outside of the launch's regions")

    def places(self, addresses, size, mask, writes, what):
        """Pairs of lanes and the region with the offsets that they have there."""
        used = addresses[mask].astype(np.int64)
        if (used % size).any():
            raise Fault(f"{what}: {size} bytes that are not aligned")
        lanes = np.nonzero(mask)[0]
        try:
            data, base = self.find(int(used.min()), int(used.max()), size, writes, what)
            return [(lanes, data, used - base)]
        except Fault:
            found = [self.find(int(at), int(at), size, writes, what) for at in used]
            return [(lanes[i : i + 1], data, used[i : i + 1] - base) for i, (data, base) in enumerate(found)]

    def load(self, addresses, size, mask, what):
        out = np.zeros((LANES, size), np.uint8)
        for lanes, data, offsets in self.places(addresses, size, mask, False, what):
            out[lanes] = data[offsets[:, None] + np.arange(size)]
        return out

    def store(self, addresses, values, mask, what):
        size = values.shape[1]
        for lanes, data, offsets in self.places(addresses, size, mask, True, what):
            data[offsets[:, None] + np.arange(size)] = values[lanes]


class Shared:
    """Shared memory of a block, which holds no number until it is written; sees who uses a byte between two barriers."""

    def __init__(self, size):
        self.data = np.full(size, 0xFF, np.uint8)
        self.epoch = 1
        self.written = np.zeros(size, np.int64)
        self.writer = np.full(size, -1, np.int64)
        self.read = np.zeros(size, np.int64)
        self.readers = np.zeros(size, np.uint64)

    def places(self, offsets, size, what):
        offsets = np.asarray(offsets, np.int64)
        if (offsets % size).any():
            raise Fault(f"{what}: {size} bytes of shared memory that are not aligned")
        if len(offsets) and (offsets.min() < 0 or offsets.max() + size > len(self.data)):
            raise Fault(f"{what}: outside of {len(self.data)} bytes of shared memory")
        return offsets[:, None] + np.arange(size)

    def load(self, warp, offsets, size, what):
        at = self.places(offsets, size, what)
        if ((self.written[at] == self.epoch) & (self.writer[at] != warp)).any():
            raise Fault(f"{what}: warp {warp} reads what another wrote, without a barrier between")
        now = self.read[at] == self.epoch
        self.readers[at] = np.where(now, self.readers[at], np.uint64(0)) | np.uint64(1 << warp)
        self.read[at] = self.epoch
        return self.data[at]

    def store(self, warp, offsets, values, what):
        at = self.places(offsets, values.shape[1], what)
        others = self.readers[at] & np.uint64(~(1 << warp) & (1 << 64) - 1)
        if ((self.read[at] == self.epoch) & (others != 0)).any():
            raise Fault(f"{what}: warp {warp} writes what another reads, without a barrier between")
        if ((self.written[at] == self.epoch) & (self.writer[at] != warp)).any():
            raise Fault(f"{what}: warp {warp} writes what another wrote, without a barrier between")
        self.written[at], self.writer[at] = self.epoch, warp
        self.data[at] = values


def operands(text):
    """Parts between commas, of which those in braces and brackets are none."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += character in "{[("
        depth -= character in "}])"
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    if text[start:].strip():
        parts.append(text[start:].strip())
    return parts


def members(text):
    return [part.strip() for part in text.strip("{} ").split(",")]


class Kernel:
    """A kernel: its parameters, registers, static shared memory, and instructions as functions."""

    def __init__(self, parameters, body, faults=()):
        self.parameters = [(p.split()[1].lstrip("."), p.split()[-1]) for p in operands(parameters)]
        self.registers, self.shared, self.labels, lines = {}, {}, {}, []
        end = 0
        for line in body.splitlines():
            line = line.split("//")[0].strip()
            for count in re.finditer(r"\.reg \.(\w+)\s+%(\w+?)<(\d+)>;", line):
                self.registers[count[2]] = (BITS[count[1]], int(count[3]))
            if found := re.match(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];", line):
                end = -(-end // int(found[1])) * int(found[1])
                self.shared[found[2]] = end
                end += int(found[3])
            if found := re.match(r"(\$\w+):", line):
                self.labels[found[1]] = len(lines)
                line = line[found.end() :].strip()
            line = re.sub(r"^[{}\s]+", "", line) if not line.startswith("{%") else line
            if line and not line.startswith("."):
                lines.append(line)
        self.dynamic = -(-end // 128) * 128
        self.lines = [line.rstrip("} ").strip() for line in lines]
        for plant in faults:
            self.lines = plant(self.lines)
        self.code = [self.decode(line) for line in self.lines]

    def decode(self, line):
        found = re.match(r"(?:@(!?)%(\w+?)(\d+)\s+)?([a-z][\w.:]*)\s*(.*);$", line, re.S)
        if not found:
            raise Fault(f"not an instruction: {line!r}")
        negated, prefix, number, name, rest = found.groups()
        guard = (prefix, int(number), negated == "!") if prefix else None
        return guard, name, operands(rest), line, Decoder(self, line).of(name, operands(rest))


def kernels(text, faults=()):
    """The kernels of a text, by their names in it."""
    entries = re.finditer(r"\.entry (\w+)\((.*?)\)\s*(?:\.\w+[^\n{]*\n)*\{\n(.*?)\n\}", text, re.S)
    # Shared memory that several kernels declare by one function stands before all of them.
    declared = re.findall(r"^\.shared \.align \d+ \.b8 (\w+)\[\d+\];", text, re.M)
    lines = {name: re.search(rf"^\.shared .*{re.escape(name)}\[.*$", text, re.M)[0] for name in declared}

    def body(text):
        return "\n".join([line for name, line in lines.items() if name in text] + [text])

    return {entry[1]: (entry[2], body(entry[3])) for entry in entries}


class Decoder:
    """Makes a function of an instruction, called with the block, a warp and the mask of its lanes."""

    def __init__(self, kernel, line):
        self.kernel, self.line = kernel, line

    def register(self, text):
        found = re.match(r"%([a-z]+)(\d+)$", text)
        if not found or found[1] not in self.kernel.registers:
            raise Fault(f"{self.line}: no register {text}")
        return found[1], int(found[2])

    def source(self, text, kind):
        """A function from block and warp to 32 values of a type."""
        if found := re.match(r"%(tid|ntid|ctaid|nctaid)\.([xyz])$", text):
            axis, of = "xyz".index(found[2]), found[1]
            dtype = TYPES[kind]
            return lambda block, warp: block.special(of, axis, warp).astype(dtype)
        if text.startswith("%"):
            prefix, i = self.register(text)
            if kind == "pred":
                return lambda block, warp: warp.files[prefix][i]
            dtype, bits = TYPES[kind], self.kernel.registers[prefix][0]
            ratio = np.dtype(bits).itemsize // np.dtype(dtype).itemsize
            if ratio == 1:
                return lambda block, warp: warp.files[prefix][i].view(dtype)
            if ratio < 1:
                raise Fault(f"{self.line}: {text} is narrower than {kind}")
            return lambda block, warp: warp.files[prefix][i].view(dtype)[::ratio]
        if kind == "pred":
            constant = np.full(LANES, int(text) != 0)
            return lambda block, warp: constant
        dtype = np.dtype(TYPES[kind])
        if re.match(r"0f[0-9A-Fa-f]{8}$", text):
            constant = np.full(LANES, int(text[2:], 16), np.uint32).view(np.float32)
            constant = constant if dtype.kind == "f" else constant.view(dtype)
        elif re.match(r"0d[0-9A-Fa-f]{16}$", text):
            constant = np.full(LANES, int(text[2:], 16), np.uint64).view(np.float64)
        elif re.match(r"-?(0x)?[0-9a-fA-F]+U?$", text) and not text.startswith("$"):
            number = int(text.rstrip("U"), 0) & ((1 << (8 * dtype.itemsize)) - 1)
            constant = np.full(LANES, number, f"u{dtype.itemsize}").view(dtype)
        elif text in self.kernel.shared:
            constant = np.full(LANES, self.kernel.shared[text]).astype(dtype)
        elif re.match(r"\w+$", text):
            # The only name that is left is that of the dynamic shared memory.
            constant = np.full(LANES, self.kernel.dynamic).astype(dtype)
        else:
            raise Fault(f"{self.line}: operand {text}")
        return lambda block, warp: constant

    def target(self, text):
        """A function that writes values of the width of a register; narrower ones are extended by their sign."""
        if text == "_":
            return lambda warp, mask, values: None
        prefix, i = self.register(text)
        bits = np.dtype(self.kernel.registers[prefix][0])

        def put(warp, mask, values):
            if values.dtype != bits:
                if values.dtype.itemsize == bits.itemsize and bits.kind != "b":
                    values = np.ascontiguousarray(values).view(bits)
                else:
                    values = (values.astype(np.int64) if values.dtype.kind == "i" else values).astype(bits)
            row = warp.files[prefix][i]
            if mask is ALL:
                row[:] = values
            else:
                np.copyto(row, values, where=mask)

        return put

    def address(self, text):
        found = re.match(r"\[\s*([^\]+\s]+)\s*(?:\+\s*(-?\d+))?\s*\]$", text)
        base, offset = found[1], int(found[2] or 0)
        wide = not base.startswith("%") or self.kernel.registers[self.register(base)[0]][0] == np.uint64
        source = self.source(base, "u64" if wide else "u32")
        return lambda block, warp: source(block, warp).astype(np.int64) + offset

    def of(self, name, ops):
        parts = name.split(".")
        family = parts[0]
        method = getattr(self, "op_" + family, None)
        if method is None:
            raise Fault(f"an instruction that is not known: {self.line}")
        return method(parts, ops)

    def simple(self, ops, kinds, compute):
        sources = [self.source(op, kind) for op, kind in zip(ops[1:], kinds)]
        put = self.target(ops[0])
        return lambda block, warp, mask: put(warp, mask, compute(*(source(block, warp) for source in sources)))

    # -- control; the block steps these itself

    def op_bra(self, parts, ops):
        return None

    op_ret = op_exit = op_bar = op_barrier = op_bra

    # -- moves and memory

    def op_mov(self, parts, ops):
        kind = parts[-1]
        half = {"b32": "b16", "b64": "b32"}.get(kind)
        if ops[1].startswith("{"):
            low, high = (self.source(op, half) for op in members(ops[1]))
            put, dtype = self.target(ops[0]), TYPES[kind]
            shift = dtype(8 * np.dtype(dtype).itemsize // 2)
            return lambda block, warp, mask: put(
                warp, mask, low(block, warp).astype(dtype) | high(block, warp).astype(dtype) << shift
            )
        if ops[0].startswith("{"):
            source, (low, high) = self.source(ops[1], kind), (self.target(op) for op in members(ops[0]))
            narrow, shift = TYPES[half], TYPES[kind](4 * np.dtype(TYPES[kind]).itemsize)

            def split(block, warp, mask):
                values = source(block, warp)
                lower, upper = values.astype(narrow), (values >> shift).astype(narrow)
                low(warp, mask, lower)
                high(warp, mask, upper)

            return split
        return self.simple(ops, [kind], lambda x: x)

    def op_cvta(self, parts, ops):
        # Addresses of shared memory are small numbers; those of global memory are what they are everywhere.
        return self.simple(ops, [parts[-1]], lambda x: x)

    def op_ld(self, parts, ops):
        kind = parts[-1]
        dtype = np.dtype(TYPES[kind])
        if parts[1] == "param":
            found, put = re.match(r"\[(\w+)(?:\+(\d+))?\]", ops[1]), self.target(ops[0])
            names = [name for _, name in self.kernel.parameters]
            i = names.index(found[1])
            return lambda block, warp, mask: put(
                warp, mask, np.full(LANES, block.arguments[i], np.uint64).view(dtype)[:: 8 // dtype.itemsize]
            )
        targets = [self.target(op) for op in members(ops[0])]
        address, size, line = self.address(ops[1]), dtype.itemsize * len(targets), self.line
        is_shared = "shared" in parts

        def load(block, warp, mask):
            at = address(block, warp)
            if is_shared:
                data = np.zeros((LANES, size), np.uint8)
                data[mask] = block.shared.load(warp.number, at[mask], size, line)
            else:
                data = block.memory.load(at, size, mask, line)
            for i, put in enumerate(targets):
                part = np.ascontiguousarray(data[:, i * dtype.itemsize : (i + 1) * dtype.itemsize])
                put(warp, mask, part.view(dtype).reshape(LANES))

        return load

    def op_st(self, parts, ops):
        kind = parts[-1]
        sources = [self.source(op, kind) for op in members(ops[1])]
        address, line, is_shared = self.address(ops[0]), self.line, "shared" in parts

        def store(block, warp, mask):
            at = address(block, warp)
            values = [np.ascontiguousarray(source(block, warp)).view(np.uint8).reshape(LANES, -1) for source in sources]
            values = np.concatenate(values, 1)
            if is_shared:
                block.shared.store(warp.number, at[mask], values[mask], line)
            else:
                block.memory.store(at, values, mask, line)

        return store

    def op_cp(self, parts, ops):
        line = self.line
        if "commit_group" in parts:

            def commit(block, warp, mask):
                for lane in np.nonzero(mask)[0]:
                    warp.groups[lane].append(warp.open[lane])
                    warp.open[lane] = []

            return commit
        if "wait_group" in parts or "wait_all" in parts:
            left = int(ops[0]) if ops else 0

            def wait(block, warp, mask):
                for lane in np.nonzero(mask)[0]:
                    while len(warp.groups[lane]) > left:
                        for at, values in warp.groups[lane].pop(0):
                            block.shared.store(warp.number, [at], values, line)

            return wait
        to, source, size = self.address(ops[0]), self.address(ops[1]), int(ops[2])
        there = self.source(ops[3], "u32") if len(ops) > 3 else self.source(str(size), "u32")

        def begin(block, warp, mask):
            targets, sources, counts = to(block, warp), source(block, warp), there(block, warp)
            read = mask & (counts > 0)
            values = np.zeros((LANES, size), np.uint8)
            if read.any():
                if (counts[read] != size).any():
                    raise Fault(f"{line}: copies a part")
                values = block.memory.load(sources, size, read, line)
            block.shared.store(warp.number, targets[mask], np.full((int(mask.sum()), size), 0xFF, np.uint8), line)
            for lane in np.nonzero(mask)[0]:
                warp.open[lane].append((int(targets[lane]), values[lane : lane + 1]))

        return begin

    def op_ldmatrix(self, parts, ops):
        address, targets = self.address(ops[1]), [self.target(op) for op in members(ops[0])]
        transposed, line = "trans" in parts, self.line

        def load(block, warp, mask):
            rows = block.shared.load(warp.number, address(block, warp)[: 8 * len(targets)], 16, line)
            for i, put in enumerate(targets):
                matrix = np.ascontiguousarray(rows[8 * i : 8 * i + 8]).view(np.uint16)
                matrix = matrix.T if transposed else matrix
                # Lane l has values 2 (l % 4) and the next of row l / 4, the first in the lower half.
                pairs = np.ascontiguousarray(matrix).reshape(LANES, 2).astype(np.uint32)
                put(warp, mask, pairs[:, 0] | pairs[:, 1] << 16)

        return load

    def op_mma(self, parts, ops):
        if parts != "mma sync aligned m16n8k16 row col f32 bf16 bf16 f32".split():
            raise Fault(f"a product that is not known: {self.line}")
        d, a, b, c = (members(op) for op in ops)
        put = [self.target(op) for op in d]
        a, b = ([self.source(op, "b32") for op in part] for part in (a, b))
        c = [self.source(op, "f32") for op in c]
        group, pair = LANE // 4, LANE % 4 * 2

        def multiply(block, warp, mask):
            left, right, sums = np.zeros((16, 16)), np.zeros((16, 8)), np.zeros((16, 8))
            for i, source in enumerate(a):
                bits = source(block, warp)
                for j in (0, 1):
                    # Registers: upper rows, lower rows, then the same of the right half.
                    left[group + 8 * (i % 2), pair + j + 8 * (i // 2)] = bf16_values(bits >> np.uint32(16 * j) & 0xFFFF)
            for i, source in enumerate(b):
                bits = source(block, warp)
                for j in (0, 1):
                    right[pair + j + 8 * i, group] = bf16_values(bits >> np.uint32(16 * j) & 0xFFFF)
            for i, source in enumerate(c):
                sums[group + 8 * (i // 2), pair + i % 2] = source(block, warp)
            result = (left @ right + sums).astype(np.float32)
            for i, to in enumerate(put):
                to(warp, mask, result[group + 8 * (i // 2), pair + i % 2])

        return multiply

    def op_shfl(self, parts, ops):
        if parts[2] != "bfly":
            raise Fault(f"a shuffle that is not known: {self.line}")
        targets = [self.target(op) for op in ops[0].split("|")]
        source, distance, line = self.source(ops[1], "b32"), self.source(ops[2], "s32"), self.line

        def shuffle(block, warp, mask):
            of = LANE ^ distance(block, warp)
            if not mask[of[mask]].all():
                raise Fault(f"{line}: a value from a lane that is not there")
            targets[0](warp, mask, source(block, warp)[of].copy())
            if len(targets) > 1:
                targets[1](warp, mask, ALL)

        return shuffle

    def op_vote(self, parts, ops):
        if parts != "vote sync any pred".split():
            raise Fault(f"a vote that is not known: {self.line}")
        put, negated, source = self.target(ops[0]), ops[1].startswith("!"), self.source(ops[1].lstrip("!"), "pred")

        def vote(block, warp, mask):
            votes = source(block, warp)
            put(warp, mask, np.full(LANES, bool(((~votes if negated else votes) & mask).any())))

        return vote

    # -- arithmetic

    def op_cvt(self, parts, ops):
        if "bf16x2" in parts:
            # The first source goes to the upper half.
            return self.simple(ops, ["f32", "f32"], lambda high, low: bf16_bits(high) << 16 | bf16_bits(low))
        to, source = parts[-2], parts[-1]
        if source == "bf16":
            return self.simple(ops, ["b16"], bf16_values)
        if to == "bf16":
            return self.simple(ops, ["f32"], lambda x: bf16_bits(x).astype(np.uint16))
        roundings = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
        rounding = next((roundings[part] for part in parts if part in roundings), lambda x: x)
        saturates = "sat" in parts

        def convert(x):
            if x.dtype.kind == "f":
                x = rounding(x)
            if saturates:
                x = np.clip(np.nan_to_num(x), 0, 1)
            return x.astype(TYPES[to])

        return self.simple(ops, [source], convert)

    def arithmetic(self, parts, ops, compute):
        return self.simple(ops, [parts[-1]] * (len(ops) - 1), compute)

    def op_add(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a, b: a + b)

    def op_sub(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a, b: a - b)

    def op_min(self, parts, ops):
        return self.arithmetic(parts, ops, np.fmin)

    def op_max(self, parts, ops):
        return self.arithmetic(parts, ops, np.fmax)

    def op_neg(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a: -a if a.dtype.kind == "f" else a.dtype.type(0) - a)

    def op_abs(self, parts, ops):
        return self.arithmetic(parts, ops, np.abs)

    def op_rcp(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a: a.dtype.type(1) / a)

    def op_sqrt(self, parts, ops):
        return self.arithmetic(parts, ops, np.sqrt)

    def op_rsqrt(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a: a.dtype.type(1) / np.sqrt(a))

    def op_lg2(self, parts, ops):
        return self.arithmetic(parts, ops, np.log2)

    def op_ex2(self, parts, ops):
        least = np.float32(2.0**-126) if "ftz" in parts else np.float32(0)
        power = lambda a: np.where(np.exp2(a) < least, np.float32(0), np.exp2(a))
        return self.arithmetic(parts, ops, power)

    def op_fma(self, parts, ops):
        exact = lambda a, b, c: (a.astype(np.float64) * b + c).astype(a.dtype)
        return self.arithmetic(parts, ops, exact)

    def product(self, parts, ops, sum_kind):
        """A product, and what it is added to."""
        kind = parts[-1]
        dtype = np.dtype(TYPES[kind])
        if dtype.kind == "f":
            compute = lambda a, b, *c: a * b + c[0] if c else a * b
            return self.arithmetic(parts, ops, compute)
        wide = np.dtype(f"{dtype.kind}{min(8, 2 * dtype.itemsize)}")
        added = kind
        if "wide" in parts:
            added = kind[0] + str(2 * int(kind[1:]))
            compute = lambda a, b: a.astype(wide) * b.astype(wide)
        elif "hi" in parts:
            bits = 8 * dtype.itemsize
            compute = lambda a, b: np.array([(int(x) * int(y) >> bits) & (1 << bits) - 1 for x, y in zip(a, b)]).astype(
                f"u{dtype.itemsize}"
            ).view(dtype)
        else:
            compute = lambda a, b: a * b
        if sum_kind:
            return self.simple(ops, [kind, kind, added], lambda a, b, c: compute(a, b) + c)
        return self.simple(ops, [kind, kind], compute)

    def op_mul(self, parts, ops):
        return self.product(parts, ops, False)

    def op_mad(self, parts, ops):
        return self.product(parts, ops, True)

    def op_div(self, parts, ops):
        return self.division(parts, ops, lambda a, b: a / b, True)

    def op_rem(self, parts, ops):
        return self.division(parts, ops, None, False)

    def division(self, parts, ops, of_floats, quotient):
        if parts[-1][0] == "f":
            return self.arithmetic(parts, ops, of_floats)

        def divide(a, b):
            # Towards zero. What a lane that does not take part holds may be zero.
            b = np.where(b == 0, b.dtype.type(1), b)
            rest = np.fmod(a, b)
            return (a - rest) // b if quotient else rest

        return self.arithmetic(parts, ops, divide)

    def op_and(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a, b: a & b)

    def op_or(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a, b: a | b)

    def op_xor(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a, b: a ^ b)

    def op_not(self, parts, ops):
        return self.arithmetic(parts, ops, lambda a: ~a)

    def op_lop3(self, parts, ops):
        table = int(ops[4], 0)

        def look_up(a, b, c):
            result = np.zeros_like(a)
            for i in range(8):
                if table >> i & 1:
                    result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            return result

        return self.simple(ops[:4], ["b32"] * 3, look_up)

    def op_shl(self, parts, ops):
        def shift(a, n):
            width = 8 * a.dtype.itemsize
            return np.where(n >= width, a.dtype.type(0), a << np.minimum(n, width - 1).astype(a.dtype))

        return self.simple(ops, [parts[-1], "u32"], shift)

    def op_shr(self, parts, ops):
        def shift(a, n):
            width = 8 * a.dtype.itemsize
            beyond = a >> a.dtype.type(width - 1) if a.dtype.kind == "i" else a.dtype.type(0)
            return np.where(n >= width, beyond, a >> np.minimum(n, width - 1).astype(a.dtype))

        return self.simple(ops, [parts[-1], "u32"], shift)

    def op_shf(self, parts, ops):
        is_left, wraps = parts[1] == "l", "wrap" in parts

        def shift(low, high, n):
            n = (n & 31 if wraps else np.minimum(n, 32)).astype(np.uint64)
            both = high.astype(np.uint64) << np.uint64(32) | low
            return (both << n >> np.uint64(32) if is_left else both >> n).astype(np.uint32)

        return self.simple(ops, ["b32", "b32", "u32"], shift)

    def op_bfi(self, parts, ops):
        def insert(a, b, at, count):
            mask = ((np.uint64(1) << count.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)
            return b & ~(mask << at) | (a & mask) << at

        return self.simple(ops, ["b32", "b32", "u32", "u32"], insert)

    def op_bfe(self, parts, ops):
        if parts[-1] != "u32":
            raise Fault(f"not known: {self.line}")
        mask = lambda count: ((np.uint64(1) << count.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)
        return self.simple(ops, ["u32"] * 3, lambda a, at, count: a >> at & mask(count))

    def op_prmt(self, parts, ops):
        def permute(a, b, choice):
            both, result = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32), np.zeros(LANES, np.uint32)
            for i in range(4):
                of = (choice >> np.uint32(4 * i) & np.uint32(15)).astype(np.uint64)
                byte = (both >> np.uint64(8) * (of & np.uint64(7)) & np.uint64(255)).astype(np.uint32)
                # With its highest bit a choice repeats the sign of its byte.
                byte = np.where(of & np.uint64(8) != 0, (byte >> np.uint32(7)) * np.uint32(255), byte)
                result |= byte << np.uint32(8 * i)
            return result

        return self.simple(ops, ["b32"] * 3, permute)

    def op_setp(self, parts, ops):
        relation, kind = parts[1], parts[-1]
        unordered = len(relation) == 3 and relation.endswith("u")
        names = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
        names |= {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
        is_float = kind[0] == "f"

        def compare(a, b):
            if relation in ("nan", "num"):
                return (np.isnan(a) | np.isnan(b)) == (relation == "nan")
            result = names[relation[:2]](a, b)
            if is_float:
                nan = np.isnan(a) | np.isnan(b)
                result = result | nan if unordered else result & ~nan
            return result

        combine = next((part for part in parts[2:-1] if part in ("and", "or", "xor")), None)
        if combine is None:
            return self.simple(ops, [kind, kind], compare)
        negated, third = ops[3].startswith("!"), ops[3].lstrip("!")
        join = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[combine]
        return self.simple(
            [*ops[:3], third], [kind, kind, "pred"], lambda a, b, c: join(compare(a, b), ~c if negated else c)
        )

    def op_selp(self, parts, ops):
        return self.simple(ops, [parts[-1], parts[-1], "pred"], lambda a, b, c: np.where(c, a, b))


class Warp:
    def __init__(self, number, registers):
        self.number = number
        self.files = {}
        for prefix, (bits, count) in registers.items():
            # Registers hold nothing useful before they are written: floats are not numbers.
            fill = False if bits is np.bool_ else ~bits(0)
            self.files[prefix] = np.full((count, LANES), fill, bits)
        self.counters = np.zeros(LANES, np.int64)
        self.gone = np.zeros(LANES, bool)
        self.at_barrier = np.zeros(LANES, bool)
        self.parked = np.zeros(LANES, bool)
        self.votes = np.zeros(LANES, bool)
        self.groups = [[] for _ in range(LANES)]
        self.open = [[] for _ in range(LANES)]
        self.counter = 0
        # All lanes are there and at one place.
        self.together = True

    def is_ready(self):
        return self.together or not (self.gone | self.at_barrier).all()

    def part(self):
        if self.together:
            self.counters[:] = self.counter
            self.together = False

    def join(self):
        if not (self.gone | self.at_barrier | self.parked).any() and (self.counters == self.counters[0]).all():
            self.counter, self.together = int(self.counters[0]), True


class Block:
    def __init__(self, kernel, launch, index, seed):
        self.kernel, self.launch, self.index = kernel, launch, index
        self.memory, self.arguments = launch["memory"], launch["arguments"]
        self.shared = Shared(kernel.dynamic + launch["shared"])
        self.chance = random.Random(seed)
        self.warps = [Warp(i, kernel.registers) for i in range(launch["threads"] // LANES)]
        self.steps = 0

    def special(self, name, axis, warp):
        if name == "tid":
            return LANE + LANES * warp.number if axis == 0 else np.zeros(LANES, np.int64)
        if name == "ntid":
            return np.full(LANES, self.launch["threads"] if axis == 0 else 1)
        return np.full(LANES, self.index[axis] if name == "ctaid" else self.launch["grid"][axis])

    def run(self):
        while True:
            ready = [warp for warp in self.warps if warp.is_ready()]
            if ready:
                warp = self.chance.choice(ready)
                for _ in range(self.chance.choice((1, 5, 40, 300))):
                    if not warp.is_ready():
                        break
                    self.step(warp)
            elif not self.meet():
                break
        for warp in self.warps:
            if any(warp.open) or any(any(group) for groups in warp.groups for group in groups):
                raise Fault(f"{self.kernel.lines[-1]}: warp {warp.number} leaves copies that nobody waited for")

    def meet(self):
        """All that have not left wait at a barrier; false if all have left."""
        waiting = [warp for warp in self.warps if not warp.gone.all()]
        if not waiting:
            return False
        places = {int(at) for warp in waiting for at in warp.counters[~warp.gone]}
        if len(places) != 1:
            raise Fault(f"threads wait in different places: {[self.kernel.lines[at] for at in places]}")
        _, name, ops, line, _ = self.kernel.code[places.pop()]
        if ".red." in name:
            votes = np.concatenate([warp.votes[~warp.gone] for warp in waiting])
            result = {"or": votes.any(), "and": votes.all(), "popc": votes.sum()}[name.split(".red.")[1].split(".")[0]]
            put = Decoder(self.kernel, line).target(ops[0])
            for warp in waiting:
                kind = np.bool_ if name.endswith("pred") else np.uint32
                put(warp, ~warp.gone, np.full(LANES, result).astype(kind))
        for warp in waiting:
            warp.counters[~warp.gone] += 1
            warp.at_barrier[:] = False
            warp.join()
        self.shared.epoch += 1
        return True

    def step(self, warp):
        self.steps += 1
        if warp.together:
            counter, mask = warp.counter, ALL
        else:
            active = ~(warp.gone | warp.at_barrier | warp.parked)
            if not active.any():
                places = {self.kernel.lines[at] for at in warp.counters[warp.parked]}
                raise Fault(f"lanes of warp {warp.number} wait for others that do not come: {places}")
            counter = int(warp.counters[active].min())
            mask = active & (warp.counters == counter)
        guard, name, ops, line, run = self.kernel.code[counter]
        chosen = mask
        if guard:
            prefix, i, negated = guard
            chosen = mask & (warp.files[prefix][i] != negated)
            if chosen.all():
                chosen = ALL
        family = name.split(".")[0]
        if family == "bra":
            self.branch(warp, counter, mask, chosen, ops[0])
        elif family in ("ret", "exit"):
            warp.part()
            warp.counters[mask] += 1
            warp.gone |= chosen
        elif family == "barrier" or family == "bar" and name != "bar.warp.sync":
            warp.part()
            if not (chosen == mask).all():
                raise Fault(f"{line}: some lanes alone")
            warp.at_barrier |= mask
            if ".red." in name:
                votes = Decoder(self.kernel, line).source(ops[-1].lstrip("!"), "pred")(self, warp)
                warp.votes = ~votes if ops[-1].startswith("!") else votes.copy()
        else:
            if not warp.together and ".sync" in name:
                mask = mask | warp.parked & (warp.counters == counter)
                if not (mask == ~warp.gone).all():
                    warp.parked |= mask
                    return
                warp.parked[:] = False
                chosen = mask & (warp.files[prefix][i] != negated) if guard else mask
                chosen = ALL if chosen.all() else chosen
                if family in ("mma", "ldmatrix") and chosen is not ALL:
                    raise Fault(f"{line}: lanes of the warp have left")
            if run is not None and chosen.any():
                run(self, warp, chosen)
            if warp.together:
                warp.counter += 1
            else:
                warp.counters[mask] += 1
                warp.join()

    def branch(self, warp, counter, mask, chosen, label):
        target = self.kernel.labels[label]
        if warp.together and (chosen is ALL or not chosen.any()):
            warp.counter = target if chosen is ALL else counter + 1
            return
        warp.part()
        warp.counters[mask] = counter + 1
        warp.counters[chosen] = target
        warp.join()


def run(kernel, launch, seed):
    """Runs all blocks of a launch, and counts instructions of warps."""
    steps, (x, y, z) = 0, launch["grid"]
    for i in range(x * y * z):
        block = Block(kernel, launch, (i % x, i // x % y, i // x // y), seed + i)
        block.run()
        steps += block.steps
    return steps
