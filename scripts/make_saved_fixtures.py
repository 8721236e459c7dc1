"""Makes fixtures/saved/: adapters with whole weights (modules_to_save), with rows of embedding and head (trainable_token_indices) or with
factors of embedding and head for models of fixtures/models/, and what PEFT computes.

Each folder fixtures/saved/NAME belongs to the base fixtures/models/BASE and has
  adapter/               a PEFT adapter of q_proj and v_proj (or c_attn) with rank 2, with the modules of CASES whole or, where
                         they are none, with factors of those that FACTORS has or rows of tokens that TOKENS has; all of it random. Where
                         ADDED has a number, the base has so many rows more (resize_token_embeddings), and the adapter has them all
  expected.safetensors   as in make_tiny_fixtures.py (input_ids, labels, logits, loss, grad.NAME), and
    steps.loss       F32 [9]   the loss before each of eight steps and after them; each step is on all sequences,
                               torch.optim.AdamW(lr=0.01, weight_decay=0), no clipping, no dropout
    steps.grad_norm  F32 [8]   the norm of each step's gradient
    merged_logits.0  F32       logits of the first sequence by the folder that merge_and_unload() and save_pretrained() leave
  expected.json          the sequences, and whether that folder has embedding and head as one (`merged_tied`)

Run: .venv/bin/python scripts/make_saved_fixtures.py       (deterministic; rewrites the folders)
"""
import json
import pathlib
import shutil
import tempfile
import warnings

import torch
import transformers.utils.logging
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import make_tiny_fixtures as tiny

BASES = tiny.ROOT
ROOT = BASES.parent / "saved"
LLAMA_NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
QWEN3_NORMS = ["q_norm", "k_norm", "input_layernorm", "post_attention_layernorm", "norm"]
GEMMA2_NORMS = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"]
# Name, base, modules, and whether embedding and head are to stay one. Both sides of a head of its own; each side, both apart and
# both as one of a tied head; norms of heads, norms of which files have one less, and norms with biases.
CASES = (
    ("llama_all", "llama", ["embed_tokens", "lm_head", *LLAMA_NORMS], False),
    ("llama_head", "llama", ["lm_head"], False),
    ("tied_embedding", "llama_tied", ["embed_tokens"], False),
    ("tied_head", "llama_tied", ["lm_head"], False),
    ("tied_apart", "qwen3", ["embed_tokens", "lm_head", *QWEN3_NORMS], False),
    ("tied_as_one", "qwen3", ["embed_tokens"], True),
    ("gemma2", "gemma2", ["embed_tokens", *GEMMA2_NORMS], True),
    ("gpt2", "gpt2", ["wte", "lm_head", "ln_1", "ln_2", "ln_f"], False),
    ("head_factors", "llama", [], False),
    ("head_factors_tied", "qwen3", [], False),
    ("embedding_factors", "gemma2", [], False),
)
# Rows of a tied head, by a list and in another order than that of ids; of both sides of a head of its own, different ones; of one side
# alone; of one side of a tied head; with an embedding that is scaled and logits with a cap; beside learned positions; rows that the
# base has not.
TOKENS = {
    "tokens_tied": ("llama_tied", [63, 5, 90, 91]),
    "tokens_apart": ("llama", {"embed_tokens": [82, 3, 50], "lm_head": [3, 4]}),
    "tokens_embedding": ("llama", [86, 8]),
    "tokens_head": ("qwen3", {"lm_head": [11, 60]}),
    "tokens_both_of_tied": ("qwen3", {"embed_tokens": [75, 60], "lm_head": [60, 12]}),
    "tokens_gemma2": ("gemma2", [1, 33, 34]),
    "tokens_gpt2": ("gpt2", [1, 20, 21]),
    "tokens_added_tied": ("llama_tied", [96, 97, 12]),
    "tokens_added": ("llama", {"embed_tokens": [96, 97], "lm_head": [97, 96]}),
}
ADDED = {"tokens_added_tied": 2, "tokens_added": 2}
FACTORS = {"head_factors": ["embed_tokens", "lm_head"], "head_factors_tied": ["lm_head"], "embedding_factors": ["embed_tokens"]}


def load(name, added=0):
    base = AutoModelForCausalLM.from_pretrained(BASES / name, dtype=torch.float32, attn_implementation="eager")
    if added:
        # Mean and covariance of a few rows draw others each time; the adapter's rows stand in for them.
        base.resize_token_embeddings(base.config.vocab_size + added, mean_resizing=False)
    base.name_or_path = base.config._name_or_path = name
    return base


def with_adapter(base, folder):
    return PeftModel.from_pretrained(load(base, ADDED.get(folder.name, 0)), folder / "adapter", is_trainable=True).eval()


def write_adapter(base, modules, tying, folder, seed):
    targets = ["c_attn"] if base == "gpt2" else ["q_proj", "v_proj"]
    targets += FACTORS.get(folder.name, [])
    tokens = TOKENS.get(folder.name, (base, None))[1]
    model = get_peft_model(load(base, ADDED.get(folder.name, 0)),
                           LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=targets,
                                      modules_to_save=modules or None, ensure_weight_tying=tying, trainable_token_indices=tokens,
                                      fan_in_fan_out=base == "gpt2"))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "modules_to_save" in key or "trainable_tokens_delta" in key:
                p.add_(0.1 * torch.randn(p.shape, generator=g))
            elif "lora_" in key:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    tiny.name_base(folder / "adapter", base)


def write_expected(base, folder, seed):
    def in_file(key):
        return key.replace(".modules_to_save.default", "").replace(".default", "")

    model = with_adapter(base, folder)
    tensors = tiny.expected_of_steps(model, seed, in_file)
    changes_one = folder.name in FACTORS or isinstance(TOKENS.get(folder.name, ("", None))[1], dict)
    if model.config.tie_word_embeddings and changes_one:
        # PEFT adds the update of one side to the matrix that is both, and writes rows of one there: its merged model is another one.
        tied, tensors["merged_logits.0"] = False, tensors["logits.0"].clone()
        return finish(folder, tensors, tied)
    with tempfile.TemporaryDirectory() as place:
        with_adapter(base, folder).merge_and_unload().save_pretrained(place)
        merged = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
        tied = json.loads((pathlib.Path(place) / "config.json").read_text())["tie_word_embeddings"]
        with torch.no_grad():
            tensors["merged_logits.0"] = merged(input_ids=tiny.samples(model.config.vocab_size, seed)[0][0][None]).logits[0]
    assert torch.equal(tensors["merged_logits.0"], tensors["logits.0"]) or \
        (tensors["merged_logits.0"] - tensors["logits.0"]).abs().max() < 1e-4
    return finish(folder, tensors, tied)


def finish(folder, tensors, tied):
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    spec = {"input_ids": [tensors[f"input_ids.{i}"].tolist() for i in range(2)],
            "labels": [tensors[f"labels.{i}"].tolist() for i in range(2)], "merged_tied": tied,
            "made_by": "scripts/make_saved_fixtures.py"}
    (folder / "expected.json").write_text(json.dumps(spec) + "\n")
    print(f"{folder.name:16}", tied, [round(x.item(), 4) for x in tensors["steps.loss"]])


def main():
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
    torch.set_num_threads(1)  # the same bits whoever runs it
    tokens = [(name, base, [], False) for name, (base, _) in TOKENS.items()]
    for i, (name, base, modules, tying) in enumerate([*CASES, *tokens]):
        folder = ROOT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_adapter(base, modules, tying, folder, 60 + i)
        write_expected(base, folder, 500 + i)
    for f in ROOT.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)
    print(f"{sum(f.stat().st_size for f in ROOT.rglob('*') if f.is_file()) / 1e6:.2f} MB in fixtures/saved")


main()
