"""A model that stays open: it answers, holds conversations and scores texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, overload

import json

from lorafit import _flags, _lorafit
from lorafit._call import Call
from lorafit._show import Show

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lorafit._flag_types import ModelFlags, SamplingFlags

#: A folder of an adapter, or a run; with names where there are several.
Adapters = Union[str, "os.PathLike[str]", Mapping[str, Union[str, "os.PathLike[str]"]]]
#: The name of an adapter, several with their weights, or ``None`` for the base alone.
Chosen = Union[str, Mapping[str, float], None]
#: Messages with ``role`` and ``content``.
Messages = Sequence[Mapping[str, str]]

#: Flags of ``lorafit chat`` that are no flags of a model.
LEFT_OUT = ("adapter", "system", *_flags.names_of_sampling())


class _OfModel:
    """Stands for the adapter that the model has in use."""

    def __repr__(self) -> str:
        return "<the adapter in use>"


_OF_MODEL = _OfModel()


class Model:
    """A base in memory with any number of adapters, of which each call uses those that it names.

    ``adapters`` is a folder (or a ``Run``), or folders by name. The first is in use until ``model.adapter = "another"``;
    ``None`` is the base alone, and ``{"a": 1.0, "b": 0.5}`` is both together.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        adapters: Adapters | None = None,
        **flags: Unpack[ModelFlags],
    ) -> None:
        named: list[str] = []
        if isinstance(adapters, Mapping):
            named = [f"{name}={os.fspath(folder)}" for name, folder in adapters.items()]
        elif adapters is not None:
            named = [os.fspath(adapters)]
        known = [name for name in _flags.parameters("chat") if name not in LEFT_OUT]
        words = _flags.words("chat", {**flags}, "Model", known)
        words += _flags.words("chat", {"model": model, "adapter": named}, "Model")
        self._quiet = flags.get("quiet") is True
        self._inner = _lorafit.Model(words, Call(Show(self._quiet)).told, _lorafit.__file__)
        names = self._inner.adapters()
        self._adapter: Chosen = names[0] if names else None

    def __repr__(self) -> str:
        return f"<Model with {', '.join(self.adapters) or 'no adapters'}; in use: {self._adapter or 'the base alone'}>"

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters."""
        return self._inner.adapters()

    @property
    def adapter(self) -> Chosen:
        """What is in use where a call names no other."""
        return self._adapter

    @adapter.setter
    def adapter(self, chosen: Chosen) -> None:
        for name, _ in _parts(chosen):
            if name not in self.adapters:
                known = ", ".join(self.adapters) or "none"
                raise KeyError(f"no adapter is called {name!r}; there are {known}")
        self._adapter = chosen

    def _chosen(self, adapter: Chosen | _OfModel) -> list[tuple[str, float]]:
        return _parts(self._adapter if isinstance(adapter, _OfModel) else adapter)

    @overload
    def generate(
        self,
        prompt: str,
        *,
        stream: Literal[False] = False,
        adapter: Chosen | _OfModel = ...,
        **sampling: Unpack[SamplingFlags],
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str,
        *,
        stream: Literal[True],
        adapter: Chosen | _OfModel = ...,
        **sampling: Unpack[SamplingFlags],
    ) -> Iterator[str]: ...

    def generate(
        self,
        prompt: str,
        *,
        stream: bool = False,
        adapter: Chosen | _OfModel = _OF_MODEL,
        **sampling: Unpack[SamplingFlags],
    ) -> str | Iterator[str]:
        """Continues a text, as ``lorafit generate`` does; with ``stream`` piece by piece.

        ``sampling`` are ``max_new_tokens``, ``temperature``, ``top_p``, ``top_k`` and ``seed``.
        """
        return self._answer(prompt, stream, adapter, {**sampling}, "generate")

    @overload
    def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        stream: Literal[False] = False,
        adapter: Chosen | _OfModel = ...,
        **sampling: Unpack[SamplingFlags],
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        stream: Literal[True],
        adapter: Chosen | _OfModel = ...,
        **sampling: Unpack[SamplingFlags],
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        stream: bool = False,
        adapter: Chosen | _OfModel = _OF_MODEL,
        **sampling: Unpack[SamplingFlags],
    ) -> str | Iterator[str]:
        """Answers a message, or a conversation as a list of messages, in the model's chat template."""
        return self._answer(_conversation(messages, system), stream, adapter, {**sampling}, "chat")

    def _answer(
        self,
        prompt: str | list[tuple[str, str]],
        stream: bool,
        adapter: Chosen | _OfModel,
        sampling: Mapping[str, object],
        function: str,
    ) -> str | Iterator[str]:
        words = _flags.words("generate", sampling, function, _flags.names_of_sampling())
        answer = self._inner.generate(prompt, self._chosen(adapter), words)
        pieces = self._pieces(answer)
        return pieces if stream else "".join(pieces)

    def _pieces(self, answer: _lorafit.Answer) -> Iterator[str]:
        show = Show(self._quiet)
        try:
            for kind, text in answer:
                if kind == "piece":
                    yield text
                else:
                    show.note(text)
        finally:
            answer.close()

    def score(
        self,
        text: str,
        *,
        prompt: str | Messages | None = None,
        adapter: Chosen | _OfModel = _OF_MODEL,
    ) -> dict[str, Any]:
        """How likely the model finds ``text``, behind ``prompt`` if there is one.

        ``log_probability`` is the sum in nats over ``tokens``, each of which has its own in ``log_probabilities``. A classifier gives
        ``label``, ``probability`` and ``probabilities``, a reward model ``reward``.
        """
        before = prompt if prompt is None or isinstance(prompt, str) else _conversation(prompt, None)
        told = Call(Show(self._quiet)).told
        found: dict[str, Any] = json.loads(self._inner.score(before, text, self._chosen(adapter), told))
        return found


def _parts(chosen: Chosen) -> list[tuple[str, float]]:
    if chosen is None:
        return []
    if isinstance(chosen, str):
        return [(chosen, 1.0)]
    return [(name, float(weight)) for name, weight in chosen.items()]


def _conversation(messages: str | Messages, system: str | None) -> list[tuple[str, str]]:
    first = [] if system is None else [("system", system)]
    if isinstance(messages, str):
        return [*first, ("user", messages)]
    return first + [(message["role"], message["content"]) for message in messages]
