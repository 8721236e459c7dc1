"""Runs verbs in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Union

from lorafit import _lorafit
from lorafit._show import Show

#: What a callback gives: ``False`` stops, ``"save"`` has a checkpoint saved, anything else goes on.
Answer = Union[bool, str, None]


class Call:
    """One call of a verb: what it prints, tells and reports."""

    def __init__(self, show: Show, on_event: Callable[[str, dict[str, Any]], Answer] | None = None) -> None:
        self.lines: list[str] = []
        #: The folder of the run that began.
        self.out: str | None = None
        self._show = show
        self._on_event = on_event

    def told(self, kind: str, name: str, text: str) -> Answer:
        """Takes what is told, from the thread that called."""
        if kind == "result":
            self.lines.append(text)
        elif kind == "note":
            self._show.note(text)
        elif kind == "event":
            record: dict[str, Any] = json.loads(text)
            if name == "start":
                self.out = str(record["out"])
            self._show.event(name, record)
            if self._on_event is not None:
                return self._on_event(name, record)
        return None

    def run(self, words: list[str]) -> str:
        """Runs the command line ``words``; gives what it prints."""
        try:
            _lorafit.call_verb(words, self.told, _lorafit.__file__)
        finally:
            self._show.close()
        return "\n".join(self.lines)


def text_of(words: list[str], quiet: bool = False) -> str:
    """What a command line prints."""
    return Call(Show(quiet)).run(words)


def json_of(words: list[str], quiet: bool = False) -> Any:
    """The JSON that a command line prints."""
    return json.loads(text_of(words, quiet))
