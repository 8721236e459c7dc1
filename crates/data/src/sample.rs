//! A sample: one row as the model sees it.

/// Which tokens are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrainOn {
    /// What the model is to say: an assistant's replies with their end-of-turn tokens, or a completion with its
    /// end-of-sequence token.
    #[default]
    Replies,
    /// The same, but of a conversation's replies only the last.
    Last,
    /// Every token from the first reply that is trained on: what the template writes after replies and other turns, too. TRL trains
    /// so what follows a prompt.
    Completion,
    /// Every token but the first, which nothing predicts, and those of replies that say `"train": false`.
    All,
}

/// The tokens of one row, and which of them are to be predicted; [`Samples`](crate::Samples) keeps many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The token ids.
    pub ids: Vec<u32>,
    /// Whether token `i` is a target: the model is trained to predict it from the tokens before it. Never the first.
    pub supervised: Vec<bool>,
    /// The row's number: its line in its file, or its number where a file has no lines, from 1 and counted on through
    /// several files ([`Origin::place`](crate::source::Origin::place)).
    pub row: usize,
}

/// What a row says of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It is better than those that are rejected; the samples of its row follow it.
    Chosen,
    /// It is worse than the chosen one before it.
    Rejected,
    /// It is good, by itself.
    Desirable,
    /// It is bad, by itself.
    Undesirable,
}

impl Side {
    const ALL: [Self; 4] = [Self::Chosen, Self::Rejected, Self::Desirable, Self::Undesirable];

    /// How records of samples write it: a number from 1.
    pub(crate) fn code(self) -> u32 {
        self as u32 + 1
    }

    /// The side that records write so.
    pub(crate) fn of_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.code() == code)
    }
}

/// What a row says of a reply, and how much that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Which reply it is.
    pub side: Side,
    /// How much the row counts; usually 1.
    pub weight: f32,
    /// By how much the chosen reply should be better; usually 0.
    pub margin: f32,
}

impl Sample {
    /// How many tokens the sample has.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the sample has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many of its tokens are targets.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|s| **s).count()
    }

    /// A text that is scored as a whole, with its label: the number that the head should give the most to, which stands behind the
    /// text as a token that its last token predicts.
    pub fn scored(mut ids: Vec<u32>, label: u32, row: usize) -> Self {
        let mut supervised = vec![false; ids.len()];
        ids.push(label);
        supervised.push(true);
        Sample { ids, supervised, row }
    }

    /// Cuts the text of a [scored](Self::scored) sample after `max_seq_len` tokens; whether there was anything to cut.
    pub fn truncate_text(&mut self, max_seq_len: usize) -> bool {
        let text = self.len().saturating_sub(1);
        let behind = max_seq_len.min(text)..text;
        self.ids.drain(behind.clone());
        self.supervised.drain(behind.clone());
        !behind.is_empty()
    }

    /// Cuts the sample after `max_seq_len` tokens; whether there was anything to cut.
    pub fn truncate(&mut self, max_seq_len: usize) -> bool {
        let cut = self.ids.len() > max_seq_len;
        self.ids.truncate(max_seq_len);
        self.supervised.truncate(max_seq_len);
        cut
    }
}
