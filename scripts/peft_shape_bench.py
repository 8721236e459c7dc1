"""Peer of `lorafit bench`: a LoRA training step of PEFT + PyTorch on random weights of a model's shape.

All tokens are supervised (each predicts its successor), rank 8, alpha 16, AdamW on the adapter, SDPA attention, dropout 0;
f32 or bf16 weights and arithmetic. The base is built once, in its final type, and filled in place. One step of warm-up, then
the median over --steps. PyTorch at its usual best: its own thread pool or a GPU, logits through the model's own loss.

Usage: .venv/bin/python scripts/peft_shape_bench.py --shape smollm2-135m --batch 4 --seq 256 [--steps 5] [--threads N]
       [--rank 8] [--targets q_proj,k_proj,v_proj,o_proj | all-linear] [--dtype f32|bf16] [--quant nf4]
       SHAPE: smollm2-135m, tinyllama-1.1b, llama-2-7b, or a path to a config.json
       --quant nf4: the blocks' projections by bitsandbytes, double quantisation, arithmetic of --dtype
       --device cuda: on a GPU; --checkpointing: blocks computed again in backward (lorafit's --recompute full)
Prints one JSON object. On a GPU peak_device_bytes is what PyTorch's allocator took at most, without the context. peak_rss_bytes is the process's largest resident set, PyTorch itself included; built_rss_bytes
is its value when the model stood and no step had run: where the peak is above it, training set it.
"""
import argparse
import copy
import json
import os
import statistics
import sys
import time

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from shape_bench import SHAPES, add_arguments, peak_rss


def quantise_blocks(model, dtype, device):
    """Puts bitsandbytes' 4-bit layers in place of the blocks' projections: random weights, drawn and quantised once a
    shape and copied to each layer, so that building takes seconds and never holds an f32 model."""
    import bitsandbytes

    drawn = {}
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, torch.nn.Linear):
                    continue
                shape = linear.weight.shape
                if shape not in drawn:
                    drawn[shape] = bitsandbytes.nn.Params4bit(
                        torch.empty(shape).normal_(0, 0.02), requires_grad=False, compress_statistics=True,
                        quant_type="nf4").to(device)
                quantised = bitsandbytes.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=dtype,
                    compress_statistics=True, quant_type="nf4", device="meta")
                quantised.weight = copy.deepcopy(drawn[shape])
                quantised.weight.module = quantised
                quantised.quant_state = quantised.weight.quant_state
                setattr(parent, name, quantised)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(p, steps=5)
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    p.add_argument("--checkpointing", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
    config = LlamaConfig(**SHAPES[a.shape]) if a.shape in SHAPES else AutoConfig.from_pretrained(a.shape)
    config.use_cache = False

    # from_config would initialise on the way; empty weights filled in place cost nothing beyond themselves.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if a.quant:
        quantise_blocks(model, dtype, a.device)
    for name, module in model.named_modules():
        for key, w in list(module.named_parameters(recurse=False)):
            if w.is_meta:  # filled in place: nothing is held beside the model
                w = torch.empty(w.shape, dtype=dtype, device=a.device)
                module.register_parameter(key, torch.nn.Parameter(w.fill_(1.0) if "norm" in name else w.normal_(0, 0.02)))
    model.tie_weights()
    for w in model.parameters():
        w.requires_grad = False
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(a.device)  # its frequencies are computed, not stored
    if a.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    targets = a.targets if a.targets == "all-linear" else a.targets.split(",")
    model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=a.alpha, lora_dropout=0.0, task_type="CAUSAL_LM",
                                             target_modules=targets)).to(a.device)
    model.train()
    params = [w for w in model.parameters() if w.requires_grad]
    built_rss = peak_rss()
    optimizer = torch.optim.AdamW(params, lr=2e-4, weight_decay=0.0)

    on_gpu = a.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    seconds, losses = [], []
    for _ in range(1 + a.steps):
        x = torch.randint(0, config.vocab_size, (a.batch, a.seq)).to(a.device)
        wait()
        start = time.perf_counter()
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        seconds.append(time.perf_counter() - start)
        print(f"step {len(seconds) - 1}: loss {losses[-1]:.4f}, {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    assert all(x == x for x in losses)
    median = statistics.median(seconds[1:])
    print(json.dumps({
        "shape": a.shape if a.shape in SHAPES else os.path.basename(a.shape), "batch": a.batch, "seq": a.seq,
        "dtype": a.dtype, "quant": a.quant, "checkpointing": a.checkpointing,
        "device": torch.cuda.get_device_name(a.device) if on_gpu else "cpu",
        "peak_device_bytes": torch.cuda.max_memory_reserved(a.device) if on_gpu else None,
        "threads": a.threads, "rank": a.rank, "targets": a.targets, "trainable_parameters": sum(w.numel() for w in params),
        "tokens_per_s": round(a.batch * a.seq / median, 2), "seconds_per_step": round(median, 4),
        "step_seconds": [round(s, 4) for s in seconds],
        "built_rss_bytes": built_rss, "peak_rss_bytes": peak_rss(),
        "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
    }, indent=1))


main()
