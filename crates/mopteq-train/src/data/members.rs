//! Listing an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::DataError;
use super::archive::{self, Kind, Member};
use super::decode::{head, looks_like_a_picture};
use super::entries::{
    CHECKPOINTS, INSPECTION, Name, RUN, classify, is_drawn, is_litter, is_mark, is_model, skipped,
};
use super::found::{Found, Listing, START};
use super::origin::readable;

/// What was found in an archive, whose members come in any order.
#[derive(Default)]
struct Members {
    pictures: BTreeMap<PathBuf, Found>,
    folders: BTreeSet<PathBuf>,
    /// Folders with the mark of a run.
    runs: BTreeSet<PathBuf>,
    inspections: BTreeSet<PathBuf>,
    /// Folders with an exported model.
    models: BTreeSet<PathBuf>,
    /// Pictures that cannot be taken, with their folders and the reasons.
    skipped: Vec<(PathBuf, String)>,
    /// Folders of pictures in folders that are not searched.
    hidden: Vec<PathBuf>,
    listing: Listing,
}

/// Lists an archive. `heads` asks for size and colour of its pictures.
pub(super) fn list_archive(path: &Path, heads: bool) -> Result<Listing, DataError> {
    let mut all = Members::default();
    archive::for_each(path, |member| all.add(member, heads))?;
    Ok(all.finish())
}

impl Members {
    fn add(&mut self, member: &mut Member<'_>, heads: bool) -> Result<(), DataError> {
        let below = member.path().to_path_buf();
        let name = below.file_name().unwrap_or_default().to_owned();
        let folder = below.parent().unwrap_or(Path::new("")).to_path_buf();
        if folder.components().any(|part| is_litter(part.as_os_str())) {
            match classify(&name) {
                Name::Picture if member.kind() != Kind::Folder => self.hidden.push(folder),
                _ => _ = self.folders.insert(folder),
            }
            return Ok(());
        }
        let mut start = Vec::new();
        let reason = match (classify(&name), member.kind()) {
            (_, Kind::Folder) => {
                self.folders.insert(below);
                return Ok(());
            }
            (Name::Hidden, _) => {
                self.listing.ignore(readable(&below), 1);
                return Ok(());
            }
            (Name::NotRead, _) => Some(skipped(&below)),
            // The link may lead to a whole class.
            (Name::Picture | Name::Other, Kind::Link) => Some(format!(
                "{}: a link in an archive; pack it with the files that links lead to (tar \
                 --dereference --hard-dereference)",
                readable(&below)
            )),
            (Name::Picture, Kind::TooLarge) => {
                Some(format!("{}: larger than any picture", readable(&below)))
            }
            (Name::Picture, Kind::File) => None,
            (Name::Other, Kind::File) => {
                start = member.start(START)?;
                if !looks_like_a_picture(&start) {
                    return self.note(member, start, &folder);
                }
                None
            }
            (Name::Other, Kind::TooLarge) | (Name::Litter, _) => return Ok(()),
        };
        if let Some(reason) = reason {
            self.skipped.push((folder, reason));
            return Ok(());
        }
        let head = match heads {
            true => head(&[start, member.content()?].concat()),
            false => None,
        };
        let (path, number) = (below.clone(), member.number());
        self.pictures.insert(below, Found { path, number, head });
        Ok(())
    }

    /// Notes what a file that is not a picture says about its folder.
    fn note(
        &mut self,
        member: &mut Member<'_>,
        start: Vec<u8>,
        folder: &Path,
    ) -> Result<(), DataError> {
        let name = member.path().file_name().unwrap_or_default().to_owned();
        for (mark, folders) in [(RUN, &mut self.runs), (INSPECTION, &mut self.inspections)] {
            if name == mark.0 && is_mark(mark, &[start.clone(), member.content()?].concat()) {
                folders.insert(folder.to_path_buf());
            }
        }
        if is_model(&name) {
            self.models.insert(folder.to_path_buf());
        }
        Ok(())
    }

    fn finish(mut self) -> Listing {
        let mut drawn = Vec::new();
        for path in self.pictures.keys() {
            let folder = path.parent().unwrap_or(Path::new(""));
            let is_ours = path.file_name().is_some_and(is_drawn);
            if is_ours && self.inspections.contains(folder) {
                drawn.push(path.clone());
            }
        }
        for path in &drawn {
            self.pictures.remove(path);
        }
        self.skipped.retain(|(folder, line)| {
            let name = line.split(": ").next().unwrap_or_default();
            let is_ours = Path::new(name).file_name().is_some_and(is_drawn);
            !(is_ours && self.inspections.contains(folder))
        });
        // As in a folder on the disk, pictures that cannot be taken still count as pictures.
        let below = |folder: &PathBuf, path: &Path| path.starts_with(folder);
        let empty = |folder: &&PathBuf| {
            let unread = self.skipped.iter().any(|(path, _)| below(folder, path));
            !unread && !self.pictures.keys().any(|path| below(folder, path))
        };
        let whole = |run: &&PathBuf| {
            let checkpoints = run.join(CHECKPOINTS);
            self.folders
                .iter()
                .any(|folder| folder.starts_with(&checkpoints))
                || self
                    .models
                    .iter()
                    .any(|folder| folder.starts_with(&checkpoints))
        };
        let marked = self
            .runs
            .iter()
            .chain(&self.inspections)
            .chain(&self.models);
        let mut ours: BTreeSet<PathBuf> = marked.filter(empty).cloned().collect();
        ours.extend(self.runs.iter().filter(whole).cloned());
        // The archive itself may be that of a run, in which case there are no pictures anyway.
        ours.remove(Path::new(""));
        let mut listing = self.listing;
        for folder in self.folders.iter().chain(&ours) {
            listing.put(folder, &ours, 0);
        }
        for folder in self.hidden {
            listing.put(&folder, &ours, 1);
        }
        for path in drawn {
            let folder = path.parent().unwrap_or(Path::new(""));
            if listing.put(folder, &ours, 0).is_some() {
                listing.ignore(readable(&path), 0);
            }
        }
        for (folder, reason) in self.skipped {
            if listing.put(&folder, &ours, 0).is_some() {
                listing.skipped.push(reason);
            }
        }
        for (path, found) in self.pictures {
            let folder = path.parent().unwrap_or(Path::new(""));
            if let Some(folder) = listing.put(folder, &ours, 1) {
                folder.pictures.push(found);
            }
        }
        listing
    }
}
