//! Listing a folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::DataError;
use super::decode::looks_like_a_picture;
use super::entries::{
    CHECKPOINTS, INSPECTION, Name, RUN, classify, has_mark, is_drawn, is_litter, is_model, skipped,
};
use super::found::{Folder, Found, Listing, START};
use super::origin::readable;

/// Lists a folder. With `lenient`, a folder in it that cannot be read does not affect the rest.
pub(super) fn list_folder(root: &Path, lenient: bool) -> Result<Listing, DataError> {
    let real = fs::canonicalize(root).map_err(|source| DataError::read(root, source))?;
    let mut walk = Walk {
        root,
        entered: BTreeSet::from([real.clone()]),
        real,
        lenient,
        listing: Listing::default(),
    };
    walk.listing.root = walk.enter(root)?;
    Ok(walk.listing)
}

struct Walk<'a> {
    root: &'a Path,
    /// The root without links in its path.
    real: PathBuf,
    /// Folders that were read and files that links led to, also without links in their paths.
    entered: BTreeSet<PathBuf>,
    lenient: bool,
    listing: Listing,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<Folder, DataError> {
        let mut here = Folder::default();
        let entries = fs::read_dir(folder).map_err(|source| DataError::read(folder, source))?;
        let entries: Result<Vec<_>, _> = entries.collect();
        let mut entries = entries.map_err(|source| DataError::read(folder, source))?;
        // Sorted, so that errors do not depend on the order on the disk either.
        entries.sort_by_key(fs::DirEntry::file_name);
        let inspected = has_mark(folder, INSPECTION);
        let mut written = inspected || has_mark(folder, RUN);
        let mut drawn = Vec::new();
        let skipped_before = self.listing.skipped.len();
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let below = path.strip_prefix(self.root).unwrap_or(&path).to_path_buf();
            if path.is_dir() {
                if let Some(inside) = self.folder(&path, &below, &name)? {
                    here.folders.insert(name, inside);
                }
            } else if inspected && is_drawn(&name) {
                drawn.push(readable(&below));
            } else if self.is_taken(&path, &below, &name) {
                here.pictures.push(Found {
                    path: below,
                    number: 0,
                    head: None,
                });
            } else {
                written |= is_model(&name);
            }
        }
        // Pictures that cannot be taken still count as pictures.
        let none = here.count() == 0 && self.listing.skipped.len() == skipped_before;
        here.ours = written && none;
        match (here.ours, folder.strip_prefix(self.root)) {
            (true, Ok(below)) if folder != self.root => self.listing.ignore(readable(below), 0),
            _ => drawn
                .into_iter()
                .for_each(|file| self.listing.ignore(file, 0)),
        }
        Ok(here)
    }

    /// The content of a folder; `None` if the folder does not count.
    fn folder(
        &mut self,
        path: &Path,
        below: &Path,
        name: &OsStr,
    ) -> Result<Option<Folder>, DataError> {
        if is_litter(name) {
            self.listing.ignore(readable(below), count(path));
            return Ok(None);
        }
        // A folder of pictures into which somebody copied the settings of a run still counts.
        if path.join(CHECKPOINTS).is_dir() && has_mark(path, RUN) {
            self.listing.ignore(readable(below), count(path));
            return Ok(Some(Folder::ours()));
        }
        let inside = self.check_link(path).and_then(|()| self.enter(path));
        match inside {
            Err(error) if self.lenient => {
                self.listing.unread.push(error.to_string());
                Ok(None)
            }
            inside => inside.map(Some),
        }
    }

    /// Whether a file is a picture that counts. A picture that does not count is noted.
    fn is_taken(&mut self, path: &Path, below: &Path, name: &OsStr) -> bool {
        let found = fs::metadata(path);
        let regular = found.as_ref().is_ok_and(fs::Metadata::is_file);
        match classify(name) {
            Name::Picture => {}
            Name::NotRead => {
                self.listing.skipped.push(skipped(below));
                return false;
            }
            Name::Hidden => {
                self.listing.ignore(readable(below), 1);
                return false;
            }
            Name::Litter => return false,
            // The link may have been a whole class.
            Name::Other if path.is_symlink() && found.is_err() => {
                let target = fs::read_link(path).unwrap_or_default();
                self.listing.skipped.push(format!(
                    "{}: a link to {} that cannot be followed",
                    readable(below),
                    target.display()
                ));
                return false;
            }
            Name::Other => {
                let mut start = Vec::new();
                let read = regular
                    && File::open(path)
                        .is_ok_and(|file| file.take(START).read_to_end(&mut start).is_ok());
                if !read || !looks_like_a_picture(&start) {
                    self.listing.others.push(readable(below));
                    return false;
                }
            }
        }
        let reason = match fs::canonicalize(path) {
            // Reading from a pipe might never end.
            _ if found.is_ok() && !regular => "it is no regular file".to_owned(),
            Ok(real) if path.is_symlink() => {
                let again = self.is_read(&real) || !self.entered.insert(real.clone());
                if !again {
                    return true;
                }
                let target = real.strip_prefix(&self.real).unwrap_or(&real);
                format!("a link to {}, which counts already", target.display())
            }
            // A link that leads nowhere is like a damaged picture.
            _ => return true,
        };
        let line = format!("{}: {reason}", readable(below));
        self.listing.skipped.push(line);
        false
    }

    /// Whether a path is among the data. Paths in a hidden folder are not: git-annex and similar
    /// tools keep the targets of their links there.
    fn is_read(&self, real: &Path) -> bool {
        let below = real.strip_prefix(&self.real);
        below.is_ok_and(|below| !below.components().any(|part| is_litter(part.as_os_str())))
    }

    /// A link may lead to a folder elsewhere. A link into the data, above them, or to the target of
    /// another link would never end or count pictures twice, perhaps for training and for the test.
    fn check_link(&mut self, path: &Path) -> Result<(), DataError> {
        let real = fs::canonicalize(path).map_err(|source| DataError::read(path, source))?;
        let is_link = path.is_symlink();
        let again = is_link && (self.is_read(&real) || self.real.starts_with(&real));
        if !self.entered.insert(real.clone()) || again {
            return Err(DataError::Link {
                path: path.into(),
                target: real,
            });
        }
        Ok(())
    }
}

/// Number of pictures below a folder that is not searched, by their names. Links are not followed.
fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path()),
            _ => usize::from(matches!(classify(&entry.file_name()), Name::Picture)),
        })
        .sum()
}
