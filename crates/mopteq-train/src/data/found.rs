//! What was found below a picture folder or in an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::decode::Head;
use super::entries::is_litter;
use super::origin::readable;

/// Bytes at the start of a file that tell what it is.
pub(super) const START: u64 = 16;

/// A picture file.
#[derive(Debug)]
pub(super) struct Found {
    /// Path below the root, as the system spells it.
    pub(super) path: PathBuf,
    /// Position in an archive. Of two members with one name, the later one counts.
    pub(super) number: usize,
    /// Head of a picture in an archive, if heads were requested.
    pub(super) head: Option<Head>,
}

/// A folder with the pictures that are directly in it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) pictures: Vec<Found>,
    pub(super) folders: BTreeMap<OsString, Folder>,
    /// This program wrote it, or everything in it.
    pub(super) ours: bool,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) root: Folder,
    /// Pictures that cannot be taken, each with the reason.
    pub(super) skipped: Vec<String>,
    /// What systems and this program leave behind. It is not searched; the number is that of the
    /// pictures in it.
    pub(super) ignored: BTreeMap<String, usize>,
    /// Files of a folder that are not pictures.
    pub(super) others: Vec<String>,
    /// Folders that could not be read, each with the reason.
    pub(super) unread: Vec<String>,
}

impl Folder {
    /// A folder that is not searched.
    pub(super) fn ours() -> Self {
        Self {
            ours: true,
            ..Self::default()
        }
    }

    /// Number of pictures at any depth.
    pub(super) fn count(&self) -> usize {
        let inside: usize = self.folders.values().map(Self::count).sum();
        self.pictures.len() + inside
    }

    /// Marks a folder that holds only runs: like a run, it is not a class.
    pub(super) fn settle(&mut self) {
        self.folders.values_mut().for_each(Self::settle);
        let runs = !self.folders.is_empty() && self.folders.values().all(|folder| folder.ours);
        self.ours |= runs && self.pictures.is_empty();
        self.folders.retain(|_, folder| !folder.ours);
    }

    fn below(&mut self, path: &Path) -> &mut Self {
        path.components().fold(self, |folder, part| {
            folder
                .folders
                .entry(part.as_os_str().to_owned())
                .or_default()
        })
    }
}

impl Listing {
    /// Notes something that is not searched, with `pictures` more pictures in it.
    pub(super) fn ignore(&mut self, name: String, pictures: usize) {
        *self.ignored.entry(name).or_default() += pictures;
    }

    /// The folder at that path, created if necessary. `None` if it is not searched; this is noted
    /// with the number of pictures that were to go there.
    pub(super) fn put(
        &mut self,
        path: &Path,
        ours: &BTreeSet<PathBuf>,
        pictures: usize,
    ) -> Option<&mut Folder> {
        // Two steps, because the borrow of a folder outlives a loop that returns it.
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            if is_litter(part.as_os_str()) || ours.contains(&so_far) {
                self.ignore(readable(&so_far), pictures);
                if let (Some(parent), Some(name)) = (so_far.parent(), so_far.file_name())
                    && ours.contains(&so_far)
                {
                    let parent = self.root.below(parent);
                    parent.folders.insert(name.to_owned(), Folder::ours());
                }
                return None;
            }
        }
        Some(self.root.below(path))
    }
}
