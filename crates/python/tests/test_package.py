"""The package as a whole: the program, flags, other verbs."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, SHORT, rows, run_program

import lorafit
from lorafit import _flags


def script(*words: object) -> subprocess.CompletedProcess[str]:
    path = Path(sys.executable).with_name("lorafit")
    return subprocess.run([path, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_script_is_the_program() -> None:
    assert script("--version").stdout == f"lorafit {lorafit.__version__}\n"
    assert script("plan", "--help").stdout == run_program("plan", "--help").stdout
    wrong = script("plan", "--model", MODEL, "--batch-size", "0")
    assert wrong.returncode == 2 and "--batch-size 0" in wrong.stderr
    assert script("plan", "--modle", "x").returncode == 2
    assert script("inspect", "/nowhere").returncode == 1


def test_the_script_ends_on_signals_as_the_program_does(tmp_path: Path, data: Path) -> None:
    path = Path(sys.executable).with_name("lorafit")
    words = ["train", "--model", MODEL, "--data", data, "--out", tmp_path / "run", "--max-steps", "1000000", "--preset", "off"]
    process = subprocess.Popen([path, *map(str, words), "--log", "json"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if '"step"' in line:
            process.send_signal(2)
            break
    process.stderr.read()
    assert process.wait() == 130
    assert list((tmp_path / "run/checkpoints").iterdir())


def test_flags_are_in_the_signature_and_the_help() -> None:
    parameters = inspect.signature(lorafit.train).parameters
    assert {"lr", "max_steps", "dora", "on_step", "model"} <= set(parameters)
    assert "log_every" not in parameters and "flags" not in parameters
    assert lorafit.train.__doc__ is not None and "\nlr: " in lorafit.train.__doc__


def test_functions_take_what_the_types_of_flags_have() -> None:
    """The stub leaves out what the functions have themselves, and nothing else."""
    import ast

    stub = ast.parse((Path(lorafit.__file__).with_name("_flag_types.pyi")).read_text())
    classes = {
        node.name: {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
        for node in stub.body
        if isinstance(node, ast.ClassDef)
    }
    assert classes["SamplingFlags"] == set(_flags.names_of_sampling())
    functions: list[tuple[str, Callable[..., Any]]] = [
        ("TrainFlags", lorafit.train),
        ("PlanFlags", lorafit.plan),
        ("InspectFlags", lorafit.inspect),
        ("EvalFlags", lorafit.evaluate),
        ("CompareFlags", lorafit.compare),
        ("SweepFlags", lorafit.sweep),
        ("MergeFlags", lorafit.merge),
        ("ExportFlags", lorafit.export),
        ("ReportFlags", lorafit.report),
    ]
    for name, function in functions:
        signature = inspect.signature(function).parameters.values()
        flags = {one.name for one in signature if one.default is None and one.kind is one.KEYWORD_ONLY}
        assert classes[name] <= flags, name
        own = {"on_step", "on_evaluation", "on_event", "out", "resume", "eval_data", "adapter", "data"}
        assert flags - classes[name] <= own, name


def test_a_plan_is_that_of_the_program() -> None:
    plan = lorafit.plan("smollm2-135m", quant="nf4")
    expected = json.loads(run_program("plan", "--model", "smollm2-135m", "--quant", "nf4", "--json").stdout)
    assert plan.keys() == expected.keys() and plan["model"] == expected["model"]
    assert repr(plan).startswith(run_program("plan", "--model", "smollm2-135m", "--quant", "nf4").stdout.split("\n")[0])


def test_an_adapter_is_looked_into(trained: Path) -> None:
    found = lorafit.inspect(trained, quiet=True)
    expected = json.loads(run_program("inspect", trained, "--json").stdout)
    assert dict(found) == expected and found["layers"]


def test_rows_are_previewed_with_what_is_trained(data: Path) -> None:
    for form in (data, rows()):
        dataset = lorafit.Dataset(form, MODEL)
        preview = dataset.preview(rows=2)
        assert "so 0" in repr(preview) and "\u27e6" in repr(preview)
        assert preview.html.startswith("<!doctype html>") or preview.html.startswith("<!DOCTYPE html>")
        assert "<mark>" in preview.html and preview._repr_html_().startswith("<iframe srcdoc=")
        assert dataset.statistics["rows"] == 12
    with pytest.raises(TypeError, match=r"Dataset\(\) got an unexpected keyword argument `htlm`; did you mean `html`"):
        lorafit.Dataset(data, MODEL, htlm="x")  # type: ignore[call-arg]


def test_a_run_has_metrics_and_figures(trained: Path, tmp_path: Path) -> None:
    run = lorafit.Run(trained)
    assert [record["step"] for record in run.metrics] == [1, 2, 3, 4, 5, 6]
    pytest.importorskip("pandas")
    frame = run.metrics.to_pandas()
    assert list(frame["step"]) == [1, 2, 3, 4, 5, 6]
    pyarrow = pytest.importorskip("pyarrow")
    assert pyarrow.table(run.metrics).num_rows == run.metrics.to_arrow().num_rows == 6
    figure = run.plot()
    assert figure.svg.startswith("<svg") and "loss" in run.figures
    figure.save(tmp_path / "loss.svg")
    with pytest.raises(KeyError, match="no figure is called 'lost'; there are"):
        run.plot("lost")
    assert lorafit.plot(trained, trained).svg.startswith("<svg")
    assert run.verdict is not None and "loss" in repr(run)


def test_a_sweep_of_rows_in_memory_finds_the_best_trial(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": rows(),
        "eval-data": rows(4),
        "max-steps": 3,
        "batch-size": 2,
        "search": {"lr": [1e-2, 1e-5]},
    }
    found = lorafit.sweep(settings, out=tmp_path / "sweep", quiet=True)
    assert len(found["trials"]) == 2 and found["best"] == 0


def test_a_forked_process_is_told_to_be_spawned() -> None:
    lorafit.plan("smollm2-135m")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        told = pool.apply(_plan_told)
    assert "forked" in told and "spawn" in told


def _plan_told() -> str:
    try:
        lorafit.plan("smollm2-135m")
    except RuntimeError as error:
        return str(error)
    return "nothing"


def test_every_flag_takes_what_its_kind_is() -> None:
    for verb in ("train", "plan", "eval", "data", "chat"):
        for parameter in _flags.parameters(verb).values():
            value: object = {"bool": True, "int": 1, "float": 0.5}.get(parameter["kind"], "x")
            words = _flags.words(verb, {parameter["name"]: value}, verb)
            flag = parameter["flag"] or "--"
            assert words[0].startswith(flag), (verb, parameter)
