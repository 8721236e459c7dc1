"""Peer of `lorafit bench`: a LoRA training step of Unsloth's fast path on random weights of a model's shape, on one GPU.

Arguments and JSON as scripts/peft_shape_bench.py; --device has to be cuda. Everything goes through Unsloth's public way:
FastLanguageModel.from_pretrained on a folder that holds a config and a tiny tokeniser, FastLanguageModel.get_peft_model,
for_training; only transformers' loader behind it is replaced by one that draws the weights on the GPU. The loss is taken
under bf16 autocast, as Unsloth's trainer does (accelerate's bf16). The script stops if a part of the fast path is not
Unsloth's. Warm-up: two steps, then the median over --steps.

Usage: python3 unsloth_shape_bench.py --shape llama-2-7b --batch 4 --seq 2048 --steps 4 --rank 16 --alpha 32
           --targets all-linear --dtype bf16 --device cuda [--quant nf4] [--checkpointing [true|unsloth]]
       --plan none/false/eager,nf4/false/eager,none/false/block   several measurements in one process, instead of --quant,
           --checkpointing and --blocks: QUANT/CHECKPOINTING/BLOCKS each, one JSON object for each; one that fails is
           reported and the next goes on
       --blocks block|eager: Unsloth's torch.compile of each decoder block on (its default with torch >= 2.11) or off
       --deadline S: no measurement starts later than S seconds after the start
"""
import time

START = time.perf_counter()

import argparse
import contextlib
import copy
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import traceback

from shape_bench import SHAPES, add_arguments, peak_rss

for key, value in {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_DISABLED": "true", "TOKENIZERS_PARALLELISM": "false",
    "UNSLOTH_COMPILE_LOCATION": os.path.join(tempfile.gettempdir(), "unsloth_compiled_cache"),
}.items():
    os.environ.setdefault(key, value)


def note(text):
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_folder(folder, config):
    """What from_pretrained reads beside the weights: config.json and a tokeniser of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "<pad>", "a", "b", "c"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                            pad_token="<pad>", model_max_length=config.max_position_embeddings).save_pretrained(folder)
    config.save_pretrained(folder)


def quantise_blocks(model, dtype, device):
    """Puts bitsandbytes' 4-bit layers in place of the blocks' projections: random weights, drawn and quantised once a
    shape and copied to each layer."""
    import bitsandbytes

    drawn = {}
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, torch.nn.Linear):
                    continue
                shape = tuple(linear.weight.shape)
                if shape not in drawn:
                    drawn[shape] = bitsandbytes.nn.Params4bit(
                        torch.empty(shape, dtype=dtype, device=device).normal_(0, 0.02).cpu(), requires_grad=False,
                        compress_statistics=True, quant_type="nf4").to(device)
                quantised = bitsandbytes.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=dtype,
                    compress_statistics=True, quant_type="nf4", device="meta")
                quantised.weight = copy.deepcopy(drawn[shape])
                quantised.weight.module = quantised
                quantised.quant_state = quantised.weight.quant_state
                setattr(parent, name, quantised)


class DrawnWeights:
    """Stands for AutoModelForCausalLM in Unsloth's Llama file: from_pretrained draws the weights on the GPU."""

    device = "cuda"

    @classmethod
    def from_pretrained(cls, folder, *args, **kwargs):
        from transformers import AutoConfig, LlamaForCausalLM

        quantization = kwargs.get("quantization_config")
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        config = AutoConfig.from_pretrained(folder, attn_implementation=kwargs.get("attn_implementation", "sdpa"))
        config.use_cache = False
        config.dtype = dtype
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta"):
                model = LlamaForCausalLM(config)
            # its tables are computed, not stored: made again off the meta device
            model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(cls.device)
        finally:
            torch.set_default_dtype(default)
        if quantization is not None:
            quantise_blocks(model, dtype, cls.device)
            # what transformers' quantiser leaves on a model
            model.config.quantization_config = quantization
            model.is_quantized = model.is_loaded_in_4bit = True
            model.quantization_method = quantization.quant_method
        for name, module in model.named_modules():
            for key, w in list(module.named_parameters(recurse=False)):
                if w.is_meta:  # filled in place: nothing is held beside the model
                    w = torch.empty(w.shape, dtype=dtype, device=cls.device)
                    w = w.fill_(1.0) if "norm" in name else w.normal_(0, 0.02)
                    module.register_parameter(key, torch.nn.Parameter(w, requires_grad=False))
        assert not any(t.is_meta for t in list(model.parameters()) + list(model.buffers()))
        model.tie_weights()
        return model.eval()


def origin(f):
    f = getattr(f, "__func__", f)
    return f"{getattr(f, '__module__', '?')}.{getattr(f, '__qualname__', f)}"


def prove(model, quant, seen):
    """Stops if a part of the training step is not Unsloth's."""
    from unsloth.kernels import fast_lora

    base = model.base_model.model
    layer, norm = base.model.layers[0], None
    block = type(layer).forward
    parts = {
        "peft forward": type(model).forward, "causal lm forward": type(base).forward,
        "decoder forward": type(base.model).forward, "block forward": getattr(block, "_unsloth_block_original", block),
        "attention forward": type(layer.self_attn).forward, "rope": type(base.model.rotary_emb).forward,
        "apply_qkv": layer.self_attn.apply_qkv, "apply_o": layer.self_attn.apply_o, "mlp forward": layer.mlp.forward,
    }
    for name, f in parts.items():
        note(f"path: {name}: {origin(f)}")
        assert origin(f).startswith("unsloth."), f"{name} is not Unsloth's: {origin(f)}"
    for layer in base.model.layers:
        assert layer.self_attn.apply_qkv is fast_lora.apply_lora_qkv and layer.self_attn.apply_o is fast_lora.apply_lora_o
        assert layer.mlp.forward.__func__ is fast_lora.apply_lora_mlp_swiglu
        assert all(m._unsloth_fast_path for m in (layer, layer.self_attn, layer.mlp))
        kind = type(layer.mlp.down_proj.base_layer).__name__
        assert (kind == "Linear4bit") == bool(quant), kind
    trainable = {str(w.dtype) for w in model.parameters() if w.requires_grad}
    note(f"path: base layer {kind}, adapter in {trainable}, block compile wrapper: {hasattr(block, '_unsloth_block_original')}")


KERNELS = ["unsloth.kernels.fast_lora:LoRA_MLP", "unsloth.kernels.fast_lora:LoRA_QKV", "unsloth.kernels.fast_lora:LoRA_W",
           "unsloth.kernels.rms_layernorm:Fast_RMS_Layernorm",
           "unsloth.kernels.rope_embedding:Fast_RoPE_Embedding|Fast_RoPE_Embedding_QK|Fast_RoPE_Embedding_QK_Positions"]


@contextlib.contextmanager
def watch(seen):
    """Counts, during the first step of an eager measurement, the calls of Unsloth's autograd functions and of its loss."""
    import importlib

    undo = []
    for entry in KERNELS:
        module, names = entry.split(":")
        module = importlib.import_module(module)
        for name in names.split("|"):
            cls = getattr(module, name, None)
            if cls is None:
                continue
            for way in ("forward", "backward"):
                original = cls.__dict__[way]

                def counted(*args, _f=original.__func__, _key=f"{name}.{way}", **kwargs):
                    seen[_key] = seen.get(_key, 0) + 1
                    return _f(*args, **kwargs)

                setattr(cls, way, staticmethod(counted))
                undo.append((cls, way, original))
    import unsloth.models.llama as llama

    original = llama.unsloth_fused_ce_loss

    def loss(*args, **kwargs):
        seen["unsloth_fused_ce_loss"] = seen.get("unsloth_fused_ce_loss", 0) + 1
        return original(*args, **kwargs)

    llama.unsloth_fused_ce_loss = loss
    try:
        yield
    finally:
        llama.unsloth_fused_ce_loss = original
        for cls, way, f in undo:
            setattr(cls, way, f)


def attention(decoder, a):
    """Which kernels Unsloth's attention goes to, for the record; never stops a measurement."""
    try:
        from unsloth.utils import attention_dispatch as d

        c = decoder.config
        q = torch.zeros(1, c.num_attention_heads, 64, c.hidden_size // c.num_attention_heads, dtype=torch.bfloat16,
                        device=a.device, requires_grad=True)
        return {"backend": d.select_attention_backend(False), "padded_for_cudnn": bool(
            d._cudnn_length_bucket_applies(q, q, q, is_causal=True)),
            "sdpa_priority": [int(x) for x in torch._C._get_sdp_priority_order()]}
    except Exception as e:
        return repr(e)


def measure(a, folder, quant, checkpointing, blocks):
    from unsloth import FastLanguageModel
    import unsloth.models.llama as llama

    os.environ["UNSLOTH_BLOCK_COMPILE"] = "1" if blocks == "block" else "0"
    os.environ["UNSLOTH_BLOCK_COMPILE_LEGACY"] = "auto" if blocks == "block" else "0"
    on_gpu = a.device.startswith("cuda") and not a.allow_cpu
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else None
    note(f"device bytes held before building: {before}")
    torch.manual_seed(0)
    gc_mode = {"false": False, "true": True, "unsloth": "unsloth"}[checkpointing]
    DrawnWeights.device = a.device
    llama.AutoModelForCausalLM = DrawnWeights
    model, _ = FastLanguageModel.from_pretrained(
        folder, max_seq_length=max(a.seq, 2048), dtype=torch.bfloat16, load_in_4bit=bool(quant),
        load_in_16bit=not quant, device_map={"": 0}, use_gradient_checkpointing=gc_mode, offload_embedding=False)
    note(f"model of {sum(w.numel() for w in model.parameters()) / 1e9:.2f} G stored weights drawn")
    model = FastLanguageModel.get_peft_model(
        model, r=a.rank, lora_alpha=a.alpha, lora_dropout=0, bias="none",
        target_modules=ALL_LINEAR if a.targets == "all-linear" else a.targets.split(","),
        use_gradient_checkpointing=gc_mode, random_state=3407)
    FastLanguageModel.for_training(model, use_gradient_checkpointing=gc_mode)
    model.train()
    seen = {}
    prove(model, quant, seen)
    decoder = model.base_model.model.model
    flags = {bool(getattr(m, "gradient_checkpointing", False)) for m in [decoder, *decoder.layers]
             if hasattr(m, "gradient_checkpointing")}
    note(f"path: gradient checkpointing flags {flags}, asked for {gc_mode}")
    assert flags == {bool(gc_mode)}, "gradient checkpointing is not what was asked for"
    params = [w for w in model.parameters() if w.requires_grad]
    built_rss = peak_rss()
    optimizer = torch.optim.AdamW(params, lr=2e-4, weight_decay=0.0)
    vocab = model.config.vocab_size
    seconds, losses = [], []
    for step in range(2 + a.steps):
        x = torch.randint(0, vocab, (a.batch, a.seq)).to(a.device)
        wait()
        start = time.perf_counter()
        with watch(seen) if step == 0 and blocks == "eager" else contextlib.nullcontext():
            with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
                loss = model(input_ids=x, labels=x).loss
            loss.backward()
        if step == 0:
            assert params and all(w.grad is not None for w in params), "an adapter weight without a gradient"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        seconds.append(time.perf_counter() - start)
        note(f"step {step}: loss {losses[-1]:.4f}, {seconds[-1]:.3f} s")
    assert all(x == x for x in losses)
    # random weights: the head's outputs are normal with variance 0.02^2 * width, and no B of an adapter is away from 0 yet
    expected = math.log(vocab) + 0.5 * 0.02 ** 2 * model.config.hidden_size
    note(f"first loss {losses[0]:.4f}, by theory {expected:.4f}")
    assert a.allow_cpu or abs(losses[0] - expected) < 0.3, "the first loss is not what random weights give"
    if blocks == "eager":
        note(f"path: calls in the first step: {seen}")
        missing = [f for f in ("LoRA_MLP.forward", "LoRA_MLP.backward", "LoRA_QKV.forward", "LoRA_QKV.backward",
                               "LoRA_W.forward", "LoRA_W.backward", "Fast_RMS_Layernorm.forward", "unsloth_fused_ce_loss")
                   if not seen.get(f)]
        missing += [] if any(k.startswith("Fast_RoPE") for k in seen) else ["Fast_RoPE"]
        assert not missing, f"not called: {missing}"
    modes = [layer.__dict__.get("_unsloth_block_mode") for layer in decoder.layers]
    checked = [layer.__dict__.get("_unsloth_block_checked", 0) for layer in decoder.layers]
    compiled = sum(bool(c) for c in checked)
    if blocks == "block":
        note(f"path: block modes {set(modes)}, blocks run compiled {compiled} of {len(modes)}")
    median = statistics.median(seconds[2:])
    import peft
    import transformers
    import unsloth
    import unsloth_zoo

    print(json.dumps({
        "shape": a.shape if a.shape in SHAPES else os.path.basename(a.shape), "batch": a.batch, "seq": a.seq,
        "dtype": a.dtype, "quant": quant, "checkpointing": gc_mode,
        "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
        "peak_device_bytes": torch.cuda.max_memory_reserved(0) if on_gpu else None,
        "threads": a.threads, "rank": a.rank, "targets": a.targets, "trainable_parameters": sum(w.numel() for w in params),
        "tokens_per_s": round(a.batch * a.seq / median, 2), "seconds_per_step": round(median, 4),
        "step_seconds": [round(s, 4) for s in seconds],
        "built_rss_bytes": built_rss, "peak_rss_bytes": peak_rss(),
        "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
        "unsloth": unsloth.__version__, "unsloth_zoo": unsloth_zoo.__version__, "blocks": blocks,
        "blocks_compiled": compiled, "warm_up_steps": 2, "losses": [round(x, 4) for x in losses],
        "allocated_before_bytes": before, "attention": attention(decoder, a) if on_gpu else None,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(0) if on_gpu else None,
    }, indent=1), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(p, steps=4)
    p.add_argument("--dtype", choices=["bf16"], default="bf16")
    p.add_argument("--device", default="cuda", help="cuda or cuda:0")
    p.add_argument("--checkpointing", nargs="?", const="true", default="false", choices=["false", "true", "unsloth"])
    p.add_argument("--blocks", choices=["block", "eager"], default="block")
    p.add_argument("--plan")
    p.add_argument("--deadline", type=float, default=float("inf"))
    p.add_argument("--allow-cpu", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    plan = [tuple(e.split("/")) for e in a.plan.split(",")] if a.plan else [(a.quant or "none", a.checkpointing, a.blocks)]
    for quant, checkpointing, blocks in plan:
        assert quant in ("none", "nf4") and checkpointing in ("false", "true", "unsloth") and blocks in ("block", "eager")

    global torch
    import unsloth  # before torch, transformers and peft, as it asks for
    import torch

    note(f"unsloth {unsloth.__version__} imported")
    assert torch.cuda.is_available()
    torch.set_num_threads(a.threads)
    from transformers import AutoConfig, LlamaConfig

    config = LlamaConfig(**SHAPES[a.shape]) if a.shape in SHAPES else AutoConfig.from_pretrained(a.shape)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = torch.bfloat16
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 3
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, config)
        for number, (quant, checkpointing, blocks) in enumerate(plan):
            if time.perf_counter() - START > a.deadline:
                note(f"past the deadline, not measured: {'/'.join(plan[number])}")
                continue
            note(f"measurement {'/'.join(plan[number])}")
            try:
                measure(a, folder, None if quant == "none" else quant, checkpointing, blocks)
            except Exception:
                failed += 1
                lines = traceback.format_exc().splitlines()
                print("\n".join([f"FAILED {'/'.join(plan[number])}"] + lines[-40:]), file=sys.stderr, flush=True)
            if number + 1 < len(plan):
                torch._dynamo.reset()
    sys.exit(1 if failed else 0)


main()
