"""Makes fixtures/scores/: heads that score texts, as TRL's RewardTrainer and transformers with PEFT train them.

  pairs.jsonl, margins.jsonl, chats.jsonl   preference rows, as text, with margins, and as conversations
  texts.jsonl                               texts with labels
  reward/, classes/                         the adapters that training begins from, over fixtures/models/chat_bpe: factors and a head
  NAME.json                                 what was done there: `options` (ours), and for each of four steps `loss`, `grad_norm` and
                                            what TRL logs; of classes also the `logits` of every text after the last step

Every step is on four rows in the order of the file, in f32, AdamW at learning rate `lr` without decay, clipped to norm 1.

Run: .venv/bin/python scripts/make_score_fixtures.py       (needs trl, scripts/requirements.txt; deterministic)
"""
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from make_preference_fixtures import BAD, GOOD, LINEAR, PROMPTS, Noted

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures" / "scores"
BASE = ROOT / "fixtures/models/chat_bpe"
LR = 2e-3
STEPS = 4
LABELS = ["calm", "glad", "sad"]
TEXTS = [("Good, very good!", "glad"), ("It is late.", "calm"), ("No, no, no.", "sad"), ("The key is in the box.", "calm"),
         ("Hello Anna! Hello!", "glad"), ("Nobody wrote to me.", "sad"), ("What a day!", "glad"), ("It is late.", "sad")]


def write(name, rows):
    (OUT / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def base(labels):
    model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=labels, dtype=torch.float32,
                                                               attn_implementation="eager")
    model.config.pad_token_id = AutoTokenizer.from_pretrained(BASE).pad_token_id
    return model


def write_adapter(name, labels):
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LINEAR, task_type=TaskType.SEQ_CLS)
    torch.manual_seed(6)
    model = get_peft_model(base(labels), lora)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
            if "score.modules_to_save" in key:
                p.copy_(0.2 * torch.randn(p.shape, generator=g))
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    path = OUT / name / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "chat_bpe"
    path.write_text(json.dumps(config, indent=1) + "\n")


def exact(trainer):
    """The losses of a trainer, of which its log has four digits."""
    losses, compute = [], trainer.compute_loss

    def compute_loss(*args, **kwargs):
        loss = compute(*args, **kwargs)
        losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss

    trainer.compute_loss = compute_loss
    return losses


def settings(folder):
    return dict(output_dir=folder, per_device_train_batch_size=4, max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant",
                weight_decay=0.0, warmup_steps=0, max_grad_norm=1.0, logging_steps=1, bf16=False, fp16=False, use_cpu=True,
                gradient_checkpointing=False, report_to=[], save_strategy="no", train_sampling_strategy="sequential",
                disable_tqdm=True)


def save(name, options, steps, **more):
    told = {"made_by": "scripts/make_score_fixtures.py", "trl": trl.__version__, "transformers": transformers.__version__, "lr": LR,
            "options": options, "steps": steps, **more}
    (OUT / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{name:14}", [round(step["loss"], 5) for step in steps], flush=True)


def reward(name, rows, options, **more):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = PeftModel.from_pretrained(base(1), OUT / "reward", is_trainable=True)
    noted = Noted()
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(max_length=256, **settings(folder), **more)
        trainer = RewardTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                                callbacks=[noted])
        losses = exact(trainer)
        trainer.train()
    keep = ("grad_norm", "accuracy", "margin", "min_reward", "mean_reward", "max_reward")
    steps = [{"loss": loss, **{k: v for k, v in step.items() if k in keep}}
             for step, loss in zip(noted.steps, losses, strict=True)]
    save(name, {"objective": "reward", **options}, steps)


def classes(rows):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = PeftModel.from_pretrained(base(len(LABELS)), OUT / "classes", is_trainable=True)
    encoded = [{**tokenizer(row["text"]), "label": LABELS.index(row["label"])} for row in rows]
    noted = Noted()
    with tempfile.TemporaryDirectory() as folder:
        collate = transformers.DataCollatorWithPadding(tokenizer)
        trainer = transformers.Trainer(model=model, args=transformers.TrainingArguments(**settings(folder)), data_collator=collate,
                                       train_dataset=Dataset.from_list(encoded), processing_class=tokenizer, callbacks=[noted])
        losses = exact(trainer)
        trainer.train()
    steps = [{"loss": loss, "grad_norm": step["grad_norm"]} for step, loss in zip(noted.steps, losses, strict=True)]
    model.eval()
    with torch.no_grad():
        logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0].tolist() for row in rows]
    save("classes", {"objective": "classify"}, steps, labels=LABELS, logits=logits)


def main():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the same bits whoever runs it
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    said = lambda role, text: {"role": role, "content": text}
    pairs = write("pairs", [{"prompt": p, "chosen": g, "rejected": b} for p, g, b in zip(PROMPTS, GOOD, BAD)])
    margins = write("margins", [{**row, "margin": 0.25 * (i % 4)} for i, row in enumerate(pairs)])
    chats = write("chats", [{"prompt": [said("user", p)], "chosen": [said("assistant", g.strip())],
                             "rejected": [said("assistant", b.strip())]} for p, g, b in zip(PROMPTS, GOOD, BAD)])
    texts = write("texts", [{"text": text, "label": label} for text, label in TEXTS])
    write_adapter("reward", 1)
    write_adapter("classes", len(LABELS))
    reward("reward", pairs, {})
    reward("reward_margins", margins, {"rows": "margins"})
    reward("reward_centred", pairs, {"center_rewards": 0.1}, center_rewards_coefficient=0.1)
    reward("reward_chats", chats, {"rows": "chats"})
    classes(texts)
    for f in OUT.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)


main()
