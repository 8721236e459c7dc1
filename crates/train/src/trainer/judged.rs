//! What a run on judged replies has beside other runs: its rows, and what the reference says of them.

use std::time::Instant;

use lorafit_data::{Dataset, Groups, Samples};
use lorafit_model::adapter::Adapter;
use lorafit_model::{Buffers, Model, Parameters};

use super::{Observer, TrainData, TrainError};
use crate::group::{GroupError, ProcessGroup};
use crate::preference::PreferenceOptions;
use crate::preference::reference::{ReferenceAdapter, all_of, of_reference};
use crate::preference::step::JudgedRows;
use crate::run::RunFolder;
use crate::stream::{Cut, MicroBatchSize};

/// A log-probability below this is that of a token whose logit says that it is none of the model's.
const LEAST_LIKELY: f64 = -1e9;

/// Rows whose replies are judged, and what they are trained for.
pub(crate) struct Judged<'a> {
    pub(super) options: PreferenceOptions,
    pub(super) training: JudgedRows,
    pub(super) evaluation: Option<JudgedRows>,
    /// The adapter of the reference, where the loss asks it in every step.
    pub(super) reference: Option<ReferenceAdapter<'a>>,
    /// Tokens of the longest sample.
    pub(super) longest: usize,
}

/// What the reference is asked, and how.
pub(super) struct Asking<'a, 'g> {
    pub(super) preference: PreferenceOptions,
    pub(super) data: TrainData<'a>,
    /// The rows of samples.
    pub(super) groups: &'g dyn Fn(&Samples) -> Groups,
    pub(super) cut: Cut,
    /// Of the largest micro-batch of the run.
    pub(super) size: MicroBatchSize,
    /// The run's folder has what the reference said.
    pub(super) is_resumed: bool,
    /// The processes that ask.
    pub(super) group: &'a dyn ProcessGroup,
}

impl<'a> Judged<'a> {
    /// Of a run that begins or goes on. A run that is resumed reads from its folder what the reference says. A new run finds it in
    /// the cache or computes it in `buffers`, and writes it to its folder.
    pub(super) fn begin(
        parameters: &Parameters<'_>,
        asking: Asking<'a, '_>,
        buffers: &mut Buffers,
        run: &RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let Asking { preference, data, groups, is_resumed, .. } = asking;
        let sets = [Some(data.training), data.evaluation];
        let longest = sets.iter().flatten().map(|set| set.report.longest).max().unwrap_or(0);
        let is_asked = !is_resumed || preference.asks_in_every_step();
        let reference = data.reference.filter(|_| is_asked);
        let mut reference =
            reference.map(|adapter| ReferenceAdapter::new(parameters.model(), adapter, asking.size));
        let samples = sets.map(|set| set.map(|set| &set.samples));
        let mut found = match (preference.has_reference(), is_resumed) {
            (false, _) => vec![Vec::new(); 2],
            (true, true) => run.read_reference(&samples)?,
            (true, false) => {
                let found = asking.all(parameters, reference.as_mut(), buffers, observer)?;
                run.write_reference(&samples, &found)?;
                found
            }
        };
        let rows = |set: &Dataset, reference| JudgedRows { groups: groups(&set.samples), reference };
        let of_evaluation = found.pop().unwrap_or_default();
        let of_training = found.pop().unwrap_or_default();
        Ok(Judged {
            options: preference,
            training: rows(data.training, of_training),
            evaluation: data.evaluation.map(|set| rows(set, of_evaluation)),
            reference: reference.filter(|_| preference.asks_in_every_step()),
            longest,
        })
    }
}

/// Rows that are stepped over without a run.
pub(super) struct Few<'a, 's> {
    pub(super) preference: PreferenceOptions,
    pub(super) samples: &'s Samples,
    /// The adapter of the reference, if it is one of its own.
    pub(super) reference: Option<&'a Adapter>,
    pub(super) cut: Cut,
    /// Of the largest micro-batch.
    pub(super) size: MicroBatchSize,
}

impl<'a> Few<'a, '_> {
    /// With what the reference says of them, which is computed in `buffers` or in its own.
    pub(super) fn judged(&self, model: &Model, buffers: &mut Buffers) -> Judged<'a> {
        let Few { preference, samples, reference, cut, size } = *self;
        let mut own = reference.map(|adapter| ReferenceAdapter::new(model, adapter, size));
        let said = match preference.has_reference() {
            true => {
                let all = (samples, &all_of(samples)[..]);
                of_reference(model, own.as_mut(), all, cut, buffers, &mut |_| true)
            }
            false => Some(Vec::new()),
        };
        Judged {
            options: preference,
            training: JudgedRows { groups: samples.groups(), reference: said.expect("nobody stops it") },
            evaluation: None,
            reference: own.filter(|_| preference.asks_in_every_step()),
            longest: samples.iter().map(|sample| sample.len()).max().unwrap_or(0),
        }
    }
}

impl Asking<'_, '_> {
    /// What the reference says of the samples to train on, and of those held out.
    fn all(
        &self,
        parameters: &Parameters<'_>,
        mut reference: Option<&mut ReferenceAdapter<'_>>,
        buffers: &mut Buffers,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let TrainData { training, evaluation, cache, .. } = self.data;
        let sets = [Some(training), evaluation];
        let samples: usize = sets.iter().flatten().map(|set| set.samples.len()).sum();
        let mut done_before = 0;
        let mut found = Vec::new();
        for set in sets {
            let Some(set) = set else {
                found.push(Vec::new());
                continue;
            };
            // The first process looks, as a cache may be of one machine.
            let cache = cache.filter(|_| self.group.is_first());
            let kept = cache.and_then(|cache| cache.find(&set.samples, self.cut)).unwrap_or_default();
            let kept = self.group.gather_values(Some(kept))?.and_then(|all| all.into_iter().next());
            let of_set = match kept.filter(|kept| kept.len() == set.samples.len()) {
                Some(kept) => {
                    observer.on_known_reference(set.samples.len());
                    kept
                }
                None => {
                    let started = Instant::now();
                    let mut on_progress = |done: usize| {
                        // The others are about as far.
                        let done = (done * self.group.size()).min(set.samples.len());
                        observer.on_reference(done_before + done, samples);
                        !observer.should_stop()
                    };
                    let model = parameters.model();
                    let of_set = self.of_all(
                        model,
                        reference.as_deref_mut(),
                        &set.samples,
                        buffers,
                        &mut on_progress,
                    )?;
                    let of_set = of_set.ok_or(TrainError::Stopped)?;
                    if let Some(at) = of_set.iter().position(|value| !(LEAST_LIKELY..=0.1).contains(value)) {
                        return Err(TrainError::UnknownToReference { line: set.samples.sample(at).row });
                    }
                    let kept =
                        cache.map(|cache| cache.keep(&set.samples, self.cut, &of_set, started.elapsed()));
                    if let Some(Err(error)) = kept {
                        observer.on_warning(&error);
                    }
                    of_set
                }
            };
            found.push(of_set);
            done_before += set.samples.len();
        }
        Ok(found)
    }

    /// What the reference says of all samples, of which each process asks it for a share; `None` if one of them is to stop.
    fn of_all(
        &self,
        model: &Model,
        reference: Option<&mut ReferenceAdapter<'_>>,
        samples: &Samples,
        buffers: &mut Buffers,
        on_progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<f64>>, GroupError> {
        let (group, each) = (self.group, Groups::alone(samples.len()));
        let divided = group.divide(samples, &each, &all_of(samples), self.cut.shares());
        let own = &divided[group.rank()];
        let found = of_reference(model, reference, (samples, own), self.cut, buffers, on_progress);
        let of_share = |found: Vec<f64>| own.iter().map(|&i| found[i]).collect();
        let Some(all) = group.gather_values(found.map(of_share))? else { return Ok(None) };
        let mut values = vec![0.0; samples.len()];
        for (share, of_share) in divided.iter().zip(&all) {
            share.iter().zip(of_share).for_each(|(i, value)| values[*i] = *value);
        }
        Ok(Some(values))
    }
}
