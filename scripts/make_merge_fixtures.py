"""Makes fixtures/merge/: adapters of fixtures/models/llama, and the weights that PEFT has after merging them.

  second/, patterns/          PEFT adapters of that model, beside its own (fixtures/models/llama/adapter)
  expected.safetensors        CASE.MODULE F32: weights of some projections of layer 1 after merge_and_unload
  cases.json                  what each case merges: base, adapters, weights, method, density, majority sign

DARE is not here: which values it drops is decided by torch's generator.
Usage: python scripts/make_merge_fixtures.py
"""
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

MODELS = Path(__file__).resolve().parent.parent / "fixtures" / "models"
OUT = MODELS.parent / "merge"
KEPT = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]
CASES = {
    "plain": dict(base="llama", adapters=["first"]),
    "patterns": dict(base="llama", adapters=["patterns"]),
    "bf16": dict(base="llama_bf16", adapters=["first"]),
    "cat": dict(base="llama", adapters=["first", "patterns"], weights=[0.7, -0.5], method="cat"),
    "linear": dict(base="llama", adapters=["first", "second"], weights=[0.7, 0.4], method="linear"),
    "minus": dict(base="llama", adapters=["first", "second"], weights=[0.7, -0.4], method="linear"),
    "ties": dict(base="llama", adapters=["first", "second"], weights=[1.0, 0.5], method="ties", density=0.4,
                 majority_sign="total"),
    "frequency": dict(base="llama", adapters=["first", "second"], weights=[1.0, -0.5], method="ties", density=0.6,
                      majority_sign="frequency"),
}


def base_model(name):
    return AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)


def folder(name):
    return MODELS / "llama" / "adapter" if name == "first" else OUT / name


def write_adapter(name, seed, **config):
    base = base_model("llama")
    base.name_or_path = base.config._name_or_path = "llama"
    model = get_peft_model(base, LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **config))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor, p in model.named_parameters():
            if "lora_" in tensor:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
    model.save_pretrained(OUT / name, save_embedding_layers=False)
    (OUT / name / "README.md").unlink(missing_ok=True)
    path = OUT / name / "adapter_config.json"
    c = json.loads(path.read_text())
    c["base_model_name_or_path"], c["target_modules"] = "llama", sorted(c["target_modules"])
    path.write_text(json.dumps(c, indent=2, sort_keys=True) + "\n")


def merged(case):
    first, *others = case["adapters"]
    model = PeftModel.from_pretrained(base_model(case["base"]), folder(first), adapter_name=first)
    for name in others:
        model.load_adapter(folder(name), adapter_name=name)
    if "method" in case:
        more = {"density": case["density"], "majority_sign_method": case["majority_sign"]} if "density" in case else {}
        model.add_weighted_adapter(case["adapters"], case["weights"], "all", combination_type=case["method"], **more)
        model.set_adapter("all")
    whole = model.merge_and_unload()
    return {module: whole.get_submodule(f"model.layers.1.{module}").weight.detach().clone() for module in KEPT}


def main():
    write_adapter("second", 31, r=4, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"])
    write_adapter("patterns", 32, r=6, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "up_proj", "down_proj"],
                  rank_pattern={"layers.1.mlp.up_proj": 3, "down_proj": 8}, alpha_pattern={"q_proj": 2})
    tensors = {f"{name}.{module}": w for name, case in CASES.items() for module, w in merged(case).items()}
    save_file(tensors, OUT / "expected.safetensors")
    (OUT / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main()
