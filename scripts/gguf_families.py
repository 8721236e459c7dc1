"""How llama.cpp's converter writes the families of tiny_families.py: names, keys and what it does to the numbers.

An architecture says
  modules    Hugging Face's name of a part of a block -> GGUF's, where it is not that of the Llama kind
  permuted   whether the rows of queries and keys are put in the order of neighbouring pairs
  keys       writes the keys that are its own
  numbers    what is done to a tensor: (name in the folder, values) -> values
"""
import math
from dataclasses import dataclass, field
from typing import Callable

import gguf
import numpy as np

LLAMA = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
GEMMA = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
OLMO = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
GLM = {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm", "mlp.gate_up_proj": "ffn_up"}
PHI = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
STARCODER = {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
GPT2 = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "transformer.wte": "token_embd",
       "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}


def nothing(w, c):
    """No keys of its own."""


def as_is(name, x):
    return x


@dataclass
class Arch:
    name: str
    modules: dict[str, str] = field(default_factory=dict)
    permuted: bool = False
    keys: Callable = nothing
    numbers: Callable = as_is

    def tensor_name(self, name):
        path, _, leaf = name.rpartition(".")
        if path in TOP:
            return f"{TOP[path]}.{leaf}"
        layer, module = path.split(".", 3)[2:]
        return f"blk.{layer}.{(LLAMA | self.modules)[module]}.{leaf}"


def rope_of(c):
    """The rope parameters that the file's keys are about: those of the layers without a window."""
    r = c.get("rope_parameters") or dict(rope_theta=c["rope_theta"], **(c.get("rope_scaling") or {}))
    return r.get("full_attention", r)


def rope_keys(w, c):
    r = rope_of(c)
    if r.get("rope_type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(r["factor"])
    elif r.get("rope_type") == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(r["factor"])
        w.add_rope_scaling_orig_ctx_len(r["original_max_position_embeddings"])
        for key, add in (("attention_factor", w.add_rope_scaling_yarn_attn_factor), ("beta_fast", w.add_rope_scaling_yarn_beta_fast),
                         ("beta_slow", w.add_rope_scaling_yarn_beta_slow)):
            if r.get(key) is not None:
                add(r[key])
    w.add_rope_freq_base(r["rope_theta"])
    sliding = (c.get("rope_parameters") or {}).get("sliding_attention")
    if sliding:
        w.add_rope_freq_base_swa(sliding["rope_theta"])


def llama_keys(w, c):
    w.add_vocab_size(c["vocab_size"])
    w.add_rope_dimension_count(c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"])


def gemma_keys(w, c):
    """Gemma 2 has no key for rope's base, none of them for the scale of attention."""
    for key, add in (("attn_logit_softcapping", w.add_attn_logit_softcapping), ("final_logit_softcapping", w.add_final_logit_softcapping)):
        if c[key] is not None:
            add(c[key])
    w.add_sliding_window(c["sliding_window"])


def phi_keys(w, c):
    r, original = rope_of(c), c["original_max_position_embeddings"]
    w.add_rope_scaling_orig_ctx_len(original)
    w.add_rope_dimension_count(int(r["partial_rotary_factor"] * c["hidden_size"]) // c["num_attention_heads"])
    w.add_sliding_window(c["sliding_window"] or 0)
    if r["rope_type"] == "longrope":
        scale = c["max_position_embeddings"] / original
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        for length in ("long", "short"):
            w.add_tensor(f"rope_factors_{length}.weight", np.array(r[f"{length}_factor"], dtype=np.float32))


def granite_keys(w, c):
    llama_keys(w, c)
    w.add_attention_scale(c["attention_multiplier"])
    w.add_embedding_scale(c["embedding_multiplier"])
    w.add_residual_scale(c["residual_multiplier"])
    w.add_logit_scale(c["logits_scaling"])


def olmo_keys(w, c):
    if "sliding_window" in c:
        w.add_sliding_window(c["sliding_window"])
        w.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])


def glm_keys(w, c):
    w.add_rope_dimension_count(int(c["head_dim"] * rope_of(c)["partial_rotary_factor"]))


def cohere_keys(w, c):
    w.add_logit_scale(c["logit_scale"])
    w.add_sliding_window(c["sliding_window"])
    w.add_vocab_size(c["vocab_size"])
    w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    w.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def ministral_keys(w, c):
    llama_keys(w, c)
    w.add_rope_scaling_yarn_log_mul(rope_of(c)["mscale_all_dim"])
    w.add_attn_temperature_scale(rope_of(c)["llama_4_scaling_beta"])


def one_added(name, x):
    """Gemma's norms multiply by 1 + w; the file holds that sum."""
    return x + 1 if name.endswith("norm.weight") else x


def conv_as_linear(name, x):
    """GPT-2's layers are stored input by output."""
    return np.ascontiguousarray(x.T) if x.ndim == 2 and ".h." in name else x


ARCHES = {
    "llama": Arch("llama", permuted=True, keys=llama_keys),
    "mistral": Arch("llama", permuted=True, keys=llama_keys),
    "qwen2": Arch("qwen2"),
    "qwen3": Arch("qwen3"),
    "gemma2": Arch("gemma2", GEMMA, keys=gemma_keys, numbers=one_added),
    "gemma3_text": Arch("gemma3", GEMMA, keys=gemma_keys, numbers=one_added),
    "phi3": Arch("phi3", PHI, keys=phi_keys),
    "smollm3": Arch("smollm3", permuted=True, keys=llama_keys),
    "granite": Arch("granite", permuted=True, keys=granite_keys),
    "olmo2": Arch("olmo2", OLMO, keys=olmo_keys),
    "olmo3": Arch("olmo2", OLMO, keys=olmo_keys),
    "glm4": Arch("glm4", GLM, keys=glm_keys),
    "cohere2": Arch("cohere2", keys=cohere_keys),
    "starcoder2": Arch("starcoder2", STARCODER),
    "gpt2": Arch("gpt2", GPT2, numbers=conv_as_linear),
    "ministral3": Arch("mistral3", permuted=True, keys=ministral_keys),
}

# Folders of tiny_families.py whose GGUF file says the same model.
SAME = ["gemma2_plain", "gemma3", "phi3", "phi3_partial", "phi3_longrope", "smollm3", "granite", "olmo2", "olmo3", "glm4", "cohere2", "gpt2",
        "ministral3", "qwen3_yarn", "llama_linear"]
# The converter writes no window for these: NAME-f32.expected.safetensors is of the model without it.
WITHOUT_WINDOW = ["starcoder2", "mistral_window"]
