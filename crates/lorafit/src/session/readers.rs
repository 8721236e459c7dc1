//! What reads adapters beside lorafit, and what of an adapter each reader can take: one table, [`READERS`].
//!
//! Sources, as of 2026-11: PEFT 0.21; vLLM `config/lora.py`, `lora/peft_helper.py`, `lora/lora_model.py`; text-generation-inference
//! and LoRAX `adapters/lora.py`, `utils/sgmv.py`; llama.cpp `llama-adapter.cpp`; Ollama, which runs llama.cpp's server with
//! `--lora`; mlx-lm `tuner/utils.py`. None of the Python ones is run here: docs/shipping.md says which were tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lorafit_model::adapter::{AdapterFile, COMPUTED_OPTIONS, LoraConfig, known_modules};
use lorafit_model::{Config, is_gguf};
use lorafit_remedy::amounts::counted;
use serde_json::{Value, json};

use crate::terminal::shell::shell_word;

/// A reader, the parts that it cannot take, each with the way out, and how it is called.
pub struct Reader {
    /// As `--to` names it.
    pub key: &'static str,
    /// As people name it.
    pub name: &'static str,
    rules: &'static [(Part, Fix)],
    /// The command, or the line of a program, that uses the adapter.
    how: fn(&Facts) -> String,
}

/// Ranks that vLLM's `--max-lora-rank` can be.
const RANKS_OF_VLLM: [usize; 8] = [8, 16, 32, 64, 128, 256, 320, 512];
/// What no reader but PEFT computes.
const MORE_THAN_FACTORS: (Part, Fix) = (Part::Options, Fix::Merge);
const OTHER_TENSORS: (Part, Fix) = (Part::OtherTensors, Fix::Merge);
/// They multiply all layers with the one `lora_alpha / r` of the configuration.
const ONE_SCALE: (Part, Fix) = (Part::SeveralScales, Fix::Shrink);
const NOT_READ: Part = Part::OtherModules(&["lm_head"]);
const NO_HEAD: (Part, Fix) = (Part::OtherModules(&[]), Fix::Merge);

/// The table.
pub const READERS: [Reader; 6] = [
    Reader {
        key: "transformers",
        name: "transformers, PEFT",
        rules: &[(Part::BaseOfNoFolder, Fix::BaseName)],
        how: |facts| {
            let class = if facts.scores {
                "AutoPeftModelForSequenceClassification"
            } else {
                "AutoPeftModelForCausalLM"
            };
            format!("{class}.from_pretrained(\"{}\")", facts.dir)
        },
    },
    Reader {
        key: "vllm",
        name: "vLLM",
        rules: &[
            MORE_THAN_FACTORS,
            OTHER_TENSORS,
            (Part::OtherModules(&["lm_head"]), Fix::Merge),
            ONE_SCALE,
            (Part::RankAbove(512), Fix::Shrink),
        ],
        how: |facts| {
            let rank = RANKS_OF_VLLM.into_iter().find(|rank| *rank >= facts.rank).unwrap_or(facts.rank);
            let Facts { served, name, dir, .. } = facts;
            format!("vllm serve {served} --enable-lora --max-lora-rank {rank} --lora-modules {name}={dir}")
        },
    },
    Reader {
        key: "tgi",
        name: "TGI, LoRAX",
        // Of several ranks the stacked factors have no one shape; what is not adapted in all layers is left out without a word.
        rules: &[
            MORE_THAN_FACTORS,
            OTHER_TENSORS,
            (Part::OtherModules(&["lm_head"]), Fix::Merge),
            (Part::SomeLayers, Fix::Merge),
            (Part::SeveralRanks, Fix::Shrink),
            ONE_SCALE,
        ],
        how: |facts| {
            let Facts { served, name, dir, .. } = facts;
            format!("LORA_ADAPTERS={name}={dir} text-generation-launcher --model-id {served}")
        },
    },
    Reader {
        key: "gguf-lora",
        name: "llama.cpp",
        rules: &[
            (Part::Options, Fix::MergeIntoGguf),
            (Part::OtherTensors, Fix::MergeIntoGguf),
            (Part::OtherModules(&[]), Fix::MergeIntoGguf),
        ],
        how: |facts| {
            let Facts { model, name, dir, .. } = facts;
            format!("lorafit export --to gguf-lora --model {model} --adapter {dir} --out {name}.gguf")
        },
    },
    Reader {
        key: "ollama",
        name: "Ollama",
        // What Ollama cannot take beside a base is merged into one file by the same command.
        rules: &[(Part::Unreadable, Fix::Merge)],
        how: |facts| {
            let Facts { model, name, dir, .. } = facts;
            format!("lorafit export --to ollama --model {model} --adapter {dir} --out {name}-ollama")
        },
    },
    Reader {
        key: "mlx",
        name: "mlx-lm",
        rules: &[
            MORE_THAN_FACTORS,
            OTHER_TENSORS,
            NO_HEAD,
            (Part::NotTheLastLayers, Fix::Merge),
            (Part::SeveralRanks, Fix::Shrink),
        ],
        how: |facts| {
            let Facts { model, name, dir, .. } = facts;
            format!("lorafit export --to mlx --model {model} --adapter {dir} --out {name}-mlx")
        },
    },
];

/// Parts of an adapter that not every reader takes.
#[derive(Clone, Copy)]
enum Part {
    /// Options of PEFT by which it is more than factors (DoRA, saved modules, bias, ...).
    Options,
    /// Tensors that are no factors of linear layers.
    OtherTensors,
    /// Modules other than the seven projections and these.
    OtherModules(&'static [&'static str]),
    /// Scales other than that of the configuration, by patterns.
    SeveralScales,
    /// Ranks by patterns.
    SeveralRanks,
    /// A rank above this.
    RankAbove(usize),
    /// A kind of projection that is adapted in some layers only.
    SomeLayers,
    /// Other projections than the same in each of the last layers.
    NotTheLastLayers,
    /// A base that is called by a file.
    BaseOfNoFolder,
    /// What lorafit cannot read, and so not merge.
    Unreadable,
}

/// The way out, the gravest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fix {
    /// Name the base.
    BaseName,
    /// One rank, and one scale, for all layers.
    Shrink,
    /// Merge it into a GGUF file.
    MergeIntoGguf,
    /// Merge it.
    Merge,
}

/// What of an adapter decides.
pub struct Facts {
    dir: String,
    name: String,
    /// What commands of lorafit call the base.
    model: String,
    /// What servers call it.
    served: String,
    base: Option<String>,
    rank: usize,
    ranks: BTreeSet<usize>,
    has_one_scale: bool,
    options: Vec<(&'static str, String)>,
    others: Vec<String>,
    /// Whether it is for a head that scores texts.
    scores: bool,
    /// Layers by kind of projection; a module outside of blocks has none.
    layers: BTreeMap<String, BTreeSet<usize>>,
    /// Layers of the base or, if it is not at hand, up to the last that is adapted.
    all_layers: usize,
}

/// Whether a reader takes an adapter.
pub struct Reading {
    /// The reader.
    pub reader: &'static Reader,
    /// Why it does not; empty if it does.
    pub why: Vec<String>,
    /// How it takes it or, if it does not, what makes an adapter or a model that it takes.
    pub command: String,
}

impl Reading {
    /// For programs.
    pub fn json(&self) -> Value {
        let Reading { reader, why, command } = self;
        json!({"reader": reader.key, "name": reader.name, "takes": why.is_empty(), "why": why, "command": command})
    }
}

impl Facts {
    /// Of `adapter`; `model` is what its base is known by here, and `config` its shape, if it is at hand.
    pub fn of(adapter: &AdapterFile, model: Option<&str>, config: Option<&Config>) -> Self {
        let mut layers: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for factors in &adapter.factors {
            layers.entry(factors.module.clone()).or_default().extend(factors.layer);
        }
        let ranks: BTreeSet<usize> = adapter.factors.iter().map(|factors| factors.rank).collect();
        let last = layers.values().flatten().max().map_or(0, |last| last + 1);
        let named = adapter.base.clone().filter(|base| !base.is_empty());
        let served = model.map(str::to_owned).into_iter().chain(named.clone()).find(|base| !is_gguf(base));
        let name = adapter.path.canonicalize().unwrap_or_else(|_| adapter.path.clone());
        // As an adapter is named to servers, and files after it.
        let name = name.file_name().map_or("adapter".to_owned(), |name| name.to_string_lossy().into_owned());
        Facts {
            dir: shell_word(&adapter.path.display().to_string()),
            name: name.chars().map(|c| if c.is_whitespace() { '-' } else { c }).collect(),
            model: shell_word(model.or(named.as_deref()).unwrap_or("BASE")),
            served: shell_word(served.as_deref().unwrap_or("BASE")),
            base: named,
            rank: ranks.last().copied().unwrap_or(0),
            ranks,
            has_one_scale: adapter.has_one_scale(),
            options: adapter.options(),
            others: adapter.trained_others().cloned().collect(),
            scores: adapter.task_type() == Some("SEQ_CLS"),
            layers,
            all_layers: config.map_or(last, |config| config.num_hidden_layers.max(last)),
        }
    }

    /// What each reader makes of it.
    pub fn readings(&self) -> Vec<Reading> {
        READERS.iter().map(|reader| self.reading(reader)).collect()
    }

    /// What the reader of this key makes of it.
    pub fn reading_of(&self, key: &str) -> Option<Reading> {
        READERS.iter().find(|reader| reader.key == key).map(|reader| self.reading(reader))
    }

    /// What llama.cpp makes of it where it is merged into the model's file, which takes all that lorafit reads.
    pub fn merged_into_gguf(&self, beside: Reading) -> Reading {
        let command = self.way_out(Fix::MergeIntoGguf, self.rank);
        let why = if self.is_readable() { Vec::new() } else { beside.why };
        Reading { command, why, ..beside }
    }

    fn reading(&self, reader: &'static Reader) -> Reading {
        let found = reader.rules.iter().filter_map(|(part, fix)| Some((self.has(*part)?, *fix, *part)));
        let found: Vec<(String, Fix, Part)> = found.collect();
        let command = match found.iter().max_by_key(|(_, fix, _)| *fix) {
            None => (reader.how)(self),
            Some((_, fix, _)) => {
                let limit = found.iter().filter_map(|(.., part)| match part {
                    Part::RankAbove(most) => Some(*most),
                    _ => None,
                });
                self.way_out(*fix, limit.min().unwrap_or(self.rank).min(self.rank))
            }
        };
        Reading { reader, why: found.into_iter().map(|(why, ..)| why).collect(), command }
    }

    /// In words, if the adapter has such a part.
    fn has(&self, part: Part) -> Option<String> {
        let list = |names: Vec<String>| names.join(", ");
        match part {
            Part::Options => {
                let used: Vec<String> =
                    self.options.iter().map(|(key, value)| format!("`{key}` is {value}")).collect();
                (!used.is_empty()).then(|| list(used))
            }
            Part::OtherTensors => {
                let first = self.others.first()?;
                Some(match self.others.len() {
                    1 => format!("tensor {first} is not a factor of a linear layer"),
                    all => format!("{all} tensors are not factors of linear layers, such as {first}"),
                })
            }
            Part::OtherModules(taken) => {
                let known = |name: &str| known_modules().contains(&name);
                let other = |name: &&String| !known(name) && !taken.contains(&name.as_str());
                let other: Vec<String> = self.layers.keys().filter(other).cloned().collect();
                (!other.is_empty()).then(|| format!("it adapts {}, beside the projections of blocks", list(other)))
            }
            Part::SeveralScales => (!self.has_one_scale).then(|| {
                "layers have scales of their own (rank_pattern, alpha_pattern), and the reader takes lora_alpha / r for all"
                    .to_owned()
            }),
            Part::SeveralRanks => (self.ranks.len() > 1).then(|| {
                let ranks = self.ranks.iter().map(usize::to_string).collect();
                format!("layers have several ranks ({}), and the reader takes one", list(ranks))
            }),
            Part::RankAbove(most) => {
                (self.rank > most).then(|| format!("its rank is {}, and the reader takes {most} at most", self.rank))
            }
            Part::SomeLayers => {
                let in_some = |(_, layers): &(&String, &BTreeSet<usize>)| {
                    !layers.is_empty() && layers.len() < self.all_layers
                };
                let (module, layers) = self.layers.iter().find(in_some)?;
                Some(format!(
                    "{module} is adapted in {} of {}, and the reader leaves out what is not adapted in all",
                    layers.len(),
                    counted(self.all_layers, "layer", "layers")
                ))
            }
            Part::NotTheLastLayers => {
                let first = self.layers.values().filter_map(|layers| layers.first()).min()?;
                let last: BTreeSet<usize> = (*first..self.all_layers).collect();
                let alike = self.layers.values().all(|layers| layers.is_empty() || *layers == last);
                (!alike).then(|| {
                    "the reader adapts the same projections in each of the last layers, the adapter others".to_owned()
                })
            }
            Part::BaseOfNoFolder => {
                let base = self.base.as_ref().filter(|base| is_gguf(base))?;
                Some(format!("it calls its base {base}, a file that transformers cannot load"))
            }
            Part::Unreadable => match self.is_readable() {
                true => None,
                false => self.has(Part::Options).or_else(|| self.has(Part::OtherTensors)).or_else(|| self.has(NOT_READ)),
            },
        }
    }

    /// Whether lorafit can read it: factors of the seven projections, embedding and head, magnitudes, whole weights, and rows of tokens.
    fn is_readable(&self) -> bool {
        self.options.iter().all(|(key, _)| COMPUTED_OPTIONS.contains(key))
            && self.others.iter().all(|name| name.contains(".lora_embedding_"))
            && self.has(NOT_READ).is_none()
    }

    /// The command that makes something which the reader takes.
    fn way_out(&self, fix: Fix, rank: usize) -> String {
        let Facts { dir, name, model, .. } = self;
        match fix {
            Fix::BaseName => format!(
                "lorafit export --to peft --model {model} --adapter {dir} --base-name ORG/NAME --out {name}-named"
            ),
            Fix::Shrink => format!("lorafit inspect {dir} --shrink-rank {rank} --out {name}-r{rank}"),
            Fix::MergeIntoGguf if self.is_readable() => {
                format!("lorafit export --to gguf --model {model} --adapter {dir} --out {name}.gguf")
            }
            Fix::Merge if self.is_readable() => {
                format!("lorafit merge --model {model} --adapter {dir} --out {name}-merged")
            }
            Fix::Merge | Fix::MergeIntoGguf => {
                "merge it in PEFT: merge_and_unload(), then save_pretrained()".to_owned()
            }
        }
    }
}

/// The options by which an adapter of this program is more than factors with a rank and a scale.
fn options_of(lora: &LoraConfig) -> Vec<(&'static str, String)> {
    let saved =
        (!lora.save_modules.is_empty()).then(|| ("modules_to_save", format!("{:?}", lora.save_modules)));
    let tokens = (!lora.tokens.is_empty()).then(|| {
        let ids: BTreeSet<u32> = lora.tokens.ids().collect();
        ("trainable_token_indices", counted(ids.len(), "token", "tokens"))
    });
    lora.use_dora.then(|| ("use_dora", "true".to_owned())).into_iter().chain(saved).chain(tokens).collect()
}

/// The commands by which readers take an adapter in `dir`, which `lora` describes, for a card: for vLLM, llama.cpp and Ollama.
pub fn of_card(
    dir: &Path,
    name: &str,
    base: &str,
    model: &str,
    lora: &LoraConfig,
) -> Vec<(&'static str, String)> {
    let rank = lora.rank;
    let facts = Facts {
        dir: dir.display().to_string(),
        name: name.to_owned(),
        model: model.to_owned(),
        served: base.to_owned(),
        base: None,
        rank,
        ranks: BTreeSet::from([rank]),
        has_one_scale: true,
        options: options_of(lora),
        others: Vec::new(),
        scores: false,
        layers: BTreeMap::new(),
        all_layers: 0,
    };
    let shown = READERS.iter().filter(|reader| ["vllm", "gguf-lora", "ollama"].contains(&reader.key));
    shown.map(|reader| (reader.name, facts.reading(reader).command)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An adapter of q_proj and v_proj in these layers, with ranks and scales by module.
    fn facts(layers: &[usize], all_layers: usize) -> Facts {
        let layers: BTreeSet<usize> = layers.iter().copied().collect();
        Facts {
            dir: "runs/a".to_owned(),
            name: "a".to_owned(),
            model: "m.gguf".to_owned(),
            served: "org/name".to_owned(),
            base: Some("org/name".to_owned()),
            rank: 12,
            ranks: BTreeSet::from([12]),
            has_one_scale: true,
            options: Vec::new(),
            others: Vec::new(),
            scores: false,
            layers: ["q_proj", "v_proj"].map(|name| (name.to_owned(), layers.clone())).into(),
            all_layers,
        }
    }

    /// The readers that do not take it.
    fn refusing(facts: &Facts) -> Vec<&'static str> {
        facts.readings().into_iter().filter(|r| !r.why.is_empty()).map(|r| r.reader.key).collect()
    }

    fn command(facts: &Facts, key: &str) -> String {
        facts.reading_of(key).unwrap().command
    }

    #[test]
    fn a_plain_adapter_is_taken_by_all() {
        let plain = facts(&[0, 1, 2], 3);
        assert_eq!(refusing(&plain), [""; 0]);
        assert_eq!(
            command(&plain, "vllm"),
            "vllm serve org/name --enable-lora --max-lora-rank 16 --lora-modules a=runs/a"
        );
        assert_eq!(
            command(&plain, "gguf-lora"),
            "lorafit export --to gguf-lora --model m.gguf --adapter runs/a --out a.gguf"
        );
        for (rank, most) in [(8, 8), (9, 16), (64, 64), (257, 320), (512, 512)] {
            let facts = Facts { rank, ..facts(&[0, 1, 2], 3) };
            assert!(command(&facts, "vllm").contains(&format!("--max-lora-rank {most} ")), "{rank}");
        }
    }

    #[test]
    fn what_is_more_than_factors_is_taken_by_peft_alone() {
        let with = |options: &[&'static str]| Facts {
            options: options.iter().map(|key| (*key, "true".to_owned())).collect(),
            ..facts(&[0, 1], 2)
        };
        // Magnitudes are read here, too.
        let dora = with(&["use_dora"]);
        assert_eq!(refusing(&dora), ["vllm", "tgi", "gguf-lora", "mlx"]);
        assert_eq!(command(&dora, "vllm"), "lorafit merge --model m.gguf --adapter runs/a --out a-merged");
        let whole = with(&["modules_to_save"]);
        assert_eq!(refusing(&whole), refusing(&dora));
        // One command merges and writes what llama.cpp and Ollama read.
        assert_eq!(
            command(&whole, "gguf-lora"),
            "lorafit export --to gguf --model m.gguf --adapter runs/a --out a.gguf"
        );
        assert_eq!(
            command(&whole, "ollama"),
            "lorafit export --to ollama --model m.gguf --adapter runs/a --out a-ollama"
        );
        let saved = Facts { others: vec!["base_model.model.score.weight".to_owned()], ..facts(&[0, 1], 2) };
        for facts in [with(&["lora_bias"]), with(&["use_dora", "lora_bias"]), saved] {
            assert_eq!(refusing(&facts), ["vllm", "tgi", "gguf-lora", "ollama", "mlx"]);
            for reader in ["vllm", "gguf-lora", "ollama"] {
                assert!(command(&facts, reader).contains("merge_and_unload"), "{}", command(&facts, reader));
            }
        }
        let mut head = facts(&[0, 1], 2);
        head.layers.insert("lm_head".to_owned(), BTreeSet::new());
        assert_eq!(refusing(&head), ["gguf-lora", "mlx"]);
        assert_eq!(command(&head, "mlx"), command(&dora, "vllm"));
        let others = vec!["base_model.model.model.embed_tokens.lora_embedding_A".to_owned()];
        let embedding = Facts { others, ..facts(&[0, 1], 2) };
        assert_eq!(refusing(&embedding), refusing(&dora));
        assert_eq!(command(&embedding, "mlx"), command(&dora, "vllm"));
    }

    #[test]
    fn ranks_and_scales_by_layer_need_one_for_all() {
        let scales = Facts { has_one_scale: false, ..facts(&[0, 1], 2) };
        assert_eq!(refusing(&scales), ["vllm", "tgi"]);
        assert_eq!(command(&scales, "vllm"), "lorafit inspect runs/a --shrink-rank 12 --out a-r12");
        let ranks = Facts { ranks: BTreeSet::from([4, 12]), has_one_scale: false, ..facts(&[0, 1], 2) };
        assert_eq!(refusing(&ranks), ["vllm", "tgi", "mlx"]);
        let large = Facts { rank: 1024, ranks: BTreeSet::from([1024]), ..facts(&[0, 1], 2) };
        assert_eq!(refusing(&large), ["vllm"]);
        assert_eq!(command(&large, "vllm"), "lorafit inspect runs/a --shrink-rank 512 --out a-r512");
    }

    #[test]
    fn layers_that_are_left_out_are_told() {
        let upper = facts(&[1, 2], 3);
        assert_eq!(refusing(&upper), ["tgi"]);
        assert_eq!(command(&upper, "tgi"), "lorafit merge --model m.gguf --adapter runs/a --out a-merged");
        let lower = facts(&[0, 1], 3);
        assert_eq!(refusing(&lower), ["tgi", "mlx"]);
    }

    #[test]
    fn a_base_that_is_a_file_is_named_otherwise() {
        let file = Facts { base: Some("models/m.Q4_1.gguf".to_owned()), ..facts(&[0, 1], 2) };
        assert_eq!(refusing(&file), ["transformers"]);
        assert!(command(&file, "transformers").contains("--base-name ORG/NAME"));
    }
}
