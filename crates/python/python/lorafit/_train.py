"""Training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafit import _flags
from lorafit._call import Answer, Call
from lorafit._errors import Error, Stopped
from lorafit._rows import Data, Files, were_in_memory
from lorafit._run import Run
from lorafit._show import Show

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lorafit._flag_types import TrainFlags

#: Flags of the verb that concern its output on a terminal alone.
LEFT_OUT = ("print_config", "log", "log_every")


@_flags.takes_flags("train", LEFT_OUT)
def train(
    model: str | os.PathLike[str] | None = None,
    data: Data = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    eval_data: Data = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    on_evaluation: Callable[[dict[str, Any]], object] | None = None,
    on_event: Callable[[str, dict[str, Any]], object] | None = None,
    **flags: Unpack[TrainFlags],
) -> Run:
    """Trains an adapter, or the whole model, on rows, as ``lorafit train`` does: the result has the same bits.

    ``data`` is what the command line takes (a file, a folder, a hub id, or a list of them), rows as dicts, or a table: pandas, Arrow,
    polars, ``datasets.Dataset``. Rows in memory are written to a temporary file first. So is ``eval_data``.

    ``on_step`` gets the record of every step, ``on_evaluation`` that of every evaluation, and ``on_event`` all of them and others
    (``start``, ``checkpoint``, ``skip``, ``verdict``) with their names. One that gives ``False`` stops the run as Ctrl-C does, with a
    checkpoint; ``"save"`` has a checkpoint saved. What one raises stops the run, too, and is raised once the checkpoint is saved; so is
    ``KeyboardInterrupt``. ``lorafit.train(resume=run)`` goes on from there; rows that were in memory are given again.

    Raises ``lorafit.Error`` with the text and the hint that the command line has.
    """

    def heard(name: str, record: dict[str, Any]) -> Answer:
        answers: list[object] = []
        if name == "step" and on_step is not None:
            answers.append(on_step(record))
        if name == "evaluation" and on_evaluation is not None:
            answers.append(on_evaluation(record))
        if on_event is not None:
            answers.append(on_event(name, record))
        if any(answer is False for answer in answers):
            return False
        return "save" if "save" in answers else None

    values: dict[str, object] = {**flags}
    for name in LEFT_OUT:
        if name in values:
            raise TypeError(f"train() got an unexpected keyword argument `{name}`")
    if resume is not None:
        _check_rows(Path(resume), {"data": data, "eval_data": eval_data})
    with Files() as files:
        given = {
            "model": model,
            "data": None if data is None else files.locations(data, "data"),
            "out": out,
            "resume": resume,
            "eval_data": None if eval_data is None else files.locations(eval_data, "eval_data"),
        }
        words = ["train", *_flags.words("train", {**given, **values}, "train")]
        call = Call(Show(flags.get("quiet") is True), heard)
        interrupted = False
        try:
            call.run(words)
        except Stopped:
            interrupted = True
    folder = out if out is not None else resume
    # Where a configuration names it, the run says where it is.
    return Run(Path(folder) if folder is not None else Path(call.out or "."), interrupted)


def _check_rows(run: Path, given: dict[str, Data]) -> None:
    """Refuses to resume a run whose rows were in memory without them."""
    try:
        config = (run / "config.toml").read_text(encoding="utf-8")
    except OSError:
        # The verb says what is wrong with the folder.
        return
    for name, data in given.items():
        if data is None and were_in_memory(name, config):
            raise Error(f"{run}: the rows that `{name}` had were in memory", f"give them again: train(resume=..., {name}=rows)")
