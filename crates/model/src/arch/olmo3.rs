//! OLMo 3: OLMo 2 with a window in three of four layers. GGUF files call it OLMo 2.

use serde_json::json;

use super::{ConfigError, Family, Named, gguf, hf, olmo2, rope};
use crate::shape::{Arch, Architecture, Config, LayerPattern, Names, Rope};

const ARCH: Arch = Arch(&Architecture {
    model_type: "olmo3",
    gguf: "olmo2",
    gguf_rotary_pairs: false,
    gguf_window: true,
    names: Names::USUAL,
    parts: olmo2::parts,
});

pub(super) const FAMILY: Family = Family {
    arch: ARCH,
    class: "Olmo3ForCausalLM",
    score_class: Some("Olmo3ForSequenceClassification"),
    from_json: |keys| {
        let config = olmo2::common(keys, ARCH)?;
        let defaults = rope::Defaults { theta: THETA, ..rope::Defaults::USUAL };
        let [rope, local] = match rope::by_layer_type(keys, config.head_dim, [&defaults, &defaults])? {
            Some(both) => both,
            // Of one rotation, the layers with a window do not have what is said of it.
            None => [rope::from_json(keys, config.head_dim, &defaults)?, Rope::plain(THETA)],
        };
        let sliding_window = Some(keys.optional_size("sliding_window")?.unwrap_or(4096));
        let usual = LayerPattern::all_but_each(PERIOD);
        let windowed = hf::windowed(keys, config.num_hidden_layers, sliding_window, usual)?;
        Ok(Config { rope, local_rope: Some(local), sliding_window, windowed, ..config })
    },
    from_gguf: None,
    to_json: |config| {
        json!({
            "attention_bias": config.attention_bias,
            "sliding_window": config.sliding_window,
            "layer_types": hf::layer_types(config),
        })
    },
    to_gguf: |config| {
        let mut entries = gguf::window(config);
        entries.push(gguf::pattern(config));
        entries
            .extend(config.local_rope.as_ref().map(|rope| gguf::number(gguf::LOCAL_BASE, rope.theta as f32)));
        Ok(entries)
    },
    named: &[Named {
        own: |config| Config {
            norm_eps: 1e-6,
            qk_norm: true,
            sliding_window: Some(4096),
            windowed: LayerPattern::all_but_each(PERIOD),
            local_rope: Some(Rope::plain(THETA)),
            ..config
        },
        ..Named::new("olmo-3-7b", [4096, 11_008, 32, 32, 32, 128, 100_278, 65_536], THETA, false)
    }],
};

const THETA: f64 = 5e5;
/// Each fourth layer has no window.
const PERIOD: usize = 4;

/// From the metadata of a file of OLMo 2 that has a window.
pub(super) fn from_gguf(keys: &gguf::Keys<'_>) -> Result<Config, ConfigError> {
    let config = gguf::common(keys, ARCH, &[gguf::PATTERN, gguf::LOCAL_BASE])?;
    let local = keys.number(gguf::LOCAL_BASE)?.unwrap_or(config.rope.theta);
    Ok(Config { windowed: keys.windowed(&config, PERIOD)?, local_rope: Some(Rope::plain(local)), ..config })
}
