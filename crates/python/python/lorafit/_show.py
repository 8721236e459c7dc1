"""Shows what a call tells, and how far a run is: in a notebook, on a terminal, or as lines."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

#: Seconds between two lines where nobody sees a bar.
_LINES_EVERY = 10.0
#: Seconds between two drawings of a bar.
_DRAW_EVERY = 0.1
_BAR = 24


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Show:
    """Shows notes and steps, unless it is quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._handle = None if quiet else _notebook_display()
        self._has_terminal = not quiet and self._handle is None and sys.stderr.isatty()
        self._total = 0
        self._first: int | None = None
        self._began = time.monotonic()
        self._drawn = 0.0
        self._line = ""

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._quiet:
            return
        if self._handle is not None:
            print(text, flush=True)
            return
        self._clear()
        print(text, file=sys.stderr, flush=True)
        if self._line:
            self._draw(self._line)

    def event(self, name: str, record: dict[str, Any]) -> None:
        """What a run has come to."""
        if self._quiet:
            return
        if name == "start":
            self._total = int(record["total_steps"])
            self._began = time.monotonic()
        elif name == "step":
            self._step(record)

    def close(self) -> None:
        """The bar goes."""
        self._clear()
        self._line = ""

    def _step(self, record: dict[str, Any]) -> None:
        step, now = int(record["step"]), time.monotonic()
        if self._first is None:
            self._first = step
        is_last = step == self._total
        every = _DRAW_EVERY if self._handle is not None or self._has_terminal else _LINES_EVERY
        if now - self._drawn < every and not is_last:
            return
        self._drawn = now
        done = step - self._first + 1
        left = (now - self._began) / done * (self._total - step)
        loss = record["loss"]
        figures = f"loss {loss:.4f}  {record['tokens_per_s']:.0f} tokens/s  {_duration(left)} left"
        if self._handle is not None:
            self._handle.update(_Html(step, self._total, figures))
        elif self._has_terminal and not is_last:
            filled = _BAR * step // max(self._total, 1)
            self._draw(f"{'#' * filled}{'-' * (_BAR - filled)} {step}/{self._total}  {figures}")
        else:
            # The last one stays where the bar was.
            self.close()
            print(f"step {step}/{self._total}  {figures}", file=sys.stderr, flush=True)

    def _draw(self, line: str) -> None:
        self._line = line
        print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._line and self._has_terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


class _Html:
    """A bar in a notebook."""

    def __init__(self, step: int, total: int, figures: str) -> None:
        self._step, self._total, self._figures = step, total, figures

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self._step}" max="{self._total}" style="width: 16em"></progress>'
        return f"{bar} {self._step}/{self._total} <code>{html.escape(self._figures)}</code>"

    def __repr__(self) -> str:
        return f"step {self._step}/{self._total}  {self._figures}"


def _notebook_display() -> Any:
    """What shows and updates output in a notebook; ``None`` elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import DisplayHandle

    return _Lazy(DisplayHandle)


class _Lazy:
    """A display that is made when there is something to show."""

    def __init__(self, make: Any) -> None:
        self._make, self._handle = make, None

    def update(self, shown: object) -> None:
        if self._handle is None:
            self._handle = self._make()
            self._handle.display(shown)  # type: ignore[attr-defined]
        else:
            self._handle.update(shown)
