"""Loads a base and an adapter that lorafit wrote in PEFT and holds PyTorch's numbers against those lorafit printed.

Usage: lorafit eval --model MODEL --adapter ADAPTER --data ROWS.jsonl --limit 16 --scores EXPECTED
       .venv/bin/python scripts/check_adapter_in_peft.py MODEL ADAPTER EXPECTED
  MODEL     a Hugging Face folder or a .gguf file (dequantised to f32); "auto": the base that the adapter names, by
            AutoPeftModelForCausalLM, with the tokenizer beside the adapter (a folder of that name, seen from here, goes before the hub)
  ADAPTER   a PEFT folder, or "none" for the base alone
  EXPECTED  a line a row: {"input_ids": [...], "last_logits_top8": {"ids": [...], "values": [...]}, "next_token_nll": [...]};
            or one JSON list of such, as fixtures/smollm2_e2e/forward.json is
Prints the largest differences as JSON; exit code 1 if a per-token NLL is off by more than 1e-3 or a logit by more than 5e-3,
or if the ids of the largest logits differ by more than such a near tie.
"""
import json
import os
import sys

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

NLL_TOLERANCE, LOGIT_TOLERANCE = 1e-3, 5e-3


def load_base(path):
    if not path.endswith(".gguf"):
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path), dtype=torch.float32)
    # A plain model with the dequantised weights, so that PEFT sees ordinary linear layers.
    config = {k: v for k, v in base.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = type(base)(type(base.config)(**config))
    plain.load_state_dict(base.state_dict())
    return plain


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    tokenizer = None
    if sys.argv[1] == "auto":
        model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    else:
        model = load_base(sys.argv[1])
        if sys.argv[2] != "none":
            model = PeftModel.from_pretrained(model, sys.argv[2])
    model.eval()
    with open(sys.argv[3]) as f:
        text = f.read()
    cases = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    worst_nll = worst_logit = 0.0
    tokens = 0
    for case in cases:
        ids = torch.tensor(case["input_ids"])
        if tokenizer is not None:
            text = tokenizer.decode(case["input_ids"])
            assert tokenizer(text, add_special_tokens=False).input_ids == case["input_ids"], f"other ids for {text!r}"
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].float()
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        wanted = torch.tensor(case["next_token_nll"])
        assert nll.shape == wanted.shape, f"{len(nll)} next-token losses computed, {len(wanted)} given"
        top = case["last_logits_top8"]
        theirs = torch.tensor(top["values"])
        worst_nll = max(worst_nll, (nll - wanted).abs().max().item())
        # Each id's own logit, and the sorted values: the same set up to ties.
        worst_logit = max(worst_logit, (logits[-1][top["ids"]] - theirs).abs().max().item(),
                          (logits[-1].topk(len(theirs)).values - theirs.sort(descending=True).values).abs().max().item())
        tokens += len(ids)
    ok = worst_nll <= NLL_TOLERANCE and worst_logit <= LOGIT_TOLERANCE  # false for NaN as well
    print(json.dumps({"tokens": tokens, "max_nll_difference": worst_nll, "max_logit_difference": worst_logit, "ok": ok}))
    sys.exit(0 if ok else 1)


main()
