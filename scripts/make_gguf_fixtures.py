"""Makes fixtures/gguf/: the models of fixtures/models as GGUF files, written as llama.cpp's converter writes them.

  llama-f32 llama_bias-f32 llama31-f32 qwen2-f32 qwen3-f32   same numbers as the Hugging Face folder, no tokenizer
  chat_bpe-f32       tied (no output.weight), byte-level BPE (model gpt2, pre smollm), chat template
  chat_spm-f32       SentencePiece tokenizer (model llama), chat template
  llama-q8_0         llama: F16 head and embeddings, every other matrix Q8_0
  llama-mixed        llama: one storage type per kind of layer (see MIXED)
For the last two NAME.expected.safetensors holds input_ids.s, base_logits.s, logits.s, loss, grad.* as in fixtures/models
(llama's adapter and samples), computed by transformers + PEFT from the dequantised weights.
  NAME-f32           the other families (gguf_families.py: SAME), same numbers as the Hugging Face folder, no tokenizer
  starcoder2-f32 mistral_window-f32      the file says no window: NAME.expected.safetensors is of the model without it
smollm, llama-bpe, qwen2, gpt-2 and default splittings of text are in fixtures/tokenizers (make_tokenizer_fixtures.py).

What the converter does that a reader must undo or know:
  llama: rows of q_proj and k_proj (and their biases) permuted, [n, 2, d/2] -> [n, d/2, 2]; qwen2, qwen3: not
  llama 3.1: no scaling keys; a tensor rope_freqs.weight [d/2] F32 by which each frequency is divided
  norms, biases and rope_freqs are F32 whatever the file's type; tied models have no output.weight

Run: .venv/bin/python scripts/make_gguf_fixtures.py        (after make_tiny_fixtures.py; deterministic)
"""
import json
import math
import pathlib
import shutil

import gguf
import numpy as np
import tiny_tokenizers
import torch
import transformers.utils.logging
from gguf import GGMLQuantizationType as Q
from gguf import TokenType
from gguf_families import ARCHES, SAME, WITHOUT_WINDOW, rope_keys
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "gguf"
MIXED = {"attn_q": Q.Q4_0, "attn_k": Q.Q4_1, "attn_v": Q.Q5_0, "attn_output": Q.Q5_1, "ffn_gate": Q.Q8_0, "ffn_up": Q.BF16,
         "ffn_down": Q.F16, "token_embd": Q.Q8_0, "output": Q.Q5_1}


def permute(x, heads):
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def rope_freqs(c):
    """The divisors of Llama 3.1's scaling. (The converter takes the original length from the top level of config.json and
    else 8192, which is Llama 3.1's; here it is the configuration's own.)"""
    s, d = c["rope_scaling"], c["head_dim"]
    freqs = 1.0 / (c["rope_theta"] ** (np.arange(0, d, 2, dtype=np.float32) / d))
    length, low, high = s["original_max_position_embeddings"], s["low_freq_factor"], s["high_freq_factor"]
    out = []
    for f in freqs:
        wavelength = 2 * math.pi / f
        if wavelength < length / high:
            out.append(1.0)
        elif wavelength > length / low:
            out.append(s["factor"])
        else:
            smooth = (length / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def add_bpe(w, tokenizer, pre, template):
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types([TokenType.CONTROL if t in special else TokenType.NORMAL for t, _ in vocab])
    w.add_token_merges([" ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(2)
    w.add_add_space_prefix(False)
    w.add_add_bos_token(False)
    w.add_chat_template(template)


def add_spm(w, sp, template):
    kind = lambda i: (TokenType.UNKNOWN if sp.is_unknown(i) else TokenType.CONTROL if sp.is_control(i)
                      else TokenType.BYTE if sp.is_byte(i) else TokenType.NORMAL)
    n = sp.get_piece_size()
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([sp.id_to_piece(i).encode() for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)])
    w.add_token_types([kind(i) for i in range(n)])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(template)


def add_common(w, c, arch):
    """The keys that every architecture has."""
    first = lambda *keys: next(c[key] for key in keys if c.get(key) is not None)
    w.add_block_count(first("num_hidden_layers", "n_layer"))
    w.add_context_length(first("max_position_embeddings", "n_ctx"))
    w.add_embedding_length(first("hidden_size", "n_embd"))
    w.add_feed_forward_length(c.get("intermediate_size") or 4 * c["n_embd"])
    w.add_head_count(first("num_attention_heads", "n_head"))
    if "num_key_value_heads" in c:
        w.add_head_count_kv(c["num_key_value_heads"])
    if arch not in ("gemma2", "gpt2"):
        rope_keys(w, c)
    if "rms_norm_eps" in c:
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    else:
        w.add_layer_norm_eps(first("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"))
    if c.get("head_dim") and arch != "granite":
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])


def write(name, source, storage, file_type):
    """storage: GGUF module name (attn_q, token_embd, ...) -> type. Returns the weights as stored, in Hugging Face order."""
    folder = FIXTURES / "models" / source
    c = json.loads((folder / "config.json").read_text())
    arch = ARCHES[c["model_type"]]
    w = gguf.GGUFWriter(OUT / f"{name}.gguf", arch.name)
    w.add_type(gguf.GGUFType.MODEL)
    w.add_name(source)
    w.add_size_label("tiny")
    add_common(w, c, arch.name)
    w.add_file_type(file_type)
    arch.keys(w, c)
    if source == "chat_bpe":
        add_bpe(w, tiny_tokenizers.bpe(), "smollm", tiny_tokenizers.CHATML)
    elif source == "chat_spm":
        add_spm(w, tiny_tokenizers.spm(), tiny_tokenizers.LLAMA2)
    else:
        w.add_tokenizer_model("none")
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)

    stored = {}
    if (c.get("rope_scaling") or {}).get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", rope_freqs(c))
    for key, x in load_file(folder / "model.safetensors").items():
        new, x = arch.tensor_name(key), arch.numbers(key, x)
        module = new.removeprefix("blk.").lstrip("0123456789.").removesuffix(".weight").removesuffix(".bias")
        kind = Q.F32 if x.ndim == 1 else storage(module)
        heads = {"attn_q": c["num_attention_heads"], "attn_k": c["num_key_value_heads"]}.get(module) if arch.permuted else None
        data = gguf.quants.quantize(permute(x, heads) if heads else x, kind)
        w.add_tensor(new, data, raw_dtype=kind)
        stored[key] = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind).reshape(x.shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return stored


def write_expected(name, source, stored=None, **config):
    """As make_tiny_fixtures.py, with the weights as the file stores them and what else the file says."""
    folder = FIXTURES / "models" / source
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **config)
    if stored:
        missing = base.load_state_dict({k: torch.tensor(v) for k, v in stored.items()}, strict=True)
        assert not missing.missing_keys and not missing.unexpected_keys
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    given = load_file(folder / "expected.safetensors")
    out, total, count = {}, 0.0, 0
    for i in range(2):
        ids, labels = torch.tensor(given[f"input_ids.{i}"]).long(), torch.tensor(given[f"labels.{i}"]).long()
        logits = model(input_ids=ids[None]).logits[0]
        mask = labels[1:] != -100
        total = total + torch.nn.functional.cross_entropy(logits[:-1][mask], ids[1:][mask], reduction="sum")
        count += int(mask.sum())
        with model.disable_adapter(), torch.no_grad():
            out[f"base_logits.{i}"] = model(input_ids=ids[None]).logits[0].numpy()
        out[f"logits.{i}"] = logits.detach().numpy()
        out[f"input_ids.{i}"], out[f"labels.{i}"] = given[f"input_ids.{i}"], given[f"labels.{i}"]
    loss = total / count
    loss.backward()
    out["loss"] = loss.detach().numpy()[None]
    out |= {"grad." + n.replace(".default", ""): p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
    save_file(out, OUT / f"{name}.expected.safetensors")
    off = np.abs(out["base_logits.0"] - given["base_logits.0"]).max()
    print(f"{name}: loss {loss.item():.4f}, logits off the F32 model's by up to {off:.3f}")


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for source in ("llama", "llama_bias", "llama31", "qwen2", "qwen3", "chat_bpe", "chat_spm"):
        write(f"{source}-f32", source, lambda _: Q.F32, gguf.LlamaFileType.ALL_F32)
    q8 = write("llama-q8_0", "llama", lambda m: Q.F16 if m in ("token_embd", "output") else Q.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)
    write_expected("llama-q8_0", "llama", q8)
    mixed = write("llama-mixed", "llama", MIXED.__getitem__, gguf.LlamaFileType.MOSTLY_Q4_0)
    write_expected("llama-mixed", "llama", mixed)
    for source in SAME + WITHOUT_WINDOW:
        write(f"{source}-f32", source, lambda _: Q.F32, gguf.LlamaFileType.ALL_F32)
    for source in WITHOUT_WINDOW:
        write_expected(f"{source}-f32", source, sliding_window=None)
    for f in OUT.iterdir():
        f.chmod(0o644)
    print(f"{sum(f.stat().st_size for f in OUT.iterdir()) / 1e6:.2f} MB in fixtures/gguf")


main()
