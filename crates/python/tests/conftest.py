"""What tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# What is started in the background of a script ignores Ctrl-C, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[3]
#: The tiny chat model that objectives are tried on.
MODEL = ROOT / "fixtures/models/chat_bpe"
#: Settings that make a run short and choose nothing.
SHORT: dict[str, Any] = {"preset": "off", "max_steps": 6, "batch_size": 2, "lr": 1e-2, "seed": 3}
SHORT_WORDS = ["--preset", "off", "--max-steps", "6", "--batch-size", "2", "--lr", "1e-2", "--seed", "3"]


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Short conversations."""
    return [
        {"messages": [{"role": "user", "content": f"why {i}?"}, {"role": "assistant", "content": f"so {i * i}"}]}
        for i in range(count)
    ]


def program() -> list[str]:
    """The program to compare with: the one that Cargo built if the environment names it, else the script of this package."""
    named = os.environ.get("LORAFIT_PROGRAM")
    return [named] if named else [sys.executable, "-m", "lorafit"]


def run_program(*words: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs the program, which has to succeed unless it `fails`."""
    done = subprocess.run([*program(), *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def what_is_learnt(run: os.PathLike[str] | str) -> tuple[bytes, list[float]]:
    """The bytes of a run's adapter and its losses."""
    folder = Path(run)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return (folder / "adapter_model.safetensors").read_bytes(), [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in a file."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the program, to compare with."""
    out = tmp_path_factory.mktemp("runs") / "program"
    run_program("train", "--model", MODEL, "--data", data, "--out", out, *SHORT_WORDS)
    return out
