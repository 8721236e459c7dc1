//! Preference rows from a model's own answers: each prompt is answered several times, the answers are judged, and the best and
//! the worst become a row.

use lorafit_data::{PromptRow, Said};
use lorafit_kernels::random;
use lorafit_model::Sampling;
use lorafit_train::{AnswerError, Answering, Draw, End, sample};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::metrics::{Answered, Metrics, Score, distinct, pairs};

/// How rows are made.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// Who answers.
    pub answering: Answering<'a>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Answers to each prompt.
    pub samples: usize,
    /// By what they are judged.
    pub judge: &'a Metrics,
    /// Whether the reply of the row is judged beside them.
    pub include_reference: bool,
    /// The form of the rows.
    pub rows: Rows,
}

/// The rows that are written for the answers to a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    /// Up to so many pairs of a chosen and a rejected answer.
    Pairs(usize),
    /// Each answer, which is good from this score on.
    Labels(f64),
}

/// What came of the prompts so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Prompts.
    pub prompts: usize,
    /// Answers of the model.
    pub answers: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Answers that ended at the longest length.
    pub cut: usize,
    /// Answers that the context ended.
    pub ended_by_context: usize,
    /// Sum of the scores of the answers of the model.
    pub score_sum: f64,
    /// Of how many answers that is; equal ones count each.
    pub scored: usize,
    /// Answers that another to the same prompt is equal to.
    pub repeated: usize,
    /// Answers without a word.
    pub blank: usize,
    /// Distinct answers that could not be judged.
    pub unjudged: usize,
    /// Why the first of them could not.
    pub reason: Option<String>,
    /// Rows that were written.
    pub rows: usize,
    /// Of those, rows of good answers; of labels alone.
    pub desirable: usize,
    /// Prompts that are left out since all answers score alike.
    pub alike: usize,
    /// Prompts that are left out since fewer than two distinct answers could be judged.
    pub too_few: usize,
}

/// An answer that may be written.
struct Candidate {
    text: String,
    /// How many answers of the model say it.
    times: usize,
    is_reply: bool,
}

impl Candidate {
    fn said(&self) -> Said<'_> {
        if self.is_reply { Said::Row } else { Said::Model(&self.text) }
    }
}

/// Why there are no rows.
pub enum Failure {
    /// The model did not answer.
    Answers(AnswerError),
    /// The judge did not judge.
    Judge(anyhow::Error),
}

impl Making<'_> {
    /// The rows of `prompts`, the first of which is number `first` of all, as lines; `tally` counts them. `None` if it is
    /// `interrupted`.
    ///
    /// # Errors
    /// A model that computes no numbers, a judge that fails.
    pub fn rows_of(
        &self,
        first: usize,
        prompts: &[PromptRow],
        tally: &mut Tally,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<String>, Failure> {
        let draws = prompts.iter().enumerate().flat_map(|(place, row)| {
            let prompt = &row.generation.prompt_ids[..];
            (0..self.samples).map(move |i| Draw { prompt, seed: self.seed(first + place, i) })
        });
        let draws: Vec<Draw<'_>> = draws.collect();
        let found = sample(self.answering, self.sampling, &draws, interrupted).map_err(Failure::Answers)?;
        let Some(answers) = found else { return Ok(None) };
        for answer in &answers {
            tally.tokens += answer.tokens;
            tally.cut += usize::from(answer.end == End::Longest);
            tally.ended_by_context += usize::from(answer.end == End::Context);
        }
        let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
        let candidates: Vec<Vec<Candidate>> = prompts
            .iter()
            .zip(texts.chunks(self.samples))
            .map(|(row, texts)| self.candidates(row, texts, tally))
            .collect();
        let judged = prompts.iter().zip(&candidates).flat_map(|(row, candidates)| {
            let row = &row.generation;
            candidates.iter().map(|candidate| Answered {
                row: row.row,
                prompt: row.prompt.clone(),
                expected: row.reference.clone(),
                answer: candidate.text.clone(),
                options: None,
            })
        });
        let Some(mut scored) = self.judge.score(judged.collect(), interrupted) else { return Ok(None) };
        if let Some(failure) = scored.failure.take() {
            return Err(Failure::Judge(failure));
        }
        let mut scores = scored.scores.swap_remove(0).into_iter();
        let mut lines = String::new();
        for (row, candidates) in prompts.iter().zip(candidates) {
            let scores: Vec<Score> = scores.by_ref().take(candidates.len()).collect();
            for fields in self.written(row, candidates, scores, tally) {
                lines += &format!("{}\n", Value::Object(fields));
            }
        }
        Ok(Some(lines))
    }

    /// The random seed of answer `i` to the prompt at `place`.
    fn seed(&self, place: usize, i: usize) -> u64 {
        random::mix(random::mix(self.sampling.seed ^ random::mix(place as u64)) ^ i as u64)
    }

    /// The distinct answers to a prompt that say something, the reply of its row among them if it is asked for.
    fn candidates(&self, row: &PromptRow, texts: &[String], tally: &mut Tally) -> Vec<Candidate> {
        tally.answers += texts.len();
        let spoken: Vec<&String> = texts.iter().filter(|text| !text.trim().is_empty()).collect();
        tally.blank += texts.len() - spoken.len();
        let reply = &row.generation.reference;
        let own = (self.include_reference && row.has_reply).then_some(reply);
        // Where the model says the same as the row, the row is taken at its word.
        let all: Vec<&String> = own.into_iter().chain(spoken.iter().copied()).collect();
        let times = |text: &str| spoken.iter().filter(|other| other.trim() == text.trim()).count();
        let candidate = |place: usize| {
            let text = all[place].clone();
            Candidate { times: times(&text), text, is_reply: place == 0 && own.is_some() }
        };
        let found: Vec<Candidate> =
            distinct(all.iter().map(|text| text.as_str())).into_iter().map(candidate).collect();
        tally.repeated += found.iter().map(|candidate| candidate.times.saturating_sub(1)).sum::<usize>();
        found
    }

    /// The rows for a prompt and its judged answers.
    fn written(
        &self,
        row: &PromptRow,
        candidates: Vec<Candidate>,
        scores: Vec<Score>,
        tally: &mut Tally,
    ) -> Vec<Map<String, Value>> {
        tally.prompts += 1;
        let mut judged = Vec::with_capacity(candidates.len());
        for (candidate, score) in candidates.into_iter().zip(scores) {
            match score {
                Ok(score) => {
                    tally.score_sum += score * candidate.times as f64;
                    tally.scored += candidate.times;
                    judged.push((candidate, score));
                }
                Err(reason) => {
                    tally.unjudged += 1;
                    tally.reason.get_or_insert(reason);
                }
            }
        }
        let rows: Vec<Map<String, Value>> = match self.rows {
            Rows::Labels(threshold) => judged
                .iter()
                .map(|(candidate, score)| {
                    tally.desirable += usize::from(*score >= threshold);
                    let mut fields = row.with(&[("completion", candidate.said())]);
                    fields.insert("label".into(), json!(*score >= threshold));
                    fields
                })
                .collect(),
            Rows::Pairs(most) => {
                let scores: Vec<f64> = judged.iter().map(|(_, score)| *score).collect();
                let found = pairs(&scores, most);
                if found.is_empty() {
                    tally.too_few += usize::from(scores.len() < 2);
                    tally.alike += usize::from(scores.len() >= 2);
                }
                let pair = |(chosen, rejected): (usize, usize)| {
                    let said = [("chosen", judged[chosen].0.said()), ("rejected", judged[rejected].0.said())];
                    let mut fields = row.with(&said);
                    fields.insert("score_chosen".into(), json!(scores[chosen]));
                    fields.insert("score_rejected".into(), json!(scores[rejected]));
                    fields
                };
                found.into_iter().map(pair).collect()
            }
        };
        tally.rows += rows.len();
        rows
    }
}

impl Tally {
    /// The mean score of the answers of the model; `None` where none could be judged.
    pub fn mean_score(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.score_sum / self.scored as f64)
    }
}
