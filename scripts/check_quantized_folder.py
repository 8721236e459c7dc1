"""Opens a folder that `lorafit quantize` wrote with transformers + bitsandbytes on the CPU.

Usage: .venv/bin/python scripts/check_quantized_folder.py DIR [--ids 1,2,3 | --prompt TEXT] [--against DIR2]
       [--logits 5e-3] [--threads 1]
  DIR      the quantised folder
  --ids    token ids to run, or --prompt, a text for the folder's tokenizer
  DIR2     a folder of the same model: unquantised, and transformers quantises it on loading with DIR's settings, or
           quantised already
Prints one JSON object: the eight largest logits of the last position, the mean NLL of the tokens after the first, and
with --against the largest difference of logits and the quantised tensors that differ. Exit code 1 if a tensor is
missing or too many, or if a logit differs by more than --logits. Tensors that differ are listed, not judged: the offset
of double quantisation is a sum in f32, whose last bit depends on the order.

Layers compute as in training, in f32: in eval mode bitsandbytes repacks 4-bit weights on a processor with AVX-512 BF16,
which rounds scales and inputs to bf16, and rounds the inputs of int8 weights to int8.
"""
import argparse
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

SETTINGS = ["load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "llm_int8_skip_modules"]


def settings_of(path):
    with open(os.path.join(path, "config.json")) as f:
        return json.load(f).get("quantization_config")


def load(path, settings):
    """The model in f32; quantised on loading by `settings` where the folder is not quantised itself."""
    extra = {}
    if settings_of(path) is None:
        extra = {"quantization_config": BitsAndBytesConfig(
            **{k: settings[k] for k in SETTINGS if k in settings}, bnb_4bit_compute_dtype=torch.float32)}
    model = AutoModelForCausalLM.from_pretrained(path, device_map="cpu", dtype=torch.float32, **extra)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype = torch.float32  # whatever the folder asks for
    return model.train()


def tensors_of(model):
    """The state, and the entries of each quant_state by themselves. To be called before the first forward pass."""
    found = {}
    for name, value in model.state_dict().items():
        if ".quant_state." in name:
            for key, entry in json.loads(bytes(value.tolist())).items():
                found[f"{name.rsplit('.', 1)[0]}.{key}"] = entry
        else:
            found[name] = value
    return found


def run(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].float()
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item() if len(ids) > 1 else None
    top = logits[-1].topk(8)
    return logits, {"last_logits_top8": {"ids": top.indices.tolist(), "values": top.values.tolist()}, "mean_nll": nll}


def same(a, b):
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--ids")
    p.add_argument("--prompt", default="The old lighthouse keeper walked slowly down the stairs and")
    p.add_argument("--against")
    p.add_argument("--logits", type=float, default=5e-3)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    settings = settings_of(a.folder)
    if settings is None:
        sys.exit(f"{a.folder}/config.json has no quantization_config: not a quantised folder")
    if a.ids:
        ids = torch.tensor([int(i) for i in a.ids.split(",")])
    else:
        ids = torch.tensor(AutoTokenizer.from_pretrained(a.folder)(a.prompt).input_ids)

    model = load(a.folder, settings)
    tensors = tensors_of(model)
    logits, report = run(model, ids)
    name = lambda path: os.path.basename(os.path.normpath(path))
    report = {"folder": name(a.folder), "ids": ids.tolist(), "tensors": len(tensors)} | report
    ok = bool(torch.isfinite(logits).all())
    if a.against:
        del model
        other = load(a.against, settings)
        others = tensors_of(other)
        expected, theirs = run(other, ids)
        different = sorted(n for n in tensors if n in others and not same(tensors[n], others[n]))
        kinds = sorted({n.split(".weight.")[-1] if ".weight." in n else n.rsplit(".", 1)[-1] for n in different})
        missing, unknown = sorted(set(others) - set(tensors)), sorted(set(tensors) - set(others))
        difference = (logits - expected).abs().max().item()
        ok = ok and not missing and not unknown and difference <= a.logits
        report["against"] = theirs | {
            "folder": name(a.against), "largest_logit_difference": difference,
            "missing": missing[:5], "unknown": unknown[:5],
            "different": len(different), "different_kinds": kinds, "first_different": different[:5],
        }
    print(json.dumps(report | {"ok": ok}))
    sys.exit(0 if ok else 1)


main()
