//! A batch: what the model computes on in one go.
//!
//! A stream of tokens, never a padded rectangle. The stream is cut into segments that form a forest: a token sees its
//! segment's ancestors and, causally, its own segment. Unrelated samples are separate roots, so packing them changes
//! nothing but speed; samples that begin alike can share an ancestor. The loss is a list of targets: row `r` of the
//! hidden states predicts token `id`. Only attention reads segments, only the loss reads targets.
//!
//! Built here: packing of separate samples. Prefix sharing builds the same structure with parents.

use crate::sample::Sample;

/// A run of the stream whose tokens follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row of the stream.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// The segment that this one continues, always an earlier one; `None` for the start of a text.
    pub parent: Option<usize>,
}

/// One term of the loss: the hidden state of `row` should predict `id`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Row of the stream.
    pub row: u32,
    /// The token to predict.
    pub id: u32,
    /// The term's weight before division by the supervised tokens of the optimizer step.
    pub weight: f32,
}

/// A stream of tokens with its segments and targets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its text, `[tokens]`, from 0.
    pub positions: Vec<u32>,
    /// The segments in order of their start; together they are the whole stream.
    pub segments: Vec<Segment>,
    /// The targets in order of their rows. A row can have several where texts branch.
    pub targets: Vec<Target>,
}

impl Batch {
    /// Puts samples one behind the other, each a root: positions start again at 0 and none sees another. The
    /// supervised token `j` of a sample is predicted by its row `j - 1`. Samples without tokens are left out.
    ///
    /// A stream holds fewer than 2^32 tokens; the caller's token budget is far below.
    pub fn pack<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut batch = Self::default();
        for sample in samples.into_iter().filter(|s| !s.is_empty()) {
            let start = batch.ids.len();
            batch.segments.push(Segment { start, len: sample.len(), parent: None });
            batch.positions.extend((0u32..).take(sample.len()));
            let targets = sample.ids.iter().zip(&sample.supervised).enumerate().skip(1);
            batch.targets.extend(
                targets.filter(|(_, (_, supervised))| **supervised).map(|(j, (&id, _))| Target {
                    row: (start + j - 1) as u32,
                    id,
                    weight: 1.0,
                }),
            );
            batch.ids.extend_from_slice(&sample.ids);
        }
        batch
    }

    /// Tokens in the stream.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the stream has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
