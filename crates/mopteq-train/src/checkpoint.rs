//! Saving, choosing and loading checkpoints.
//!
//! A checkpoint is a folder, named after the epochs and batches that are done:
//!
//! ```text
//! checkpoint/epoch-0012/             after 12 epochs
//! checkpoint/epoch-0012-batch-00040/ after 40 batches of epoch 13
//!   model.bpk   parameters and running statistics
//!   ema.bpk     their moving average, if the run keeps one
//!   optim.bpk   momentum
//!   state.json  position and what the epoch measured so far
//! ```
//!
//! It is written under another name, flushed to the disk and renamed, so every visible checkpoint
//! is complete. The learning rate and all random numbers are functions of the position.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use serde::{Deserialize, Serialize};

use crate::classifier::Classifier;
use crate::crash;
use crate::history::History;
use crate::metrics::Sums;
use crate::run::{RunError, RunFolder};

const MODEL: &str = "model.bpk";
const EMA: &str = "ema.bpk";
const OPTIMIZER: &str = "optim.bpk";
const STATE: &str = "state.json";
/// Starts the names of folders that are being written or removed.
const UNFINISHED: &str = ".unfinished-";
/// Checkpoints that are kept beside the best one: two, so that one is still intact if the disk
/// damages the last.
const KEEP: usize = 2;

/// A place in the training.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Epochs that are done.
    pub epochs: usize,
    /// Batches of the next epoch that are done.
    pub batches: usize,
}

impl Position {
    /// The end of an epoch.
    pub fn after(epochs: usize) -> Self {
        Self { epochs, batches: 0 }
    }

    fn folder_name(self) -> String {
        match self.batches {
            0 => format!("epoch-{:04}", self.epochs),
            batches => format!("epoch-{:04}-batch-{batches:05}", self.epochs),
        }
    }

    fn of_folder(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("epoch-")?;
        let (epochs, batches) = match rest.split_once("-batch-") {
            Some((epochs, batches)) => (epochs, batches.parse().ok()?),
            None => (rest, 0),
        };
        let epochs = epochs.parse().ok()?;
        Some(Self { epochs, batches })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.batches {
            0 => write!(f, "epoch {}", self.epochs),
            batches => write!(f, "epoch {} and {batches} batches", self.epochs),
        }
    }
}

/// What a checkpoint holds in addition to tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Where the training is.
    pub position: Position,
    /// Steps of the optimiser that are done.
    pub steps: usize,
    /// What the unfinished epoch measured so far.
    pub sums: Sums,
    /// Seconds of the unfinished epoch so far.
    pub seconds: f64,
}

/// Everything that goes into a checkpoint.
pub struct Snapshot {
    /// Position and measurements.
    pub state: State,
    /// The model being trained.
    pub model: ModuleRecord,
    /// Its moving average.
    pub ema: Option<ModuleRecord>,
    /// The optimiser.
    pub optimizer: OptimizerRecord,
}

/// Saves a checkpoint.
///
/// # Errors
///
/// When the disk refuses. Earlier files are then untouched.
pub fn save(run: &RunFolder, snapshot: Snapshot) -> Result<(), RunError> {
    let folder = run.checkpoints();
    let target = folder.join(snapshot.state.position.folder_name());
    let failed = |reason: String| RunError::Save {
        file: target.clone(),
        reason,
    };
    fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
    let written = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&folder)
        .map_err(|error| failed(error.to_string()))?;
    write(written.path(), snapshot).map_err(failed)?;
    // A run that was then killed saved one at the same place. The newer one counts.
    remove(&target)?;
    fs::rename(written.path(), &target).map_err(|error| failed(error.to_string()))?;
    // The folder was renamed, so the guard has nothing left to remove.
    let _ = written.keep();
    sync(&folder).map_err(|error| failed(error.to_string()))
}

fn write(folder: &Path, snapshot: Snapshot) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    snapshot
        .model
        .save(folder.join(MODEL))
        .map_err(|e| text(&e))?;
    if let Some(ema) = snapshot.ema {
        ema.save(folder.join(EMA)).map_err(|e| text(&e))?;
    }
    snapshot
        .optimizer
        .save(folder.join(OPTIMIZER))
        .map_err(|e| text(&e))?;
    let state = serde_json::to_vec_pretty(&snapshot.state).map_err(|e| text(&e))?;
    let mut file = File::create(folder.join(STATE)).map_err(|e| text(&e))?;
    file.write_all(&state).map_err(|e| text(&e))?;
    for entry in fs::read_dir(folder).map_err(|e| text(&e))? {
        let file = entry.and_then(|entry| File::open(entry.path()));
        file.and_then(|file| file.sync_all())
            .map_err(|e| text(&e))?;
    }
    sync(folder).map_err(|e| text(&e))
}

/// Makes the names in a folder durable. Systems other than Unix do so by themselves or not at all.
fn sync(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes a checkpoint in such a way that half of one is never mistaken for a complete one.
fn remove(folder: &Path) -> Result<(), RunError> {
    let io = |source| RunError::Io {
        file: folder.into(),
        action: "removed",
        source,
    };
    if !folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!("{UNFINISHED}{name}"));
    if gone.exists() {
        fs::remove_dir_all(&gone).map_err(io)?;
    }
    fs::rename(folder, &gone).map_err(io)?;
    fs::remove_dir_all(&gone).map_err(io)
}

/// Removes what a killed process left half-written.
///
/// # Errors
///
/// When the disk refuses.
pub fn remove_unfinished(run: &RunFolder) -> Result<(), RunError> {
    for entry in fs::read_dir(run.checkpoints())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).map_err(|source| RunError::Io {
                file: entry.path(),
                action: "removed",
                source,
            })?;
        }
    }
    Ok(())
}

/// Removes all checkpoints but the last ones and the best.
///
/// # Errors
///
/// When the disk refuses.
pub fn prune(run: &RunFolder, history: &History) -> Result<(), RunError> {
    let best = history.best().map(Position::after);
    let positions = positions(run);
    for position in positions.iter().rev().skip(KEEP) {
        if Some(*position) != best {
            remove(&path(run, *position))?;
        }
    }
    Ok(())
}

/// The complete checkpoints of a run, in order.
pub fn positions(run: &RunFolder) -> Vec<Position> {
    let entries = fs::read_dir(run.checkpoints())
        .into_iter()
        .flatten()
        .flatten();
    let mut positions: Vec<Position> = entries
        .filter_map(|entry| Position::of_folder(entry.file_name().to_str()?))
        .collect();
    positions.sort();
    positions
}

/// The folder of a checkpoint.
pub fn path(run: &RunFolder, position: Position) -> PathBuf {
    run.checkpoints().join(position.folder_name())
}

/// Loads the model to use: the moving average if there is one.
///
/// # Errors
///
/// When the file is missing, damaged or belongs to another model.
pub fn load_model(
    run: &RunFolder,
    position: Position,
    model: Classifier,
) -> Result<Classifier, RunError> {
    let ema = path(run, position).join(EMA);
    let file = if ema.is_file() {
        ema
    } else {
        path(run, position).join(MODEL)
    };
    load_module(file, model)
}

fn load_module(file: PathBuf, model: Classifier) -> Result<Classifier, RunError> {
    // Burn reads lazily and panics on some damage, for example on a length beyond the end of the
    // file.
    let load = || {
        let record = ModuleRecord::load(&file).map_err(|error| error.to_string())?;
        model
            .try_load_record(record)
            .map(|model| model.materialised().in_memory())
            .map_err(|error| error.to_string())
    };
    let result = crash::catch(load).unwrap_or_else(|crash| Err(crash.message));
    result.map_err(|reason| RunError::Checkpoint { file, reason })
}

/// A checkpoint, loaded.
pub struct Restored {
    /// Position and measurements.
    pub state: State,
    /// The model being trained.
    pub model: Classifier,
    /// Its moving average.
    pub ema: Option<Classifier>,
    /// The optimiser.
    pub optimizer: ModuleOptimizer,
}

/// Loads a checkpoint into a model and an optimiser of the same config.
///
/// # Errors
///
/// Names the first part that is missing or damaged.
pub fn restore(
    run: &RunFolder,
    position: Position,
    model: Classifier,
    optimizer: ModuleOptimizer,
    with_ema: bool,
) -> Result<Restored, RunError> {
    let folder = path(run, position);
    let damaged = |name: &str, reason: String| RunError::Checkpoint {
        file: folder.join(name),
        reason,
    };
    let text = fs::read(folder.join(STATE)).map_err(|e| damaged(STATE, e.to_string()))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| damaged(STATE, e.to_string()))?;
    let ema = match with_ema {
        // A clone shares its running statistics with the model until `valid` copies them.
        true => Some(load_module(folder.join(EMA), model.clone())?.valid()),
        false => None,
    };
    let model = load_module(folder.join(MODEL), model)?;
    let load = || {
        let record = OptimizerRecord::load(folder.join(OPTIMIZER)).map_err(|e| e.to_string())?;
        Ok::<_, String>(optimizer.load_record(record))
    };
    let optimizer = crash::catch(load)
        .unwrap_or_else(|crash| Err(crash.message))
        .map_err(|reason| damaged(OPTIMIZER, reason))?;
    Ok(Restored {
        state,
        model,
        ema,
        optimizer,
    })
}

/// Which checkpoint of a run to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The latest.
    Last,
    /// The one with the best validation accuracy.
    Best,
    /// The one after this epoch.
    Epoch(usize),
}

impl Which {
    /// The position of the checkpoint.
    ///
    /// # Errors
    ///
    /// When the run has no checkpoint, or not the one asked for.
    pub fn position(self, run: &RunFolder) -> Result<Position, RunError> {
        let there = positions(run);
        let last = there.last().copied();
        let last = last.ok_or_else(|| RunError::NoCheckpoint(run.path().into()))?;
        match self {
            Self::Last => Ok(last),
            Self::Best => {
                let mut history = run.read_history()?;
                let kept = |epoch| there.contains(&Position::after(epoch));
                history.epochs.retain(|row| kept(row.epoch));
                Ok(history.best().map_or(last, Position::after))
            }
            Self::Epoch(epoch) if there.contains(&Position::after(epoch)) => {
                Ok(Position::after(epoch))
            }
            Self::Epoch(epoch) => {
                let names: Vec<String> = there.iter().map(Position::to_string).collect();
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
    fn folder_names_go_both_ways_and_sort_by_position() {
        let positions = [(0, 3), (1, 0), (1, 40), (12, 0), (12, 3), (10_000, 0)];
        for (epochs, batches) in positions {
            let position = Position { epochs, batches };
            assert_eq!(Position::of_folder(&position.folder_name()), Some(position));
        }
        assert!(positions.is_sorted());
        for other in [
            "epoch-",
            "epoch-x",
            ".unfinished-epoch-0001",
            "epoch-1-batch-",
            "",
        ] {
            assert_eq!(Position::of_folder(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::create_next(parent.path(), "digits").unwrap();
        for epochs in 1..6 {
            fs::create_dir(path(&run, Position::after(epochs))).unwrap();
        }
        fs::create_dir(run.checkpoints().join(".unfinished-1")).unwrap();
        let history = crate::history::History {
            epochs: (1..6)
                .map(|epoch| crate::history::EpochRow {
                    epoch,
                    seconds: 1.0,
                    values: [(
                        "valid_accuracy".to_owned(),
                        if epoch == 2 { 9.0 } else { 5.0 },
                    )]
                    .into(),
                })
                .collect(),
        };
        prune(&run, &history).unwrap();
        assert_eq!(positions(&run), [2, 4, 5].map(Position::after));
        remove_unfinished(&run).unwrap();
        assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 3);
    }
}
