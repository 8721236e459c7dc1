//! What several metrics do to texts before they compare them.

use std::borrow::Cow;

use super::Criteria;

impl Criteria {
    /// A text as `exact_match` and `contains` compare it: without white space at its ends, and as the flags have it.
    pub fn normalised<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text.trim());
        if self.ignore_whitespace {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ").into();
        }
        if self.ignore_case {
            text = text.to_lowercase().into();
        }
        text
    }
}

/// What Python's `str.split` and `\s` take for white space.
pub fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The harmonic mean of precision and recall: of `common` parts that `found` and `wanted` parts share.
pub fn f_measure(common: usize, found: usize, wanted: usize) -> f64 {
    match common {
        0 => 0.0,
        _ => {
            let (precision, recall) = (common as f64 / found as f64, common as f64 / wanted as f64);
            2.0 * precision * recall / (precision + recall)
        }
    }
}
