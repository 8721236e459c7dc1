"""Makes fixtures/adapters/: two adapters that PEFT writes, with hard cases among their factors, and what numpy says of them.

one, two      the adapters: rank_pattern, alpha_pattern and rslora; bf16 in `two`
expected.json for each layer of each: the norm of dW = s B A, its singular values (numpy.linalg.svd of dW in f64, formed),
              effective rank exp(entropy) and stable rank; and for both together, over left (output) and right (input)
              singular vectors, the principal angles (degrees) and the similarity of the first i and j (Hu et al. 2021).
Hard cases, by layer: B zero (a fresh adapter), B of equal columns (rank 1), values around 1e-20, r above both dimensions.

Run: .venv/bin/python scripts/make_analysis_fixtures.py        (deterministic; rewrites the folder)
"""
import json
import pathlib
import shutil

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "adapters"
SHAPE = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=1)
LAYER = "base_model.model.model.layers.{}"
ONE = dict(r=4, lora_alpha=8, use_rslora=True, rank_pattern={"k_proj": 40, "layers.1.mlp.up_proj": 6},
           alpha_pattern={"down_proj": 3})
TWO = dict(r=3, lora_alpha=16)


def write(name, seed, dtype, options):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(SHAPE)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **options))
    for tensor_name, parameter in model.named_parameters():
        if "lora_B" in tensor_name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(ROOT / name)
    (ROOT / name / "README.md").unlink()
    path = ROOT / name / "adapter_model.safetensors"
    tensors = load_file(path)
    if name == "one":
        tensors[LAYER.format(0) + ".self_attn.q_proj.lora_B.weight"].zero_()
        equal = tensors[LAYER.format(0) + ".self_attn.o_proj.lora_B.weight"]
        equal[:] = equal[:, :1].clone()
        tensors[LAYER.format(0) + ".mlp.gate_proj.lora_A.weight"] *= 1e-20
        tensors[LAYER.format(1) + ".mlp.gate_proj.lora_B.weight"] *= 1e-20
    save_file({n: t.to(dtype).contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})
    # Sets are written in any order; the fixture is to be the same each time.
    config = json.loads((ROOT / name / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])
    (ROOT / name / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return decompose(model, path)


def decompose(model, path):
    tensors = load_file(path)
    found = {}
    for module_name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        a, b = (tensors[f"{module_name}.lora_{f}.weight"].double().numpy() for f in "AB")
        update = module.scaling["default"] * b @ a  # the scale PEFT computes with
        u, s, vt = np.linalg.svd(update, full_matrices=False)
        kept = s[: min(len(a), *update.shape)]
        shares = kept[kept > 0] / kept.sum() if kept.any() else kept[:0]
        found[module_name.removeprefix("base_model.model.")] = dict(
            norm=float(np.linalg.norm(update)),
            singular_values=kept.tolist(),
            effective_rank=float(np.exp(-(shares * np.log(shares)).sum())) if kept.any() else 0.0,
            stable_rank=float((kept**2).sum() / kept[0] ** 2) if kept.any() else 0.0,
            rank=int((s > s[0] * max(update.shape) * np.finfo(float).eps).sum()),
            left=u,
            right=vt.T,
        )
    return found


def overlap(one, two):
    sides = {}
    for side in ("left", "right"):
        products = one[side][:, : one["rank"]].T @ two[side][:, : two["rank"]]
        cosines = np.linalg.svd(products, compute_uv=False)
        similarity = [
            [float((products[:i, :j] ** 2).sum() / min(i, j)) for j in range(1, two["rank"] + 1)]
            for i in range(1, one["rank"] + 1)
        ]
        angles = np.degrees(np.arccos(np.minimum(cosines, 1.0)))
        sides[side] = dict(angles=angles.tolist(), similarity=similarity)
    return sides


shutil.rmtree(ROOT, ignore_errors=True)
one, two = write("one", 1, torch.float32, ONE), write("two", 2, torch.bfloat16, TWO)
overlaps = {path: overlap(one[path], two[path]) for path in one}
numbers = [
    {path: {k: v for k, v in values.items() if k not in ("left", "right")} for path, values in found.items()}
    for found in (one, two)
]
(ROOT / "expected.json").write_text(json.dumps(dict(one=numbers[0], two=numbers[1], overlap=overlaps)) + "\n")
