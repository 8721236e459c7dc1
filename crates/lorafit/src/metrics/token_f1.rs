//! `token_f1`: the words that answer and reply have in common, as SQuAD 2.0's evaluation script counts them (Rajpurkar et al.
//! 2018): `F1 = 2 P R / (P + R)` over words, each as often as it occurs, after letters are made small, ASCII punctuation and the
//! articles a, an, the are taken out. Where one side has no word left, both must have none.

use std::collections::HashMap;
use std::sync::LazyLock;

use ::regex::Regex;

use super::normalise::{f_measure, is_python_space};
use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "token_f1",
    what: "The words that answer and reply share: F1 as of SQuAD, without case, punctuation and articles",
    needs: None,
    reads: &[],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn words(text: &str) -> Vec<String> {
    static ARTICLES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("a constant pattern"));
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = ARTICLES.replace_all(&text, " ");
    text.split(is_python_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn score(_: &Criteria, expected: &str, answer: &str) -> Score {
    let (wanted, found) = (words(expected), words(answer));
    if wanted.is_empty() || found.is_empty() {
        return Ok(f64::from(wanted.is_empty() && found.is_empty()));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    wanted.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let is_common = |word: &&String| match left.get_mut(word.as_str()) {
        Some(times @ 1..) => {
            *times -= 1;
            true
        }
        _ => false,
    };
    let common = found.iter().filter(is_common).count();
    Ok(f_measure(common, found.len(), wanted.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_without_articles_and_punctuation() {
        let score = |expected: &str, answer: &str| score(&Criteria::default(), expected, answer).unwrap();
        assert_eq!(score("The cat sat.", "a cat, sat"), 1.0);
        assert_eq!(score("cat", "dog"), 0.0);
        // Three words, two of them wanted: P = 2/3, R = 1.
        assert!((score("big cat", "very big cat") - 0.8).abs() < 1e-15);
        // A word counts as often as it is wanted.
        assert!((score("cat", "cat cat cat") - 0.5).abs() < 1e-15);
        assert_eq!([score("the", ""), score("the", "cat"), score("cat", "the")], [1.0, 0.0, 0.0]);
    }
}
