//! Which files the run trains on and tests with, and finding them again.

use super::{RunError, RunFolder};
use crate::Error;
use crate::config::TrainConfig;
use crate::data::{DataError, Seen};
use crate::names::shown;
use crate::parts::{Changes, FileList, Parts};
use crate::progress::warn;

const FILES: &str = "data-files.json";

impl RunFolder {
    /// Writes which files are trained on and tested with.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_files(&self, files: &FileList) -> Result<(), RunError> {
        // If there are very many files, a line for each of them helps nobody.
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

    /// Reads the data of the run, and finds the pictures that it trained on and tested with. It
    /// also warns of what has changed since. Set `going_on` for a run that continues to train: it
    /// needs all of its training pictures.
    ///
    /// # Errors
    ///
    /// When the data cannot be read or are different.
    pub fn read_parts(&self, config: &TrainConfig, going_on: bool) -> Result<Parts, Error> {
        let files = self.read_files()?;
        let (parts, changes) = self.find_parts(config, files.as_ref())?;
        let changed = |reason: String| DataError::Changed {
            path: config.data.describe(),
            reason,
        };
        if going_on && changes.training {
            return Err(changed(format!("{changes} since the run began")).into());
        }
        if going_on && config.patience > 0 && parts.valid.is_empty() && !changes.is_empty() {
            return Err(changed(format!("no validation picture is left ({changes})")).into());
        }
        self.tell(config, files, &parts, &changes)?;
        Ok(parts)
    }

    /// The same for data at another place; `None` if they are not those of the run.
    ///
    /// # Errors
    ///
    /// When the data cannot be read.
    pub fn read_moved(&self, config: &TrainConfig) -> Result<Option<Parts>, Error> {
        let Some(files) = self.read_files()?.filter(FileList::is_of_data) else {
            return Ok(None);
        };
        let (parts, changes) = match self.find_parts(config, Some(&files)) {
            // If they cannot be read, the reason is given where they are read as other data.
            Err(Error::Data(_)) => return Ok(None),
            found => found?,
        };
        // Most of the run's files must be there, and most of what is there must be the run's.
        let others = (changes.missing.len() + changes.changed.len()).max(changes.new.len());
        if 2 * others > files.len() {
            return Ok(None);
        }
        self.tell(config, Some(files), &parts, &changes)?;
        Ok(Some(parts))
    }

    fn find_parts(
        &self,
        config: &TrainConfig,
        files: Option<&FileList>,
    ) -> Result<(Parts, Changes), Error> {
        let data = match files {
            None => config.data.load_as(config.shape)?,
            Some(_) => {
                let mut source = config.data.clone();
                // Files that were damaged since are missing from the list, and reported like
                // others.
                source.max_corrupt = 1.0;
                source.load_again(config.shape)?
            }
        };
        Ok(Parts::of_run(config, data, files)?)
    }

    /// Warns of what has changed, and of what is not known.
    fn tell(
        &self,
        config: &TrainConfig,
        files: Option<FileList>,
        parts: &Parts,
        changes: &Changes,
    ) -> Result<(), Error> {
        let (place, run) = (config.data.describe(), self.path.display());
        if !changes.is_empty() {
            warn(format_args!(
                "{place}: {} since the run began; only pictures of the run count, new ones do not",
                shown(&changes.to_string())
            ));
        } else if files.is_none() && parts.are_files() {
            warn(format_args!(
                "{run}: there is no {FILES}, so which pictures of {place} were trained on is a guess"
            ));
        }
        if let Some(list) = files.filter(|list| !list.names_pictures()) {
            if parts.left_out > 0 {
                warn(Seen::left_out(parts.left_out));
            }
            if list.seen(config.from.is_none()).is_partly() {
                warn(format_args!("{run}: {}", Seen::PARTLY));
            }
        }
        Ok(())
    }

    /// What the weights of the run have seen, before it and in it.
    ///
    /// # Errors
    ///
    /// When the list of its files is damaged.
    pub fn seen(&self, config: &TrainConfig) -> Result<Seen, RunError> {
        let seen = |files: FileList| files.seen(config.from.is_none());
        Ok(self.read_files()?.map_or_else(Seen::unknown, seen))
    }
}
