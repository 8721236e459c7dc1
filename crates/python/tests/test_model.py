"""Answers and scores of a model that stays open."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import MODEL, rows, run_program

import lorafit


@pytest.fixture(scope="module")
def model(trained: Path) -> lorafit.Model:
    return lorafit.Model(MODEL, {"first": trained, "again": trained}, quiet=True)


def test_answers_are_those_of_the_program(model: lorafit.Model, trained: Path) -> None:
    for adapter, words in [("first", ["--adapter", str(trained)]), (None, []), ({"first": 0.5}, ["--adapter", f"{trained}:0.5"])]:
        for chat in (True, False):
            flags = ["--model", MODEL, "--prompt", "why 3?", "--max-new-tokens", "12", *words]
            expected = run_program("generate", *flags, *(["--chat"] if chat else [])).stdout
            answer = model.chat if chat else model.generate
            assert answer("why 3?", adapter=adapter, max_new_tokens=12) + "\n" == expected


def test_pieces_of_a_stream_make_the_answer(model: lorafit.Model) -> None:
    whole = model.generate("why 3?", max_new_tokens=12)
    pieces = list(model.generate("why 3?", stream=True, max_new_tokens=12))
    assert "".join(pieces) == whole and len(pieces) > 1
    # One that nobody reads to its end ends with its iterator, and the model answers on.
    begun = model.generate("why 3?", stream=True, max_new_tokens=100_000)
    assert whole.startswith(next(begun))
    del begun
    assert model.generate("why 3?", max_new_tokens=12) == whole


def test_sampling_is_that_of_the_program(model: lorafit.Model, trained: Path) -> None:
    flags = ["--model", MODEL, "--adapter", trained, "--prompt", "why 3?", "--max-new-tokens", "12"]
    expected = run_program("generate", *flags, "--temperature", "0.9", "--top-p", "0.8", "--seed", "5").stdout
    assert model.generate("why 3?", max_new_tokens=12, temperature=0.9, top_p=0.8, seed=5) + "\n" == expected


def test_the_adapter_in_use_can_be_another(model: lorafit.Model) -> None:
    assert model.adapters == ["first", "again"] and model.adapter == "first"
    with_adapter = model.generate("why 3?", max_new_tokens=12)
    model.adapter = None
    base = model.generate("why 3?", max_new_tokens=12)
    model.adapter = "again"
    assert model.generate("why 3?", max_new_tokens=12) == with_adapter != base
    model.adapter = "first"
    with pytest.raises(KeyError, match="no adapter is called 'second'; there are first, again"):
        model.adapter = "second"
    with pytest.raises(lorafit.Error, match="there is no adapter `second` at hand") as caught:
        model.generate("x", adapter="second")
    assert caught.value.hint == "at hand: first, again"


def test_a_conversation_is_written_by_the_template(model: lorafit.Model) -> None:
    messages = rows(1)[0]["messages"]
    assert model.chat(messages[:1], max_new_tokens=5) == model.chat("why 0?", max_new_tokens=5)
    with pytest.raises(lorafit.Error, match="a message has the role `robot`"):
        model.chat([{"role": "robot", "content": "hello"}])


def test_scores_add_up_and_training_raises_them(model: lorafit.Model) -> None:
    trained = model.score("so 9", prompt=[{"role": "user", "content": "why 3?"}])
    base = model.score("so 9", prompt=[{"role": "user", "content": "why 3?"}], adapter=None)
    assert trained["log_probability"] > base["log_probability"]
    assert math.isclose(sum(trained["log_probabilities"]), trained["log_probability"], rel_tol=1e-6)
    assert "".join(trained["tokens"]) == "so 9"
    whole = model.score("why 3? so 9")
    assert len(whole["log_probabilities"]) == len(whole["tokens"])
    with pytest.raises(lorafit.Error, match="no token that stands behind another one"):
        model.score("")


def test_greedy_answers_are_the_likeliest_by_score(model: lorafit.Model) -> None:
    """The first token of an answer has the greatest probability among some."""
    answer = model.generate("why 3?", max_new_tokens=1)
    chosen = model.score(answer, prompt="why 3?")["log_probabilities"][0]
    assert all(model.score(other, prompt="why 3?")["log_probabilities"][0] <= chosen for other in ("a", "so", "?", "1"))


def test_wrong_flags_are_said_by_name(model: lorafit.Model) -> None:
    with pytest.raises(lorafit.Error, match="temperature"):
        model.generate("x", temperature=-1.0)
    with pytest.raises(TypeError, match="did you mean `temperature`"):
        model.generate("x", temprature=1.0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"Model\(\) got an unexpected keyword argument `seed`"):
        lorafit.Model(MODEL, seed=1)  # type: ignore[call-arg]


def test_a_classifier_scores_texts_as_the_program_does(tmp_path: Path) -> None:
    labelled = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": "yes" if i % 2 else "no"} for i in range(12)]
    run = lorafit.train(MODEL, labelled, out=tmp_path / "run", objective="classify", preset="off", max_steps=4, quiet=True)
    classifier = lorafit.Model(MODEL, run, quiet=True)
    expected = run_program("generate", "--model", MODEL, "--adapter", run.folder, "--prompt", "good 3", "--json").stdout
    assert classifier.score("good 3") == json.loads(expected)
    with pytest.raises(lorafit.Error, match="the model is a classifier"):
        classifier.generate("good 3")
