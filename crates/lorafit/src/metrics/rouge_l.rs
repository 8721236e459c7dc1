//! `rouge_l`: the longest common subsequence of answer and reply (Lin 2004), `F = 2 P R / (P + R)` over its length, as Google's
//! `rouge_score` computes `rougeL` without stemming. Its tokens are runs of ASCII letters and digits, made small; whatever else a
//! text has, other alphabets included, separates them. A reply without a token cannot be judged.

use super::normalise::f_measure;
use super::{Criteria, Direction, Metric, Of, Score};

/// See the module.
pub const METRIC: Metric = Metric {
    name: "rouge_l",
    what: "The longest common subsequence of words: ROUGE-L F-measure as of rouge_score, without stemming",
    needs: None,
    reads: &[],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Answer(score),
};

fn tokens(text: &str) -> Vec<String> {
    // As a whole: some letters have an ASCII letter as their small form.
    let text = text.to_lowercase();
    let runs = text.split(|c: char| !c.is_ascii_alphanumeric());
    runs.filter(|run| !run.is_empty()).map(str::to_owned).collect()
}

fn score(_: &Criteria, expected: &str, answer: &str) -> Score {
    let (wanted, found) = (tokens(expected), tokens(answer));
    match wanted.is_empty() {
        true => Err("the reply has no ASCII letter or digit, and ROUGE compares nothing else".to_owned()),
        false => Ok(f_measure(longest_common(&wanted, &found), found.len(), wanted.len())),
    }
}

/// The length of the longest common subsequence; a row of the table at a time.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_words_counts() {
        let score = |expected: &str, answer: &str| score(&Criteria::default(), expected, answer);
        assert_eq!(score("police killed the gunman", "police kill the gunman"), Ok(0.75));
        assert_eq!(score("police killed the gunman", "the gunman kill police"), Ok(0.5));
        assert_eq!(score("yes", ""), Ok(0.0));
        assert!(score("да", "да").unwrap_err().contains("no ASCII letter"));
    }
}
