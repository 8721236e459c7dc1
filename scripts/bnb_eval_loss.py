"""Peer of `lorafit eval` on a quantised base: loss of a Hugging Face folder in bitsandbytes' formats on the CPU.

Loss = mean over the supervised tokens of all rows (the last reply with its end-of-turn token), no adapter. Layers
compute as in training: weights decoded to f32, products in f32. With --inference they compute as bitsandbytes does in
eval mode instead: 4-bit weights in bf16 with bf16 scales where the processor has AVX-512 BF16, and int8 weights with
inputs rounded to int8.

Needs: scripts/python_env.sh
Usage: .venv/bin/python scripts/bnb_eval_loss.py MODEL_DIR ROWS.jsonl [--rows 64] [--batch 4] [--threads 1]
       [--kinds f32,nf4,nf4dq,fp4,fp4dq,int8] [--inference]        dq: double quantisation
Prints one JSON object a kind: loss, supervised tokens, the modules that stayed unquantised.
"""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig


def load(path, kind):
    if kind == "f32":
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind[:3],
                                    bnb_4bit_use_double_quant=kind.endswith("dq"), bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu", quantization_config=config)


def supervised_rows(tokenizer, path, limit):
    """Ids and labels of each row, as scripts/peft_lora_cpu.py has them."""
    ids = lambda x: x if isinstance(x, list) else x["input_ids"]
    rows = []
    with open(path) as f:
        for line in f.read().splitlines()[:limit]:
            messages = json.loads(line)["messages"]
            full = ids(tokenizer.apply_chat_template(messages, tokenize=True))
            prompt = ids(tokenizer.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True))
            assert full[:len(prompt)] == prompt, "the prompt is not a prefix of the conversation"
            end = max(i for i, t in enumerate(full) if t == tokenizer.eos_token_id)
            rows.append((full, [-100] * len(prompt) + full[len(prompt):end + 1] + [-100] * (len(full) - end - 1)))
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("data")
    p.add_argument("--rows", type=int, default=64)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--kinds", default="f32,nf4,nf4dq,fp4,fp4dq,int8")
    p.add_argument("--inference", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    rows = supervised_rows(tokenizer, a.data, a.rows)
    for kind in a.kinds.split(","):
        model = load(a.model, kind)
        model.train(not a.inference)
        total, tokens, start = 0.0, 0, time.time()
        for i in range(0, len(rows), a.batch):
            batch = rows[i:i + a.batch]
            width = max(len(full) for full, _ in batch)
            pad = lambda values, value: torch.tensor([v + [value] * (width - len(v)) for v in values])
            x, y = pad([f for f, _ in batch], tokenizer.eos_token_id), pad([l for _, l in batch], -100)
            mask = pad([[1] * len(f) for f, _ in batch], 0)
            with torch.no_grad():
                logits = model(input_ids=x, attention_mask=mask).logits[:, :-1].float()
            target = y[:, 1:].reshape(-1)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, ignore_index=-100, reduction="sum")
            total += loss.item()
            tokens += int((target != -100).sum())
        plain = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules()
                        if type(module) in (torch.nn.Linear, torch.nn.Embedding)})
        print(json.dumps({"kind": kind, "loss": total / tokens, "supervised_tokens": tokens, "rows": len(rows),
                          "unquantised": plain, "seconds": round(time.time() - start, 1)}), flush=True)


main()
