"""Adapters of PEFT and TRL in, adapters for them out. Needs torch, transformers, peft and trl; skipped without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, rows

import lorafit

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TEXT = "why 3? so 9"


def base() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def log_probabilities(model: Any, ids: list[int]) -> list[float]:
    """Of the last of `ids` as many as stand behind another one."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logits[place, token]) for place, token in enumerate(ids[1:])]


def ids_of(scores: dict[str, Any]) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    assert ids[1:] == scores["token_ids"]
    return ids


def test_an_adapter_of_ours_scores_in_peft_as_it_does_here(tmp_path: Path) -> None:
    run = lorafit.train(MODEL, rows(), out=tmp_path / "run", preset="off", max_steps=20, lr=1e-2, batch_size=4, quiet=True)
    ours = lorafit.Model(MODEL, run, quiet=True).score(TEXT)
    theirs = log_probabilities(peft.PeftModel.from_pretrained(base(), run.adapter), ids_of(ours))
    # Both sum in f32, in another order.
    assert ours["log_probabilities"] == pytest.approx(theirs, abs=1e-4)


def test_an_adapter_of_trl_scores_here_as_it_does_there_and_is_trained_on(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    trainer = trl.SFTTrainer(
        model=base(),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "trl"), max_steps=4, learning_rate=1e-2, use_cpu=True, report_to=[], bf16=False
        ),
        train_dataset=datasets.Dataset.from_list([{"text": TEXT}] * 8),
        processing_class=transformers.AutoTokenizer.from_pretrained(MODEL),
        peft_config=peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    adapter = tmp_path / "from-trl"
    trainer.model.save_pretrained(adapter)
    ours = lorafit.Model(MODEL, adapter, quiet=True).score(TEXT)
    theirs = log_probabilities(trainer.model.eval(), ids_of(ours))
    assert ours["log_probabilities"] == pytest.approx(theirs, abs=1e-4)
    assert lorafit.inspect(adapter, quiet=True)["rank"] == 4
    run = lorafit.train(
        MODEL, [{"text": TEXT}] * 8, out=tmp_path / "next", adapter=adapter, preset="off", max_steps=10, lr=1e-2, quiet=True
    )
    after = lorafit.Model(MODEL, run, quiet=True).score(TEXT)
    assert after["log_probability"] > ours["log_probability"]
