//! A log of a training that TensorBoard can read while the training runs.
//!
//! The folder `tensorboard` of a run holds one event file for each process that trained it. A
//! process that resumes a run first removes what was logged after its checkpoint, so every step is
//! there once.

mod proto;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prost::Message;

use crate::files::write_whole;
use crate::history::EpochRow;
use crate::progress::warn;
use crate::run::{RunError, RunFolder};
use proto::{Event, START, SessionLog, Summary, Value};

const FOLDER: &str = "tensorboard";
/// Prefix of the name of every event file. TensorBoard reads the files in the order of their names,
/// and the time comes next.
const PREFIX: &str = "events.out.tfevents.";
/// The first record of every event file.
const VERSION: &str = "brain.Event:2";

/// An event file that is being written. If the disk refuses, it warns once and the training goes
/// on.
#[derive(Debug)]
pub(crate) struct EventLog {
    file: Option<File>,
    path: PathBuf,
}

/// Whether a run has been logged.
pub(crate) fn are_kept(run: &RunFolder) -> bool {
    run.path().join(FOLDER).is_dir()
}

impl EventLog {
    /// Starts a file for a training that resumes after a step (0: from the start), and removes what
    /// was logged after this step.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub(crate) fn open(run: &RunFolder, step: usize) -> Result<Self, RunError> {
        let folder = run.path().join(FOLDER);
        let failed = |file: &Path, action: &'static str| {
            let file = file.to_owned();
            move |source| RunError::Io {
                file,
                action,
                source,
            }
        };
        fs::create_dir_all(&folder).map_err(failed(&folder, "made"))?;
        let step = step as i64;
        for path in event_files(&folder) {
            forget(&path, step).map_err(failed(&path, "changed"))?;
        }
        let (file, path) = create(&folder).map_err(failed(&folder, "written to"))?;
        let mut log = Self {
            file: Some(file),
            path,
        };
        log.write(&Event {
            file_version: Some(VERSION.to_owned()),
            ..now(0)
        });
        if step > 0 {
            // Makes a TensorBoard that is watching forget the same events.
            log.write(&Event {
                session_log: Some(SessionLog { status: START }),
                ..now(step + 1)
            });
        }
        Ok(log)
    }

    /// Adds scalars to a step.
    pub(crate) fn scalars(&mut self, step: usize, scalars: &[(&str, f64)]) {
        let value = |(tag, value): &(&str, f64)| Value {
            tag: (*tag).to_owned(),
            simple_value: Some(*value as f32),
        };
        let value = scalars.iter().map(value).collect();
        self.write(&Event {
            summary: Some(Summary { value }),
            ..now(step as i64)
        });
    }

    /// Adds the metrics of an epoch: `train_loss` becomes `loss/train`, beside `loss/valid`.
    pub(crate) fn epoch(&mut self, step: usize, row: &EpochRow) {
        let tag = |key: &String| match key.split_once('_') {
            Some((part, metric)) => format!("{metric}/{part}"),
            None => key.clone(),
        };
        let tags: Vec<(String, f64)> = row.values.iter().map(|(k, v)| (tag(k), *v)).collect();
        let mut scalars: Vec<(&str, f64)> = tags.iter().map(|(t, v)| (&**t, *v)).collect();
        scalars.push(("seconds/epoch", row.seconds));
        self.scalars(step, &scalars);
    }

    fn write(&mut self, event: &Event) {
        let Some(file) = &mut self.file else {
            return;
        };
        if let Err(error) = file.write_all(&record::frame(&event.encode_to_vec())) {
            let path = self.path.display();
            warn(format_args!(
                "{path}: cannot be written ({error}); the training goes on without this log"
            ));
            self.file = None;
        }
    }
}

/// An event without content, now.
fn now(step: i64) -> Event {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Event {
        wall_time: time.unwrap_or(Duration::ZERO).as_secs_f64(),
        step,
        ..Event::default()
    }
}

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX)
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// A new file whose name comes after those of all others there.
fn create(folder: &Path) -> std::io::Result<(File, PathBuf)> {
    let time = now(0).wall_time as u64;
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    let mut number = 0;
    loop {
        let path = folder.join(format!("{PREFIX}{time:010}.{number:03}.mopteq"));
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Removes the events after a step, and a record that a kill cut off.
fn forget(path: &Path, step: i64) -> std::io::Result<()> {
    let bytes = fs::read(path)?;
    let mut kept = Vec::with_capacity(bytes.len());
    let mut scalars = 0;
    for (record, framed) in record::records(&bytes) {
        let Ok(event) = Event::decode(record) else {
            break;
        };
        // Only the last file records the start of a process.
        if event.session_log.is_some() || event.step > step {
            continue;
        }
        scalars += usize::from(event.summary.is_some());
        kept.extend(framed);
    }
    match scalars {
        0 => fs::remove_file(path),
        _ if kept == bytes => Ok(()),
        _ => write_whole(path, &kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Step, tag and value of all events of a run, in the order of the files.
    fn scalars(run: &RunFolder) -> Vec<(i64, String, f32)> {
        let mut files = event_files(&run.path().join(FOLDER));
        files.sort();
        let mut all = Vec::new();
        for file in files {
            let bytes = fs::read(file).unwrap();
            for (record, _) in record::records(&bytes) {
                let event = Event::decode(record).unwrap();
                for value in event.summary.into_iter().flat_map(|s| s.value) {
                    all.push((event.step, value.tag, value.simple_value.unwrap()));
                }
            }
        }
        all
    }

    #[test]
    fn a_resumed_log_has_each_step_once() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::create_at(&parent.path().join("run")).unwrap();
        assert!(!are_kept(&run));
        let mut log = EventLog::open(&run, 0).unwrap();
        for step in 1..=4 {
            log.scalars(step, &[("loss/batch", step as f64)]);
        }
        let row = EpochRow {
            epoch: 1,
            seconds: 2.0,
            values: [
                ("train_loss".to_owned(), 0.0),
                ("valid_accuracy".to_owned(), 90.0),
            ]
            .into(),
        };
        log.epoch(4, &row);
        log.scalars(5, &[("loss/batch", 5.0)]);
        drop(log);
        // The process was killed while it wrote.
        let file = event_files(&run.path().join(FOLDER)).remove(0);
        let mut bytes = fs::read(&file).unwrap();
        bytes.extend(&record::frame(b"half of it")[..7]);
        fs::write(&file, bytes).unwrap();

        // In the same second.
        let mut log = EventLog::open(&run, 3).unwrap();
        log.scalars(4, &[("loss/batch", 40.0)]);
        log.epoch(4, &row);
        let steps: Vec<(i64, f32)> = scalars(&run)
            .into_iter()
            .filter(|(_, tag, _)| tag == "loss/batch")
            .map(|(step, _, value)| (step, value))
            .collect();
        assert_eq!(steps, [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]);
        let tags: Vec<String> = scalars(&run)
            .split_off(4)
            .into_iter()
            .map(|s| s.1)
            .collect();
        assert_eq!(tags, ["loss/train", "accuracy/valid", "seconds/epoch"]);
        assert!(are_kept(&run));

        // A start from step 0 leaves nothing of the earlier log.
        drop(EventLog::open(&run, 0).unwrap());
        assert!(scalars(&run).is_empty());
        assert_eq!(event_files(&run.path().join(FOLDER)).len(), 1);
    }
}
