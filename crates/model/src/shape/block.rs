//! A block's parts with what each reads and writes, found from their order; and from that the widths of all buffers.

use super::part::{AddShape, AttendShape, GateShape, LinearShape, NormShape, Part};

/// The residual stream at one of the two places where a block reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamAt {
    /// As the block got it.
    Input,
    /// After the first half.
    Middle,
}

/// The output of a half that is normalised before it is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Branch {
    Attention,
    FeedForward,
}

/// What a norm reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormInput {
    Stream(StreamAt),
    Branch(Branch),
}

/// What projections read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearInput {
    Stream(StreamAt),
    /// The output of the norm at this place of [`BlockShape::steps`].
    Normed(usize),
    /// The output of the attention.
    Attended,
    /// The output of the gate at this place of [`BlockShape::steps`].
    Gated(usize),
}

/// What projections write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearOutput {
    /// Queries, keys and values.
    Heads,
    /// Gate and up.
    Gates,
    /// What an activation without a gate reads.
    Up,
    /// They are added to the residual stream.
    Stream,
    /// What an [`Step::Add`] scales and adds.
    Scaled,
    /// What a norm reads.
    Branch(Branch),
}

/// A part and what it is connected to. `stats` is the place of its first row statistic in [`BlockShape::stats`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Norm {
        shape: NormShape,
        from: NormInput,
        stats: usize,
    },
    Linear {
        projections: Vec<LinearShape>,
        site: usize,
        from: LinearInput,
        to: LinearOutput,
        /// Whether a later half has begun the gradient of the input.
        adds: bool,
    },
    Attend {
        shape: AttendShape,
        stats: usize,
    },
    Gate(GateShape),
    Add {
        shape: AddShape,
        /// Whether a norm gave the value.
        of_norm: bool,
    },
    /// The output of the norm at this place once more.
    Again(usize),
}

/// A block. An addition with scale 1 of what projections just gave is no step: they add to the stream themselves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockShape {
    pub steps: Vec<Step>,
    /// Values per token of the f32 statistics that forward leaves for backward.
    pub stats: Vec<usize>,
    /// Number of groups of projections.
    pub sites: usize,
}

/// What the parts so far have given.
#[derive(Clone, Copy, Debug)]
enum Current {
    Stream,
    Normed(usize),
    Heads,
    Attended,
    Gates,
    Gated(usize),
    Branch(Branch),
    Scaled,
}

/// What projections read that come after what gave `before`, where the stream is `at`.
fn read_by_projections(before: Current, at: StreamAt) -> LinearInput {
    match before {
        Current::Stream => LinearInput::Stream(at),
        Current::Normed(norm) => LinearInput::Normed(norm),
        Current::Attended => LinearInput::Attended,
        Current::Gated(gate) => LinearInput::Gated(gate),
        other => panic!("projections cannot read {other:?}"),
    }
}

/// Where projections of the half `half` write before `next`, and what they have given then.
fn given_by_projections(next: Option<&Part>, half: Branch) -> (LinearOutput, Current) {
    match next {
        Some(Part::Attend(_)) => (LinearOutput::Heads, Current::Heads),
        Some(Part::Gate(gate)) if gate.gated => (LinearOutput::Gates, Current::Gates),
        Some(Part::Gate(_)) => (LinearOutput::Up, Current::Gates),
        Some(Part::Norm(_)) => (LinearOutput::Branch(half), Current::Branch(half)),
        Some(Part::Add(add)) if add.scale == 1.0 => (LinearOutput::Stream, Current::Stream),
        Some(Part::Add(_)) => (LinearOutput::Scaled, Current::Scaled),
        other => panic!("nothing takes what projections give to {other:?}"),
    }
}

impl BlockShape {
    /// Connects `parts`.
    ///
    /// # Panics
    /// When a part cannot read what comes before it: an architecture's list is wrong.
    pub(crate) fn of(parts: Vec<Part>) -> Self {
        let mut block = BlockShape { steps: Vec::new(), stats: Vec::new(), sites: 0 };
        let (mut current, mut at, mut half) = (Current::Stream, StreamAt::Input, Branch::FeedForward);
        let mut parts = parts.into_iter().peekable();
        while let Some(part) = parts.next() {
            let here = block.steps.len();
            current = match (part, current) {
                (Part::Norm(shape), Current::Stream) => {
                    block.norm(shape, NormInput::Stream(at));
                    Current::Normed(here)
                }
                (Part::Norm(shape), Current::Branch(branch)) => {
                    block.norm(shape, NormInput::Branch(branch));
                    Current::Scaled
                }
                (Part::Linear(projections), before) => {
                    let from = read_by_projections(before, at);
                    let (to, given) = given_by_projections(parts.peek(), half);
                    if to == LinearOutput::Stream {
                        // They are the addition, too.
                        parts.next();
                        at = StreamAt::Middle;
                    }
                    let site = block.sites;
                    block.sites += 1;
                    block.steps.push(Step::Linear { projections, site, from, to, adds: false });
                    given
                }
                (Part::Attend(shape), Current::Heads) => {
                    half = Branch::Attention;
                    let stats = block.stats.len();
                    for (norm, heads) in
                        shape.norms.iter().flatten().zip([shape.heads.query, shape.heads.key_value])
                    {
                        block.stats.push(heads * shape.heads.dim / norm.width * norm.stats());
                    }
                    // Log of the softmax denominators.
                    block.stats.push(shape.heads.query);
                    block.steps.push(Step::Attend { shape, stats });
                    Current::Attended
                }
                (Part::Gate(shape), Current::Gates) => {
                    half = Branch::FeedForward;
                    block.steps.push(Step::Gate(shape));
                    Current::Gated(here)
                }
                (Part::Add(shape), Current::Scaled) => {
                    at = StreamAt::Middle;
                    let of_norm = matches!(block.steps.last(), Some(Step::Norm { .. }));
                    assert!(!of_norm || shape.scale == 1.0, "what a norm gives is added as it is");
                    block.steps.push(Step::Add { shape, of_norm });
                    Current::Stream
                }
                (Part::Again, Current::Stream) => Current::Normed(block.again()),
                (part, before) => panic!("{part:?} cannot read {before:?}"),
            };
        }
        block
    }

    fn norm(&mut self, shape: NormShape, from: NormInput) {
        self.steps.push(Step::Norm { shape, from, stats: self.stats.len() });
        self.stats.push(shape.stats());
    }

    /// Has the first norm read once more, and gives its place.
    fn again(&mut self) -> usize {
        let norm = self.steps.iter().position(|step| matches!(step, Step::Norm { .. }));
        let norm = norm.expect("a norm to read again");
        for step in &mut self.steps {
            if let Step::Linear { from: LinearInput::Normed(read), adds, .. } = step {
                *adds = *read == norm;
            }
        }
        self.steps.push(Step::Again(norm));
        norm
    }

    /// Groups of projections, in forward order.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Vec<LinearShape>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Linear { projections, .. } => Some(projections),
            Step::Norm { .. } | Step::Attend { .. } | Step::Gate(_) | Step::Add { .. } | Step::Again(_) => {
                None
            }
        })
    }

    /// Whether queries and keys are normalised.
    pub(crate) fn normalises_heads(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Attend { shape, .. } if shape.norms.is_some()))
    }

    /// Norms in the order of a block's weights: those of queries and keys, then the others.
    pub(crate) fn norms(&self) -> impl Iterator<Item = &NormShape> {
        let of_heads = self.steps.iter().filter_map(|step| match step {
            Step::Attend { shape, .. } => shape.norms.as_ref(),
            Step::Norm { .. } | Step::Linear { .. } | Step::Gate(_) | Step::Add { .. } | Step::Again(_) => {
                None
            }
        });
        let others = self.steps.iter().filter_map(|step| match step {
            Step::Norm { shape, .. } => Some(shape),
            Step::Linear { .. } | Step::Attend { .. } | Step::Gate(_) | Step::Add { .. } | Step::Again(_) => {
                None
            }
        });
        of_heads.flatten().chain(others)
    }

    /// The widths of what a block keeps and works in, `hidden` being that of the residual stream.
    pub(crate) fn widths(&self, hidden: usize) -> Widths {
        let mut widths = Widths { normed: hidden, ..Widths::default() };
        for step in &self.steps {
            match step {
                Step::Norm { from, .. } => {
                    widths.reads_stream(*from == NormInput::Stream(StreamAt::Middle), hidden)
                }
                Step::Linear { projections, from, to, .. } => {
                    widths.reads_stream(*from == LinearInput::Stream(StreamAt::Middle), hidden);
                    widths.input = widths.input.max(projections[0].inputs);
                    let joined = projections.iter().filter(|linear| !linear.joined.is_empty());
                    widths.joined = joined.map(|linear| linear.outputs).max().unwrap_or(0).max(widths.joined);
                    match to {
                        LinearOutput::Heads
                        | LinearOutput::Gates
                        | LinearOutput::Up
                        | LinearOutput::Stream => {}
                        LinearOutput::Scaled => widths.d_branch = hidden,
                        LinearOutput::Branch(branch) => {
                            widths.d_branch = hidden;
                            *match branch {
                                Branch::Attention => &mut widths.attention_out,
                                Branch::FeedForward => &mut widths.feed_forward_out,
                            } = hidden;
                        }
                    }
                }
                Step::Attend { shape, .. } => {
                    let heads = shape.heads;
                    widths.queries = heads.query * heads.dim;
                    widths.keys = heads.key_value * heads.dim;
                    widths.normed = widths.normed.max(widths.queries);
                }
                Step::Gate(shape) => {
                    widths.up = shape.width;
                    widths.gate = if shape.gated { shape.width } else { 0 };
                }
                Step::Add { .. } | Step::Again(_) => {}
            }
        }
        widths
    }
}

/// Values per token of a block's buffers; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Widths {
    pub queries: usize,
    pub keys: usize,
    /// The residual stream after the first half, where something reads it.
    pub middle: usize,
    /// What the attention half gives, where it is normalised.
    pub attention_out: usize,
    pub gate: usize,
    pub up: usize,
    /// What the feed-forward half gives, where it is normalised.
    pub feed_forward_out: usize,
    /// What norms write, and in backward the gradient of the attention's output.
    pub normed: usize,
    /// The gradient of what a half gives, where that is not the stream's.
    pub d_branch: usize,
    /// The widest input of projections.
    pub input: usize,
    /// The widest output of a matrix that joins several.
    pub joined: usize,
}

impl Widths {
    fn reads_stream(&mut self, middle: bool, hidden: usize) {
        if middle {
            self.middle = hidden;
        }
    }
}
