"""Writes the model of a GGUF file as a Hugging Face folder with dequantised weights: a base for bitsandbytes to quantise.

Usage: .venv/bin/python scripts/gguf_to_safetensors.py MODEL.gguf OUT [--dtype f32|bf16|f16]
"""
import argparse
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("gguf")
p.add_argument("out")
p.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
a = p.parse_args()
dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
where = dict(pretrained_model_name_or_path=os.path.dirname(os.path.abspath(a.gguf)), gguf_file=os.path.basename(a.gguf))
tokenizer = AutoTokenizer.from_pretrained(**where)
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
# A plain model: the configuration of a GGUF file says that its weights are quantised, and they no longer are.
config = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
plain = type(model)(type(model.config)(**config))
plain.load_state_dict(model.state_dict())
plain.to(dtype).save_pretrained(a.out)
tokenizer.save_pretrained(a.out)
print(f"{a.out}: {sum(w.numel() for w in plain.parameters()):,} parameters in {a.dtype}")
