//! Which files the run trains on and tests with, and finding them again.

use super::{RunError, RunFolder};
use crate::Error;
use crate::config::TrainConfig;
use crate::data::{Changes, FileList, Parts};
use crate::progress::warn;

const FILES: &str = "data-files.json";

impl RunFolder {
    /// Writes which files are trained on and tested with.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_files(&self, files: &FileList) -> Result<(), RunError> {
        // A line of its own for each of very many files helps nobody.
        let text = serde_json::to_vec(files).map_err(|source| RunError::Json {
            file: self.path.join(FILES),
            source,
        })?;
        self.write(FILES, &text)
    }

    /// Reads that list; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn read_files(&self) -> Result<Option<FileList>, RunError> {
        match self.path.join(FILES).exists() {
            true => self.read_json(FILES).map(Some),
            false => Ok(None),
        }
    }

    /// Reads the data of the run, and finds the pictures again that it trained on and tested with.
    /// What has changed since is told as a warning, too.
    ///
    /// # Errors
    ///
    /// When the data cannot be read or are others.
    pub fn read_parts(&self, config: &TrainConfig) -> Result<(Parts, Changes), Error> {
        let files = self.read_files()?;
        let mut source = config.data.clone();
        if files.is_some() {
            // Files that were damaged since are missing to the list, and told like others.
            source.max_corrupt = 1.0;
        }
        let data = source.load_as(config.shape)?;
        let (parts, changes) = Parts::of_run(config, data, files.as_ref())?;
        let place = config.data.describe();
        if !changes.is_empty() {
            warn(format_args!(
                "{place}: {changes} since the run began; only pictures of the run count, new ones \
                 do not"
            ));
        } else if files.is_none() && parts.list().is_some() {
            warn(format_args!(
                "{}: there is no {FILES}, so which pictures of {place} were trained on is a guess",
                self.path.display()
            ));
        }
        Ok((parts, changes))
    }
}
