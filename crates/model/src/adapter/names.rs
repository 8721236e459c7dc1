//! The names of an adapter's tensors: which projection's factor each is.
//!
//! PEFT writes `base_model.model.<path>.lora_A.weight`, and magnitudes as `.lora_magnitude_vector`. Written from a state dict as it is in memory, names also have the
//! adapter's own, `.lora_A.default.weight`, and files of other tools lack `base_model.model.` or have it twice. They say the
//! same as long as no two tensors are one factor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lorafit_remedy::{Remedy, Setting, remedy};

use crate::error::FileError;
use crate::shape::{Config, HEAD, Module, Names, SCORE, module_at};

const PREFIX: &str = "base_model.model.";
/// The way out where an adapter has what is not computed here.
pub(super) fn merged_in_peft() -> Remedy {
    remedy![
        "merge the adapter in PEFT (merge_and_unload), save the model with save_pretrained, and pass that as ",
        Setting::Model
    ]
}

/// What begins with the path of a whole weight that PEFT saves with an adapter, the embedding or the head: its name as the model
/// of these names has it, and the rest.
fn whole<'p>(path: &'p str, names: &Names) -> Option<(&'static str, &'p str)> {
    let embedding = Names::ALL.iter().find_map(|known| path.strip_prefix(known.embedding));
    match (embedding, path.strip_prefix(HEAD)) {
        (Some(rest), _) => Some((names.embedding, rest)),
        (None, Some(rest)) => Some((HEAD, rest)),
        (None, None) => None,
    }
}

/// What the file has in the place of a factor's letter for magnitudes, and for the factors of the embedding.
pub(super) const MAGNITUDES: &str = "magnitude_vector";
pub(super) const EMBEDDING_A: &str = "embedding_A";
pub(super) const EMBEDDING_B: &str = "embedding_B";

/// The name that PEFT gives a factor of the projection `path`: `A`, `B` or [`MAGNITUDES`].
pub(super) fn tensor_name(path: &str, factor: &str) -> String {
    match factor {
        MAGNITUDES | EMBEDDING_A | EMBEDDING_B => format!("{PREFIX}{path}.lora_{factor}"),
        _ => format!("{PREFIX}{path}.lora_{factor}.weight"),
    }
}

/// What the file has behind the path of a module that is trained whole, for the base's weights, which it does not use.
const ORIGINAL: &str = ".original_module";

/// Whether the tensor `name` is what the base has in the place of a module that is trained whole.
pub(super) fn is_original(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(path, _)| path.ends_with(ORIGINAL))
}

/// What the file has behind the path of a module whose rows of tokens are trained.
const TOKENS: &str = ".token_adapter.trainable_tokens_delta";

/// The name that PEFT gives the rows of tokens of the module at `path`. They are values, and nothing that is added to the base's.
pub(super) fn tokens_name(path: &str) -> String {
    format!("{PREFIX}{path}{TOKENS}")
}

/// The name that PEFT gives the whole weight `name` of a model.
pub(super) fn whole_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The names of a file, sorted by what they are.
pub(super) struct FileNames<'a> {
    /// The stored name of each factor, by the name that PEFT gives it.
    factors: BTreeMap<String, &'a str>,
    /// The projection of each stored name, of those that are factors of one.
    sites: BTreeMap<&'a str, (usize, Module)>,
    /// The stored names of factors of embedding and head, each with the path of its module.
    outside: BTreeMap<&'a str, &'static str>,
    /// All that is no factor of a projection.
    others: BTreeSet<&'a str>,
}

impl<'a> FileNames<'a> {
    /// Sorts `names`, of an adapter for a model of shape `config`.
    ///
    /// # Errors
    /// Two tensors that are the same factor: the file holds several adapters.
    pub(super) fn sort(names: impl Iterator<Item = &'a str>, config: &Config) -> Result<Self, FileError> {
        let modules = config.modules();
        let (mut factors, mut sites) = (BTreeMap::new(), BTreeMap::new());
        let (mut others, mut outside) = (BTreeSet::new(), BTreeMap::new());
        for name in names {
            let site = factor_of(name, &modules).map(|(layer, module, factor)| (Ok((layer, module)), factor));
            let found =
                site.or_else(|| outside_factor_of(name, config.names).map(|(path, f)| (Err(path), f)));
            let Some((site, factor)) = found else {
                others.insert(name);
                continue;
            };
            let path = match site {
                Ok((layer, module)) => module.path(layer),
                Err(path) => path.to_owned(),
            };
            let canonical = tensor_name(&path, factor);
            if let Some(other) = factors.insert(canonical, name) {
                let problem =
                    format!("{other} and {name} are the same factor: the file holds several adapters");
                return Err(FileError::new(Path::new(""), problem)
                    .with_hint("save one of them in PEFT: save_pretrained(DIR, selected_adapters=[NAME])"));
            }
            match site {
                Ok(site) => drop(sites.insert(name, site)),
                Err(path) => drop(outside.insert(name, path)),
            }
        }
        Ok(FileNames { factors, sites, outside, others })
    }

    /// The projections that have factors.
    pub(super) fn sites(&self) -> BTreeSet<(usize, Module)> {
        self.sites.values().copied().collect()
    }

    /// What there is instead of a factor that is missing: the ways of other tools by their names. The text goes on after a
    /// colon.
    pub(super) fn instead(&self) -> Option<(String, &'static str)> {
        if !self.factors.is_empty() {
            return None;
        }
        let kohya = self.others.iter().find(|name| name.contains("lora_down") || name.contains("lora_up"));
        match (kohya, self.others.first()) {
            (Some(found), _) => Some((
                format!("the file has names of kohya's scripts, such as {found}"),
                "rename lora_down to lora_A and lora_up to lora_B, each after base_model.model. and the path of its module",
            )),
            (None, Some(found)) => Some((
                format!("the file has {} others, such as {found}", self.others.len()),
                "names are those of PEFT: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight; save the adapter with \
                 save_pretrained of PEFT, or rename its tensors",
            )),
            (None, None) => None,
        }
    }

    /// The stored names of all that is no factor.
    pub(super) fn others(&self) -> impl Iterator<Item = &'a str> {
        self.others.iter().copied()
    }

    /// The first name of magnitudes, if there is one.
    pub(super) fn magnitudes(&self) -> Option<&'a str> {
        self.factors.iter().find(|(canonical, _)| canonical.ends_with(MAGNITUDES)).map(|(_, name)| *name)
    }

    /// The name in the file of the factor that PEFT calls `canonical`.
    pub(super) fn stored(&self, canonical: &str) -> Option<&'a str> {
        self.factors.get(canonical).copied()
    }

    /// Every name but those of factors of `selected` and of the modules `outside` of blocks, sorted.
    pub(super) fn except(
        &self,
        selected: impl Iterator<Item = (usize, Module)>,
        outside: &[&str],
    ) -> Vec<&'a str> {
        let selected: BTreeSet<(usize, Module)> = selected.collect();
        let unselected =
            self.sites.iter().filter(|(_, site)| !selected.contains(site)).map(|(name, _)| *name);
        let others = self.outside.iter().filter(|(_, path)| !outside.contains(*path)).map(|(name, _)| *name);
        let mut names: Vec<&str> = unselected.chain(others).chain(self.others.iter().copied()).collect();
        names.sort_unstable();
        names
    }

    /// The name in the file of the model's whole weight `weight`. PEFT writes `<path>.weight`; in memory the adapter's name stands
    /// between.
    pub(super) fn saved(&self, weight: &str, config: &Config) -> Option<&'a str> {
        self.others.iter().copied().find(|name| {
            let Some((path, kind)) = without_prefix(name).rsplit_once('.') else { return false };
            let path = path.split_once(".modules_to_save").map_or(path, |(path, _)| path);
            of_model(path, config.names) == weight.strip_suffix(&format!(".{kind}")).map(str::to_owned)
        })
    }

    /// The name in the file of the rows of tokens of the embedding or head at `path`. In memory the adapter's name stands behind.
    pub(super) fn tokens(&self, path: &str, config: &Config) -> Option<&'a str> {
        self.others.iter().copied().find(|name| {
            let Some((module, rest)) = without_prefix(name).split_once(TOKENS) else { return false };
            let is_name = rest.is_empty() || rest.strip_prefix('.').is_some_and(|name| !name.contains('.'));
            is_name && of_model(module, config.names).as_deref() == Some(path)
        })
    }

    /// The checkpoint name of the embedding or head that the tensor `name` is a copy of, if it is one.
    pub(super) fn whole_weight(&self, name: &str, config: &Config) -> Option<String> {
        let path = without_prefix(name).strip_suffix(".weight")?;
        let path = path.strip_suffix(".base_layer").unwrap_or(path);
        let path = path.strip_suffix(".token_adapter").unwrap_or(path);
        let path = path.split_once(".modules_to_save").map_or(path, |(path, _)| path);
        let path = path.strip_suffix(ORIGINAL).unwrap_or(path);
        let (weight, rest) = whole(path, config.names)?;
        rest.is_empty().then(|| format!("{weight}.weight"))
    }
}

/// What the model of these names calls the module at `path`, which a model of others may have named.
fn of_model(path: &str, names: &Names) -> Option<String> {
    if let Some((layer, part)) = Names::any_block_of(path) {
        return Some(names.in_block(layer, part));
    }
    if Names::ALL.iter().any(|known| known.norm == path) {
        return Some(names.norm.to_owned());
    }
    if path == SCORE {
        return Some(SCORE.to_owned());
    }
    whole(path, names).filter(|(_, rest)| rest.is_empty()).map(|(whole, _)| whole.to_owned())
}

/// Whether the tensor `name` is an embedding, or a head that writes text, as a whole.
pub(super) fn is_table(name: &str) -> bool {
    let Some((path, "weight")) = without_prefix(name).rsplit_once('.') else { return false };
    let path = path.split_once(".modules_to_save").map_or(path, |(path, _)| path);
    let path = [".base_layer", ".token_adapter", ORIGINAL]
        .iter()
        .fold(path, |path, part| path.strip_suffix(part).unwrap_or(path));
    path == HEAD || Names::ALL.iter().any(|known| known.embedding == path)
}

/// Whether the tensor `name` is a head that scores texts.
pub(super) fn is_score(name: &str) -> bool {
    let Some((path, kind)) = without_prefix(name).rsplit_once('.') else { return false };
    let path = path.split_once(".modules_to_save").map_or(path, |(path, _)| path);
    kind == "weight" && path == SCORE
}

/// What the tensor `name`, which no selected projection has, is; told as an error of the file.
pub(super) fn unread(name: &str) -> FileError {
    let path = without_prefix(name);
    let fail = |problem: String| FileError::new(Path::new(""), problem);
    if path.contains(".lora_magnitude_vector") {
        return fail(format!("tensor {name} belongs to DoRA, and `use_dora` is not true")).with_hint(
            "the two files belong to different adapters, or the configuration was changed: take both from one adapter",
        );
    }
    if path.contains(TOKENS) {
        let problem = format!(
            "tensor {name} has rows of tokens, and `trainable_token_indices` names none of that module"
        );
        return fail(problem).with_hint("take the two files of one adapter");
    }
    if let Some((path, _)) = outside_factor_of(name, Names::USUAL) {
        let problem = format!("tensor {name} belongs to no projection that adapter_config.json selects");
        let module = path.rsplit('.').next().unwrap_or(path);
        return fail(problem)
            .with_hint(format!("name {module} in target_modules, or take the two files of one adapter"));
    }
    let of_head = whole(path, Names::USUAL).filter(|(_, rest)| rest.starts_with(".lora_"));
    match of_head {
        Some((_, rest)) => {
            let whole = path.strip_suffix(rest).unwrap_or(path);
            let module = whole.rsplit('.').next().unwrap_or(whole);
            let problem = format!(
                "tensor {name} belongs to no projection of a block: adapters of {module} are not supported"
            );
            fail(problem).with_hint(
                merged_in_peft().or(format!("train it again without {module} in target_modules").into()),
            )
        }
        None if !path.contains(".lora_") && (path.ends_with(".weight") || path.ends_with(".bias")) => {
            let problem = format!(
                "tensor {name} is a whole weight that was trained beside the factors, and `modules_to_save` does not name it, or \
                 cannot here"
            );
            fail(problem).with_hint(merged_in_peft())
        }
        None => {
            let problem = format!("tensor {name} belongs to no projection that adapter_config.json selects");
            fail(problem).with_hint(
                "the two files belong to different adapters, or the adapter to a model whose modules have other names",
            )
        }
    }
}

fn without_prefix(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix(PREFIX) {
        name = rest;
    }
    name
}

/// The path of the embedding or the head, as the model of these names has it, and the factor of a tensor's name.
fn outside_factor_of(name: &str, names: &Names) -> Option<(&'static str, &'static str)> {
    let (path, factor) = split_factor(name)?;
    let (path, rest) = whole(path, names)?;
    let factors = if path == HEAD { ["A", "B"] } else { [EMBEDDING_A, EMBEDDING_B] };
    (rest.is_empty() && factors.contains(&factor)).then_some((path, factor))
}

/// Layer, projection and factor (`A`, `B` or [`MAGNITUDES`]) of a tensor's name.
fn factor_of(name: &str, modules: &[Module]) -> Option<(usize, Module, &'static str)> {
    let (path, factor) = split_factor(name)?;
    let (layer, module) = module_at(modules, path).filter(|_| ["A", "B", MAGNITUDES].contains(&factor))?;
    Some((layer, module, factor))
}

/// The path of a module and the factor of a tensor's name.
fn split_factor(name: &str) -> Option<(&str, &'static str)> {
    let (path, rest) = without_prefix(name).split_once(".lora_")?;
    let (factor, rest) = rest.split_once('.').unwrap_or((rest, ""));
    const KNOWN: [&str; 5] = ["A", "B", MAGNITUDES, EMBEDDING_A, EMBEDDING_B];
    let factor = KNOWN.into_iter().find(|known| *known == factor)?;
    // `weight`, or the adapter's name before it. Of parameters without a module, which magnitudes have been before, there is none.
    let is_weight =
        rest == "weight" || rest.strip_suffix(".weight").is_some_and(|adapter| !adapter.contains('.'));
    let is_parameter = !["A", "B"].contains(&factor) && !rest.contains('.');
    (is_weight || is_parameter).then_some((path, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::named("smollm2-135m").expect("a name")
    }

    #[test]
    fn factors_are_found_under_every_name_that_tools_give_them() {
        let modules = config().modules();
        let q = (3, modules[0], "A");
        for name in [
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight",
            "model.layers.3.self_attn.q_proj.lora_A.weight",
            "base_model.model.base_model.model.model.layers.3.self_attn.q_proj.lora_A.my-adapter.weight",
            "base_model.model.model.language_model.layers.3.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(factor_of(name, &modules), Some(q), "{name}");
        }
        for name in [
            "base_model.model.model.layers.03.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.3.mlp.q_proj.lora_A.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.a.b.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.lora_E.weight",
            "model.layers.3.self_attn.q_proj.lora_a",
            "base_model.model.lm_head.lora_A.weight",
        ] {
            assert_eq!(factor_of(name, &modules), None, "{name}");
        }
    }

    #[test]
    fn two_adapters_in_one_file_are_refused() {
        let names = ["a", "b"].map(|n| format!("model.layers.0.mlp.up_proj.lora_A.{n}.weight"));
        let error = FileNames::sort(names.iter().map(String::as_str), &config()).err().expect("refused");
        assert!(error.to_string().contains("several adapters"), "{error}");
    }
}
