//! What losses are functions of, and what they give.

use super::PreferenceOptions;

/// A reply to its prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// Its log-probability under the model that is trained, in nats, summed over its tokens.
    pub policy: f64,
    /// The same under the reference; 0 where there is none.
    pub reference: f64,
    /// Its tokens.
    pub tokens: f64,
}

impl Reply {
    /// The logarithm of the ratio of both probabilities.
    pub fn ratio(&self) -> f64 {
        self.policy - self.reference
    }

    /// The ratio, by token where lengths are normalised, and what it changes by where the policy changes by 1.
    fn score(&self, options: &PreferenceOptions) -> (f64, f64) {
        let by = if options.length_normalise { 1.0 / self.tokens } else { 1.0 };
        (self.ratio() * by, by)
    }

    /// The log-probability by token, and what that changes by where the policy changes by 1.
    pub(super) fn mean(&self) -> (f64, f64) {
        (self.policy / self.tokens, 1.0 / self.tokens)
    }
}

/// Two replies to a prompt, the first of which is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The better one.
    pub chosen: Reply,
    /// The worse one.
    pub rejected: Reply,
    /// By how much it should be better.
    pub margin: f64,
}

/// The loss of a pair, and its derivatives by the log-probabilities (`policy`) of both replies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairSlope {
    /// The loss.
    pub loss: f64,
    /// By that of the chosen reply.
    pub chosen: f64,
    /// By that of the rejected reply.
    pub rejected: f64,
}

impl PairSlope {
    /// Of a loss that is a function of `beta (r_c - r_r) - margin`, where `r` is the ratio of a reply, by token where lengths are
    /// normalised. `of` gives that function and its derivative.
    pub(super) fn of_difference(
        pair: &Pair,
        options: &PreferenceOptions,
        of: impl FnOnce(f64) -> (f64, f64),
    ) -> Self {
        let [(chosen, by_chosen), (rejected, by_rejected)] =
            [pair.chosen, pair.rejected].map(|reply| reply.score(options));
        let (loss, slope) = of(options.beta * (chosen - rejected) - pair.margin);
        let slope = options.beta * slope;
        PairSlope { loss, chosen: slope * by_chosen, rejected: -slope * by_rejected }
    }
}

/// The loss of a reply, and its derivative by the log-probability of the reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelSlope {
    /// The loss.
    pub loss: f64,
    /// The derivative.
    pub reply: f64,
}

/// The logistic function.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// Its logarithm.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// Its derivative.
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `-log sigmoid(x)` where a share of pairs is the wrong way round, and its derivative.
pub(super) fn smoothed(x: f64, share: f64) -> (f64, f64) {
    let loss = -(1.0 - share) * log_sigmoid(x) - share * log_sigmoid(-x);
    (loss, -(1.0 - share) * sigmoid(-x) + share * sigmoid(x))
}
