"""Verbs of the command line as functions that give what it prints as JSON."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorafit import _flags
from lorafit._call import json_of, text_of
from lorafit._rows import Data, Files

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lorafit._flag_types import (
        CompareFlags,
        EvalFlags,
        ExportFlags,
        InspectFlags,
        MergeFlags,
        PlanFlags,
        ReportFlags,
        SweepFlags,
    )


class Result(dict[str, Any]):
    """What a verb found, as its ``--json`` has it; shown as the verb prints it for people."""

    def __init__(self, found: Mapping[str, Any], words: list[str]) -> None:
        super().__init__(found)
        self._words = words

    @functools.cached_property
    def text(self) -> str:
        """As the verb prints it for people; it is asked again for that."""
        return text_of(self._words, quiet=True)

    def __repr__(self) -> str:
        return self.text


def _result(verb: str, values: dict[str, object], quiet: bool = False) -> Result:
    words = [verb, *_flags.words(verb, values, verb)]
    return Result(json_of([*words[:1], "--json", *words[1:]], quiet), words)


@_flags.takes_flags("plan", ["json", "recommend", "svg"])
def plan(model: str | os.PathLike[str], **flags: Unpack[PlanFlags]) -> Result:
    """What fine-tuning a model costs in memory, and what fits; the model need not be on this machine."""
    return _result("plan", {"model": model, **flags})


@_flags.takes_flags("inspect", ["json", "csv", "shrink_rank", "out"])
def inspect(adapter: str | os.PathLike[str], **flags: Unpack[InspectFlags]) -> Result:
    """What an adapter is and what it changed, layer by layer: any PEFT LoRA adapter, or a run."""
    return _result("inspect", {"adapter": adapter, **flags}, flags.get("quiet") is True)


@_flags.takes_flags("eval", ["json"])
def evaluate(
    model: str | os.PathLike[str],
    data: Data,
    *,
    adapter: str | os.PathLike[str] | list[str | os.PathLike[str]] | None = None,
    **flags: Unpack[EvalFlags],
) -> dict[str, Any]:
    """Loss, perplexity and, with ``metric``, answers on held-out rows, as ``lorafit eval`` measures them."""
    with Files() as files:
        values = {"model": model, "data": files.locations(data, "data"), "adapter": adapter, **flags}
        words = ["eval", "--json", *_flags.words("eval", values, "evaluate")]
        found: dict[str, Any] = json_of(words, flags.get("quiet") is True)
        return found


@_flags.takes_flags("compare", ["json", "html"])
def compare(*runs: str | os.PathLike[str], data: Data = None, **flags: Unpack[CompareFlags]) -> dict[str, Any]:
    """Runs on the same rows, side by side, as ``lorafit compare`` compares them."""
    with Files() as files:
        rows = None if data is None else files.locations(data, "data")
        words = ["compare", "--json", *_flags.words("compare", {"runs": list(runs), "data": rows, **flags}, "compare")]
        found: dict[str, Any] = json_of(words, flags.get("quiet") is True)
        return found


@_flags.takes_flags("sweep", ["json", "status", "dry_run"])
def sweep(
    file: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    **flags: Unpack[SweepFlags],
) -> dict[str, Any]:
    """Searches for the best training options: ``best`` is the number of the best trial, ``trials`` has all.

    ``file`` is a sweep file, or what stands in one as a dict: flags of training with tables ``search`` and ``sweep``. Its ``data`` and
    ``eval_data`` can be rows in memory.
    """
    with Files() as files:
        if isinstance(file, Mapping):
            settings = dict(file)
            for name in ("data", "eval_data", "eval-data"):
                if name in settings:
                    settings[name] = files.locations(settings[name], name)
            path = files.path("sweep.yaml")
            # JSON is YAML.
            path.write_text(json.dumps(settings, default=os.fspath), encoding="utf-8")
            file = path
        words = ["sweep", "--json", *_flags.words("sweep", {"file": file, "out": out, **flags}, "sweep")]
        found: dict[str, Any] = json_of(words, flags.get("quiet") is True)
        return found


@_flags.takes_flags("merge", ["json"])
def merge(
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | list[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    **flags: Unpack[MergeFlags],
) -> str:
    """Merges adapters into the weights of a model and writes it as a folder; gives what the verb prints."""
    values = {"model": model, "adapter": adapter, "out": out, **flags}
    return text_of(["merge", *_flags.words("merge", values, "merge")], flags.get("quiet") is True)


@_flags.takes_flags("export", ["json"])
def export(*, out: str | os.PathLike[str], **flags: Unpack[ExportFlags]) -> str:
    """Exports a model or an adapter for llama.cpp, Ollama, PEFT or mlx-lm; gives what the verb prints."""
    return text_of(["export", *_flags.words("export", {"out": out, **flags}, "export")], flags.get("quiet") is True)


@_flags.takes_flags("report")
def report(*runs: str | os.PathLike[str], out: str | os.PathLike[str], **flags: Unpack[ReportFlags]) -> str:
    """Writes an HTML report of runs, or of a sweep; gives what the verb prints."""
    values = {"runs": list(runs), "out": out, **flags}
    return text_of(["report", *_flags.words("report", values, "report")], flags.get("quiet") is True)


def command(*words: str | os.PathLike[str]) -> str:
    """Runs any command line in this process, as words behind ``lorafit``, and gives what it prints."""
    return text_of([os.fspath(word) for word in words])
