//! Saving, choosing and loading checkpoints.
//!
//! A checkpoint of epoch n is three files: parameters, optimiser, learning-rate schedule. Burn
//! saves them on three threads, so a checkpoint counts only when all three are there. Each file is
//! written beside its place, flushed to the disk and renamed, so one that is there is whole.

use std::fs;
use std::io;

use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};

use crate::classifier::Classifier;
use crate::history::{FailureSlot, SharedHistory};
use crate::metrics::ACCURACY;
use crate::run::{RunError, RunFolder};

/// The parts of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Parameters.
    Model,
    /// Momentum.
    Optimizer,
    /// Position in the learning-rate schedule.
    Scheduler,
}

impl RecordKind {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Model, Self::Optimizer, Self::Scheduler];

    fn stem(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Optimizer => "optim",
            Self::Scheduler => "scheduler",
        }
    }

    /// Name of the file after an epoch.
    pub fn file_name(self, epoch: usize) -> String {
        format!("{}-{epoch}.bpk", self.stem())
    }

    /// The epoch of a file, if its name is one of a checkpoint's.
    pub fn epoch_of(file_name: &str) -> Option<usize> {
        let (stem, epoch) = file_name.strip_suffix(".bpk")?.split_once('-')?;
        Self::ALL
            .iter()
            .any(|kind| kind.stem() == stem)
            .then(|| epoch.parse().ok())?
    }
}

/// Saves one part of each checkpoint in the run folder.
pub struct RecordFiles {
    run: RunFolder,
    kind: RecordKind,
    failure: FailureSlot,
}

impl RecordFiles {
    /// A checkpointer that leaves its first failure in `failure`, for Burn's own report of it
    /// may be lost with its dashboard.
    pub fn new(run: RunFolder, kind: RecordKind, failure: FailureSlot) -> Self {
        Self { run, kind, failure }
    }

    fn failed(&self, epoch: usize, reason: &impl ToString) {
        let file = self.run.checkpoint_path(self.kind, epoch);
        self.failure.put(RunError::Save {
            file,
            reason: reason.to_string(),
        });
    }
}

impl<R: Checkpoint> Checkpointer<R> for RecordFiles {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        // Burn's pack writer writes beside the place, flushes and renames.
        let result = record.save(self.run.checkpoint_path(self.kind, epoch));
        result.inspect_err(|error| self.failed(epoch, error))
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        match fs::remove_file(self.run.checkpoint_path(self.kind, epoch)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.failed(epoch, &error);
                Err(CheckpointerError::IOError(error))
            }
            _ => Ok(()),
        }
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        R::load(self.run.checkpoint_path(self.kind, epoch))
    }
}

/// Keeps the last two checkpoints and the one with the best validation accuracy.
///
/// Two, so that there is a whole one while the next is being written. It decides from what is on
/// the disk and in the history, and so needs no memory over a resume.
pub struct KeepLastAndBest {
    run: RunFolder,
    history: SharedHistory,
}

impl KeepLastAndBest {
    /// The strategy for a run with this history.
    pub fn new(run: RunFolder, history: SharedHistory) -> Self {
        Self { run, history }
    }
}

impl CheckpointingStrategy for KeepLastAndBest {
    fn checkpointing(
        &mut self,
        epoch: usize,
        store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        // The history is written on the store's thread: a question to the store is answered only
        // after it has seen the end of this epoch.
        store.find_metric(ACCURACY, epoch, Aggregate::Mean, &Split::Valid);
        let best = self.history.lock().best();
        let superfluous = |other: &usize| other + 1 < epoch && Some(*other) != best;
        let delete = self.run.checkpoint_epochs().into_iter().filter(superfluous);
        std::iter::once(CheckpointingAction::Save)
            .chain(delete.map(CheckpointingAction::Delete))
            .collect()
    }
}

/// Loads the parameters saved after an epoch into a model of the same config.
///
/// # Errors
///
/// When the file is missing, damaged or of another model.
pub fn load_model(
    run: &RunFolder,
    epoch: usize,
    model: Classifier,
) -> Result<Classifier, RunError> {
    let file = run.checkpoint_path(RecordKind::Model, epoch);
    ModuleRecord::load(&file)
        .and_then(|record| model.try_load_record(record))
        .map_err(|error| RunError::Checkpoint {
            file,
            reason: error.to_string(),
        })
}

/// Checks that every part of a checkpoint can be loaded, for Burn panics where one cannot.
///
/// # Errors
///
/// Names the first part that is missing or damaged.
pub fn check(
    run: &RunFolder,
    epoch: usize,
    model: Classifier,
    optimizer: ModuleOptimizer,
) -> Result<(), RunError> {
    load_model(run, epoch, model)?;
    let damaged = |kind: RecordKind, reason: String| RunError::Checkpoint {
        file: run.checkpoint_path(kind, epoch),
        reason,
    };
    let record = OptimizerRecord::load(run.checkpoint_path(RecordKind::Optimizer, epoch))
        .map_err(|error| damaged(RecordKind::Optimizer, error.to_string()))?;
    crate::crash::catch(|| drop(optimizer.load_record(record)))
        .map_err(|crash| damaged(RecordKind::Optimizer, crash.message))?;
    LrSchedulerRecord::load(run.checkpoint_path(RecordKind::Scheduler, epoch))
        .map_err(|error| damaged(RecordKind::Scheduler, error.to_string()))?;
    Ok(())
}

/// Which checkpoint of a run to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The latest whole one.
    Last,
    /// The whole one with the best validation accuracy.
    Best,
    /// The one after this epoch.
    Epoch(usize),
}

impl Which {
    /// The epoch of the checkpoint.
    ///
    /// # Errors
    ///
    /// When the run has no whole checkpoint, or not the one asked for.
    pub fn epoch(self, run: &RunFolder) -> Result<usize, RunError> {
        let complete = run.complete_epochs();
        let last = complete.last().copied();
        let last = last.ok_or_else(|| RunError::NoCheckpoint(run.path().into()))?;
        match self {
            Self::Last => Ok(last),
            Self::Best => {
                let mut history = run.read_history()?;
                history.epochs.retain(|row| complete.contains(&row.epoch));
                Ok(history.best().unwrap_or(last))
            }
            Self::Epoch(epoch) if complete.contains(&epoch) => Ok(epoch),
            Self::Epoch(epoch) => {
                let names: Vec<String> = complete.iter().map(usize::to_string).collect();
                let present = format!("are those of {}", names.join(", "));
                Err(RunError::NoSuchCheckpoint {
                    folder: run.path().into(),
                    epoch,
                    present,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_both_ways() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::epoch_of(&kind.file_name(12)), Some(12));
        }
        for other in [
            "model-1.bpk.77-0.tmp",
            "model.bpk",
            "weights-1.bpk",
            "model-a.bpk",
            "",
        ] {
            assert_eq!(RecordKind::epoch_of(other), None, "{other}");
        }
    }
}
