"""Training in this process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, SHORT, rows, run_program, what_is_learnt

import lorafit


def test_losses_and_adapter_have_the_bits_of_the_program(trained: Path, data: Path, tmp_path: Path) -> None:
    run = lorafit.train(MODEL, data, out=tmp_path / "run", **SHORT)
    assert what_is_learnt(run) == what_is_learnt(trained)
    assert not run.interrupted and len(run.metrics) == 6


def test_every_flag_reaches_the_run(data: Path, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"dora": True, "rank": 4, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": ["q_proj=4", "v_proj=8"]}
    run = lorafit.train(MODEL, [data, data], out=tmp_path / "python", **SHORT, **flags)
    words = ["--dora", "--rank", "4", "--target-modules", "q_proj,v_proj", "--alpha-pattern", "q_proj=4", "--alpha-pattern", "v_proj=8"]
    short = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    out = tmp_path / "program"
    run_program("train", "--model", MODEL, "--data", data, "--data", data, "--out", out, *short, *words)
    assert what_is_learnt(run) == what_is_learnt(out)
    assert settings(run.config) == settings((out / "config.toml").read_text())


def settings(config: str) -> list[str]:
    """All but what names the run."""
    return [line for line in config.splitlines() if not line.startswith(("out", "name"))]


def test_rows_in_memory_are_trained_as_those_of_a_file(trained: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    union = pyarrow.UnionArray.from_sparse(pyarrow.array([0] * 12, pyarrow.int8()), [pyarrow.array(range(12))])
    forms: dict[str, Any] = {
        "dicts": rows(),
        "generator": iter(rows()),
        "arrow": pyarrow.Table.from_pylist(rows()),
        "reader": pyarrow.Table.from_pylist(rows()).to_reader(),
        "pandas": pandas.DataFrame(rows()),
        # Parquet cannot hold a union.
        "union": pyarrow.table({"messages": [row["messages"] for row in rows()], "kind": union}),
    }
    for name, form in forms.items():
        run = lorafit.train(MODEL, form, out=tmp_path / name, quiet=True, **SHORT)
        assert what_is_learnt(run) == what_is_learnt(trained), name


def test_a_selected_dataset_is_trained_as_it_is_selected(trained: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    both = datasets.Dataset.from_list([*rows(24)[12:], *rows()]).select(range(12, 24))
    run = lorafit.train(MODEL, both, out=tmp_path / "run", **SHORT)
    assert what_is_learnt(run) == what_is_learnt(trained)


def test_rows_that_are_none_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="data: row 1 is no dict: int"):
        lorafit.train(MODEL, [rows()[0], 7], out=tmp_path / "run")
    with pytest.raises(TypeError, match="data: row 0 is no JSON"):
        lorafit.train(MODEL, [{"text": object()}], out=tmp_path / "run")
    with pytest.raises(TypeError, match="expected a path, a table, or rows as dicts, found int"):
        lorafit.train(MODEL, 7, out=tmp_path / "run")


def test_callbacks_get_the_records_of_the_run(data: Path, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    names: list[str] = []
    thread = threading.get_ident()

    def on_step(record: dict[str, Any]) -> None:
        assert threading.get_ident() == thread
        steps.append(record)

    run = lorafit.train(
        MODEL,
        data,
        out=tmp_path / "run",
        eval_data=rows(4),
        eval_every=3,
        on_step=on_step,
        on_evaluation=evaluations.append,
        on_event=lambda name, _: names.append(name),
        **SHORT,
    )
    assert steps == list(run.metrics) and [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert evaluations == list(run.evaluations) and len(evaluations) >= 3
    assert names[0] == "start" and names.count("step") == 6 and names[-1] == "verdict"


@pytest.mark.parametrize("how", ["false", "raise", "interrupt"])
def test_a_run_that_a_callback_stops_goes_on_to_the_same_bits(how: str, trained: Path, tmp_path: Path) -> None:
    def on_step(record: dict[str, Any]) -> bool | None:
        if record["step"] == 3:
            if how == "false":
                return False
            if how == "raise":
                raise ZeroDivisionError("as asked")
            signal.raise_signal(signal.SIGINT)
        return None

    out = tmp_path / "run"
    if how == "false":
        assert lorafit.train(MODEL, rows(), out=out, on_step=on_step, **SHORT).interrupted
    else:
        with pytest.raises(ZeroDivisionError if how == "raise" else KeyboardInterrupt):
            lorafit.train(MODEL, rows(), out=out, on_step=on_step, **SHORT)
    assert len(lorafit.Run(out).metrics) == 3
    with pytest.raises(lorafit.Error, match="the rows that `data` had were in memory"):
        lorafit.train(resume=out)
    with pytest.raises(lorafit.Error, match="the rows, or which of their tokens are trained, are others"):
        lorafit.train(resume=out, data=rows(11))
    run = lorafit.train(resume=out, data=rows())
    assert not run.interrupted and what_is_learnt(run) == what_is_learnt(trained)


def test_ctrl_c_from_outside_of_callbacks_saves_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    began = threading.Event()

    def interrupt() -> None:
        began.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        lorafit.train(
            MODEL, rows(), out=out, on_event=lambda *_: began.set(), **{**SHORT, "max_steps": 1_000_000}
        )
    thread.join()
    assert list((out / "checkpoints").iterdir())
    # Python's own handling of signals is as it was.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_callback_can_ask_for_a_checkpoint(tmp_path: Path, data: Path) -> None:
    saved: list[dict[str, Any]] = []

    def on_event(name: str, record: dict[str, Any]) -> str | None:
        if name == "checkpoint":
            saved.append(record)
        return "save" if name == "step" and record["step"] == 2 else None

    lorafit.train(MODEL, data, out=tmp_path / "run", on_event=on_event, **SHORT)
    assert saved[0]["step"] == 2


def test_python_computes_while_a_run_does(data: Path, tmp_path: Path) -> None:
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    lorafit.train(MODEL, data, out=tmp_path / "run", **{**SHORT, "max_steps": 40})
    done.set()
    thread.join()
    assert counted > 100


def test_two_runs_at_once_are_told_apart(trained: Path, data: Path, tmp_path: Path) -> None:
    heard: dict[str, list[int]] = {"a": [], "b": []}

    def train(name: str) -> None:
        lorafit.train(
            MODEL, data, out=tmp_path / name, on_step=lambda record: heard[name].append(record["step"]), **SHORT
        )

    threads = [threading.Thread(target=train, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, steps in heard.items():
        assert steps == [1, 2, 3, 4, 5, 6]
        assert what_is_learnt(tmp_path / name) == what_is_learnt(trained)


def test_a_callback_may_call_the_library(data: Path, tmp_path: Path) -> None:
    losses: list[float] = []

    def on_event(name: str, record: dict[str, Any]) -> None:
        if name == "checkpoint":
            found = lorafit.evaluate(MODEL, data, adapter=record["path"], quiet=True)
            losses.append(found["loss"])

    lorafit.train(MODEL, data, out=tmp_path / "run", on_event=on_event, checkpoint_every="3", **SHORT)
    assert losses and all(loss > 0 for loss in losses)


def test_errors_have_the_text_and_the_hint_of_the_program(data: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"model": "no/such/folder"}, ["--model", "no/such/folder"]),
        ({"model": MODEL, "rank": 0}, ["--model", str(MODEL), "--rank", "0"]),
        ({"model": MODEL, "init": "random"}, ["--model", str(MODEL), "--init", "random"]),
    ]
    for flags, words in cases:
        told = run_program("train", "--data", data, "--out", tmp_path / "x", *words, fails=True).stderr
        with pytest.raises(lorafit.Error) as caught:
            lorafit.train(data=data, out=tmp_path / "x", **flags)
        message, _, hint = told.removeprefix("error: ").rstrip("\n").partition("\nhint: ")
        assert (caught.value.message, caught.value.hint) == (message, hint or None)
    # The process goes on.
    assert lorafit.train(MODEL, data, out=tmp_path / "after", **SHORT).verdict is not None


def test_unknown_keywords_name_the_nearest_flag(data: Path) -> None:
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument `leraning_rate`"):
        lorafit.train(MODEL, data, out="x", leraning_rate=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean `max_steps`"):
        lorafit.train(MODEL, data, out="x", max_step=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="`rank` takes a whole number, found 1.5"):
        lorafit.train(MODEL, data, out="x", rank=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`dora` takes True or False, found 1"):
        lorafit.train(MODEL, data, out="x", dora=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`method` takes one of 'lora', 'full', found 3"):
        lorafit.train(MODEL, data, out="x", method=3)  # type: ignore[arg-type]


def test_a_process_keeps_its_threads_and_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(lorafit.Error, match="--threads 77: this process computes with") as caught:
        lorafit.train(MODEL, data, out=tmp_path / "run", threads=77)
    assert caught.value.hint is not None and "new process" in caught.value.hint


def test_notes_go_to_python_and_nothing_past_it(data: Path, tmp_path: Path, capfd: Any) -> None:
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard):
        lorafit.train(MODEL, data, out=tmp_path / "run", **SHORT)
    assert "trainable parameters" in heard.getvalue() and "step 6/6" in heard.getvalue()
    lorafit.train(MODEL, data, out=tmp_path / "quiet", quiet=True, **SHORT)
    told = capfd.readouterr()
    assert told.err == "" and told.out == ""
