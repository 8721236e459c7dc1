"""Reads the event files of a run back with TensorBoard: curves equal the run's records, hyper-parameters its settings, and
histograms count every entry of the adapter's factors.

    python3 scripts/check_tensorboard.py RUN

Needs tensorboard and safetensors with numpy (pip install tensorboard safetensors numpy).
"""

import json
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

run = Path(sys.argv[1])
failures = []


def check(holds, what):
    print(("ok      " if holds else "FAILED  ") + what)
    failures.append(what) if not holds else None


events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
events.Reload()
tags = events.Tags()

records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
losses = {record["step"]: record["loss"] for record in records if "loss" in record}
scalars = {event.step: event.value for event in events.Scalars("train/loss")}
same = all(abs(scalars[step] - loss) < 1e-6 * max(1, abs(loss)) for step, loss in losses.items())
check(scalars.keys() == losses.keys() and same, f"{len(losses)} losses")

metadata = events.SummaryMetadata("_hparams_/session_start_info")
data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
told = {name: getattr(value, value.WhichOneof("kind")) for name, value in data.session_start_info.hparams.items()}
settings = tomllib.loads((run / "config.toml").read_text())
for name in ("rank", "alpha", "lr", "seed", "optimizer", "batch-size"):
    expected = settings.get(name, settings.get(name.replace("-", "_")))
    check(name in told and (expected is None or told[name] == expected), f"{name} is {told.get(name)}")

factors = defaultdict(list)
for name, values in load_file(run / "adapter_model.safetensors").items():
    module, factor = re.search(r"\.(\w+)\.lora_([AB])\.weight$", name).groups()
    factors[f"adapter/{module}/{factor}"].append(values.ravel())
check(set(tags["histograms"]) == set(factors), f"histograms of {len(factors)} modules' factors")
for tag in sorted(factors):
    last = events.Histograms(tag)[-1].histogram_value
    values = [value for part in factors[tag] for value in part.tolist()]
    count, total = len(values), sum(values)
    spread = max(1e-6, sum(abs(value) for value in values)) * 1e-6
    right = last.num == count == sum(last.bucket) and last.min == min(values) and last.max == max(values)
    check(right and abs(last.sum - total) < spread, f"{tag}: {count} entries from {last.min:.4g} to {last.max:.4g}")
sys.exit(f"{len(failures)} failed" if failures else 0)
