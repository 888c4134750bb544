//! What lies below a picture folder or in an archive, before anything is decoded.

use std::path::{Path, PathBuf};

use super::DataError;
use super::archive;
use super::found::{Folder, Listing};
use super::members::list_archive;
use super::walk::list_folder;

/// The pictures below a folder, and why other files are not pictures.
pub(crate) struct Below {
    /// At any depth and in order.
    pub(crate) pictures: Vec<PathBuf>,
    /// Pictures and folders that cannot be read, each with the reason.
    pub(crate) failed: Vec<String>,
    /// Files that are something else.
    pub(crate) others: Vec<String>,
    /// What systems and this program leave behind, with the number of pictures in it.
    pub(crate) ignored: Vec<(String, usize)>,
}

/// Finds the pictures below a folder, whatever else is in it.
pub(crate) fn pictures_below(path: &Path) -> Result<Below, DataError> {
    fn collect(folder: Folder, into: &mut Vec<PathBuf>) {
        into.extend(folder.pictures.into_iter().map(|found| found.path));
        folder
            .folders
            .into_values()
            .for_each(|inside| collect(inside, into));
    }
    let mut listing = list_folder(path, true)?;
    listing.root.settle();
    let mut pictures = Vec::new();
    collect(listing.root, &mut pictures);
    pictures.sort();
    let full = |below: String| path.join(below).display().to_string();
    let mut failed: Vec<String> = listing.skipped.into_iter().map(full).collect();
    failed.extend(listing.unread);
    let ignored = listing.ignored.into_iter();
    Ok(Below {
        pictures: pictures.into_iter().map(|below| path.join(below)).collect(),
        failed,
        others: listing.others.into_iter().map(full).collect(),
        ignored: ignored.map(|(below, count)| (full(below), count)).collect(),
    })
}

/// Lists a folder or an archive. `heads` asks for size and colour of an archive's pictures.
pub(super) fn list(path: &Path, heads: bool) -> Result<Listing, DataError> {
    let mut listing = if archive::is_archive(path) {
        list_archive(path, heads)?
    } else {
        list_folder(path, false)?
    };
    listing.root.settle();
    Ok(listing)
}
