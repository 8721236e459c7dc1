"""Makes fixtures/training/: eight steps of variants of LoRA as PEFT and PyTorch train them, and what PEFT begins with.

Every NAME.json has
  base, rank, alpha       the folder of fixtures/models that is trained over, and the adapter's settings
  start                   the folder of the adapter's first values, below the repository's root
  input_ids, labels       the sequences; every step is on all of them; -100 where not supervised
  options                 what differs from AdamW at learning rate `lr` without weight decay, gradients clipped to norm 1
  steps                   loss (mean over the supervised tokens) before each of eight steps, and the gradient's norm
pissa.json begins from pissa/, PEFT's factors of the singular value decomposition, which PEFT takes off the base; patterns.json
from patterns/, a fresh adapter with rsLoRA, patterns of ranks and alphas, and excluded modules.
orthogonal.safetensors has the random numbers and the factors of init_lora_weights="orthogonal":
  x [r, r], a [in, r / 2], b [r / 2, out], lora_A [r, in], lora_B [out, r]
wsd.json has rates of transformers' get_wsd_schedule.

Run: .venv/bin/python scripts/make_training_fixtures.py       (deterministic; rewrites the folder)
"""
import json
import pathlib
import shutil

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, get_wsd_schedule

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures" / "training"
BASE = "llama"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LR = 2e-3
STEPS = 8


def base():
    return AutoModelForCausalLM.from_pretrained(ROOT / "fixtures/models" / BASE, dtype=torch.float32, attn_implementation="eager")


def sequences(vocab):
    g = torch.Generator().manual_seed(11)
    out = []
    for n in (19, 12, 16):
        ids = torch.randint(3, vocab, (n,), generator=g)
        ids[0] = 1
        labels = ids.clone()
        labels[: n // 3] = -100
        out.append((ids, labels))
    return out


def steps(model, optimizer, smoothing=0.0):
    """Eight steps; without dropout, so that training mode changes nothing."""
    model.train()
    data, told = sequences(model.config.vocab_size), []
    trained = [p for p in model.parameters() if p.requires_grad]
    for _ in range(STEPS):
        optimizer.zero_grad()
        total, count = 0.0, 0
        for ids, labels in data:
            logits = model(input_ids=ids[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum", label_smoothing=smoothing)
            total, count = total + loss, count + int((labels[1:] != -100).sum())
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        told.append({"loss": (total / count).item(), "grad_norm": norm.item()})
    return told


def write(name, told, start, rank, alpha, **options):
    data = sequences(96)
    (OUT / f"{name}.json").write_text(json.dumps({
        "made_by": "scripts/make_training_fixtures.py",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__},
        "base": BASE, "rank": rank, "alpha": alpha, "start": start, "lr": LR, "options": options,
        "input_ids": [ids.tolist() for ids, _ in data], "labels": [labels.tolist() for _, labels in data],
        "steps": told,
    }, indent=1) + "\n")
    print(f"{name:16}", [round(step["loss"], 4) for step in told])


def adapted():
    return PeftModel.from_pretrained(base(), ROOT / "fixtures/models" / BASE / "adapter", is_trainable=True)


def adamw(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0)


def lora_plus():
    model = adapted()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=4.0, loraplus_weight_decay=0.1)
    told = steps(model, optimizer)
    write("lora_plus", told, f"fixtures/models/{BASE}/adapter", 4, 8, lora_plus_ratio=4.0, weight_decay=0.1)


def label_smoothing():
    model = adapted()
    write("label_smoothing", steps(model, adamw(model), 0.1), f"fixtures/models/{BASE}/adapter", 4, 8, label_smoothing=0.1)


def begun(name, **settings):
    """Saves what a new adapter begins with, trains it, and writes both down."""
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=LINEAR, **settings)
    model = get_peft_model(base(), config)
    folder = OUT / name
    # The factors are saved as they are: what a way of beginning does to the base is for whoever loads them.
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "adapter_model.safetensors").chmod(0o644)
    path = folder / "adapter_config.json"
    c = json.loads(path.read_text())
    c["base_model_name_or_path"], c["target_modules"] = BASE, sorted(c["target_modules"])
    if c["exclude_modules"]:
        c["exclude_modules"] = sorted(c["exclude_modules"])
    # In the order in which patterns were given: the first one that matches counts.
    path.write_text(json.dumps(c, indent=2) + "\n")
    write(name, steps(model, adamw(model)), f"fixtures/training/{name}", 4, 8)


def orthogonal():
    """With the draws of PEFT's `orthogonal_init` written down."""
    rank, inputs, outputs = 6, 10, 7
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False))
    drawn, randn = [], torch.randn

    def noted(*shape, **kwargs):
        drawn.append(randn(*shape, **kwargs))
        return drawn[-1]

    torch.manual_seed(5)
    torch.randn = noted
    try:
        model = get_peft_model(layer, LoraConfig(r=rank, target_modules=["0"], init_lora_weights="orthogonal"))
    finally:
        torch.randn = randn
    x, a, b = drawn
    lora = model.base_model.model[0]
    assert x.shape == (rank, rank) and a.shape == (inputs, rank // 2) and b.shape == (rank // 2, outputs)
    save_file({"x": x, "a": a, "b": b, "lora_A": lora.lora_A["default"].weight.data.contiguous(),
               "lora_B": lora.lora_B["default"].weight.data.contiguous()}, OUT / "orthogonal.safetensors")
    (OUT / "orthogonal.safetensors").chmod(0o644)


def wsd():
    cases = []
    for warmup, decay, total in [(2, 3, 6), (0, 4, 10), (3, 0, 8), (1, 19, 20)]:
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scheduler = get_wsd_schedule(optimizer, warmup, decay, num_training_steps=total)
        rates = []
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        cases.append({"warmup_steps": warmup, "decay_steps": decay, "total_steps": total, "rates": rates})
    (OUT / "wsd.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch.set_num_threads(1)
    lora_plus()
    label_smoothing()
    torch.manual_seed(3)
    begun("pissa", init_lora_weights="pissa")
    begun("patterns", use_rslora=True, exclude_modules=["k_proj"],
          rank_pattern={r"layers\.0\..*": 2, "up_proj": 6}, alpha_pattern={"q_proj": 24})
    orthogonal()
    wsd()
