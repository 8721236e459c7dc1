"""Rows as a model is trained on them."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafit import _flags
from lorafit._call import json_of, text_of
from lorafit._rows import Data, Files

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lorafit._flag_types import DataFlags

LEFT_OUT = ("json", "html", "rows", "row", "ids")


class Preview:
    """Rows with what of them is trained: as a page in a notebook, as text elsewhere."""

    def __init__(self, text: str, page: str) -> None:
        self.text = text
        #: The page, which loads nothing else.
        self.html = page

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        # The page has styles and scripts of its own, which are not to meet those of the notebook.
        return (
            f'<iframe srcdoc="{html.escape(self.html, quote=True)}" style="width: 100%; height: 40em; border: 0" '
            'sandbox="allow-scripts"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page."""
        Path(path).write_text(self.html, encoding="utf-8")


class Dataset:
    """Rows of a file, or in memory, with the model that is trained on them.

    The flags are those of ``lorafit data``.
    """

    def __init__(self, data: Data, model: str | os.PathLike[str], **flags: Unpack[DataFlags]) -> None:
        self.data = data
        self.model = model
        self._flags: dict[str, object] = {**flags}
        for name in LEFT_OUT:
            if name in self._flags:
                raise TypeError(f"Dataset() got an unexpected keyword argument `{name}`")
        # What is wrong with a flag is said where it stands.
        _flags.words("data", self._flags, "Dataset")

    def _words(self, files: Files, **shown: object) -> list[str]:
        values = {**self._flags, **shown, "model": self.model, "data": files.locations(self.data, "data")}
        return ["data", *_flags.words("data", values, "Dataset")]

    def preview(self, rows: int = 20, *, row: int | None = None, ids: bool = False) -> Preview:
        """The first rows, or one, token by token: what is trained is marked."""
        which: dict[str, object] = {"rows": rows} if row is None else {"row": row}
        with Files() as files:
            page = files.path("page.html")
            text_of(self._words(files, html=page, **which), quiet=True)
            text = text_of(self._words(files, ids=ids, **which), quiet=True)
            return Preview(text, page.read_text(encoding="utf-8"))

    @property
    def statistics(self) -> dict[str, Any]:
        """How many rows and tokens there are, how long rows are, and what of them is trained."""
        with Files() as files:
            statistics: dict[str, Any] = json_of(self._words(files, json=True), quiet=True)
            return statistics
