//! `acc` and `acc_norm`: multiple choice. A model's answer is the option that it finds the likeliest behind the prompt; the score is
//! 1 where that is the reply. `acc_norm` divides the log-probability of an option by its number of characters first, so that long
//! options are not at a disadvantage. Both are lm-evaluation-harness's; of options that are equally likely the first counts.

use super::{Direction, Metric, Of, Options};

/// The likeliest option as it is.
pub const METRIC: Metric = Metric {
    name: "acc",
    what: "The reply is the likeliest of the options in the column of --choices",
    needs: Some("choices"),
    reads: &[],
    compares: true,
    direction: Direction::Maximize,
    of: Of::Options(likeliest),
};

/// The likeliest option for its length.
pub const NORMALISED: Metric = Metric {
    name: "acc_norm",
    what: "The same, with each log-probability divided by the length of its option in characters",
    of: Of::Options(likeliest_for_its_length),
    ..METRIC
};

fn likeliest(options: &Options) -> usize {
    greatest(options.log_probabilities.iter().copied())
}

fn likeliest_for_its_length(options: &Options) -> usize {
    let each = options.log_probabilities.iter().zip(&options.texts);
    greatest(each.map(|(log_probability, text)| log_probability / text.chars().count() as f64))
}

fn greatest(values: impl Iterator<Item = f64>) -> usize {
    values.enumerate().fold((0, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_option_may_be_likelier_for_its_length() {
        let options = Options {
            texts: ["no", "certainly", "é"].map(String::from).to_vec(),
            log_probabilities: vec![-2.0, -4.5, -3.0],
            right: 1,
        };
        // -1, -0.5, -3 for a character.
        assert_eq!([likeliest(&options), likeliest_for_its_length(&options)], [0, 1]);
    }
}
