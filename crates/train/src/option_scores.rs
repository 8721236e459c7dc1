//! Multiple choice by log-probability: how likely a model finds each option behind a row's prompt.
//!
//! `log p(option | prompt) = sum over the option's tokens of log p(token | what stands before it)`, summed in f64; the token that
//! ends a reply does not count. That is what lm-evaluation-harness compares. Options of a row are computed together where the
//! model allows it: the prompt once, and each option as a branch of it.

use lorafit_data::{Choice, Choices, GenerationRow};
use lorafit_kernels::ops::attention::{Segment, Segments};
use lorafit_kernels::ops::cross_entropy::Target;
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Config, Model, NotNumbers, Stream};

/// Tokens of the largest stream that [`option_scores`] computes of these rows, where it takes `budget` at once.
pub fn option_tokens(config: &Config, rows: &[GenerationRow], budget: usize) -> usize {
    let of_row = |choices: &Choices| groups(config, &choices.options, budget).into_iter().map(tokens).max();
    rows.iter().filter_map(|row| of_row(row.choices.as_ref()?)).max().unwrap_or(0)
}

/// The log-probability of each option of each row, in nats; nothing for a row without options. As many options of a row as
/// make up to about `budget` tokens are computed at once. `on_progress(done)` is told as rows finish. `None` if it is
/// `interrupted`, which is asked before every row.
///
/// # Errors
/// Log-probabilities that are not numbers.
pub fn option_scores(
    model: &Model,
    adapter: Option<&Adapter>,
    rows: &[GenerationRow],
    budget: usize,
    mut on_progress: impl FnMut(usize),
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Vec<f64>>>, NotNumbers> {
    let config = model.config();
    let tokens = option_tokens(config, rows, budget);
    let mut buffers = Buffers::for_evaluation(config, adapter, model.device(), tokens);
    let mut scores = Vec::with_capacity(rows.len());
    for row in rows {
        if interrupted() {
            return Ok(None);
        }
        let options = row.choices.as_ref().map_or(&[][..], |choices| &choices.options);
        let mut of_row = Vec::with_capacity(options.len());
        for group in groups(config, options, budget) {
            of_row.extend(score(model, adapter, group, &mut buffers)?);
        }
        scores.push(of_row);
        on_progress(scores.len());
    }
    Ok(Some(scores))
}

/// Options that are computed together, in order.
fn groups<'a>(config: &Config, options: &'a [Choice], budget: usize) -> Vec<&'a [Choice]> {
    let mut groups = Vec::new();
    let mut left = options;
    while !left.is_empty() {
        // Where a token depends on the length of its text, texts share no token.
        let most = if config.depends_on_length() { 1 } else { left.len() };
        let fits = (2..=most).take_while(|count| tokens(&left[..*count]) <= budget).last().unwrap_or(1);
        let (group, rest) = left.split_at(fits);
        groups.push(group);
        left = rest;
    }
    groups
}

/// Tokens at the start that options have in common and that belong to none of them.
fn shared(group: &[Choice]) -> usize {
    group.iter().map(|option| option.start).min().unwrap_or(0)
}

/// Tokens of a stream: those in common once, and of each option what is its own but for its last, behind which nothing is
/// predicted.
fn tokens(group: &[Choice]) -> usize {
    let shared = shared(group);
    shared + group.iter().map(|option| option.ids.len() - 1 - shared).sum::<usize>()
}

fn score(
    model: &Model,
    adapter: Option<&Adapter>,
    group: &[Choice],
    buffers: &mut Buffers,
) -> Result<Vec<f64>, NotNumbers> {
    let shared = shared(group);
    let mut ids = group[0].ids[..shared].to_vec();
    let mut positions: Vec<u32> = (0..shared as u32).collect();
    let mut segments = vec![Segment { start: 0, len: shared, parent: None }];
    let longest = group.iter().map(|option| option.ids.len()).max().unwrap_or(0);
    let mut text_lengths = vec![longest];
    // With the option that each is of.
    let mut targets: Vec<(Target, usize)> = Vec::new();
    for (which, option) in group.iter().enumerate() {
        let start = ids.len();
        let own = &option.ids[shared..option.ids.len() - 1];
        if !own.is_empty() {
            segments.push(Segment { start, len: own.len(), parent: Some(0) });
            text_lengths.push(option.ids.len());
            ids.extend_from_slice(own);
            positions.extend((shared..shared + own.len()).map(|position| position as u32));
        }
        let row = |place: usize| if place <= shared { place - 1 } else { start + place - 1 - shared };
        let of_option = (option.start..option.ids.len())
            .map(|place| (Target { row: row(place) as u32, id: option.ids[place], weight: 1.0 }, which));
        targets.extend(of_option);
    }
    targets.sort_by_key(|(target, _)| target.row);
    let (targets, of): (Vec<Target>, Vec<usize>) = targets.into_iter().unzip();
    let segments = Segments::new(segments, ids.len()).expect("segments follow each other");
    let segments = segments.with_text_lengths(text_lengths);
    let stream =
        Stream { ids: &ids, positions: &positions, segments: &segments, targets: &targets, below: 0 };
    let mut scores = vec![0.0; group.len()];
    for (which, loss) in of.into_iter().zip(model.loss(adapter, stream, buffers).to_vec()) {
        scores[which] -= f64::from(loss);
    }
    match scores.iter().all(|score| score.is_finite()) {
        true => Ok(scores),
        false => Err(NotNumbers { tokens: shared }),
    }
}
