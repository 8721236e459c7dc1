"""How far a run is, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from lorafit import _show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, quiet: bool = False) -> str:
    def step(number: int) -> dict[str, Any]:
        return {"step": number, "loss": 2.0 / number, "tokens_per_s": 100.0}

    with contextlib.redirect_stderr(stream):
        show = _show.Show(quiet)
        show.note("before")
        show.event("start", {"total_steps": 4})
        for number in (1, 2, 3):
            show.event("step", step(number))
        show.note("between")
        show.event("step", step(4))
        show.note("after")
        show.close()
    return stream.getvalue()


def test_a_terminal_has_a_bar_that_leaves_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_show, "_DRAW_EVERY", 0.0)
    text = shown(Terminal())
    assert "######------------------ 1/4  loss 2.0000" in text
    # What a line shows after all that was drawn over it.
    lines = [line.rsplit("\x1b[2K", 1)[-1] for line in text.rstrip("\n").split("\n")]
    assert lines == ["before", "between", "step 4/4  loss 0.5000  100 tokens/s  0 s left", "after"]


def test_elsewhere_the_first_and_the_last_step_are_lines() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["before", "step 1/4", "between", "step 4/4", "after"]


def test_nothing_is_shown_where_it_is_quiet() -> None:
    assert shown(Terminal(), quiet=True) == ""
