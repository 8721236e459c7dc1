//! Text continuation: choosing the next token, and running sequences side by side through their caches.

use lorafit_kernels::random;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::kv_cache::KvCache;
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
        let greatest = || {
            let best = logits
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
            best.0 as u32
        };
        if self.temperature <= 0.0 {
            return greatest();
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = logits[order[0] as usize];
        let weights: Vec<f64> =
            order.iter().map(|&i| f64::from((logits[i as usize] - top) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut count = 0;
        for weight in &weights {
            kept += weight;
            count += 1;
            if kept >= f64::from(self.top_p) * total {
                break;
            }
        }
        let mut left = f64::from(random::uniform(self.seed, position)) * kept;
        for (weight, &token) in weights[..count].iter().zip(&order) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        order[count - 1]
    }
}

/// Rows that a product has at least where answers are computed apart: fewer are multiplied in another order
/// (`ops/matmul/cpu`), so that the last bit of an answer would depend on how many others are still going on.
const STEADY_ROWS: usize = 5;

/// A sequence being continued.
struct Sequence {
    /// Tokens not yet in the cache.
    pending: Vec<u32>,
    generated: Vec<u32>,
    finished: bool,
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
}

/// Continues each prompt until a token of `stop`, or for `max_new_tokens` within the context ([`most_new_tokens`]). The stop
/// token is not part of the result. `on_token(sequence, token)` sees every token as it comes; `false` ends that sequence.
/// `interrupted` is asked before every prompt and every round of tokens; `true` ends all sequences where they are.
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
    mut on_token: impl FnMut(usize, u32) -> bool,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Vec<Vec<u32>>, NotNumbers> {
    let Prompts { ids: prompts, stop, max_new_tokens, sampling, seeds } = prompts;
    let (config, device) = (model.config(), model.device());
    assert!(prompts.iter().all(|p| !p.is_empty()), "a prompt has at least one token");
    assert!(seeds.is_empty() || seeds.len() == prompts.len(), "a seed for each prompt");
    let apart = !seeds.is_empty();
    let longest = |prompt: &[u32]| most_new_tokens(config, prompt.len(), max_new_tokens);
    let mut caches: Vec<KvCache> =
        prompts.iter().map(|p| KvCache::new(config, device, p.len() + longest(p))).collect();
    let idle = if apart { STEADY_ROWS } else { 0 };
    caches.extend((0..idle).map(|_| KvCache::new(config, device, 1)));
    let tokens = prompts.iter().map(|p| p.len()).max().unwrap_or(0).max(prompts.len()).max(idle);
    let mut buffers = Buffers::for_evaluation(config, adapter, device, tokens);
    let mut sequences: Vec<Sequence> = prompts
        .iter()
        .map(|p| Sequence { pending: p.to_vec(), generated: Vec::new(), finished: longest(p) == 0 })
        .collect();
    let mut logits = vec![Vec::new(); prompts.len()];

    // Prompts one at a time, which bounds the buffers; afterwards all sequences step together.
    for (i, sequence) in sequences.iter_mut().enumerate() {
        if interrupted() {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let inputs = [std::mem::take(&mut sequence.pending)];
        // Several answers to one prompt, which is computed once.
        if i > 0 && prompts[i] == prompts[i - 1] {
            let (before, rest) = caches.split_at_mut(i);
            rest[0].copy(&before[i - 1], config);
            logits[i] = logits[i - 1].clone();
            continue;
        }
        let cache = std::slice::from_mut(&mut caches[i]);
        logits[i] = model.continue_cached(adapter, &[&inputs[0]], cache, &mut buffers);
    }
    let mut draw = 0;
    loop {
        for (i, sequence) in sequences.iter_mut().enumerate().filter(|(_, s)| !s.finished) {
            if !logits[i].iter().all(|logit| logit.is_finite()) {
                return Err(NotNumbers { tokens: prompts[i].len() + sequence.generated.len() });
            }
            let token = match seeds.get(i) {
                Some(seed) => Sampling { seed: *seed, ..sampling }.choose(&logits[i], draw),
                None => sampling.choose(&logits[i], draw * prompts.len() as u64 + i as u64),
            };
            if stop.contains(&token) {
                sequence.finished = true;
                continue;
            }
            sequence.generated.push(token);
            sequence.finished = !on_token(i, token) || sequence.generated.len() == longest(prompts[i]);
            sequence.pending = vec![token];
        }
        draw += 1;
        let active: Vec<usize> = (0..sequences.len()).filter(|&i| !sequences[i].finished).collect();
        if active.is_empty() || interrupted() {
            return Ok(sequences.into_iter().map(|s| s.generated).collect());
        }
        for &i in &active {
            let (cache, sequence) = (&mut caches[i], &sequences[i]);
            if let Some(tokens) = config.rope.switches_at().filter(|tokens| cache.len() == *tokens) {
                // From here on all of the text is rotated otherwise, what is cached too.
                let text: Vec<u32> = prompts[i].iter().chain(&sequence.generated).copied().collect();
                cache.restart(tokens);
                for part in text[..tokens].chunks(buffers.tokens()) {
                    model.continue_cached(adapter, &[part], std::slice::from_mut(cache), &mut buffers);
                }
            }
        }
        let mut inputs: Vec<&[u32]> =
            sequences.iter().map(|s| if s.finished { &[][..] } else { &s.pending[..] }).collect();
        inputs.extend((active.len()..idle).map(|_| &[0][..]));
        caches[prompts.len()..].iter_mut().for_each(|cache| cache.restart(0));
        let all = model.continue_cached(adapter, &inputs, &mut caches, &mut buffers);
        for (row, &i) in all.chunks_exact(config.vocab_size).zip(&active) {
            logits[i] = row.to_vec();
        }
    }
}

/// Bytes of the logits that [`generate`] holds for `sequences` sequences: as computed, and as chosen from.
pub fn sequence_logits_bytes(config: &Config, sequences: usize) -> u64 {
    2 * 4 * (sequences * config.vocab_size) as u64
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

    #[test]
    fn top_k_and_top_p_leave_out_the_unlikely() {
        let logits = [1.0, 5.0, 4.9, 0.0];
        let k = Sampling { temperature: 1.0, top_k: 2, ..Sampling::default() };
        assert!((0..500).all(|i| [1, 2].contains(&k.choose(&logits, i))));
        let p = Sampling { temperature: 1.0, top_p: 0.5, ..Sampling::default() };
        assert!((0..500).all(|i| p.choose(&logits, i) == 1));
    }
}
