//! The definition in f64, one token at a time.

use super::{Heads, Scores, Segments};

/// Tokens that `token` sees, itself last.
fn seen(segments: &Segments, token: usize, window: Option<usize>) -> Vec<usize> {
    let list = segments.as_slice();
    let own =
        list.iter().position(|s| (s.start..s.start + s.len).contains(&token)).expect("token in a segment");
    let mut path = vec![own];
    while let Some(parent) = list[path[path.len() - 1]].parent {
        path.push(parent);
    }
    let all: Vec<usize> = path
        .iter()
        .rev()
        .flat_map(|&i| list[i].start..list[i].start + list[i].len)
        .filter(|&s| s <= token)
        .collect();
    let hidden = window.map_or(0, |window| all.len().saturating_sub(window));
    all[hidden..].to_vec()
}

pub(super) fn forward(
    [q, k, v]: [&[f64]; 3],
    segments: &Segments,
    heads: Heads,
    options: Scores,
) -> Vec<f64> {
    let Heads { query, key_value, dim } = heads;
    let mut out = vec![0.0; q.len()];
    for token in 0..segments.tokens() {
        let seen = seen(segments, token, options.window);
        for head in 0..query {
            let kv_head = head / (query / key_value);
            let row = |values: &[f64], t: usize| {
                values[(t * key_value + kv_head) * dim..(t * key_value + kv_head + 1) * dim].to_vec()
            };
            let at = (token * query + head) * dim;
            let scores: Vec<f64> = seen
                .iter()
                .map(|&s| {
                    let product = row(k, s).iter().zip(&q[at..at + dim]).map(|(a, b)| a * b).sum::<f64>();
                    let score = product * f64::from(options.scale);
                    options.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
                })
                .collect();
            let largest = scores.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            for (&s, score) in seen.iter().zip(&scores) {
                let p = (score - largest).exp() / total;
                out[at..at + dim].iter_mut().zip(row(v, s)).for_each(|(o, v)| *o += p * v);
            }
        }
    }
    out
}
