"""The tiny models of make_tiny_fixtures.py that are not of the Llama kind: one entry a folder of fixtures/models.

Each entry says the configuration, the modules that the adapter trains (every linear layer), and what else the folder gets:
  classic    config_classic.json: the same model in the words of transformers 4, which most published folders use
  full       full.safetensors, the gradient of every weight
Sizes are chosen so that what is particular to a family shows in the logits: windows and original lengths are shorter than
the samples (23 and 17 tokens), soft caps are small, and the heads' width times their number is not the hidden size where
the family allows that.
"""
from dataclasses import dataclass
from typing import Callable

from transformers import (Cohere2Config, Gemma2Config, Gemma3Config, Gemma3TextConfig, Glm4Config, GPT2Config, GraniteConfig, LlamaConfig,
                          Ministral3Config, MinistralConfig, MistralConfig, Olmo2Config, Olmo3Config, Phi3Config, Qwen2Config, Qwen3Config,
                          SmolLM3Config, Starcoder2Config)

SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
HALF_FUSED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
PLAIN = ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"]
IDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
SIZE = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, **IDS)
TWO_LAYERS = SIZE | dict(num_hidden_layers=2)
FOUR_LAYERS = SIZE | dict(num_hidden_layers=4, intermediate_size=32)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)


@dataclass
class Family:
    config: object
    targets: list[str]
    full: bool = False
    classic: Callable[[dict], None] | None = None


def rope(theta, **more):
    return dict(rope_theta=theta, **{"rope_type": "default"} | more)


def flat(c):
    """One set of rope parameters as transformers 4 wrote it."""
    r = c.pop("rope_parameters")
    c["rope_theta"] = r.pop("rope_theta")
    if "partial_rotary_factor" in r:
        c["partial_rotary_factor"] = r.pop("partial_rotary_factor")
    c["rope_scaling"] = None if r["rope_type"] == "default" else r


def gemma3_classic(c):
    """A pattern instead of a list of layers; the local layers' base beside the others'."""
    r = c.pop("rope_parameters")
    c["rope_theta"], c["rope_local_base_freq"] = r["full_attention"].pop("rope_theta"), r["sliding_attention"]["rope_theta"]
    c["rope_scaling"] = None if r["full_attention"]["rope_type"] == "default" else r["full_attention"]
    c["sliding_window_pattern"] = c.pop("layer_types").index("full_attention") + 1


def multimodal_classic(c):
    """Published folders leave out of text_config what is the default, such as Gemma 3's four-fold list of sizes."""
    text = c["text_config"]
    gemma3_classic(text)
    for key in ("hidden_activation", "rms_norm_eps", "attention_bias", "final_logit_softcapping", "attn_logit_softcapping"):
        text.pop(key)


def olmo3_classic(c):
    """Scaling is for the layers without a window."""
    r = c.pop("rope_parameters")
    c["rope_theta"] = r["full_attention"].pop("rope_theta")
    c["rope_scaling"] = r["full_attention"]
    c.pop("layer_types")


def pattern_classic(c):
    flat(c)
    c["sliding_window_pattern"] = c.pop("layer_types").index("full_attention") + 1


def without_layer_types(c):
    flat(c)
    c.pop("layer_types")


def phi3_classic(c):
    """The original length is at the top level only."""
    flat(c)
    c["rope_scaling"]["type"] = c["rope_scaling"].pop("rope_type")
    c["rope_scaling"].pop("original_max_position_embeddings")


FAMILIES = {
    # head_dim 16 of 4 heads at hidden size 32. The scale of attention is not that of head_dim.
    "gemma2": Family(Gemma2Config(**SIZE | dict(intermediate_size=32), head_dim=16, query_pre_attn_scalar=10, sliding_window=6,
                                  attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=rope(10000.0)),
                     SPLIT, full=True, classic=without_layer_types),
    # As GGUF files can say it: the scale is that of head_dim.
    "gemma2_plain": Family(Gemma2Config(**TWO_LAYERS, head_dim=16, query_pre_attn_scalar=16, sliding_window=6,
                                        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=rope(10000.0)), SPLIT),
    "gemma3": Family(Gemma3TextConfig(**SIZE | dict(num_hidden_layers=6, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32),
                                      head_dim=16, query_pre_attn_scalar=16, sliding_window=6,
                                      rope_parameters=dict(full_attention=rope(1000000.0, rope_type="linear", factor=8.0),
                                                           sliding_attention=rope(10000.0))),
                     SPLIT, full=True, classic=gemma3_classic),
    # Another pattern, no scaling, a soft cap of the logits, and a scale that is not that of head_dim.
    "gemma3_pattern": Family(Gemma3TextConfig(**SIZE | dict(intermediate_size=32), head_dim=16, query_pre_attn_scalar=24, sliding_window=5,
                                              layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                              final_logit_softcapping=4.0,
                                              rope_parameters=dict(full_attention=rope(50000.0), sliding_attention=rope(1000.0))),
                            SPLIT, classic=gemma3_classic),
    "phi3": Family(Phi3Config(**SIZE, sliding_window=7, rope_parameters=rope(10000.0)), FUSED, full=True, classic=flat),
    "phi3_partial": Family(Phi3Config(**TWO_LAYERS | dict(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True),
                                      rope_parameters=rope(10000.0, partial_rotary_factor=0.75)), FUSED, classic=flat),
    # One sample is longer than the original length, one is not. 12 of a head's 16 values rotate.
    "phi3_longrope": Family(Phi3Config(**TWO_LAYERS | dict(num_attention_heads=2, num_key_value_heads=1), original_max_position_embeddings=20,
                                       rope_parameters=rope(10000.0, rope_type="longrope", partial_rotary_factor=0.75,
                                                            short_factor=[1.0, 1.05, 1.1, 1.3, 1.6, 2.0],
                                                            long_factor=[1.1, 1.4, 2.5, 4.0, 7.0, 11.0])),
                            FUSED, classic=phi3_classic),
    "smollm3": Family(SmolLM3Config(**FOUR_LAYERS, rope_parameters=rope(2000000.0)), SPLIT, full=True, classic=without_layer_types),
    # Another pattern of layers without rope, windows on these, biases and YaRN.
    "smollm3_window": Family(SmolLM3Config(**SIZE | dict(intermediate_size=32, tie_word_embeddings=False), no_rope_layers=[0, 1, 0],
                                           use_sliding_window=True, sliding_window=6, attention_bias=True, mlp_bias=True, rope_parameters=YARN), SPLIT),
    "granite": Family(GraniteConfig(**SIZE | dict(tie_word_embeddings=True), embedding_multiplier=6.0, attention_multiplier=0.2,
                                    residual_multiplier=0.4, logits_scaling=1.6, rope_parameters=rope(10000.0)),
                      SPLIT, full=True, classic=flat),
    "olmo2": Family(Olmo2Config(**SIZE, rope_parameters=rope(500000.0)), SPLIT, full=True, classic=flat),
    "olmo3": Family(Olmo3Config(**FOUR_LAYERS, sliding_window=6,
                                rope_parameters=dict(full_attention=YARN | dict(rope_theta=500000.0, beta_fast=4.0, beta_slow=0.25),
                                                     sliding_attention=rope(500000.0))),
                    SPLIT, full=True, classic=olmo3_classic),
    "glm4": Family(Glm4Config(**SIZE | dict(intermediate_size=48), head_dim=16, attention_bias=True,
                              rope_parameters=rope(10000.0, partial_rotary_factor=0.5)),
                   HALF_FUSED, full=True, classic=flat),
    "cohere2": Family(Cohere2Config(**FOUR_LAYERS, sliding_window=6, logit_scale=0.25, rope_parameters=rope(50000.0)),
                      SPLIT, full=True, classic=pattern_classic),
    "starcoder2": Family(Starcoder2Config(**SIZE | dict(intermediate_size=96), sliding_window=7, rope_parameters=rope(100000.0)),
                         PLAIN, full=True, classic=flat),
    "gpt2": Family(GPT2Config(vocab_size=64, n_positions=32, n_ctx=32, n_embd=32, n_layer=3, n_head=4, **IDS), ["c_attn", "c_proj", "c_fc"], full=True),
    # The temperature of queries changes at positions 8 and 16.
    "ministral3": Family(Ministral3Config(**SIZE, head_dim=16, rope_parameters=YARN | dict(
        rope_theta=1000000.0, factor=16.0, original_max_position_embeddings=8, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
        llama_4_scaling_beta=0.3)), SPLIT, full=True),
    "ministral": Family(MinistralConfig(**TWO_LAYERS, head_dim=16, sliding_window=6, layer_types=["full_attention", "sliding_attention"],
                                        rope_parameters=rope(10000.0)), SPLIT),
    "mistral_window": Family(MistralConfig(**TWO_LAYERS, sliding_window=6, rope_parameters=rope(10000.0)), SPLIT, classic=flat),
    "qwen2_window": Family(Qwen2Config(**SIZE | dict(intermediate_size=32), use_sliding_window=True, sliding_window=6, max_window_layers=1,
                                       rope_parameters=rope(1000000.0)), SPLIT, classic=without_layer_types),
    "qwen3_window": Family(Qwen3Config(**SIZE | dict(intermediate_size=32), head_dim=16, use_sliding_window=True, sliding_window=6,
                                       max_window_layers=2, rope_parameters=rope(1000000.0)), SPLIT, classic=without_layer_types),
    "qwen3_yarn": Family(Qwen3Config(**TWO_LAYERS | dict(tie_word_embeddings=True), head_dim=16,
                                     rope_parameters=YARN | dict(rope_theta=1000000.0)), SPLIT),
    # All of YaRN's keys; the bounds of the ramp are not rounded.
    "llama_yarn": Family(LlamaConfig(**TWO_LAYERS, rope_parameters=YARN | dict(
        beta_fast=2.0, beta_slow=0.2, mscale=1.0, mscale_all_dim=0.6, truncate=False)), SPLIT, classic=flat),
    # One sample is longer than max_position_embeddings, one is not.
    "llama_dynamic": Family(LlamaConfig(**TWO_LAYERS | dict(max_position_embeddings=20),
                                        rope_parameters=rope(10000.0, rope_type="dynamic", factor=4.0)), SPLIT, classic=flat),
    "llama_linear": Family(LlamaConfig(**TWO_LAYERS, rope_parameters=rope(10000.0, rope_type="linear", factor=2.5)), SPLIT, classic=flat),
}

# Text and images: what is not for text must be passed over. No adapter.
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
MULTIMODAL = Gemma3Config(
    text_config=Gemma3TextConfig(**SIZE | dict(intermediate_size=32), head_dim=16, query_pre_attn_scalar=16, sliding_window=5,
                                 layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                                 rope_parameters=dict(full_attention=rope(1000000.0, rope_type="linear", factor=8.0),
                                                      sliding_attention=rope(10000.0))).to_dict(),
    vision_config=VISION | dict(model_type="siglip_vision_model"), mm_tokens_per_image=4, boi_token_index=60, eoi_token_index=61,
    image_token_index=62)
