//! Text continuation: choosing the next token, and answers to many prompts, by [`crate::Engine`].

use std::collections::BTreeMap;

use lorafit_kernels::random;
use rayon::prelude::*;

use crate::adapter::Adapter;
use crate::engine::{Asked, Engine, EngineLimits, Next, SequenceId};
use crate::model::Model;
use crate::shape::Config;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Sample from the fewest tokens whose probabilities sum to this much; 1 for all.
    pub top_p: f32,
    /// Sample from this many most likely tokens; 0 for all.
    pub top_k: usize,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 }
    }
}

impl Sampling {
    /// The next token, from its logits; `position` numbers the draws of a sequence.
    pub fn choose(&self, logits: &[f32], position: u64) -> u32 {
        if self.temperature <= 0.0 {
            return first_of(logits, greatest(logits)).unwrap_or(0) as u32;
        }
        let top = greatest(logits);
        let weight = |logit: f32| f64::from((logit - top) / self.temperature).exp();
        let mut likely = MostLikely::new(logits);
        let (mut count, total) = match self.top_k {
            k if k == 0 || k >= logits.len() => (logits.len(), sum(logits, weight)),
            k => (k, likely.first(k).iter().map(|&token| weight(logits[token as usize])).sum()),
        };
        let mut kept = total;
        if self.top_p < 1.0 {
            // The fewest that come to the wanted share.
            let (most, share) = (count, f64::from(self.top_p) * total);
            (kept, count) = (0.0, 0);
            while count == 0 || (count < most && kept < share) {
                kept += weight(logits[likely.at(count) as usize]);
                count += 1;
            }
        }
        let mut left = f64::from(random::uniform(self.seed, position)) * kept;
        for place in 0..count {
            let token = likely.at(place);
            left -= weight(logits[token as usize]);
            if left < 0.0 {
                return token;
            }
        }
        likely.at(count - 1)
    }
}

/// Logits that are looked at together, so that the compiler vectorises it.
const LANES: usize = 16;

/// The greatest logit.
fn greatest(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

/// Where `logit` first is.
fn first_of(logits: &[f32], logit: f32) -> Option<usize> {
    let chunk =
        logits.chunks(LANES).position(|chunk| chunk.iter().fold(false, |any, l| any | (*l == logit)))?;
    let within = logits[chunk * LANES..].iter().position(|l| *l == logit)?;
    Some(chunk * LANES + within)
}

/// Whether all logits are numbers.
fn are_numbers(logits: &[f32]) -> bool {
    // Without a branch a value, so that the compiler vectorises it.
    logits.iter().fold(true, |fine, logit| fine & (logit.abs() < f32::INFINITY))
}

/// The sum of `weight` over all logits: pieces on all threads, added in order.
fn sum(logits: &[f32], weight: impl Fn(f32) -> f64 + Sync) -> f64 {
    const PIECE: usize = 4096;
    let pieces: Vec<f64> =
        logits.par_chunks(PIECE).map(|piece| piece.iter().map(|&logit| weight(logit)).sum()).collect();
    pieces.into_iter().sum()
}

/// Tokens from the most likely on, of equal ones those of lower number first; sorted only as far as they are asked for, which
/// mostly is a few of the vocabulary.
struct MostLikely<'a> {
    logits: &'a [f32],
    tokens: Vec<u32>,
    sorted: usize,
}

impl<'a> MostLikely<'a> {
    fn new(logits: &'a [f32]) -> Self {
        MostLikely { logits, tokens: (0..logits.len() as u32).collect(), sorted: 0 }
    }

    /// Token `place`, counted from the most likely.
    fn at(&mut self, place: usize) -> u32 {
        const FIRST: usize = 64;
        if place >= self.sorted {
            self.first((place + 1).max(4 * self.sorted).max(FIRST).min(self.tokens.len()));
        }
        self.tokens[place]
    }

    /// The first `count` tokens.
    fn first(&mut self, count: usize) -> &[u32] {
        let order = |a: &u32, b: &u32| {
            let [first, second] = [a, b].map(|token| self.logits[*token as usize]);
            second.total_cmp(&first).then(a.cmp(b))
        };
        if count > self.sorted {
            let rest = &mut self.tokens[self.sorted..];
            let more = count - self.sorted;
            if more < rest.len() {
                rest.select_nth_unstable_by(more, order);
            }
            rest[..more].sort_unstable_by(order);
            self.sorted = count;
        }
        &self.tokens[..count]
    }
}

/// Logits that are infinite or no numbers, of which no token is the most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the logits after {tokens} tokens are not numbers")]
pub struct NotNumbers {
    /// Tokens of the prompt and of its answer that they follow.
    pub tokens: usize,
}

/// The most tokens of an answer to `prompt_tokens`, of `max_new_tokens` that were asked for: it ends with the context that
/// the model is made for. Behind a prompt that is beyond the context already, it has an end all the same.
pub fn most_new_tokens(config: &Config, prompt_tokens: usize, max_new_tokens: usize) -> usize {
    let context = config.context();
    if let Some(positions) = config.positions() {
        return max_new_tokens.min(positions.saturating_sub(prompt_tokens));
    }
    max_new_tokens.min(context.checked_sub(prompt_tokens).filter(|room| *room > 0).unwrap_or(context))
}

/// What is continued, and how.
#[derive(Clone, Copy, Debug)]
pub struct Prompts<'a> {
    /// Token ids of each prompt, one or more.
    pub ids: &'a [&'a [u32]],
    /// Tokens that end an answer.
    pub stop: &'a [u32],
    /// Tokens of the longest answer.
    pub max_new_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Random seeds of the answers, one for each: then each has the same bits whatever is computed beside it. Without any,
    /// all draw from the numbers of the sampling's seed in turn.
    pub seeds: &'a [u64],
    /// Answers that are written at once, at most: where one ends, the next begins.
    pub side_by_side: usize,
}

/// Continues each prompt until a token of `stop`, or for `max_new_tokens` within the context ([`most_new_tokens`]). The stop
/// token is not part of the result. `on_token(sequence, token)` sees every token as it comes, of which `false` ends that sequence, and
/// no token when it is over. `interrupted` is asked before every prompt and round of tokens; `true` ends all sequences where they
/// are.
///
/// # Errors
/// When a logit of any sequence is infinite or no number.
///
/// # Panics
/// On an empty prompt, a token outside the vocabulary, or seeds of another number than prompts.
pub fn generate(
    model: &Model,
    adapter: Option<&Adapter>,
    prompts: Prompts<'_>,
    mut on_token: impl FnMut(usize, Option<u32>) -> bool,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Vec<Vec<u32>>, NotNumbers> {
    let Prompts { ids: prompts, stop, max_new_tokens, sampling, seeds, side_by_side } = prompts;
    assert!(seeds.is_empty() || seeds.len() == prompts.len(), "a seed for each prompt");
    // Each prompt is computed as a whole, so that its answer depends on nothing else.
    let limits = EngineLimits { prefill_tokens: usize::MAX, pieces: 1, kept_bytes: 0 };
    let mut engine: Engine<'_, &Adapter> = Engine::new(model, limits);
    let longest = |prompt: &[u32]| most_new_tokens(model.config(), prompt.len(), max_new_tokens);
    let mut waiting = (0..prompts.len()).filter(|&i| longest(prompts[i]) > 0);
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut running: BTreeMap<SequenceId, usize> = BTreeMap::new();
    let mut failure = None;
    loop {
        let room = side_by_side.max(1) - running.len();
        for i in waiting.by_ref().take(room) {
            let id =
                engine.begin(prompts[i].to_vec(), adapter.map(|adapter| (1, adapter)), longest(prompts[i]));
            running.insert(id, i);
        }
        if running.is_empty() || interrupted() {
            return Ok(answers);
        }
        engine.step(&mut |Asked { id, .. }, logits| {
            let i = running[&id];
            let draw = answers[i].len();
            let token = match are_numbers(logits) {
                false => {
                    failure.get_or_insert(NotNumbers { tokens: prompts[i].len() + draw });
                    None
                }
                true => {
                    let draw = draw as u64;
                    Some(match seeds.get(i) {
                        Some(seed) => Sampling { seed: *seed, ..sampling }.choose(logits, draw),
                        None => sampling.choose(logits, draw * prompts.len() as u64 + i as u64),
                    })
                }
            };
            let token = token.filter(|token| !stop.contains(token));
            answers[i].extend(token);
            let goes_on = |token: &u32| on_token(i, Some(*token)) && answers[i].len() < longest(prompts[i]);
            if let Some(token) = token.filter(goes_on) {
                return Next::Token(token);
            }
            running.remove(&id);
            on_token(i, None);
            Next::End
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
    }
}

/// Bytes of the logits that [`generate`] holds for `sequences` sequences: of all, and of a prompt.
pub fn sequence_logits_bytes(config: &Config, sequences: usize) -> u64 {
    4 * ((sequences + 1) * config.vocab_size) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_takes_the_first_of_the_greatest() {
        assert_eq!(Sampling::default().choose(&[0.0, 3.0, 3.0, -1.0], 0), 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let sampling = Sampling { temperature: 2.0, ..Sampling::default() };
        let logits = [0.0, 2.0 * 3.0f32.ln()];
        let ones = (0..10_000).filter(|&i| sampling.choose(&logits, i) == 1).count();
        // Three to one; five standard deviations.
        assert!((ones as f32 / 10_000.0 - 0.75).abs() < 0.022, "{ones}");
    }

    /// All tokens sorted, as sampling is usually written down.
    fn by_sorting(sampling: &Sampling, logits: &[f32], position: u64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k);
        }
        let weight = |token: u32| {
            f64::from((logits[token as usize] - logits[order[0] as usize]) / sampling.temperature).exp()
        };
        let total: f64 = order.iter().map(|&token| weight(token)).sum();
        let (mut kept, mut count) = (0.0, 0);
        while count < order.len() && (count == 0 || kept < f64::from(sampling.top_p) * total) {
            kept += weight(order[count]);
            count += 1;
        }
        let mut left = f64::from(random::uniform(sampling.seed, position)) * kept;
        let drawn = order[..count].iter().find(|&&token| {
            left -= weight(token);
            left < 0.0
        });
        *drawn.unwrap_or(&order[count - 1])
    }

    #[test]
    fn tokens_are_drawn_as_from_all_of_them_sorted() {
        // Some are equal.
        let logits: Vec<f32> =
            (0..10_000).map(|i| (random::uniform(3, i) * 64.0).round() * 0.25 - 5.0).collect();
        for (temperature, top_p, top_k) in
            [(1.0, 1.0, 0), (0.3, 1.0, 0), (3.0, 0.9, 0), (0.7, 0.2, 0), (2.0, 1.0, 300), (1.0, 0.8, 1)]
        {
            let sampling = Sampling { temperature, top_p, top_k, seed: 5 };
            for position in 0..50 {
                let found = sampling.choose(&logits, position);
                assert_eq!(found, by_sorting(&sampling, &logits, position), "{sampling:?}, {position}");
            }
        }
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_unlikely() {
        let logits = [1.0, 5.0, 4.9, 0.0];
        let k = Sampling { temperature: 1.0, top_k: 2, ..Sampling::default() };
        assert!((0..500).all(|i| [1, 2].contains(&k.choose(&logits, i))));
        let p = Sampling { temperature: 1.0, top_p: 0.5, ..Sampling::default() };
        assert!((0..500).all(|i| p.choose(&logits, i) == 1));
    }
}
