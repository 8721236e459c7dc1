"""Makes fixtures/dora/: DoRA adapters for models of fixtures/models/, and what PEFT computes with them.

Each folder fixtures/dora/NAME belongs to the base fixtures/models/NAME and has
  adapter/               a PEFT adapter with use_dora on all linear layers; A, B and magnitudes random
  expected.safetensors   as in make_tiny_fixtures.py (input_ids, labels, logits, loss, grad.NAME), and
    steps.loss       F32 [9]   the loss before each of eight steps and after them; each step is on all sequences,
                               torch.optim.AdamW(lr=0.01, weight_decay=0), no clipping, no dropout
    steps.grad_norm  F32 [8]   the norm of each step's gradient
    merged.NAME      F32       the weight NAME of layer 0 after merge_and_unload, of one projection

Run: .venv/bin/python scripts/make_dora_fixtures.py       (deterministic; rewrites the folders)
"""
import json
import pathlib
import shutil

import torch
import transformers.utils.logging
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import make_tiny_fixtures as tiny
from tiny_families import FAMILIES

BASES = tiny.ROOT
ROOT = BASES.parent / "dora"
# Plain, biases, normalised heads, norms after the halves, joined matrices, transposed ones, scaled and parallel halves, no gate.
NAMES = ("llama", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "granite", "cohere2", "starcoder2")


def load(name):
    base = AutoModelForCausalLM.from_pretrained(BASES / name, dtype=torch.float32, attn_implementation="eager")
    base.name_or_path = base.config._name_or_path = name
    return base


def with_adapter(name, folder):
    return PeftModel.from_pretrained(load(name), folder / "adapter", is_trainable=True).eval()


def write_adapter(name, folder, seed):
    targets = FAMILIES[name].targets if name in FAMILIES else tiny.LINEAR
    model = get_peft_model(load(name), LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, use_dora=True, task_type="CAUSAL_LM",
                                                  target_modules=targets, fan_in_fan_out="c_attn" in targets))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_magnitude_vector" in key:
                p.mul_(1 + 0.2 * torch.randn(p.shape, generator=g))
            elif "lora_" in key:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    tiny.name_base(folder / "adapter", name)


def write_expected(name, folder, seed):
    def in_file(key):
        key = key.replace(".default", "")
        return key.removesuffix(".weight") if "magnitude" in key else key

    tensors = tiny.expected_of_steps(with_adapter(name, folder), seed, in_file)
    merged = dict(with_adapter(name, folder).merge_and_unload().named_parameters())
    key = next(key for key in merged if key.endswith((".0.self_attn.o_proj.weight", ".0.attn.c_attn.weight")))
    tensors["merged." + key] = merged[key].detach()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    spec = {"input_ids": [tensors[f"input_ids.{i}"].tolist() for i in range(2)],
            "labels": [tensors[f"labels.{i}"].tolist() for i in range(2)], "made_by": "scripts/make_dora_fixtures.py"}
    (folder / "expected.json").write_text(json.dumps(spec) + "\n")
    print(f"{name:12}", [round(x.item(), 4) for x in tensors["steps.loss"]])


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the same bits whoever runs it
    for i, name in enumerate(NAMES):
        folder = ROOT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_adapter(name, folder, 40 + i)
        write_expected(name, folder, 300 + i)
    for f in ROOT.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)
    print(f"{sum(f.stat().st_size for f in ROOT.rglob('*') if f.is_file()) / 1e6:.2f} MB in fixtures/dora")


main()
