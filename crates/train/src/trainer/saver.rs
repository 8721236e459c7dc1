//! When the loop saves, and what it could not save.

use super::{Observer, TrainOptions};
use crate::cadence::Cadence;
use crate::checkpoint::{Held, State};
use crate::run::RunFolder;
use crate::run_error::RunError;

/// Saves checkpoints, and remembers what could not be saved.
pub(super) struct Saver {
    pub(super) cadence: Cadence,
    keep: usize,
    /// What the last checkpoint has; saving it again would change nothing.
    saved: Option<State>,
    /// Why the last attempt to save failed.
    pub(super) failed: Option<RunError>,
    /// Records wait for space; that is told once.
    records_wait: bool,
}

impl Saver {
    pub(super) fn new(options: &TrainOptions, saved: Option<&State>) -> Self {
        Saver {
            cadence: Cadence::new(options.checkpoint_every, saved.map_or(0, |state| state.step)),
            keep: options.keep_checkpoints,
            saved: saved.cloned(),
            failed: None,
            records_wait: false,
        }
    }

    /// Saves a checkpoint; a failure is told and kept.
    pub(super) fn save(
        &mut self,
        run: &mut RunFolder,
        state: &mut State,
        held: Held<'_>,
        observer: &mut dyn Observer,
    ) {
        self.cadence.saved(state.step);
        state.updates = held.optimizer.updates();
        state.averaged = held.average.map_or(0, |average| average.steps);
        if self.saved.as_ref() == Some(state) {
            return run.prune_checkpoints(self.keep);
        }
        match run.save_checkpoint(state, held, self.keep) {
            Ok(path) => {
                self.failed = None;
                self.records_wait = false;
                self.saved = Some(state.clone());
                observer.on_checkpoint(state.step, &path);
            }
            Err(error) => self.warn(error, observer),
        }
    }

    pub(super) fn warn(&mut self, error: RunError, observer: &mut dyn Observer) {
        observer.on_warning(&error);
        self.failed = Some(error);
    }

    /// Looks at how writing a record went.
    pub(super) fn recorded(&mut self, result: Result<(), RunError>, observer: &mut dyn Observer) {
        match result {
            Ok(()) => self.records_wait = false,
            Err(error) if !self.records_wait => {
                observer.on_warning(&error);
                self.records_wait = true;
            }
            Err(_) => {}
        }
    }
}
