"""Makes fixtures/models/: tiny random Hugging Face models with a PEFT adapter and what PyTorch computes with them.

Each folder fixtures/models/NAME has
  config.json, model.safetensors (or shards)   the base, as transformers would publish it
  adapter/                                     a PEFT adapter on all linear layers, A and B both random
  expected.safetensors, expected.json          what transformers + PEFT compute, f32, eager attention
chat_bpe and chat_spm also have a tokenizer and a chat template (scripts/tiny_tokenizers.py).

expected.safetensors, for each sequence s (they differ in length; each is run alone, so no padding):
  input_ids.s    I32 [tokens]
  labels.s       I32 [tokens]          -100 where not supervised; label t is predicted by row t-1
  logits.s       F32 [tokens, vocab]   with the adapter
  base_logits.s  F32 [tokens, vocab]   without
  grad.NAME      F32                   d loss / d NAME for every tensor NAME of adapter/adapter_model.safetensors
loss (F32 [1], also in expected.json) is the mean over the supervised tokens of all sequences.
The folders of FULL also have full.safetensors, of the base alone: loss, and grad.NAME for every weight NAME.
bf16 and f16 folders: weights stored in that type, arithmetic in f32.
The folders of tiny_families.py have besides, in expected.safetensors:
  steps.loss     F32 [5]               the loss before each of four steps and after them; each step is on all sequences,
                                       torch.optim.AdamW(lr=0.01, weight_decay=0) on the adapter, no clipping, no dropout
gemma3_multimodal has no adapter: base_logits.s and input_ids.s alone.

Run: .venv/bin/python scripts/make_tiny_fixtures.py [NAME...]       (deterministic; rewrites the folders, or those of tiny_families.py named)
"""
import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
import transformers.utils.logging
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import tiny_tokenizers
from tiny_families import FAMILIES, MULTIMODAL, multimodal_classic

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "models"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = (23, 17)
SIZE = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
CHAT = SIZE | dict(vocab_size=tiny_tokenizers.VOCAB, hidden_size=32, intermediate_size=64)
LLAMA31_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=64)  # head_dim 16, theta 1e4: 1 pair kept, 2 smoothed, 5 scaled


def rope(theta, **scaling):
    return dict(rope_theta=theta, **(scaling or dict(rope_type="default")))


# name -> (config, classic): classic configs are written as transformers 4 did (rope_theta, rope_scaling, torch_dtype at
# the top level), the others as transformers 5 does (rope_parameters, dtype). Real checkpoints come in both.
MODELS = {
    "llama": (LlamaConfig(**SIZE, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)), True),
    "llama_tied": (LlamaConfig(**SIZE | dict(tie_word_embeddings=True), rms_norm_eps=1e-5, rope_parameters=rope(100000.0)), False),
    "llama31": (LlamaConfig(**SIZE, rms_norm_eps=1e-5, rope_parameters=rope(10000.0, **LLAMA31_ROPE)), True),
    "llama_bias": (LlamaConfig(**SIZE | dict(tie_word_embeddings=True), attention_bias=True, rms_norm_eps=1e-6,
                               rope_parameters=rope(10000.0)), False),
    "mistral": (MistralConfig(**SIZE, sliding_window=None, rms_norm_eps=1e-5, rope_parameters=rope(1000000.0)), True),
    "qwen2": (Qwen2Config(**SIZE, rms_norm_eps=1e-6, rope_parameters=rope(1000000.0)), True),
    "qwen3": (Qwen3Config(**SIZE | dict(tie_word_embeddings=True), head_dim=32, rms_norm_eps=1e-6,
                          rope_parameters=rope(1000000.0)), False),
    "chat_bpe": (LlamaConfig(**CHAT | dict(tie_word_embeddings=True), rms_norm_eps=1e-5, rope_parameters=rope(100000.0)), True),
    "chat_spm": (LlamaConfig(**CHAT, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)), True),
}


# Tied and untied, with and without biases, with norms of queries and keys.
FULL = ("llama", "llama_bias", "qwen2", "qwen3")


def norm_centers(model):
    """The value around which the weights of each norm lie: 0 where the model adds 1 to them."""
    return {f"{name}.weight": 0 if type(module).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm") else 1
            for name, module in model.named_modules() if type(module).__name__.endswith("Norm")}


def randomize(model, seed):
    """Weights at a scale that gives logits of some spread; norms around 1; biases non-zero."""
    g = torch.Generator().manual_seed(seed)
    centers = norm_centers(model)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=g)
        with torch.no_grad():
            if name in centers:
                p.copy_(centers[name] + 0.2 * x)
            elif name.endswith("bias"):
                p.copy_(0.3 * x)
            elif any(table in name for table in ("embed_tokens", "wte", "wpe")):
                p.copy_(0.3 * x if model.config.tie_word_embeddings else 0.6 * x)
            else:
                p.copy_(0.2 * x)


def write_config(folder, classic, dtype):
    """Rewrites the saved config.json in the published form of its generation."""
    path = folder / "config.json"
    c = json.loads(path.read_text())
    c.pop("transformers_version", None)
    name = str(dtype).removeprefix("torch.")
    if classic:
        c.pop("dtype", None)
        c["torch_dtype"] = name
        r = c.pop("rope_parameters")
        c["rope_theta"] = r.pop("rope_theta")
        c["rope_scaling"] = None if r["rope_type"] == "default" else r
    else:
        c["dtype"] = name
    path.write_text(json.dumps(c, indent=1, sort_keys=True) + "\n")


def name_base(adapter, base):
    """Names the adapter's base and sorts its target modules (PEFT keeps them in a set)."""
    path = adapter / "adapter_config.json"
    c = json.loads(path.read_text())
    c["base_model_name_or_path"], c["target_modules"] = base, sorted(c["target_modules"])
    path.write_text(json.dumps(c, indent=2, sort_keys=True) + "\n")


def write_adapter(folder, seed, targets=LINEAR):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base.name_or_path = base.config._name_or_path = folder.name
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=targets,
                                            fan_in_fan_out="c_attn" in targets))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    name_base(folder / "adapter", folder.name)


def samples(vocab, seed):
    """Random sequences; the first supervises two spans, the second its tail."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for i, n in enumerate(LENGTHS):
        ids = torch.randint(3, vocab, (n,), generator=g)
        ids[0] = 1
        labels = torch.full((n,), -100)
        keep = [*range(5, 9), *range(14, n)] if i == 0 else [*range(6, n)]
        labels[keep] = ids[keep]
        out.append((ids, labels))
    return out


def mean_loss(model, vocab, seed):
    total, count = 0.0, 0
    for ids, labels in samples(vocab, seed):
        mask = labels[1:] != -100
        losses = torch.nn.functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        total, count = total + losses[mask].sum(), count + int(mask.sum())
    return total / count


def losses_of_steps(model, vocab, seed):
    """What four steps do; changes the adapter."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = mean_loss(model, vocab, seed)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return torch.tensor([*losses, mean_loss(model, vocab, seed).item()])


def expected_of_steps(model, seed, in_file):
    """Logits, loss, gradients by the names that `in_file` gives them, and eight steps of AdamW, which change the adapter."""
    vocab, tensors = model.config.vocab_size, {}
    for i, (ids, labels) in enumerate(samples(vocab, seed)):
        tensors[f"logits.{i}"] = model(input_ids=ids[None]).logits[0].detach()
        tensors[f"input_ids.{i}"], tensors[f"labels.{i}"] = ids.int(), labels.int()
    loss = mean_loss(model, vocab, seed)
    loss.backward()
    tensors["loss"] = loss.detach()[None]
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, p in trained.items():
        assert p.grad is not None and p.grad.abs().max() > 0, key
        tensors["grad." + in_file(key)] = p.grad.clone()
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01, weight_decay=0.0)
    losses, norms = [], []
    for _ in range(8):
        optimizer.zero_grad()
        loss = mean_loss(model, vocab, seed)
        loss.backward()
        norms.append(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in trained.values()])))
        optimizer.step()
        losses.append(loss.detach())
    with torch.no_grad():
        losses.append(mean_loss(model, vocab, seed))
    tensors["steps.loss"], tensors["steps.grad_norm"] = torch.stack(losses), torch.stack(norms)
    return tensors


def write_expected(folder, seed, with_steps=False):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    vocab = base.config.vocab_size
    tensors, nll, total, count = {}, [], 0.0, 0
    for i, (ids, labels) in enumerate(samples(vocab, seed)):
        logits = model(input_ids=ids[None]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        mask = labels[1:] != -100
        total, count = total + losses[mask].sum(), count + int(mask.sum())
        with model.disable_adapter(), torch.no_grad():
            tensors[f"base_logits.{i}"] = model(input_ids=ids[None]).logits[0]
        tensors[f"logits.{i}"] = logits.detach()
        tensors[f"input_ids.{i}"], tensors[f"labels.{i}"] = ids.int(), labels.int()
        nll.append(losses.tolist())
    loss = total / count
    loss.backward()
    tensors["loss"] = loss.detach()[None]
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert "lora_" in name and p.grad is not None and p.grad.abs().max() > 0, name
            tensors["grad." + name.replace(".default", "")] = p.grad
    spread = tensors["logits.0"].std().item()
    moved = (tensors["logits.0"] - tensors["base_logits.0"]).std().item()
    if with_steps:
        tensors = {k: v.clone() for k, v in tensors.items()} | {"steps.loss": losses_of_steps(model, vocab, seed)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps({
        "made_by": "scripts/make_tiny_fixtures.py",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__},
        "arithmetic": "f32, eager attention",
        "input_ids": [tensors[f"input_ids.{i}"].tolist() for i in range(len(LENGTHS))],
        "labels": [tensors[f"labels.{i}"].tolist() for i in range(len(LENGTHS))],
        "supervised_tokens": count,
        "loss": loss.item(),
        "next_token_nll": nll,
    }) + "\n")
    print(f"{folder.name:14} loss {loss.item():.4f}  logits std {spread:.2f}  adapter moves them by {moved:.2f}",
          [round(x, 4) for x in tensors["steps.loss"].tolist()] if with_steps else "")


def write_full(folder, seed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loss = mean_loss(model, model.config.vocab_size, seed)
    loss.backward()
    tensors = {"loss": loss.detach()[None]} | {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "full.safetensors")


def different(a, b):
    """The keys of configuration a whose values b has not."""
    b, out = b.to_dict(), []
    (b.get("rope_parameters") or {}).pop("type", None)  # transformers keeps the old word beside the new one
    for key, value in a.to_dict().items():
        if key == "text_config":
            out += different(a.text_config, type(a.text_config).from_dict(b[key]))
        elif key not in ("_name_or_path", "_sliding_window_pattern") and b.get(key) != value:
            out.append((key, value, b.get(key)))
    return out


def write_classic(folder, rewrite):
    """config_classic.json, which transformers reads as the same model."""
    c = json.loads((folder / "config.json").read_text())
    c["torch_dtype"] = c.pop("dtype")
    rewrite(c)
    path = folder / "config_classic.json"
    path.write_text(json.dumps(c, indent=1, sort_keys=True) + "\n")
    config = AutoConfig.from_pretrained(folder)
    found = different(config, AutoConfig.from_pretrained(path))
    assert not found, f"{path} is another model: {found}"


def write_family(name, family, seed):
    folder = fresh(name)
    model = AutoModelForCausalLM.from_config(family.config, dtype=torch.float32)
    randomize(model, 100 + seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_config(folder, False, torch.float32)
    if family.classic:
        write_classic(folder, family.classic)
    write_adapter(folder, 200 + seed, family.targets)
    write_expected(folder, 300 + seed, with_steps=True)
    if family.full:
        write_full(folder, 300 + seed)


def write_multimodal(name, seed):
    """A folder for text and images; what it computes for text."""
    folder = fresh(name)
    model = AutoModelForImageTextToText.from_config(MULTIMODAL, dtype=torch.float32).eval()
    randomize(model, 100 + seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_config(folder, False, torch.float32)
    write_classic(folder, multimodal_classic)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tensors = {}
    for i, (ids, _) in enumerate(samples(60, 300 + seed)):  # 60 to 62 stand for images
        with torch.no_grad():
            tensors[f"base_logits.{i}"], tensors[f"input_ids.{i}"] = model(input_ids=ids[None]).logits[0], ids.int()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    print(f"{name:14} logits std {tensors['base_logits.0'].std():.2f}")


def write_families(names):
    for i, (name, family) in enumerate(FAMILIES.items()):
        if not names or name in names:
            write_family(name, family, 1000 * (i + 1))
    if not names or "gemma3_multimodal" in names:
        write_multimodal("gemma3_multimodal", 100000)


def fresh(name):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the same bits whoever runs it
    if not sys.argv[1:]:
        write_first()
    write_families(sys.argv[1:])
    for f in ROOT.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)
    size = sum(f.stat().st_size for f in ROOT.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB in fixtures/models")


def write_first():
    """The folders of MODELS and what is made from them."""
    for i, (name, (config, classic)) in enumerate(MODELS.items()):
        folder = fresh(name)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomize(model, 100 + i)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        write_config(folder, classic, torch.float32)
        if name == "chat_bpe":
            tiny_tokenizers.write_folder(folder, tiny_tokenizers.bpe(), "<|im_start|>", "<|im_end|>", "<|endoftext|>",
                                         tiny_tokenizers.CHATML, add_bos=False, template_file=True)
        if name == "chat_spm":
            tiny_tokenizers.write_folder(folder, tiny_tokenizers.spm_as_hf(tiny_tokenizers.spm()), "<s>", "</s>", "<unk>",
                                         tiny_tokenizers.LLAMA2, add_bos=True, template_file=False)
        write_adapter(folder, 200 + i)
        write_expected(folder, 300 + i)
        if name in FULL:
            write_full(folder, 300 + i)
    # The same model stored in 16 bits, same adapter, and (f16) cut into shards.
    for name, dtype, shard in (("llama_bf16", torch.bfloat16, None), ("llama_f16", torch.float16, None), ("sharded", torch.float16, "60KB")):
        folder = fresh(name)
        model = AutoModelForCausalLM.from_pretrained(ROOT / "llama", dtype=dtype)
        model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
        (folder / "generation_config.json").unlink(missing_ok=True)
        write_config(folder, True, dtype)
        shutil.copytree(ROOT / "llama" / "adapter", folder / "adapter")
        name_base(folder / "adapter", name)
        write_expected(folder, 300)
    # Llama 3.1's configuration in transformers 5's words: must be read as the same model.
    c = json.loads((ROOT / "llama31" / "config.json").read_text())
    c["rope_parameters"] = c.pop("rope_scaling") | {"rope_theta": c.pop("rope_theta")}
    (ROOT / "llama31" / "config_v5.json").write_text(json.dumps(c, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
