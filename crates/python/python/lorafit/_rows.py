"""Rows in memory as files that the readers of rows open.

Nothing is shared with the memory of the caller: rows are written to a temporary file, Parquet where they are a table and JSON lines
otherwise, and read back with a reader that needs no memory for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union

#: A location as the command line has it, several, a table (Arrow, pandas, polars, `datasets.Dataset`), or rows as dicts.
Data = Union[str, "os.PathLike[str]", Iterable[Any], Any]

#: What the folders of rows in memory are called, which is seen in the settings of a run.
_PREFIX = "lorafit-rows-"
#: Rows that a reader of Parquet holds at once.
_ROW_GROUP = 4096


class Files:
    """Makes files of rows that are there until it is closed."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, name: str) -> Path:
        """Where a file of this name can be written."""
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX)))
        return self._folder / name

    def locations(self, data: Data, name: str) -> list[str]:
        """The locations of `data`, which is written to a file called `name` if it is in memory."""
        if isinstance(data, (str, os.PathLike)):
            return [os.fspath(data)]
        if isinstance(data, (list, tuple)) and data and all(isinstance(one, (str, os.PathLike)) for one in data):
            return [os.fspath(one) for one in data]
        return [str(self._write(data, name))]

    def _write(self, data: Any, name: str) -> Path:
        if hasattr(data, "to_parquet") and hasattr(data, "with_format"):
            # A datasets.Dataset, whose selected and shuffled rows are not those of its table.
            path = self.path(f"{name}.parquet")
            data.to_parquet(str(path))
            return path
        if hasattr(data, "write_parquet"):
            # A data frame of polars, which writes what its types are.
            path = self.path(f"{name}.parquet")
            data.write_parquet(str(path), row_group_size=_ROW_GROUP)
            return path
        if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__") or _is_data_frame(data):
            return self._write_table(data, name)
        if isinstance(data, Mapping) or not isinstance(data, Iterable):
            raise TypeError(f"{name}: expected a path, a table, or rows as dicts, found {type(data).__name__}")
        path = self.path(f"{name}.jsonl")
        with path.open("w", encoding="utf-8") as file:
            for line in _lines(data, name):
                file.write(line + "\n")
        return path

    def _write_table(self, data: Any, name: str) -> Path:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            if _is_data_frame(data):
                # Without Arrow a data frame is rows.
                return self._write(data.astype(object).where(data.notna(), None).to_dict("records"), name)
            raise TypeError(f"{name}: reading {type(data).__name__} needs pyarrow: pip install lorafit[arrow]") from None
        if _is_data_frame(data):
            table = pyarrow.Table.from_pandas(data, preserve_index=False)
        else:
            table = pyarrow.table(data)
        path = self.path(f"{name}.parquet")
        try:
            pyarrow.parquet.write_table(table, str(path), compression="zstd", row_group_size=_ROW_GROUP)
        except pyarrow.ArrowNotImplementedError:
            # Types that Parquet has no form of.
            return self._write((row for batch in table.to_batches(_ROW_GROUP) for row in batch.to_pylist()), name)
        return path


def were_in_memory(name: str, config: str) -> bool:
    """Whether the settings of a run say that its rows called `name` were in memory."""
    return re.search(rf'{_PREFIX}[^/\\"]+[/\\]+{name}\.(parquet|jsonl)"', config) is not None


def _is_data_frame(data: Any) -> bool:
    return type(data).__module__.split(".")[0] == "pandas" and hasattr(data, "columns")


def _lines(rows: Iterable[Any], name: str) -> Iterator[str]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"{name}: row {number} is no dict: {type(row).__name__}")
        try:
            yield json.dumps(row, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: row {number} is no JSON: {error}") from None
