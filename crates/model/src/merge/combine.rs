//! Several adapters of one model as a single one, as PEFT's `add_weighted_adapter` makes it.
//!
//! With weights `w_i` and scales `s_i`:
//!
//! - [`Method::Cat`] puts the factors beside each other, `A = [w_i s_i A_i]`, `B = [B_i]`: the update is the sum of
//!   `w_i s_i B_i A_i`, whatever the ranks.
//! - The others work on the factors by themselves and need one rank. `sqrt(|w_i s_i|)` weighs each side, and the sign of
//!   `w_i s_i` is that of the `A`, so that a single adapter is what it was, while the product of two sums has terms
//!   `B_i A_j` of different adapters, too. `linear` adds;
//!   `ties` keeps the largest values of each factor, elects a sign for each place, and takes the mean of the values that
//!   have it; `dare` drops values at random and divides the others by the share that stays.
//!
//! Sources: PEFT 0.21 `LoraModel.add_weighted_adapter` and `merge_utils`; Yadav et al. 2023 (TIES), Yu et al. 2023 (DARE).
//! All is f32, as there. PEFT scales the result once more by `sqrt(r)` if the first adapter has rsLoRA, which is not done
//! here. Which values DARE drops is decided by the seed, the projection, the factor and the adapter's
//! place in the list; torch's generator draws others.

use std::collections::BTreeSet;

use lorafit_kernels::{Device, Tensor, random};
use lorafit_remedy::{Remedy, Setting, remedy};
use regex::Regex;

use crate::adapter::{Adapter, LoraConfig, PartShape, Targets, path_pattern};
use crate::shape::{Config, Module, module_shape};

/// How adapters become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Factors beside each other: the exact weighted sum of the updates.
    #[default]
    Cat,
    /// The weighted sum of the factors.
    Linear,
    /// The largest values, where signs agree.
    Ties,
    /// The weighted sum of factors with values dropped at random.
    DareLinear,
    /// As TIES, of factors with values dropped at random.
    DareTies,
}

/// How TIES elects the sign of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// By the sum of the values.
    #[default]
    Total,
    /// By the number of values of each sign.
    Frequency,
}

/// A method and what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Combination {
    /// How.
    pub method: Method,
    /// The share of a factor's values that TIES and DARE keep, above 0 and at most 1.
    pub density: f64,
    /// How TIES elects signs.
    pub majority_sign: MajoritySign,
    /// Where the chance of DARE comes from.
    pub seed: u64,
}

/// An adapter with its weight.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// The adapter; all of them are on one device.
    pub adapter: &'a Adapter,
    /// What its update is multiplied by.
    pub weight: f64,
}

/// Why adapters cannot become one, or cannot be merged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CombineError {
    /// Two ranks where there has to be one.
    #[error("{path} has rank {first} in one adapter and {other} in another, and this method needs one rank")]
    RanksDiffer {
        /// The projection.
        path: String,
        /// The first adapter's rank.
        first: usize,
        /// The other's.
        other: usize,
    },
    /// Magnitudes, by which an update is no sum.
    #[error(
        "an adapter with magnitudes (DoRA) has no weight, and is not added to others: what it changes is not a sum"
    )]
    Magnitudes,
    /// Whole weights, of which there is one of each.
    #[error(
        "an adapter with whole weights (modules_to_save) has no weight of its own, and no sum with others: each replaces the base's"
    )]
    WholeWeights,
    /// Rows of tokens, of which there is one of each.
    #[error(
        "an adapter with rows of tokens (trainable_token_indices) has no weight of its own, and no sum with others: each row \
         replaces the base's"
    )]
    Tokens,
    /// Factors of the embedding or the head.
    #[error(
        "an adapter of lm_head or the embedding has no weight of its own here, and is not added to others"
    )]
    Outside,
    /// A factor that training has destroyed, or a damaged file.
    #[error("the adapter of {path} has a value that is not a finite number")]
    NotFinite {
        /// The projection.
        path: String,
    },
}

impl CombineError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(match self {
            CombineError::RanksDiffer { .. } => {
                remedy![
                    Setting::Method.is("cat"),
                    " takes adapters of any ranks, and adds their updates exactly"
                ]
            }
            CombineError::Magnitudes
            | CombineError::WholeWeights
            | CombineError::Tokens
            | CombineError::Outside => {
                "use it alone, or merge it into the base and go on from the merged model".into()
            }
            CombineError::NotFinite { .. } => {
                "its training diverged, or the file is damaged: take an earlier checkpoint of the run".into()
            }
        })
    }
}

/// One adapter of all, with scale 1, on their device.
///
/// # Errors
/// Ranks or weights that the method cannot take.
pub fn combine(
    config: &Config,
    adapters: &[Weighted<'_>],
    how: &Combination,
) -> Result<Adapter, CombineError> {
    if adapters.iter().any(|weighted| weighted.adapter.config().use_dora) {
        return Err(CombineError::Magnitudes);
    }
    if adapters.iter().any(|weighted| !weighted.adapter.saved.weights.is_empty()) {
        return Err(CombineError::WholeWeights);
    }
    if adapters.iter().any(|weighted| !weighted.adapter.config().tokens.is_empty()) {
        return Err(CombineError::Tokens);
    }
    if adapters.iter().any(|weighted| weighted.adapter.is_outside()) {
        return Err(CombineError::Outside);
    }
    let sites: BTreeSet<(usize, Module)> = adapters
        .iter()
        .flat_map(|weighted| weighted.adapter.parts().map(|(layer, module, ..)| (layer, module)))
        .collect();
    let modules = config.modules().len();
    let mut parts = Vec::with_capacity(sites.len());
    let mut factors = Vec::with_capacity(sites.len());
    for &(layer, module) in &sites {
        let found = factors_of(config, adapters, layer, module);
        let combined = match how.method {
            Method::Cat => beside_each_other(found),
            Method::Linear | Method::Ties | Method::DareLinear | Method::DareTies => {
                factor_by_factor(found, how, (layer, module), modules)?
            }
        };
        parts.push(PartShape { layer, module, rank: combined.rank, scale: 1.0 });
        factors.push(combined);
    }
    let first = adapters.iter().find_map(|weighted| weighted.adapter.tensors().next());
    let device = first.map_or(Device::Cpu, Tensor::device);
    let mut adapter = Adapter::zeros(config, &config_of(&parts, sites), &parts, device);
    for (part, factors) in parts.iter().zip(&factors) {
        let (_, inputs) = module_shape(config, part.module);
        adapter.write_a(part, inputs, &factors.a);
        adapter.write_b_t(part, &factors.b_t);
    }
    Ok(adapter)
}

/// The configuration of an adapter with these parts, all of scale 1.
fn config_of(parts: &[PartShape], sites: BTreeSet<(usize, Module)>) -> LoraConfig {
    let rank = parts.first().map_or(1, |part| part.rank);
    let mut lora = LoraConfig { rank, alpha: rank as f64, ..LoraConfig::new(Targets::AllLinear) };
    lora.sites = Some(sites);
    for part in parts.iter().filter(|part| part.rank != rank) {
        let whole: Regex = path_pattern(&format!("^{}$", regex::escape(&part.module.path(part.layer))))
            .expect("an escaped text is a pattern");
        lora.rank_pattern.push((whole.clone(), part.rank));
        lora.alpha_pattern.push((whole, part.rank as f64));
    }
    lora
}

/// The factors of one projection.
struct Pair {
    /// The place of the adapter in the list.
    adapter: usize,
    rank: usize,
    weight: f64,
    scale: f32,
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[rank, out]`.
    b_t: Vec<f32>,
}

/// The factors of those adapters that have some for a projection.
fn factors_of(config: &Config, adapters: &[Weighted<'_>], layer: usize, module: Module) -> Vec<Pair> {
    let (_, inputs) = module_shape(config, module);
    let pair = |(adapter, weighted): (usize, &Weighted<'_>)| {
        let (group, part) = weighted.adapter.factors(layer, module)?;
        let mut a = vec![0.0; part.rank * inputs];
        group.a.read(part.first * inputs, &mut a);
        let b_t = part.b_t.to_vec(part.b_t.len());
        Some(Pair { adapter, rank: part.rank, weight: weighted.weight, scale: part.scale, a, b_t })
    };
    adapters.iter().enumerate().filter_map(pair).collect()
}

fn beside_each_other(pairs: Vec<Pair>) -> Pair {
    let mut all = Pair { adapter: 0, rank: 0, weight: 1.0, scale: 1.0, a: Vec::new(), b_t: Vec::new() };
    for pair in pairs {
        let factor = (pair.weight * f64::from(pair.scale)) as f32;
        all.rank += pair.rank;
        all.a.extend(pair.a.iter().map(|value| value * factor));
        all.b_t.extend(pair.b_t);
    }
    all
}

fn factor_by_factor(
    pairs: Vec<Pair>,
    how: &Combination,
    (layer, module): (usize, Module),
    modules: usize,
) -> Result<Pair, CombineError> {
    let rank = pairs.first().map_or(0, |pair| pair.rank);
    let (mut of_a, mut of_b) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
    for pair in &pairs {
        if pair.rank != rank {
            return Err(CombineError::RanksDiffer {
                path: module.path(layer),
                first: rank,
                other: pair.rank,
            });
        }
        let weight = pair.weight * f64::from(pair.scale);
        let root = weight.abs().sqrt();
        of_a.push(if weight < 0.0 { -root } else { root } as f32);
        of_b.push(root as f32);
    }
    let place = (layer * modules + module.index()) as u64;
    let stream = |side: u64, pair: &Pair| {
        let seed = random::mix(how.seed) ^ random::mix(place * 2 + side);
        random::mix(seed ^ random::mix(pair.adapter as u64))
    };
    let a: Vec<_> = pairs.iter().map(|pair| (&pair.a[..], stream(0, pair))).collect();
    let b_t: Vec<_> = pairs.iter().map(|pair| (&pair.b_t[..], stream(1, pair))).collect();
    let (a, b_t) = (merge_factor(&a, &of_a, how), merge_factor(&b_t, &of_b, how));
    Ok(Pair { adapter: 0, rank, weight: 1.0, scale: 1.0, a, b_t })
}

/// One factor of several, each with where its chance comes from.
fn merge_factor(factors: &[(&[f32], u64)], weights: &[f32], how: &Combination) -> Vec<f32> {
    let kept: Vec<Vec<f32>> = factors
        .iter()
        .map(|(values, stream)| match how.method {
            Method::Cat | Method::Linear => values.to_vec(),
            Method::Ties => largest(values, how.density),
            Method::DareLinear | Method::DareTies => at_random(values, how.density, *stream),
        })
        .collect();
    let len = kept.first().map_or(0, Vec::len);
    let at = |i: usize| kept.iter().map(move |values| values[i]).zip(weights);
    let merged = |i: usize| match how.method {
        Method::Cat | Method::Linear | Method::DareLinear => {
            at(i).map(|(value, weight)| value * weight).sum()
        }
        Method::Ties | Method::DareTies => {
            let elected = elected_sign(at(i).map(|(value, _)| value), how.majority_sign);
            let agreeing = || at(i).filter(|(value, _)| sign(*value) == elected);
            let sum: f32 = agreeing().map(|(value, weight)| value * weight).sum();
            sum / agreeing().count().max(1) as f32
        }
    };
    (0..len).map(merged).collect()
}

/// -1, 0 or 1.
fn sign(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// The sign of most, or 1 where none has more.
fn elected_sign(values: impl Iterator<Item = f32>, majority: MajoritySign) -> f32 {
    let sum: f32 = match majority {
        MajoritySign::Total => values.sum(),
        MajoritySign::Frequency => values.map(sign).sum(),
    };
    if sum >= 0.0 { 1.0 } else { -1.0 }
}

/// The share `density` of values with the largest magnitudes, of equal ones the first; the others are zero.
fn largest(values: &[f32], density: f64) -> Vec<f32> {
    if density >= 1.0 {
        return values.to_vec();
    }
    let count = (density * values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[j].abs().total_cmp(&values[i].abs()));
    let mut kept = vec![0.0; values.len()];
    order[..count].iter().for_each(|&i| kept[i] = values[i]);
    kept
}

/// Each value with the chance `density`, divided by it; the others are zero.
fn at_random(values: &[f32], density: f64, stream: u64) -> Vec<f32> {
    if density >= 1.0 {
        return values.to_vec();
    }
    let keep = |i: usize| f64::from(random::uniform(stream, i as u64)) < density;
    let values = values.iter().enumerate();
    values.map(|(i, value)| if keep(i) { value / density as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(method: Method, density: f64, seed: u64) -> Combination {
        Combination { method, density, majority_sign: MajoritySign::Total, seed }
    }

    #[test]
    fn the_largest_values_are_kept_and_of_equal_ones_the_first() {
        assert_eq!(largest(&[1.0, -3.0, 2.0, 3.0, -2.0], 0.6), [0.0, -3.0, 2.0, 3.0, 0.0]);
        assert_eq!(largest(&[1.0, 2.0], 0.4), [0.0, 0.0]);
        assert_eq!(largest(&[1.0, 2.0], 1.0), [1.0, 2.0]);
    }

    #[test]
    fn dropped_values_are_zero_and_the_others_are_divided_by_the_share_that_stays() {
        let values: Vec<f32> = (1..=20_000).map(|i| i as f32).collect();
        let kept = at_random(&values, 0.3, 7);
        let count = kept.iter().filter(|value| **value != 0.0).count();
        // Five standard deviations of a binomial count: sqrt(20000 * 0.3 * 0.7) = 65.
        assert!((count as f64 - 6000.0).abs() < 325.0, "{count}");
        assert!(kept.iter().zip(&values).all(|(k, v)| *k == 0.0 || *k == v / 0.3));
        assert_eq!(kept, at_random(&values, 0.3, 7));
        assert_ne!(kept, at_random(&values, 0.3, 8));
    }

    #[test]
    fn ties_takes_the_mean_of_the_values_whose_sign_was_elected() {
        let factors: [(&[f32], u64); 3] =
            [(&[3.0, -1.0, 0.0], 0), (&[-1.0, -2.0, 0.0], 0), (&[1.0, 2.5, 0.0], 0)];
        let merged = |majority_sign| {
            merge_factor(
                &factors,
                &[1.0, 1.0, 2.0],
                &Combination { majority_sign, ..how(Method::Ties, 1.0, 0) },
            )
        };
        assert_eq!(merged(MajoritySign::Total), [2.5, -1.5, 0.0]);
        assert_eq!(merged(MajoritySign::Frequency), [2.5, -1.5, 0.0]);
        let even: [(&[f32], u64); 2] = [(&[3.0], 0), (&[-4.0], 0)];
        let frequency = Combination { majority_sign: MajoritySign::Frequency, ..how(Method::Ties, 1.0, 0) };
        assert_eq!(merge_factor(&even, &[1.0, 1.0], &frequency), [3.0]);
        assert_eq!(merge_factor(&even, &[1.0, 1.0], &how(Method::Ties, 1.0, 0)), [-4.0]);
    }
}
