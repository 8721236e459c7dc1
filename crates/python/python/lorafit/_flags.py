"""Keyword arguments as the flags of a verb.

The flags are declared once, in Rust; this reads that table. ``lr=1e-3`` is ``--lr 1e-3``, ``dora=True`` is ``--dora``, ``None`` leaves a
flag out, and a list repeats a flag that can be repeated and is joined with commas where the flag takes such a list.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict, TypeVar

from lorafit import _lorafit


class Parameter(TypedDict):
    """A flag, or a value that stands without one."""

    name: str
    flag: str | None
    kind: str
    choices: list[str]
    is_repeated: bool
    is_switch: bool
    default: str | None
    help: str


@functools.lru_cache(maxsize=None)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_lorafit.parameters())
    return table


def parameters(verb: str) -> dict[str, Parameter]:
    """The parameters of a verb by their names."""
    return {one["name"]: one for one in _table()[verb]["parameters"]}


def names_of_sampling() -> list[str]:
    """The flags that say how a token is chosen."""
    return ["max_new_tokens", "temperature", "top_p", "top_k", "seed"]


def words(verb: str, values: Mapping[str, object], function: str, known: Iterable[str] | None = None) -> list[str]:
    """The words of a command line that sets ``values``; ``known`` are the flags that ``function`` takes, if not all of the verb."""
    table = parameters(verb)
    allowed = list(table if known is None else known)
    flags: list[str] = []
    alone: list[str] = []
    for given, value in values.items():
        # `lambda_` and the like, where Python has the name itself.
        name = given.rstrip("_")
        if name not in allowed:
            raise TypeError(_unknown(given, allowed, function))
        parameter = table[name]
        if value is None:
            continue
        for text in _texts(parameter, value, function):
            if parameter["flag"] is None:
                alone.append(text)
            elif parameter["kind"] == "bool":
                flags.append(parameter["flag"] + text)
            else:
                flags.append(f"{parameter['flag']}={text}")
    return flags + (["--", *alone] if alone else [])


def _unknown(name: str, known: list[str], function: str) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    advice = f"; did you mean `{near[0]}`?" if near else ""
    return f"{function}() got an unexpected keyword argument `{name}`{advice}"


def _texts(parameter: Parameter, value: object, function: str) -> list[str]:
    """What a value is on a command line: once, several times, or not at all."""
    kind = parameter["kind"]
    if kind == "bool":
        if not isinstance(value, bool):
            raise _wrong(parameter, value, "True or False", function)
        if parameter["is_switch"]:
            return [""] if value else []
        return ["" if value else "=false"]
    is_list = isinstance(value, (list, tuple, set, frozenset))
    if is_list and parameter["is_repeated"]:
        return [_text(parameter, one, function) for one in value]  # type: ignore[attr-defined]
    if is_list and kind == "form":
        return [",".join(_text(parameter, one, function) for one in value)]  # type: ignore[attr-defined]
    return [_text(parameter, value, function)]


def _text(parameter: Parameter, value: object, function: str) -> str:
    kind = parameter["kind"]
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, bool):
        raise _wrong(parameter, value, _expected(parameter), function)
    if kind in ("int", "form") and hasattr(value, "__index__"):
        return str(value.__index__())
    if kind in ("float", "form") and hasattr(value, "__float__"):
        return repr(float(value))
    raise _wrong(parameter, value, _expected(parameter), function)


def _expected(parameter: Parameter) -> str:
    if parameter["choices"]:
        return "one of " + ", ".join(repr(choice) for choice in parameter["choices"])
    expected = {"int": "a whole number", "float": "a number", "path": "a path", "text": "text"}
    return expected.get(parameter["kind"], "text or a number")


def _wrong(parameter: Parameter, value: object, expected: str, function: str) -> TypeError:
    return TypeError(f"{function}(): `{parameter['name']}` takes {expected}, found {value!r}")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_flags(verb: str, leaving_out: Iterable[str] = ()) -> Callable[[_Function], _Function]:
    """Gives a function that takes the flags of a verb as ``**flags`` their signature, and their help below its own."""

    def with_flags(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {one.name for one in own} | set(leaving_out)
        added = [one for one in parameters(verb).values() if one["name"] not in taken and one["flag"] is not None]
        keyword = [
            inspect.Parameter(one["name"], inspect.Parameter.KEYWORD_ONLY, default=None) for one in added
        ]
        setattr(function, "__signature__", signature.replace(parameters=[*own, *keyword]))
        lines = [_described(one) for one in added]
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nFlags of ``lorafit {verb}``:\n\n" + "\n".join(lines)
        return function

    return with_flags


def _described(parameter: Parameter) -> str:
    words = [parameter["help"].replace("\n", " ")]
    if parameter["choices"]:
        words.append(f"One of {', '.join(parameter['choices'])}.")
    if parameter["default"] is not None:
        words.append(f"[default: {parameter['default']}]")
    return textwrap.fill(" ".join(words), 100, initial_indent=f"{parameter['name']}: ", subsequent_indent="    ")
