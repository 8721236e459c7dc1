//! Answers to one prompt as pairs of a better and a worse one.

use std::collections::HashSet;

/// The places of the texts that none before them is equal to, white space at both ends aside.
pub fn distinct<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<usize> {
    let mut seen = HashSet::new();
    texts
        .into_iter()
        .enumerate()
        .filter(|(_, text)| seen.insert(text.trim()))
        .map(|(place, _)| place)
        .collect()
}

/// Up to `most` pairs (better, worse) of places in `scores`: those with the greatest difference first, of such those whose answers
/// are in few pairs already, then in order. Answers with the same score make no pair.
pub fn pairs(scores: &[f64], most: usize) -> Vec<(usize, usize)> {
    let places = 0..scores.len();
    let mut left: Vec<(usize, usize)> = places
        .clone()
        .flat_map(|better| places.clone().map(move |worse| (better, worse)))
        .filter(|(better, worse)| scores[*better] > scores[*worse])
        .collect();
    let mut used = vec![0; scores.len()];
    let mut chosen = Vec::new();
    while chosen.len() < most {
        let difference = |(better, worse): (usize, usize)| scores[better] - scores[worse];
        let best = left.iter().copied().min_by(|a, b| {
            let uses = |(better, worse): (usize, usize)| used[better] + used[worse];
            difference(*b).total_cmp(&difference(*a)).then(uses(*a).cmp(&uses(*b))).then(a.cmp(b))
        });
        let Some(pair) = best else { break };
        left.retain(|other| *other != pair);
        used[pair.0] += 1;
        used[pair.1] += 1;
        chosen.push(pair);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_paired_with_the_worst_and_ties_make_no_pair() {
        assert_eq!(pairs(&[0.5, 1.0, 0.0, 0.0], 1), [(1, 2)]);
        assert_eq!(pairs(&[0.5, 0.5], 3), []);
        assert_eq!(pairs(&[1.0], 3), []);
        assert_eq!(pairs(&[], 1), []);
    }

    #[test]
    fn several_pairs_use_different_answers_as_long_as_they_are_as_far_apart() {
        assert_eq!(pairs(&[1.0, 0.0, 1.0, 0.0], 3), [(0, 1), (2, 3), (0, 3)]);
        assert_eq!(pairs(&[1.0, 0.0, 0.5, 0.0], 9), [(0, 1), (0, 3), (2, 1), (2, 3), (0, 2)]);
    }

    #[test]
    fn equal_texts_are_one() {
        assert_eq!(distinct(["a", " a\n", "b", "a b", "b"]), [0, 2, 3]);
    }
}
