"""Fine-tune open language models with LoRA on the machine you have.

The functions here are the verbs of the command line ``lorafit``, run in this process: the same code, the same flags (as keyword
arguments), the same bits. Python's lock is free while they compute.
"""

from __future__ import annotations

from lorafit._dataset import Dataset, Preview
from lorafit._errors import Error
from lorafit._lorafit import __version__
from lorafit._model import Model
from lorafit._run import Figure, Records, Run, plot
from lorafit._train import train
from lorafit._verbs import Result, command, compare, evaluate, export, inspect, merge, plan, report, sweep

__all__ = [
    "Dataset",
    "Error",
    "Figure",
    "Model",
    "Preview",
    "Records",
    "Result",
    "Run",
    "__version__",
    "command",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "merge",
    "plan",
    "plot",
    "report",
    "sweep",
    "train",
]
