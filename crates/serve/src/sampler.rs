//! The next token of an answer: logits changed by what the request asks for, then a choice as `lorafit_model::Sampling` makes it,
//! so that temperature 0 takes the first of the greatest.
//!
//! In this order: bias, repetition penalty, presence and frequency penalty, the form that is asked for, `min_p`, temperature,
//! `top_k`, `top_p`. Log-probabilities are those of the model, before all that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lorafit_model::Sampling;

/// What a request says of how tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choosing {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// The share of probability that is sampled from.
    pub top_p: f32,
    /// How many most likely tokens are sampled from; 0 for all.
    pub top_k: usize,
    /// Tokens that are less likely than the likeliest times this are left out.
    pub min_p: f32,
    /// Taken off a token's logit for each time it was written.
    pub frequency_penalty: f32,
    /// Taken off a token's logit if it was written.
    pub presence_penalty: f32,
    /// What logits of tokens of prompt and answer are divided by, or multiplied with where they are negative.
    pub repetition_penalty: f32,
    /// Added to logits.
    pub bias: Vec<(u32, f32)>,
    /// How many of the likeliest tokens are listed at each place; `None` for no log-probabilities at all.
    pub log_probabilities: Option<usize>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token.
    pub id: u32,
    /// Its log-probability by the model.
    pub log_probability: f32,
}

/// A token that was chosen, with what else was likely.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: Scored,
    /// The likeliest tokens in its place.
    pub likeliest: Vec<Scored>,
    /// Characters of the answer before it.
    pub at: usize,
}

/// Chooses the tokens of one answer.
pub struct Sampler {
    choosing: Arc<Choosing>,
    seed: u64,
    written: HashMap<u32, u32>,
    prompt: HashSet<u32>,
    drawn: u64,
}

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// A logit is infinite or no number.
    NotNumbers,
    /// All tokens are ruled out.
    NoneAllowed,
}

impl Sampler {
    /// For an answer to `prompt` that draws by `seed`.
    pub fn new(choosing: Arc<Choosing>, seed: u64, prompt: &[u32]) -> Self {
        let prompt = match choosing.repetition_penalty == 1.0 {
            true => HashSet::new(),
            false => prompt.iter().copied().collect(),
        };
        Sampler { choosing, seed, written: HashMap::new(), prompt, drawn: 0 }
    }

    /// The next token; `rule_out` makes the logits of tokens that may not follow minus infinity.
    ///
    /// # Errors
    /// When there is none.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        rule_out: &mut dyn FnMut(&mut [f32]),
    ) -> Result<Chosen, NoToken> {
        if !logits.iter().fold(true, |fine, logit| fine & logit.is_finite()) {
            return Err(NoToken::NotNumbers);
        }
        let listed = self.choosing.log_probabilities;
        let own = listed.map(|count| (likeliest(logits, count), logits.to_vec(), log_sum(logits)));
        self.change(logits);
        rule_out(logits);
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if greatest == f32::NEG_INFINITY {
            return Err(NoToken::NoneAllowed);
        }
        let Choosing { temperature, top_p, top_k, min_p, .. } = *self.choosing;
        if temperature > 0.0 && min_p > 0.0 {
            let least = greatest + temperature * min_p.ln();
            logits.iter_mut().filter(|logit| **logit < least).for_each(|logit| *logit = f32::NEG_INFINITY);
        }
        let sampling = Sampling { temperature, top_p, top_k, seed: self.seed };
        let id = sampling.choose(logits, self.drawn);
        self.drawn += 1;
        *self.written.entry(id).or_default() += 1;
        Ok(match own {
            None => Chosen { token: Scored { id, log_probability: 0.0 }, likeliest: Vec::new(), at: 0 },
            Some((ids, own, total)) => {
                let scored =
                    |id: u32| Scored { id, log_probability: (f64::from(own[id as usize]) - total) as f32 };
                Chosen { token: scored(id), likeliest: ids.into_iter().map(scored).collect(), at: 0 }
            }
        })
    }

    /// Bias and penalties.
    fn change(&self, logits: &mut [f32]) {
        let choosing = &*self.choosing;
        for &(id, bias) in &choosing.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if choosing.repetition_penalty != 1.0 {
            let fresh = self.written.keys().filter(|id| !self.prompt.contains(id));
            for &id in self.prompt.iter().chain(fresh) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    let penalty = choosing.repetition_penalty;
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
        }
        if choosing.frequency_penalty != 0.0 || choosing.presence_penalty != 0.0 {
            for (&id, &times) in &self.written {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit -= choosing.presence_penalty + times as f32 * choosing.frequency_penalty;
                }
            }
        }
    }
}

/// log of the sum of exponentials, in f64.
fn log_sum(logits: &[f32]) -> f64 {
    let greatest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    greatest + logits.iter().map(|logit| (f64::from(*logit) - greatest).exp()).sum::<f64>().ln()
}

/// The tokens of the `count` greatest logits, the greatest first, of equal ones that of lower number.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < ids.len() {
        ids.select_nth_unstable_by(count, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Greedy, and nothing else.
    pub(crate) fn plain() -> Choosing {
        Choosing {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            bias: Vec::new(),
            log_probabilities: None,
        }
    }

    fn ids(choosing: Choosing, prompt: &[u32], logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(Arc::new(choosing), 7, prompt);
        let next = |_| sampler.choose(&mut logits.to_vec(), &mut |_| ()).expect("a token").token.id;
        (0..count).map(next).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_greatest() {
        assert_eq!(ids(plain(), &[], &[0.0, 2.0, 2.0], 2), [1, 1]);
    }

    #[test]
    fn penalties_and_bias_change_what_is_greatest() {
        let logits = [1.0, 2.0, 1.5];
        let presence = Choosing { presence_penalty: 0.7, ..plain() };
        // 2, then 1.3 against 1.5, then 1.3 against 0.8.
        assert_eq!(ids(presence, &[], &logits, 3), [1, 2, 1]);
        let frequency = Choosing { frequency_penalty: 0.7, ..plain() };
        assert_eq!(ids(frequency, &[], &logits, 4), [1, 2, 1, 0]);
        let repetition = Choosing { repetition_penalty: 1.5, ..plain() };
        assert_eq!(ids(repetition.clone(), &[1], &logits, 2), [2, 1]);
        assert_eq!(ids(repetition, &[], &[-1.0, -1.4], 2), [0, 1]);
        let bias = Choosing { bias: vec![(0, 1.5), (1, -100.0), (99, 3.0)], ..plain() };
        assert_eq!(ids(bias, &[], &logits, 1), [0]);
    }

    #[test]
    fn min_p_leaves_out_what_is_unlikely() {
        // Probabilities 0.6, 0.3, 0.1.
        let logits: Vec<f32> = [0.6f32, 0.3, 0.1].map(f32::ln).to_vec();
        let found = ids(Choosing { temperature: 1.0, min_p: 0.4, ..plain() }, &[], &logits, 500);
        assert!(found.contains(&0) && found.contains(&1) && !found.contains(&2));
        // Of 0.6 times 0.4 each is above what is left when the temperature flattens them.
        let flat = ids(Choosing { temperature: 5.0, min_p: 0.4, ..plain() }, &[], &logits, 500);
        assert!(flat.contains(&2));
    }

    #[test]
    fn log_probabilities_are_those_of_the_model() {
        let choosing = Choosing { log_probabilities: Some(2), bias: vec![(0, 100.0)], ..plain() };
        let mut sampler = Sampler::new(Arc::new(choosing), 0, &[]);
        let mut logits: Vec<f32> = [0.1f32, 0.6, 0.3].map(|p| p.ln() + 4.0).to_vec();
        let chosen = sampler.choose(&mut logits, &mut |_| ()).expect("a token");
        let near = |scored: &Scored, id: u32, p: f32| {
            assert!(scored.id == id && (scored.log_probability - p.ln()).abs() < 1e-5, "{scored:?}");
        };
        near(&chosen.token, 0, 0.1);
        near(&chosen.likeliest[0], 1, 0.6);
        near(&chosen.likeliest[1], 2, 0.3);
        assert_eq!(chosen.likeliest.len(), 2);
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let mut sampler = Sampler::new(Arc::new(plain()), 0, &[]);
        assert_eq!(sampler.choose(&mut [0.0, f32::NAN], &mut |_| ()), Err(NoToken::NotNumbers));
        assert_eq!(sampler.choose(&mut [0.0, f32::INFINITY], &mut |_| ()), Err(NoToken::NotNumbers));
        let none = sampler.choose(&mut [0.0, 1.0], &mut |logits| logits.fill(f32::NEG_INFINITY));
        assert_eq!(none, Err(NoToken::NoneAllowed));
    }
}
