"""Exceptions of this package."""

from __future__ import annotations

from typing import Optional


class Error(Exception):
    """What the program ``lorafit`` would tell as an error.

    ``message`` says what went wrong, with details on further lines; ``hint`` says what can be done about it, or is ``None``.
    """

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class Stopped(Error):
    """Work ended because a callback asked it to."""

    def __init__(self) -> None:
        super().__init__("stopped")
