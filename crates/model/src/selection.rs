//! What of a model is trained: an adapter, or which of its weights.

use std::collections::HashSet;
use std::str::FromStr;

use regex::Regex;

use crate::adapter::{LoraConfig, TargetError, known_modules};
use crate::arch::known_norms;
use crate::shape::{Config, SCORE, WeightShape, weight_shapes};

/// Modules by name, pattern, or all of them.
#[derive(Clone, Debug)]
pub enum WeightModules {
    /// Every weight.
    All,
    /// Weights of modules by these names: a projection, `self_attn`, `mlp`, `embed_tokens`, `lm_head`, `norms`, `biases`.
    Names(Vec<String>),
    /// Weights of modules whose whole path, such as `model.layers.3.mlp.up_proj`, matches.
    Pattern(Regex),
}

/// What holds modules, what lies outside of blocks, all norms, and all biases.
const GROUPS: [&str; 9] =
    ["self_attn", "attn", "mlp", "embed_tokens", "wte", "wpe", "lm_head", "norms", "biases"];

/// The names a selection may have: modules and what holds them, as checkpoints call them, all norms, and all biases.
/// The weights of a projection are its matrix and its bias.
fn known_names() -> Vec<&'static str> {
    known_modules().into_iter().chain(GROUPS).chain(known_norms()).collect()
}

fn known() -> String {
    format!("known are all, {}, and regex:PATTERN for module paths", known_names().join(", "))
}

impl FromStr for WeightModules {
    type Err = TargetError;

    /// `all`, `mlp,norms` or `regex:PATTERN`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text == "all" {
            return Ok(WeightModules::All);
        }
        if let Some(pattern) = text.strip_prefix("regex:") {
            return match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(matcher) => Ok(WeightModules::Pattern(matcher)),
                Err(e) => Err(TargetError::new(
                    format!("train modules pattern `{pattern}` is not a regular expression: {e}"),
                    "it must match a whole path such as model.layers.3.mlp.up_proj or model.embed_tokens",
                )),
            };
        }
        let names: Vec<String> =
            text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let known_names = known_names();
        if let Some(alone) = names.iter().find(|name| *name == "all" || name.starts_with("regex:")) {
            let text = format!("`{alone}` stands by itself, not in a list of train modules");
            return Err(TargetError::new(text, "write it alone, or names alone"));
        }
        match names.iter().find(|name| !known_names.contains(&name.as_str())) {
            Some(unknown) => Err(TargetError::new(format!("unknown train module `{unknown}`"), known())),
            None if names.is_empty() => Err(TargetError::new("no train modules given".to_owned(), known())),
            None => Ok(WeightModules::Names(names)),
        }
    }
}

impl WeightModules {
    fn contains(&self, weight: &WeightShape) -> bool {
        match self {
            WeightModules::All => true,
            WeightModules::Names(names) => names.iter().any(|name| is_named(weight, name)),
            WeightModules::Pattern(matcher) => matcher.is_match(weight.path()),
        }
    }
}

fn is_named(weight: &WeightShape, name: &str) -> bool {
    match name {
        "norms" => weight.of_norm,
        "biases" => weight.name.ends_with(".bias"),
        name => weight.path().split('.').any(|part| part == name),
    }
}

/// Modules, in all blocks or in some.
#[derive(Clone, Debug)]
pub struct WeightSelection {
    /// Which modules.
    pub modules: WeightModules,
    /// Of which blocks; all when absent. What lies outside of blocks is then selected only by name or pattern.
    pub layers: Option<Vec<usize>>,
}

impl WeightSelection {
    /// Every weight.
    pub fn all() -> Self {
        WeightSelection { modules: WeightModules::All, layers: None }
    }

    /// The selected weights of a model, in the order of [`weight_shapes`].
    ///
    /// # Errors
    /// A layer the model does not have, a name that none of its weights has, or no weight at all.
    pub fn of(&self, config: &Config) -> Result<Vec<WeightShape>, TargetError> {
        let layers = config.num_hidden_layers;
        if let Some(outside) = self.layers.iter().flatten().find(|&&l| l >= layers) {
            return Err(TargetError::no_such_layer(*outside, layers));
        }
        let shapes = weight_shapes(config);
        if let WeightModules::Names(names) = &self.modules
            && let Some(missing) = names.iter().find(|name| !shapes.iter().any(|w| is_named(w, name)))
        {
            let hint = match missing.as_str() {
                "lm_head" => {
                    let embedding = config.names.embedding;
                    format!(
                        "its head is the embedding: name {}",
                        embedding.rsplit('.').next().unwrap_or(embedding)
                    )
                }
                // Only names that this model has.
                _ => {
                    let has = |name: &&str| shapes.iter().any(|weight| is_named(weight, name));
                    let names: Vec<&str> = known_names().into_iter().filter(has).collect();
                    format!("it has {}", names.join(", "))
                }
            };
            return Err(TargetError::new(format!("the model has no weight of `{missing}`"), hint));
        }
        let of_layers = |weight: &WeightShape| match (&self.layers, weight.layer) {
            (None, _) => true,
            (Some(selected), Some(layer)) => selected.contains(&layer),
            (Some(_), None) => !matches!(self.modules, WeightModules::All),
        };
        let is_selected = |w: &WeightShape| of_layers(w) && self.modules.contains(w);
        let selects_some = shapes.iter().any(is_selected);
        // A head that scores texts is new, and trained in any case.
        let is_trained = |w: &WeightShape| is_selected(w) || w.path() == SCORE;
        let selected: Vec<WeightShape> = shapes.into_iter().filter(is_trained).collect();
        match !selects_some {
            true => Err(TargetError::new("the train modules match no weight of the model", known())),
            false => Ok(selected),
        }
    }

    /// The names of the selected weights.
    ///
    /// # Errors
    /// As [`WeightSelection::of`].
    pub(crate) fn names(&self, config: &Config) -> Result<HashSet<String>, TargetError> {
        Ok(self.of(config)?.into_iter().map(|weight| weight.name).collect())
    }
}

/// What is to be trained, before anything is made.
#[derive(Clone, Copy, Debug)]
pub enum Trainable<'a> {
    /// An adapter over a frozen model.
    Adapter(&'a LoraConfig),
    /// Weights of the model.
    Weights(&'a WeightSelection),
}

impl Trainable<'_> {
    /// Values of each tensor that is trained.
    ///
    /// # Errors
    /// A selection of layers or modules that the model does not have.
    pub fn tensor_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        match self {
            Trainable::Adapter(lora) => lora.tensor_lens(config),
            Trainable::Weights(selection) => Ok(selection.of(config)?.iter().map(|w| w.len()).collect()),
        }
    }

    /// Values of each weight of the model that is trained, in place or as a copy, and of other tables of rows.
    ///
    /// # Errors
    /// As [`Trainable::tensor_lens`].
    pub fn weight_lens(&self, config: &Config) -> Result<Vec<usize>, TargetError> {
        match self {
            Trainable::Adapter(lora) => lora.table_lens(config),
            Trainable::Weights(_) => self.tensor_lens(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(modules: &str, layers: Option<Vec<usize>>) -> Vec<String> {
        let config = Config::named("smollm2-135m").expect("a name");
        let selection = WeightSelection { modules: modules.parse().expect("modules"), layers };
        let weights = selection.of(&config).expect("some");
        weights.into_iter().map(|w| w.name).collect()
    }

    #[test]
    fn all_weights_are_as_many_as_the_model_has_parameters() {
        for name in Config::names() {
            let config = Config::named(name).expect("a name");
            let all = WeightSelection::all().of(&config).expect("all");
            let values: u64 = all.iter().map(|w| w.len() as u64).sum();
            assert_eq!(values, config.parameters(), "{name}");
        }
    }

    #[test]
    fn weights_are_selected_by_module_and_layer() {
        assert_eq!(
            selected("mlp", Some(vec![29])),
            ["gate", "up", "down"].map(|m| { format!("model.layers.29.mlp.{m}_proj.weight") })
        );
        assert_eq!(selected("norms", None).len(), 61);
        assert_eq!(
            selected("norm,embed_tokens", Some(vec![1])),
            ["model.embed_tokens.weight", "model.norm.weight"]
        );
        assert_eq!(selected("all", Some(vec![3])).len(), 9);
        assert_eq!(selected(r"regex:model\.layers\.[12]\.self_attn\..*", None).len(), 8);
    }

    #[test]
    fn what_the_model_does_not_have_is_refused_by_name() {
        let config = Config::named("smollm2-135m").expect("a name");
        let error = |modules: &str, layers: Option<Vec<usize>>| {
            let modules = modules.parse().expect("modules");
            WeightSelection { modules, layers }.of(&config).expect_err("refused")
        };
        let tied = error("lm_head", None);
        assert_eq!(tied.to_string(), "the model has no weight of `lm_head`");
        assert!(tied.hint().is_some_and(|h| h.to_string().contains("embed_tokens")));
        let biases = error("biases", None);
        assert!(biases.to_string().contains("`biases`"));
        assert!(
            biases.hint().is_some_and(|h| h.to_string().contains("mlp") && !h.to_string().contains("biases"))
        );
        assert!(error("mlp", Some(vec![30])).to_string().contains("layer 30 does not exist"));
        assert!(error("regex:nothing", None).to_string().contains("match no weight"));
        let unknown = "q_porj".parse::<WeightModules>().expect_err("unknown");
        assert_eq!(unknown.to_string(), "unknown train module `q_porj`");
    }
}
