//! Gemma 3 (Gemma Team 2025), the language model: Gemma 2 with norms of queries and keys in place of the cap on scores, a window
//! in five of six layers, and another base of the rotation there.

use serde_json::json;

use super::hf::Keys;
use super::{Family, Named, gemma2, gguf, rope};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names, NormKind, Rope, RopeScaling};

const ARCH: Arch = Arch(&Architecture {
    model_type: "gemma3_text",
    gguf: "gemma3",
    gguf_rotary_pairs: false,
    gguf_window: true,
    names: Names::USUAL,
    parts: |config, layer| gemma2::parts(config, layer, Some((NormKind::RmsPlusOne, false))),
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Gemma3ForCausalLM",
    score_class: Some("Gemma3TextForSequenceClassification"),
    from_json: |keys| {
        // Published configurations within those of several models leave out what they have in common.
        let mut all = keys.0.clone();
        for (key, value) in DEFAULTS {
            all.entry(key).or_insert_with(|| json!(value));
        }
        let keys = &Keys(&all);
        let config = gemma2::common(keys, ARCH)?;
        let head_dim = config.head_dim;
        let of_all = rope::Defaults { theta: 1e6, ..rope::Defaults::USUAL };
        let [rope, local] = match rope::by_layer_type(keys, head_dim, [&of_all, &rope::Defaults::USUAL])? {
            Some(both) => both,
            None => {
                let theta = keys.number("rope_local_base_freq")?.unwrap_or(1e4);
                [rope::from_json(keys, head_dim, &of_all)?, Rope::plain(theta)]
            }
        };
        let period = keys.optional_size("sliding_window_pattern")?.unwrap_or(PERIOD);
        let config = gemma2::windows(keys, config, LayerPattern::all_but_each(period))?;
        let logit_softcap = keys.cap("final_logit_softcapping", None)?;
        Ok(Config { qk_norm: true, rope, local_rope: Some(local), logit_softcap, ..config })
    },
    from_gguf: Some(|keys| {
        let config = gguf::common(keys, ARCH, &[gguf::PATTERN, gguf::LOCAL_BASE, LOGIT_CAP])?;
        let local = keys.number(gguf::LOCAL_BASE)?.unwrap_or(1e4);
        let config = Config {
            windowed: keys.windowed(&config, PERIOD)?,
            local_rope: Some(Rope::plain(local)),
            logit_softcap: keys.number_or_none(LOGIT_CAP)?.map(|cap| cap as f32),
            attention_scale: gemma2::scale_in_gguf(&config, 62),
            ..config
        };
        Ok(gemma2::scaled(config))
    }),
    to_json: |config| {
        let mut json = gemma2::to_json(config);
        let local = config.local_rope.as_ref().unwrap_or(&config.rope);
        json["rope_local_base_freq"] = json!(local.theta);
        json["final_logit_softcapping"] = json!(config.logit_softcap);
        json
    },
    to_gguf: |config| {
        if config.attention_scale != gemma2::scale_in_gguf(config, 62) {
            return Err(gemma2::UNSAID_SCALE.to_owned());
        }
        let mut entries = gguf::windows(config, PERIOD)?;
        entries
            .extend(config.local_rope.as_ref().map(|rope| gguf::number(gguf::LOCAL_BASE, rope.theta as f32)));
        entries.extend(config.logit_softcap.map(|cap| gguf::number(LOGIT_CAP, cap)));
        Ok(entries)
    },
    named: &[
        named("gemma-3-1b", [1152, 6912, 26, 4, 1, 256, 262_144, 32_768], |config| {
            published(config, 512, 1.0)
        }),
        named("gemma-3-4b", [2560, 10_240, 34, 8, 4, 256, 262_208, 131_072], |config| {
            published(config, 1024, 8.0)
        }),
        named("gemma-3-12b", [3840, 15_360, 48, 16, 8, 256, 262_208, 131_072], |config| {
            published(config, 1024, 8.0)
        }),
        named("gemma-3-27b", [5376, 21_504, 62, 32, 16, 128, 262_208, 131_072], |config| {
            let attention_scale = Some(gemma2::scale_of_width(&config));
            Config { attention_scale, ..published(config, 1024, 8.0) }
        }),
    ],
};

/// What transformers has where a `config.json` says nothing.
const DEFAULTS: [(&str, usize); 6] = [
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("max_position_embeddings", 131_072),
];
const LOGIT_CAP: &str = "final_logit_softcapping";
/// Each sixth layer has no window.
const PERIOD: usize = 6;

const fn named(name: &'static str, sizes: [usize; 8], own: fn(Config) -> Config) -> Named {
    Named { own, ..Named::new(name, sizes, 1e6, true) }
}

/// A published shape with this window; the frequencies of the other layers are divided by `factor`.
fn published(config: Config, window: usize, factor: f64) -> Config {
    let scaling = match factor {
        1.0 => RopeScaling::None,
        factor => RopeScaling::Linear { factor },
    };
    gemma2::scaled(Config {
        qk_norm: true,
        sliding_window: Some(window),
        windowed: LayerPattern::all_but_each(PERIOD),
        local_rope: Some(Rope::plain(1e4)),
        rope: Rope { scaling, ..config.rope },
        norm_eps: 1e-6,
        ..config
    })
}
