//! The folder of a run: everything that the run did, readable afterwards.
//!
//! ```text
//! runs/digits-1/
//!   config.json     what was asked for
//!   data-files.json which pictures are trained on and tested with, and what was before
//!   metrics.csv     the metrics of every epoch, as a table
//!   metrics.json    the same for machines; read again on resume
//!   summary.json    the final result
//!   report.html     the whole run on one page
//!   crash.log       the stack, if a library underneath gave up
//!   run.lock        held by the process that writes here
//!   checkpoint/     one folder for each checkpoint
//! ```
//!
//! No file is ever seen half-written: each is written beside its place and then renamed.

mod error;
mod files;
mod summary;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::TrainConfig;
use crate::files::{UNFINISHED, write_whole};
use crate::history::History;
use error::CONFIG;
pub use error::RunError;
pub use summary::Summary;

const METRICS_CSV: &str = "metrics.csv";
const METRICS_JSON: &str = "metrics.json";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";
const LOCK: &str = "run.lock";
const CRASH: &str = "crash.log";
const CHECKPOINTS: &str = "checkpoint";

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

    /// Makes the run folder `path`, which must be empty if it exists.
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
        if path.is_file() {
            return Err(RunError::File(path.into()));
        }
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

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The report.
    pub fn report_path(&self) -> PathBuf {
        self.path.join(REPORT)
    }

    /// Keeps every other process from writing here, as long as the result lives.
    ///
    /// # Errors
    ///
    /// When another process holds the lock, or the disk refuses.
    pub fn lock(&self) -> Result<RunLock, RunError> {
        let path = self.path.join(LOCK);
        let io = |action| {
            let file = path.clone();
            move |source| RunError::Io {
                file,
                action,
                source,
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io("written"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Where locks are mandatory the content cannot be read either.
                let known = file.read_to_string(&mut holder).is_ok() && !holder.is_empty();
                let folder = self.path.clone();
                let holder = if known {
                    holder.trim().to_owned()
                } else {
                    "unknown".into()
                };
                return Err(RunError::Locked { folder, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io("locked")(source)),
        }
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "process {}", std::process::id()))
            .map_err(io("written"))?;
        Ok(RunLock { _file: file })
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
    /// When the file is missing, damaged, or asks for something impossible.
    pub fn read_config(&self) -> Result<TrainConfig, RunError> {
        let config = crate::moved::read(self.read_json(CONFIG)?);
        let config = config.map_err(|source| RunError::Json {
            file: self.path.join(CONFIG),
            source,
        })?;
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

    /// Reads the metrics of the finished epochs; empty if there are none yet.
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
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        self.write_json(SUMMARY, summary)
    }

    /// Reads the final result; `None` when the run has not come to its end.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn read_summary(&self) -> Result<Option<Summary>, RunError> {
        if !self.path.join(SUMMARY).exists() {
            return Ok(None);
        }
        self.read_json(SUMMARY).map(Some)
    }

    /// Writes the report.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_report(&self, html: &str) -> Result<(), RunError> {
        self.write(REPORT, html.as_bytes())
    }

    /// Writes where and why the program crashed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_crash(&self, log: &str) -> Result<(), RunError> {
        self.write(CRASH, log.as_bytes())
    }

    /// Removes what a killed process may have left: unfinished files of this folder.
    ///
    /// # Errors
    ///
    /// When such a file cannot be removed.
    pub fn remove_unfinished(&self) -> Result<(), RunError> {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let file = entry.path();
            if file.extension().is_some_and(|ending| ending == UNFINISHED) {
                fs::remove_file(&file).map_err(|source| RunError::Io {
                    file,
                    action: "removed",
                    source,
                })?;
            }
        }
        // A run folder that was copied without its checkpoints still needs the place for them.
        create_all(&self.checkpoints())
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

/// The lock of a run folder. Dropping it releases the folder.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
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
    fn a_second_writer_is_kept_out() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::create_next(parent.path(), "digits").unwrap();
        let lock = run.lock().unwrap();
        let error = run.lock().unwrap_err().to_string();
        let holder = format!("process {}", std::process::id());
        assert!(
            error.contains("in use") && error.contains(&holder),
            "{error}"
        );
        drop(lock);
        run.lock().unwrap();
    }
}
