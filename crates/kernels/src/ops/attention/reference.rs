//! The definition in f64, one token at a time.

use super::{Heads, Segments};

/// Tokens that `token` sees, itself last.
fn seen(segments: &Segments, token: usize) -> Vec<usize> {
    let list = segments.as_slice();
    let own =
        list.iter().position(|s| (s.start..s.start + s.len).contains(&token)).expect("token in a segment");
    let mut path = vec![own];
    while let Some(parent) = list[path[path.len() - 1]].parent {
        path.push(parent);
    }
    path.iter()
        .rev()
        .flat_map(|&i| list[i].start..list[i].start + list[i].len)
        .filter(|&s| s <= token)
        .collect()
}

pub(super) fn forward(q: &[f64], k: &[f64], v: &[f64], segments: &Segments, heads: Heads) -> Vec<f64> {
    let Heads { query, key_value, dim } = heads;
    let mut out = vec![0.0; q.len()];
    for token in 0..segments.tokens() {
        let seen = seen(segments, token);
        for head in 0..query {
            let kv_head = head / (query / key_value);
            let row = |values: &[f64], t: usize| {
                values[(t * key_value + kv_head) * dim..(t * key_value + kv_head + 1) * dim].to_vec()
            };
            let at = (token * query + head) * dim;
            let scores: Vec<f64> = seen
                .iter()
                .map(|&s| {
                    row(k, s).iter().zip(&q[at..at + dim]).map(|(a, b)| a * b).sum::<f64>()
                        / (dim as f64).sqrt()
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
