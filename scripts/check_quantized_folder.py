"""Opens a folder that `lorafit quantize` wrote with transformers + bitsandbytes on the CPU, and holds its logits against
those of the same model quantised by transformers on loading.

Usage: .venv/bin/python scripts/check_quantized_folder.py QUANTISED PLAIN [--prompt TEXT]
  QUANTISED  the folder lorafit wrote
  PLAIN      the folder it was made from
Prints the largest difference of the logits and of the quantised tensors; exit code 1 if any tensor differs.
"""
import argparse
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("quantised")
p.add_argument("plain")
p.add_argument("--prompt", default="The old lighthouse keeper walked slowly down the stairs and")
a = p.parse_args()

ours = AutoModelForCausalLM.from_pretrained(a.quantised, device_map="cpu", dtype=torch.float32)
settings = json.load(open(f"{a.quantised}/config.json"))["quantization_config"]
keys = ["load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"]
config = BitsAndBytesConfig(**{k: settings[k] for k in keys}, bnb_4bit_compute_dtype=torch.float32)
theirs = AutoModelForCausalLM.from_pretrained(a.plain, device_map="cpu", dtype=torch.float32, quantization_config=config)

ids = AutoTokenizer.from_pretrained(a.plain)(a.prompt, return_tensors="pt").input_ids
with torch.no_grad():
    found, expected = ours(input_ids=ids).logits, theirs(input_ids=ids).logits
mine, other = ours.state_dict(), theirs.state_dict()
missing = sorted(set(other) - set(mine))
different = [n for n in other if n in mine and "quant_state" not in n and not torch.equal(mine[n], other[n])]
print(json.dumps({
    "tensors": len(other),
    "missing": missing[:5],
    "different": len(different),
    "first_different": different[:5],
    "largest_logit_difference": (found - expected).abs().max().item(),
    "largest_logit": expected.abs().max().item(),
}))
sys.exit(1 if missing or different else 0)
