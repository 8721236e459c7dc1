"""What a run wrote: metrics, figures, verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, overload

from lorafit import _lorafit

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Records(Sequence[dict[str, Any]]):
    """Records, one dict each: a sequence, an Arrow table or a pandas data frame."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self._records = list(records)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> Records: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | Records:
        return Records(self._records[place]) if isinstance(place, slice) else self._records[place]

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<{len(self)} records>" if self else "<no records>"

    def to_arrow(self) -> pyarrow.Table:
        """As an Arrow table; needs pyarrow."""
        import pyarrow

        return pyarrow.Table.from_pylist(self._records)

    def to_pandas(self) -> pandas.DataFrame:
        """As a data frame; needs pandas."""
        import pandas

        return pandas.DataFrame(self._records)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)


class Figure:
    """A figure as SVG, which a notebook shows."""

    def __init__(self, name: str, title: str, svg: str) -> None:
        self.name = name
        self.title = title
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Figure {self.name}: {self.title}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the SVG."""
        Path(path).write_text(self.svg, encoding="utf-8")


class Run:
    """The folder of a run, which ``lorafit.train`` gives and ``lorafit.Run(folder)`` opens."""

    def __init__(self, folder: str | os.PathLike[str], interrupted: bool = False) -> None:
        self.folder = Path(folder)
        #: Whether a callback stopped it; ``lorafit.train(resume=run)`` goes on.
        self.interrupted = interrupted

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        metrics = self.metrics
        end = f", step {metrics[-1]['step']}, loss {metrics[-1]['loss']:.4f}" if metrics else ""
        return f"<Run {self.folder}{end}>"

    def _repr_svg_(self) -> str | None:
        return self.plot().svg if self.metrics else None

    def _records(self, name: str) -> Records:
        path = self.folder / name
        if not path.exists():
            return Records()
        return Records(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())

    @property
    def metrics(self) -> Records:
        """A record for every step, as ``metrics.jsonl`` has it; steps that were skipped are not there."""
        return Records(record for record in self._records("metrics.jsonl") if "loss" in record)

    @property
    def evaluations(self) -> Records:
        """A record for every evaluation on held-out rows."""
        return self._records("evaluations.jsonl")

    @property
    def verdict(self) -> dict[str, Any] | None:
        """What the run came to; ``None`` until it has ended."""
        path = self.folder / "verdict.json"
        verdict: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return verdict

    @property
    def config(self) -> str:
        """Every setting of the run, as TOML; ``lorafit.train(config=...)`` takes such a file."""
        return (self.folder / "config.toml").read_text(encoding="utf-8")

    @property
    def adapter(self) -> Path:
        """The folder that holds the adapter, as PEFT reads it."""
        return self.folder

    @property
    def model(self) -> Path:
        """The folder of the model, of a run with ``method="full"``."""
        return self.folder / "model"

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures of how it went, by name."""
        return figures([self])

    def plot(self, name: str = "loss") -> Figure:
        """One of its figures."""
        return plot(self, name=name)


def figures(runs: Iterable[Union[str, os.PathLike[str]]]) -> dict[str, Figure]:
    """The figures of how runs went, in one picture each, by name."""
    return {name: Figure(name, title, svg) for name, title, svg in _lorafit.figures([os.fspath(run) for run in runs])}


def plot(*runs: str | os.PathLike[str], name: str = "loss") -> Figure:
    """A figure of runs, side by side."""
    found = figures(runs)
    if name not in found:
        raise KeyError(f"no figure is called {name!r}; there are {', '.join(found)}")
    return found[name]
