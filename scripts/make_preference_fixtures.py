"""Makes fixtures/preference/: steps of DPO and its family as TRL's trainers take them.

  pairs.jsonl, labels.jsonl   the rows, as text; chats.jsonl, the pairs as conversations without a prompt of their own
  adapter/                    the adapter that training begins from, over fixtures/models/chat_bpe; it is the reference, too
  NAME.json                   what TRL did: `options` (ours), and for each of four steps `loss`, `grad_norm`, and TRL's metrics

Every step is on four rows in the order of the file, in f32, AdamW at learning rate `lr` without decay, clipped to norm 1.

Run: .venv/bin/python scripts/make_preference_fixtures.py       (needs trl, scripts/requirements.txt; deterministic)
"""
import json
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures" / "preference"
BASE = ROOT / "fixtures/models/chat_bpe"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LR = 2e-3
STEPS = 4

PROMPTS = ["What is the capital of France?", "Say hello to Anna.", "Two and two?", "Name a colour.",
           "What is the capital of France?", "Where is the key?", "Who wrote it?", "Is it late?"]
GOOD = [" Paris.", " Hello Anna!", " Four.", " Blue.", " It is Paris.", " In the box, I think.", " Nobody knows.", " No."]
BAD = [" Paris is a city in the south of Spain.", " No.", " Two and two is five.", " Blueish things", " Rome.", " In the sea.",
       " Nobody", " Yes, it is very late indeed."]


def write_rows():
    pairs = [{"prompt": p, "chosen": g, "rejected": b} for p, g, b in zip(PROMPTS, GOOD, BAD)]
    labels = [{"prompt": p, "completion": g if i % 3 else b, "label": bool(i % 3)}
              for i, (p, g, b) in enumerate(zip(PROMPTS, GOOD, BAD))]
    said = lambda role, text: {"role": role, "content": text}
    whole = lambda prompt, reply: [said("user", "Hello"), said("assistant", "Hi"), said("user", prompt), said("assistant", reply)]
    chats = [{"chosen": whole(p, g.strip()), "rejected": whole(p, b.strip())} for p, g, b in zip(PROMPTS, GOOD, BAD)]
    all_rows = {"pairs": pairs, "labels": labels, "chats": chats}
    for name, rows in all_rows.items():
        (OUT / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [Dataset.from_list(rows) for rows in all_rows.values()]


def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")


def write_adapter():
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM")
    model = get_peft_model(base(), lora)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
    model.save_pretrained(OUT / "adapter", save_embedding_layers=False)
    (OUT / "adapter" / "README.md").unlink(missing_ok=True)
    config = json.loads((OUT / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = "chat_bpe"
    (OUT / "adapter/adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


class Noted(transformers.TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.steps.append({k: v for k, v in logs.items() if isinstance(v, (int, float))})


def train(name, rows, trainer, config, options, **settings):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.pad_token = tokenizer.eos_token
    # ORPO's and CPO's trainers put it before prompts whatever the tokenizer does; DPO's does not.
    tokenizer.bos_token = None
    model = PeftModel.from_pretrained(base(), OUT / "adapter", is_trainable=True)
    noted = Noted()
    with tempfile.TemporaryDirectory() as folder:
        args = config(output_dir=folder, per_device_train_batch_size=4, max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant",
                      weight_decay=0.0, warmup_steps=0, max_grad_norm=1.0, logging_steps=1, bf16=False, fp16=False, use_cpu=True,
                      gradient_checkpointing=False, report_to=[], save_strategy="no", train_sampling_strategy="sequential",
                      disable_tqdm=True, remove_unused_columns=False, max_length=256, **settings)
        done = trainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[noted])
        # TRL logs four digits of the loss.
        compute, exact = done.compute_loss, []

        def compute_loss(*args, **kwargs):
            loss = compute(*args, **kwargs)
            exact.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

        done.compute_loss = compute_loss
        done.train()
    for step, loss in zip(noted.steps, exact, strict=True):
        step["loss"] = loss
    keep = ("loss", "grad_norm", "rewards/", "logps/", "kl")
    steps = [{k: v for k, v in step.items() if k.startswith(keep)} for step in noted.steps]
    told = {"made_by": "scripts/make_preference_fixtures.py", "trl": trl.__version__, "lr": LR, "options": options, "steps": steps}
    (OUT / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{name:14}", [round(step["loss"], 5) for step in steps], flush=True)


def main():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the same bits whoever runs it
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    pairs, labels, chats = write_rows()
    write_adapter()

    def dpo(name, objective, kind, options=None, **settings):
        options = {"objective": objective, "beta": settings.get("beta", 0.1), **(options or {})}
        train(name, pairs, DPOTrainer, DPOConfig, options, loss_type=kind, **settings)

    dpo("dpo", "dpo", ["sigmoid"])
    dpo("dpo_beta", "dpo", ["sigmoid"], beta=0.7)
    dpo("dpo_by_token", "dpo", ["sigmoid_norm"], {"length_normalise": True}, beta=2.0)
    dpo("dpo_sft", "dpo", ["sigmoid", "sft"], {"sft_weight": 0.3}, loss_weights=[1.0, 0.3])
    train("dpo_chats", chats, DPOTrainer, DPOConfig, {"objective": "dpo", "beta": 0.1, "rows": "chats", "train_on": "completion"},
          loss_type=["sigmoid"], beta=0.1)
    dpo("ipo", "ipo", ["ipo"])
    dpo("hinge", "hinge", ["hinge"])
    dpo("robust", "robust", ["robust"], {"label_smoothing": 0.2}, label_smoothing=0.2)
    dpo("apo_zero", "apo-zero", ["apo_zero"])
    dpo("apo_down", "apo-down", ["apo_down"])
    dpo("bco", "bco", ["bco_pair"])
    train("orpo", pairs, ORPOTrainer, ORPOConfig, {"objective": "orpo", "beta": 0.4}, beta=0.4)
    train("cpo", pairs, CPOTrainer, CPOConfig, {"objective": "cpo", "beta": 0.2, "sft_weight": 0.5, "label_smoothing": 0.1},
          beta=0.2, cpo_alpha=0.5, label_smoothing=0.1)
    train("simpo", pairs, CPOTrainer, CPOConfig, {"objective": "simpo", "beta": 2.0, "gamma": 1.2, "sft_weight": 0.0},
          loss_type="simpo", beta=2.0, simpo_gamma=1.2, cpo_alpha=0.0)
    train("kto", labels, KTOTrainer, KTOConfig, {"objective": "kto", "beta": 0.5, "desirable_weight": 0.8, "undesirable_weight": 1.3},
          beta=0.5, desirable_weight=0.8, undesirable_weight=1.3)
    for f in OUT.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)


if __name__ == "__main__":
    main()
