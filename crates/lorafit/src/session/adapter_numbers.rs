//! What an adapter changed, layer by layer: the numbers behind `inspect` and `report`.

use std::path::Path;

use lorafit_model::adapter::analysis::{Subspaces, Update, weight_norm};
use lorafit_model::adapter::{AdapterFile, Factors, known_modules};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{FileError, Source};
use lorafit_train::{Outcome, RunStatus, median};
use rayon::prelude::*;
use serde::Serialize;

use crate::args::options::nearest;
use crate::args::train::TrainArgs;
use crate::session::advice::Advice;
use crate::terminal::error::CliError;

/// The change of one linear layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerNumbers {
    /// The layer's path in the model.
    pub path: String,
    /// The number of its block.
    pub layer: Option<usize>,
    /// `q_proj` and so on.
    pub module: String,
    /// `r`.
    pub rank: usize,
    /// What `B A` is multiplied with.
    pub scale: f64,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// `||dW||_F`.
    pub norm: f64,
    /// `||dW||_F / ||W||_F`, with the base at hand.
    pub relative_norm: Option<f64>,
    /// Of the singular values, see [`Update::effective_rank`].
    pub effective_rank: f64,
    /// See [`Update::stable_rank`].
    pub stable_rank: f64,
    /// From large to small.
    pub singular_values: Vec<f64>,
    /// What it has in common with the same layer of another adapter.
    pub overlap: Option<OverlapNumbers>,
}

/// How two updates of a layer lie to each other.
#[derive(Clone, Debug, Serialize)]
pub struct OverlapNumbers {
    /// By the directions of the output they change.
    pub outputs: SubspaceNumbers,
    /// By the directions of the input they see.
    pub inputs: SubspaceNumbers,
}

/// How two subspaces lie to each other.
#[derive(Clone, Debug, Serialize)]
pub struct SubspaceNumbers {
    /// Of all directions (Hu et al. 2021, section 7.2), 0 to 1.
    pub similarity: f64,
    /// What it would be by chance.
    pub by_chance: f64,
    /// Of the strongest direction of each.
    pub first_similarity: f64,
    /// The principal angles, the smallest first.
    pub angles_degrees: Vec<f64>,
}

impl SubspaceNumbers {
    fn of(subspaces: &Subspaces) -> Self {
        let (one, other) = subspaces.sizes();
        SubspaceNumbers {
            similarity: subspaces.similarity(one, other),
            by_chance: subspaces.similarity_by_chance(),
            first_similarity: subspaces.similarity(one.min(1), other.min(1)),
            angles_degrees: subspaces.principal_angles(),
        }
    }
}

/// The numbers of all layers of `adapter`, computed on all threads; with `||W||_F` from `base`, and beside the layers of
/// `against` that have the same path and shape.
///
/// # Errors
/// A base that lacks a layer, or has it in another shape.
pub fn of(
    adapter: &AdapterFile,
    base: Option<&ModelFiles>,
    against: Option<&AdapterFile>,
) -> Result<Vec<LayerNumbers>, FileError> {
    let layer = |factors: &Factors| -> Result<LayerNumbers, FileError> {
        let update = Update::of(factors);
        let same = |other: &&Factors| {
            (&other.path, other.outputs, other.inputs) == (&factors.path, factors.outputs, factors.inputs)
        };
        let other = against.and_then(|against| against.factors.iter().find(same)).map(Update::of);
        let overlap = other.map(|other| update.overlap(&other)).map(|overlap| OverlapNumbers {
            outputs: SubspaceNumbers::of(&overlap.outputs),
            inputs: SubspaceNumbers::of(&overlap.inputs),
        });
        let norm = update.norm();
        let relative_norm = match base {
            Some(base) => {
                let name = format!("{}.weight", factors.path);
                let weight = base.weight(&name, factors.outputs, factors.inputs)?;
                let of_base = weight_norm(&weight);
                // Its pages are not needed again.
                weight.release();
                (of_base > 0.0).then_some(norm / of_base)
            }
            None => None,
        };
        Ok(LayerNumbers {
            path: factors.path.clone(),
            layer: factors.layer,
            module: factors.module.clone(),
            rank: factors.rank,
            scale: factors.scale,
            outputs: factors.outputs,
            inputs: factors.inputs,
            norm,
            relative_norm,
            effective_rank: update.effective_rank(),
            stable_rank: update.stable_rank(),
            singular_values: update.singular_values,
            overlap,
        })
    };
    // All of them first, so that the error is that of the first layer whatever the threads do.
    let layers: Vec<Result<LayerNumbers, _>> = adapter.factors.par_iter().map(layer).collect();
    let mut layers: Vec<LayerNumbers> = layers.into_iter().collect::<Result<_, _>>()?;
    let order: Vec<String> = modules_of(&layers).into_iter().map(str::to_owned).collect();
    layers.sort_by_key(|layer| (layer.layer, order.iter().position(|module| *module == layer.module)));
    Ok(layers)
}

/// The base of the adapter in `dir`: `given`, else one that its run or its configuration names and that is on this machine.
/// A base that was only found and cannot be opened counts as none.
pub fn open_base(
    given: Option<&str>,
    adapter: &AdapterFile,
    quiet: bool,
) -> anyhow::Result<Option<ModelFiles>> {
    if let Some(model) = given {
        let source = Source::resolve(model, &mut |text| {
            if !quiet {
                tell!("{text}");
            }
        })?;
        let base = base_for(source.path(), adapter)?;
        let weight = |f: &Factors| base.weight(&format!("{}.weight", f.path), f.outputs, f.inputs);
        if let Some(error) = adapter.factors.iter().find_map(|f| weight(f).err()) {
            let text = format!("{}: the adapter does not fit {model}: {error}", adapter.path.display());
            return Err(CliError::new(text)
                .hint(match &adapter.base {
                    Some(base) if base == model => {
                        "the model was changed since the adapter was trained over it".to_owned()
                    }
                    Some(base) => format!("the adapter is of another base: pass --model {base}"),
                    None => "the adapter is of another base: pass that as --model".to_owned(),
                })
                .into());
        }
        return Ok(Some(base));
    }
    let named = base_of_run(&adapter.path).into_iter().chain(adapter.base.clone());
    let mut there = named.filter(|model| Path::new(model).exists());
    Ok(there.find_map(|model| base_for(Path::new(&model), adapter).ok()).filter(|base| {
        adapter
            .factors
            .iter()
            .all(|f| base.weight(&format!("{}.weight", f.path), f.outputs, f.inputs).is_ok())
    }))
}

/// The model at `path`, with a head of its own where the adapter has factors of one.
fn base_for(path: &Path, adapter: &AdapterFile) -> Result<ModelFiles, FileError> {
    let mut base = ModelFiles::open(path)?;
    if base.config().tie_word_embeddings && adapter.factors.iter().any(|factors| factors.path == "lm_head") {
        base.untie();
    }
    Ok(base)
}

/// The `model` of the run that the folder `dir` is, or is part of (`best/`, `checkpoints/step-...`).
pub fn base_of_run(dir: &Path) -> Option<String> {
    let config = std::fs::read_to_string(run_of(dir)?.join("config.toml")).ok()?;
    Some(config.parse::<toml::Table>().ok()?.get("model")?.as_str()?.to_owned())
}

/// The run that the adapter in `dir` is of, or of whose parts it is one (`best/`, `checkpoints/step-...`).
fn run_of(dir: &Path) -> Option<&Path> {
    dir.ancestors().take(3).find(|dir| dir.join("config.toml").is_file())
}

/// Why the numbers of an adapter give no advice on its rank: what its run came to, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAdvice {
    /// What the run did: `diverged`.
    pub came_to: &'static str,
    /// What to change in a run after it.
    pub next: String,
}

impl NoAdvice {
    /// For the adapter in `dir`; `None` if its run learnt something, or if no run is known.
    pub fn of(dir: &Path) -> Option<Self> {
        let run = run_of(dir)?;
        let verdict = RunStatus::read(run).ok()?.verdict?;
        let came_to = match verdict.outcome {
            Outcome::Diverged => "diverged",
            Outcome::DidNotLearn => "did not learn",
            Outcome::Guessing { .. } => "predicts no better than chance",
            Outcome::TooShort => "had too few steps to judge",
            Outcome::Learnt
            | Outcome::StillFalling
            | Outcome::Begun
            | Outcome::OverFitted { .. }
            | Outcome::Unstable { .. } => return None,
        };
        let advice = TrainArgs::of_run(run)
            .and_then(|args| Advice { verdict: &verdict, args: &args, out: run, rows: None }.change());
        let next = advice.unwrap_or_else(|| "train a run that learns".to_owned());
        Some(NoAdvice { came_to, next })
    }

    /// As a sentence about the numbers.
    pub fn in_words(&self) -> String {
        let NoAdvice { came_to, next } = self;
        format!("this says nothing about the rank, because the run {came_to}; first {next}")
    }
}

/// How many directions are used, in words, by the median over the layers that changed; without advice.
fn used(layers: &[LayerNumbers]) -> String {
    let changed = || layers.iter().filter(|layer| layer.norm > 0.0);
    let Some(effective) = median(changed().map(|layer| layer.effective_rank)) else {
        return "nothing has changed: B is zero, as in a fresh adapter".to_owned();
    };
    let rank = median(changed().map(|layer| layer.rank as f64)).unwrap_or_default();
    format!("about {effective:.1} of {rank:.0} directions are used (median effective rank)")
}

/// Whether the rank was too large or too small, in words, by the median over the layers that changed; or why nothing says so.
///
/// This is a sign, not a proof: the held-out loss of a run with another rank decides.
pub fn verdict(layers: &[LayerNumbers], no_advice: Option<&NoAdvice>) -> String {
    match no_advice {
        Some(no_advice) => format!("{}: {}", used(layers), no_advice.in_words()),
        None => advice(layers),
    }
}

/// What the numbers of a run that learnt say about its rank.
fn advice(layers: &[LayerNumbers]) -> String {
    let changed = || layers.iter().filter(|layer| layer.norm > 0.0);
    let directions = used(layers);
    let Some(effective) = median(changed().map(|layer| layer.effective_rank)) else { return directions };
    let share =
        median(changed().map(|l| l.effective_rank / l.singular_values.len() as f64)).unwrap_or_default();
    let rank = median(changed().map(|layer| layer.rank as f64)).unwrap_or_default();
    match share {
        _ if rank < 2.0 => format!("{directions}: rank 1 does not show whether more is needed; try 4 or 8"),
        ..0.5 => format!("{directions}: the rank is larger than needed; {:.0} may do", effective.ceil()),
        0.5..0.85 => format!("{directions}: the rank fits"),
        _ => format!("{directions}, nearly evenly: the rank may be too small; try {:.0}", 2.0 * rank),
    }
}

/// The kinds of modules among `names`, each once, in the order in which a block computes them.
pub fn modules<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut kinds: Vec<&str> = Vec::new();
    for name in names {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    let known = known_modules();
    kinds.sort_by_key(|name| known.iter().position(|module| module == name).unwrap_or(known.len()));
    kinds
}

/// The kinds of modules of `layers`, see [`modules`].
pub fn modules_of(layers: &[LayerNumbers]) -> Vec<&str> {
    modules(layers.iter().map(|layer| layer.module.as_str()))
}

/// Why two adapters cannot be held against each other.
pub fn check_overlap(layers: &[LayerNumbers], one: &Path, other: &Path) -> Result<(), CliError> {
    if layers.iter().any(|layer| layer.overlap.is_some()) {
        return Ok(());
    }
    let text =
        format!("{} and {} have no layer of one name and shape in common", one.display(), other.display());
    Err(CliError::new(text).hint("only adapters of one base can be held against each other"))
}

/// The layer at which two adapters are compared direction by direction: the one of the path `asked`, else, of those that
/// both have, the one that the first changed most (beside its weight, with the base at hand).
///
/// # Errors
/// A path that not both have; adapters with nothing in common, see [`check_overlap`].
pub fn compared_layer<'a>(
    layers: &'a [LayerNumbers],
    asked: Option<&str>,
) -> Result<&'a LayerNumbers, CliError> {
    let shared = || layers.iter().filter(|layer| layer.overlap.is_some());
    let change = |layer: &LayerNumbers| (layer.relative_norm.unwrap_or(0.0), layer.norm);
    let most = |a: &&LayerNumbers, b: &&LayerNumbers| {
        let (a, b) = (change(a), change(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    };
    let Some(path) = asked else {
        return shared().max_by(most).ok_or_else(|| CliError::new("no layer is in both adapters"));
    };
    shared().find(|layer| layer.path == path).ok_or_else(|| {
        let error = CliError::usage(format!("--layer {path}: no such layer in both adapters"));
        match nearest(path, shared().map(|layer| layer.path.as_str())) {
            Some(known) => error.hint(format!("did you mean {known}?")),
            None => error.hint("give a path such as model.layers.0.self_attn.q_proj"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(rank: usize, effective_rank: f64) -> LayerNumbers {
        LayerNumbers {
            path: "model.layers.0.mlp.up_proj".to_owned(),
            layer: Some(0),
            module: "up_proj".to_owned(),
            rank,
            scale: 1.0,
            outputs: 64,
            inputs: 64,
            norm: effective_rank,
            relative_norm: None,
            effective_rank,
            stable_rank: 1.0,
            singular_values: vec![1.0; rank],
            overlap: None,
        }
    }

    /// Each outcome, from the run's folder and from its best: what a run learnt decides whether its rank is judged.
    #[test]
    fn the_rank_of_a_run_that_learnt_nothing_is_not_judged() {
        let dir = tempfile::tempdir().unwrap();
        let best = dir.path().join("best");
        std::fs::create_dir(&best).unwrap();
        assert_eq!(NoAdvice::of(&best), None, "no run");
        let config = "model = \"m\"\ndata = \"d\"\nout = \"o\"\nlr = 1e-1\nmax-steps = 20\n";
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        std::fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
        assert_eq!(NoAdvice::of(&best), None, "no verdict");
        let layers = [layer(8, 2.0)];
        for (outcome, to, expected) in [
            (r#""diverged""#, 8.75, Some("because the run diverged; first lower the learning rate: --lr ")),
            (
                r#""did-not-learn""#,
                3.5,
                Some("because the run did not learn; first raise the learning rate (--lr "),
            ),
            (
                r#""guessing","among":100"#,
                3.5,
                Some("because the run predicts no better than chance; first "),
            ),
            (
                r#""too-short""#,
                3.5,
                Some("because the run had too few steps to judge; first train longer: --max-steps "),
            ),
            (r#""learnt""#, 1.0, None),
            (r#""begun""#, 3.0, None),
            (r#""still-falling""#, 1.0, None),
            (r#""over-fitted","since":4"#, 1.0, None),
            (r#""unstable","since":4"#, 1.0, None),
        ] {
            let verdict_of_run = format!(
                r#"{{"outcome":{outcome},"from":3.5,"to":{to},"of":"held-out","few_rows":false,"skipped":0}}"#
            );
            std::fs::write(dir.path().join("verdict.json"), verdict_of_run).unwrap();
            let of_best = NoAdvice::of(&best);
            assert_eq!(NoAdvice::of(dir.path()), of_best, "{outcome}");
            let told = verdict(&layers, of_best.as_ref());
            assert!(told.starts_with("about 2.0 of 8 directions are used"), "{told}");
            match expected {
                Some(part) => assert!(told.contains(part) && !told.contains("may do"), "{outcome}: {told}"),
                None => assert!(told.ends_with("larger than needed; 2 may do"), "{outcome}: {told}"),
            }
        }
    }

    #[test]
    fn the_rank_is_judged_by_the_directions_that_are_used() {
        let told =
            |rank, effective: &[f64]| advice(&effective.iter().map(|e| layer(rank, *e)).collect::<Vec<_>>());
        assert!(told(8, &[0.0, 2.0, 2.4]).ends_with("larger than needed; 3 may do"));
        assert!(told(8, &[5.0, 5.2, 7.9]).ends_with("the rank fits"));
        assert!(told(8, &[7.5, 7.6, 7.7]).ends_with("may be too small; try 16"));
        assert!(told(8, &[0.0]).starts_with("nothing has changed"));
        assert!(told(1, &[1.0]).contains("rank 1 does not show"));
    }
}
