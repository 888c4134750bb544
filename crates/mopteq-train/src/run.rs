//! The folder of a run: everything that the run did, readable afterwards.
//!
//! ```text
//! runs/digits-1/
//!   config.json     what was asked for
//!   metrics.csv     the metrics of every epoch, as a table
//!   metrics.json    the same for machines; read again on resume
//!   curves.svg      learning curves
//!   summary.json    the final result
//!   crash.log       the stack, if a library underneath gave up
//!   checkpoint/     model-N.bpk, optim-N.bpk, scheduler-N.bpk after epoch N
//! ```
//!
//! No file is ever seen half-written: each is written beside its place and then renamed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::RecordKind;
use crate::config::{ConfigError, TrainConfig};
use crate::history::History;

const CONFIG: &str = "config.json";
const METRICS_CSV: &str = "metrics.csv";
const METRICS_JSON: &str = "metrics.json";
const SUMMARY: &str = "summary.json";
const CURVES: &str = "curves.svg";
const CRASH: &str = "crash.log";
const CHECKPOINTS: &str = "checkpoint";

/// A run folder could not be used. Every variant names the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder of a new run is taken.
    #[error("{0} exists and is not empty; name another folder, or go on with it by --resume {0}")]
    Exists(PathBuf),
    /// There is no such folder.
    #[error("{0}: no such run folder")]
    Missing(PathBuf),
    /// The folder is none of this program's.
    #[error("{0} is not a run folder: it has no {CONFIG}")]
    NoRun(PathBuf),
    /// No checkpoint is complete.
    #[error("{0} has no complete checkpoint yet; train it first, or go on by --resume {0}")]
    NoCheckpoint(PathBuf),
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
    /// A checkpoint is damaged or of another model.
    #[error("{file}: damaged or not a checkpoint of this run ({reason})")]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What the reader said.
        reason: String,
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

/// A folder with one run in it.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the next free folder `parent/name-1`, `parent/name-2`, ...
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn create_next(parent: &Path, name: &str) -> Result<Self, RunError> {
        create_all(parent)?;
        for number in 1_u32.. {
            let path = parent.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self { path }.with_checkpoint_folder(),
                // Taken, perhaps a moment ago by a run that started at the same time.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(RunError::Io {
                        file: path,
                        action: "made",
                        source,
                    });
                }
            }
        }
        Err(RunError::Exists(parent.to_owned()))
    }

    /// Makes the run folder `path`, which must not exist or be empty.
    ///
    /// # Errors
    ///
    /// When there is something in it already, or it cannot be made.
    pub fn create_at(path: &Path) -> Result<Self, RunError> {
        create_all(path)?;
        let run = Self {
            path: path.to_owned(),
        };
        let mut entries = fs::read_dir(path).map_err(|source| RunError::Io {
            file: path.into(),
            action: "read",
            source,
        })?;
        match entries.next() {
            Some(_) => Err(RunError::Exists(run.path)),
            None => run.with_checkpoint_folder(),
        }
    }

    /// Opens the folder of an existing run.
    ///
    /// # Errors
    ///
    /// When it is not there, or not a run folder.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        if !path.is_dir() {
            return Err(RunError::Missing(path.into()));
        }
        if !path.join(CONFIG).is_file() {
            return Err(RunError::NoRun(path.into()));
        }
        Ok(Self { path: path.into() })
    }

    fn with_checkpoint_folder(self) -> Result<Self, RunError> {
        create_all(&self.path.join(CHECKPOINTS))?;
        Ok(self)
    }

    /// Where the run is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The learning curves.
    pub fn curves_path(&self) -> PathBuf {
        self.path.join(CURVES)
    }

    /// Writes the config.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_config(&self, config: &TrainConfig) -> Result<(), RunError> {
        self.write_json(CONFIG, config)
    }

    /// Reads and checks the config.
    ///
    /// # Errors
    ///
    /// When the file is missing, damaged, or asks for something that cannot be.
    pub fn read_config(&self) -> Result<TrainConfig, RunError> {
        let config: TrainConfig = self.read_json(CONFIG)?;
        config.validate().map_err(|source| RunError::Config {
            file: self.path.join(CONFIG),
            source,
        })?;
        Ok(config)
    }

    /// Writes the metrics, as a table and for machines.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_history(&self, history: &History) -> Result<(), RunError> {
        self.write(METRICS_CSV, history.csv().as_bytes())?;
        self.write_json(METRICS_JSON, history)
    }

    /// Reads the metrics of the finished epochs; none when there are none yet.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn read_history(&self) -> Result<History, RunError> {
        if !self.path.join(METRICS_JSON).exists() {
            return Ok(History::default());
        }
        self.read_json(METRICS_JSON)
    }

    /// Writes the final result.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<(), RunError> {
        self.write_json(SUMMARY, summary)
    }

    /// Writes the learning curves.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_curves(&self, svg: &str) -> Result<(), RunError> {
        self.write(CURVES, svg.as_bytes())
    }

    /// Writes where and why the program crashed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_crash(&self, log: &str) -> Result<(), RunError> {
        self.write(CRASH, log.as_bytes())
    }

    /// The file of a checkpoint.
    pub fn checkpoint_path(&self, kind: RecordKind, epoch: usize) -> PathBuf {
        self.path.join(CHECKPOINTS).join(kind.file_name(epoch))
    }

    /// Epochs of which some checkpoint file is there, complete or not, in order.
    pub fn checkpoint_epochs(&self) -> Vec<usize> {
        let entries = fs::read_dir(self.path.join(CHECKPOINTS))
            .into_iter()
            .flatten()
            .flatten();
        let epochs: BTreeSet<usize> = entries
            .filter_map(|entry| RecordKind::epoch_of(entry.file_name().to_str()?))
            .collect();
        epochs.into_iter().collect()
    }

    /// Epochs of which all files are there, in order. Each file was renamed into place when it
    /// was complete.
    pub fn complete_epochs(&self) -> Vec<usize> {
        let complete = |epoch: &usize| {
            RecordKind::ALL
                .iter()
                .all(|kind| self.checkpoint_path(*kind, *epoch).is_file())
        };
        self.checkpoint_epochs()
            .into_iter()
            .filter(complete)
            .collect()
    }

    /// Removes what a killed process may have left: unfinished files of this folder.
    ///
    /// # Errors
    ///
    /// When such a file cannot be removed.
    pub fn remove_unfinished(&self) -> Result<(), RunError> {
        for folder in [self.path.clone(), self.path.join(CHECKPOINTS)] {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let file = entry.path();
                if file
                    .extension()
                    .is_some_and(|extension| extension == UNFINISHED)
                {
                    fs::remove_file(&file).map_err(|source| RunError::Io {
                        file,
                        action: "removed",
                        source,
                    })?;
                }
            }
        }
        // A run folder that was copied without its checkpoints still needs the place for them.
        create_all(&self.path.join(CHECKPOINTS))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RunError> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|source| RunError::Json {
            file: self.path.join(name),
            source,
        })?;
        text.push(b'\n');
        self.write(name, &text)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, RunError> {
        let file = self.path.join(name);
        match fs::read(&file) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| RunError::Json { file, source })
            }
            Err(source) => Err(RunError::Io {
                file,
                action: "read",
                source,
            }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let file = self.path.join(name);
        write_whole(&file, bytes).map_err(|source| RunError::Io {
            file,
            action: "written",
            source,
        })
    }
}

/// Ending of files that are being written; Burn's record files use the same.
const UNFINISHED: &str = "tmp";

/// Writes a file such that it has either its old or its whole new content, even after a crash.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let suffix = format!(".{UNFINISHED}");
    let mut builder = tempfile::Builder::new();
    // The files are the user's own like any other, not private as temporary files are.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".").suffix(&suffix).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn create_all(path: &Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(|source| RunError::Io {
        file: path.into(),
        action: "made",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(run: &RunFolder, name: &str) {
        fs::write(run.path.join(CHECKPOINTS).join(name), b"").unwrap();
    }

    #[test]
    fn names_are_never_taken_twice() {
        let parent = tempfile::tempdir().unwrap();
        let first = RunFolder::create_next(parent.path(), "digits").unwrap();
        let second = RunFolder::create_next(parent.path(), "digits").unwrap();
        assert!(first.path().ends_with("digits-1") && second.path().ends_with("digits-2"));
        assert!(matches!(
            RunFolder::create_at(first.path()),
            Err(RunError::Exists(_))
        ));
        assert!(matches!(
            RunFolder::open(first.path()),
            Err(RunError::NoRun(_))
        ));
        let missing = parent.path().join("nothing");
        assert!(matches!(
            RunFolder::open(&missing),
            Err(RunError::Missing(_))
        ));
    }

    #[test]
    fn only_whole_checkpoints_count() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::create_next(parent.path(), "digits").unwrap();
        for name in [
            "model-2.bpk",
            "optim-2.bpk",
            "scheduler-2.bpk",
            "model-10.bpk",
        ] {
            touch(&run, name);
        }
        for name in [
            "model-3.bpk.12-0.tmp",
            "optim-3.bpk",
            "notes.txt",
            "model-x.bpk",
        ] {
            touch(&run, name);
        }
        assert_eq!(run.checkpoint_epochs(), [2, 3, 10]);
        assert_eq!(run.complete_epochs(), [2]);
        run.remove_unfinished().unwrap();
        assert!(
            !run.path
                .join(CHECKPOINTS)
                .join("model-3.bpk.12-0.tmp")
                .exists()
        );
        assert!(run.path.join(CHECKPOINTS).join("notes.txt").exists());
    }

    #[test]
    fn a_written_file_replaces_the_old_one_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.json");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
