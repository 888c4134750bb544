//! Why a run folder could not be used.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// The file by which a run folder is recognised.
pub(super) const CONFIG: &str = "config.json";

/// A run folder could not be used. Every variant names the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder of a new run is taken.
    #[error("{0} exists and is not empty; name another folder, or go on with it by --resume {0}")]
    Exists(PathBuf),
    /// There is no such folder.
    #[error("{0}: no such run folder")]
    Missing(PathBuf),
    /// It is a file.
    #[error(
        "{0} is a file and no run folder; an exported model is taken by import, or by train --from"
    )]
    File(PathBuf),
    /// The folder does not belong to this program.
    #[error("{0} is not a run folder: it has no {CONFIG}")]
    NoRun(PathBuf),
    /// No checkpoint is complete.
    #[error("{0} has no complete checkpoint yet; train it first, or go on by --resume {0}")]
    NoCheckpoint(PathBuf),
    /// The folder holds a model that was trained elsewhere.
    #[error(
        "{0} holds an imported model and no training to go on with; fine-tune it in a new run by: \
         mopteq train --from {0}"
    )]
    Imported(PathBuf),
    /// The training was killed before the weights that it starts from were in the folder.
    #[error("{run} was stopped before it had its weights; start it again by --from {from}")]
    NoWeights {
        /// The run folder.
        run: PathBuf,
        /// Where the weights are.
        from: String,
    },
    /// The checkpoint that was asked for is not there.
    #[error("{folder} has no checkpoint of epoch {epoch}; there {present}")]
    NoSuchCheckpoint {
        /// The run folder.
        folder: PathBuf,
        /// The epoch asked for.
        epoch: usize,
        /// What is there, in words.
        present: String,
    },
    /// A checkpoint is damaged or belongs to another model.
    #[error("{file}: damaged or not a checkpoint of this run ({reason})")]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// Another process is working in the folder.
    #[error("{folder} is in use by another process ({holder}); wait for it, or stop it first")]
    Locked {
        /// The run folder.
        folder: PathBuf,
        /// A description of the other process.
        holder: String,
    },
    /// A file could not be read or written.
    #[error("{file}: cannot be {action} ({source})")]
    Io {
        /// The file.
        file: PathBuf,
        /// `read`, `written`, ...
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint could not be saved.
    #[error("{file}: cannot be saved ({reason}); earlier checkpoints are intact")]
    Save {
        /// The file.
        file: PathBuf,
        /// What the writer said.
        reason: String,
    },
    /// A JSON file is damaged.
    #[error("{file}: not valid ({source})")]
    Json {
        /// The file.
        file: PathBuf,
        /// Place and kind of the fault.
        source: serde_json::Error,
    },
    /// The config holds a setting that cannot work.
    #[error("{file}: {source}")]
    Config {
        /// The file.
        file: PathBuf,
        /// The setting.
        source: ConfigError,
    },
}
