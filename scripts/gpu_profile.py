"""What each kernel of a training step takes on a GPU: times and bytes as Nsight Compute (`ncu`) measures them.

A step of two layers of a model's shape runs alone, kernel by kernel, at the clocks that the device has: a kernel alone is not
slowed down by the power that a long run takes, so that the sum of a whole model's kernels is below the time of its step.

Usage: python3 scripts/gpu_profile.py OUT [--lorafit PROGRAM] [--layers 2] [-- FLAGS OF lorafit bench]
       FLAGS: --dtype bf16 --batch 4 --seq 2048 --micro-batch-tokens 8192 --rank 16 unless given
       python3 scripts/gpu_profile.py OUT --read      prints the table of a measurement again
Writes OUT/kernels.csv (ncu's) and prints a table: launches, microseconds, MB moved, TB/s.
"""
import argparse
import csv
import json
import pathlib
import subprocess
import sys

LLAMA_2_7B = dict(
    model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=4096, intermediate_size=11008,
    num_attention_heads=32, num_key_value_heads=32, vocab_size=32000, rms_norm_eps=1e-5, tie_word_embeddings=False,
    max_position_embeddings=4096, hidden_act="silu", torch_dtype="bfloat16",
)
FLAGS = ["--dtype", "bf16", "--batch", "4", "--seq", "2048", "--micro-batch-tokens", "8192", "--rank", "16"]
MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}
MEGABYTES = {"byte": 1e-6, "Kbyte": 1e-3, "Mbyte": 1, "Gbyte": 1e3}


def measure(out, program, layers, flags):
    shape = out / "config.json"
    shape.write_text(json.dumps(LLAMA_2_7B | dict(num_hidden_layers=layers)))
    bench = [program, "bench", "--device", "cuda:0", "--shape", str(shape), "--steps", "1", "--json", *flags]
    # Products are timed and chosen in a run before.
    subprocess.run(bench, check=True, stdout=subprocess.DEVNULL)
    ncu = ["ncu", "--clock-control", "none", "--cache-control", "none", "--csv", "--page", "raw"]
    metrics = ["--metrics", "gpu__time_duration.sum,dram__bytes.sum"]
    subprocess.run([*ncu, *metrics, "--log-file", str(out / "kernels.csv"), *bench], check=True, stdout=subprocess.DEVNULL)


def kernels(path):
    """Name, microseconds and MB of every launch, in order."""
    rows = csv.reader(line for line in path.open() if line.startswith('"'))
    at = {name: i for i, name in enumerate(next(rows))}
    units = next(rows)
    time, bytes_ = at["gpu__time_duration.sum"], at["dram__bytes.sum"]
    number = lambda text: float(text.replace(",", ""))
    for row in rows:
        name = row[at["Kernel Name"]].split("(")[0].removeprefix("void ")
        yield name, number(row[time]) * MICROSECONDS[units[time]], number(row[bytes_]) * MEGABYTES[units[bytes_]]


def table(path):
    launches = list(kernels(path))
    # A step ends with the optimizer; the one that warms up comes first.
    ends = [i for i, (name, _, _) in enumerate(launches) if name.startswith("adamw")]
    if len(ends) != 2:
        sys.exit(f"{path}: {len(ends)} launches of the optimizer, two steps have two")
    step = launches[ends[0] + 1 : ends[1] + 1]
    sums = {}
    for name, time, moved in step:
        count, times, bytes_ = sums.get(name, (0, 0.0, 0.0))
        sums[name] = (count + 1, times + time, bytes_ + moved)
    print(f"{len(step)} launches, {sum(time for _, time, _ in step):.0f} us")
    print(f"{'launches':>8}{'us':>10}{'MB':>10}{'TB/s':>7}  kernel")
    for name, (count, time, moved) in sorted(sums.items(), key=lambda item: -item[1][1]):
        print(f"{count:>8}{time:>10.1f}{moved:>10.1f}{moved / time:>7.2f}  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--lorafit", default="target/release/lorafit")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("flags", nargs="*")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.read:
        measure(arguments.out, arguments.lorafit, arguments.layers, arguments.flags or FLAGS)
    table(arguments.out / "kernels.csv")


if __name__ == "__main__":
    main()
