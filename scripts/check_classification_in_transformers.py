#!/usr/bin/env python3
"""Holds heads that score texts against transformers: adapters of `lorafit train --objective classify` and `reward` as PEFT loads
them, and the folders that `lorafit merge` makes of them as AutoModelForSequenceClassification does.

    scripts/check_classification_in_transformers.py --lorafit target/release/lorafit [--model fixtures/models/chat_bpe]

Probabilities of every row of `lorafit eval --predictions` are compared with those there, rewards likewise, in f32; texts of
different lengths together in a batch that is filled up, and one by one. Needs peft (scripts/requirements.txt).
"""
import argparse
import json
import shutil
import subprocess
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
# Logits of a few units, as sums in another order.
TOLERANCE = 1e-4


def run(*command):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def train(args, objective, data, out):
    run(args.lorafit, "train", "--model", args.model, "--data", data, "--objective", objective, "--out", out, "--max-steps", 12,
        "--lr", "2e-3", "--batch-size", 4, "--validation", "none", "--preset", "off", "--checkpoint-every", 0, "--seed", 3)


def predictions(args, data, work, *model):
    path = work / "predictions.jsonl"
    path.unlink(missing_ok=True)
    run(args.lorafit, "eval", *model, "--data", data, "--predictions", path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def loaded(args, out, labels):
    """As the card of the adapter says."""
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=labels, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    return model.eval(), tokenizer


def merged(args, out, folder):
    shutil.rmtree(folder, ignore_errors=True)
    run(args.lorafit, "merge", "--model", args.model, "--adapter", out, "--out", folder, "--dtype", "f32")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification"), config["architectures"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def logits(model, tokenizer, texts):
    """Of every text by itself, and of all in a batch; both are the same."""
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in texts])
        filler = model.config.pad_token_id
        longest = max(map(len, texts))
        batch = torch.tensor([ids + [filler] * (longest - len(ids)) for ids in texts])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts])
        together = model(input_ids=batch, attention_mask=mask).logits
    apart = (alone - together).abs().max().item()
    assert apart < TOLERANCE, apart
    return alone


def classes(args, work):
    data = ROOT / "fixtures/scores/texts.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    labels = sorted({row["label"] for row in rows})
    out = work / "classes"
    train(args, "classify", data, out)
    worst = 0.0
    for where, (model, tokenizer) in {"adapter": loaded(args, out, len(labels)), "merged": merged(args, out, work / "merged")}.items():
        if where == "merged":
            assert model.config.id2label == dict(enumerate(labels)), model.config.id2label
        found = predictions(args, data, work, "--model", args.model, "--adapter", out)
        if where == "merged":
            found = predictions(args, data, work, "--model", work / "merged")
        expected = logits(model, tokenizer, [tokenizer(row["text"])["input_ids"] for row in rows]).double().softmax(-1)
        for mine, theirs in zip(found, expected, strict=True):
            worst = max(worst, max(abs(mine["probabilities"][label] - p.item()) for label, p in zip(labels, theirs)))
            assert mine["label"] == labels[theirs.argmax()], (mine, theirs)
    print(f"classify: probabilities differ by {worst:.1e} at most")
    assert worst < TOLERANCE
    text = json.loads(run(args.lorafit, "generate", "--model", args.model, "--adapter", out, "--prompt", rows[0]["text"], "--json"))
    assert text["label"] == predictions(args, data, work, "--model", args.model, "--adapter", out)[0]["label"], text


def rewards(args, work):
    worst = 0.0
    for name in ("pairs", "chats"):
        data, out = ROOT / f"fixtures/scores/{name}.jsonl", work / f"reward_{name}"
        train(args, "reward", data, out)
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        for where, (model, tokenizer) in {"adapter": loaded(args, out, 1), "merged": merged(args, out, work / "merged")}.items():
            model_of = ("--model", work / "merged") if where == "merged" else ("--model", args.model, "--adapter", out)
            for side in ("chosen", "rejected"):
                # As TRL's RewardTrainer writes them.
                texts = [tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=True)["input_ids"] if name == "chats"
                         else tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"] for row in rows]
                expected = logits(model, tokenizer, texts)[:, 0]
                for mine, theirs in zip(predictions(args, data, work, *model_of), expected, strict=True):
                    worst = max(worst, abs(mine[side]["reward"] - theirs.item()))
    print(f"reward: rewards differ by {worst:.1e} at most")
    assert worst < TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lorafit", default=ROOT / "target/release/lorafit")
    parser.add_argument("--model", type=Path, default=ROOT / "fixtures/models/chat_bpe")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/classification_in_transformers")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    classes(args, args.work)
    rewards(args, args.work)


main()
