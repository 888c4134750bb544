//! What the name of a file or folder says about it, and which ones this program wrote.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use serde::de::IgnoredAny;

use super::origin::readable;

/// Endings of the files that are read as pictures, and of those that hold pictures but are not
/// read.
const READ: [&str; 10] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "dib", "gif", "webp",
];
const NOT_READ: [&str; 24] = [
    "tif", "tiff", "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpx", "pbm", "pgm", "ppm",
    "pnm", "tga", "ico", "svg", "psd", "exr", "hdr", "dng", "cr2", "nef", "arw",
];
/// Folders that systems and programs leave beside pictures, in lower case. Those whose names start
/// with a dot need not be here.
const LITTER: [&str; 26] = [
    "__macosx",
    "@eadir",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "@sharebin",
    "@sharesnap",
    "@transcode",
    "#recycle",
    "#snapshot",
    "~snapshot",
    "lost+found",
    "lost.dir",
    "found.000",
    "$recycle.bin",
    "recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "thevolumesettingsfolder",
    "thumbs.db",
    "network trash folder",
    "temporary items",
    "__pycache__",
    "cvs",
    "_svn",
];
/// Files that mark a folder of this program, and fields that such a file has: a run, and what
/// `inspect` writes.
pub(super) const RUN: Mark = (
    "config.json",
    &["format", "data", "classes", "normalisation", "model"],
);
pub(super) const INSPECTION: Mark = (
    "inspection.json",
    &["prediction", "solver_residuals", "branches"],
);
/// The pictures that `inspect` writes beside its mark.
const DRAWN: [&str; 4] = [
    "branches.png",
    "layers.png",
    "residuals.svg",
    "objective.svg",
];
/// Endings of exported models.
const MODELS: [&str; 2] = ["safetensors", "bpk"];
/// The folder that a run has, but a copy of its settings does not.
pub(super) const CHECKPOINTS: &str = "checkpoint";

/// Name of a file and fields of the JSON in it.
pub(super) type Mark = (&'static str, &'static [&'static str]);

/// What a name says about a file.
pub(super) enum Name {
    Picture,
    NotRead,
    Hidden,
    /// What a system keeps beside files. It is never a picture, whatever it contains.
    Litter,
    Other,
}

fn ending(name: &Path) -> String {
    let ending = name.extension().unwrap_or_default();
    ending.to_string_lossy().to_lowercase()
}

pub(super) fn classify(name: &OsStr) -> Name {
    let text = name.to_string_lossy();
    let ending = ending(Path::new(name));
    match (READ.contains(&&*ending), text.starts_with('.')) {
        (true, true) if !text.starts_with("._") => Name::Hidden,
        (_, true) => Name::Litter,
        (true, false) => Name::Picture,
        _ if NOT_READ.contains(&&*ending) => Name::NotRead,
        _ => Name::Other,
    }
}

/// Why a picture of a kind that is not read is left out; `None` for other files.
pub(super) fn not_read(name: &Path) -> Option<String> {
    let shown = name.extension().unwrap_or_default().to_string_lossy();
    let known = NOT_READ.contains(&&*ending(name));
    known.then(|| format!(".{shown} files are not read; convert it to PNG or JPEG"))
}

/// That reason with the name of the file.
pub(super) fn skipped(below: &Path) -> String {
    let reason = not_read(below).unwrap_or_default();
    format!("{}: {reason}", readable(below))
}

pub(super) fn is_litter(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || LITTER.contains(&&*name)
}

/// Whether a file is an exported model.
pub(super) fn is_model(name: &OsStr) -> bool {
    MODELS.contains(&&*ending(Path::new(name)))
}

/// Whether a file in a folder with the mark of an inspection is one that `inspect` drew.
pub(super) fn is_drawn(name: &OsStr) -> bool {
    DRAWN.iter().any(|drawn| name == *drawn)
}

/// Whether the content of a file is that of a mark.
pub(super) fn is_mark((_, fields): Mark, content: &[u8]) -> bool {
    let found = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(content);
    found.is_ok_and(|found| fields.iter().all(|field| found.contains_key(*field)))
}

/// Whether a folder has such a mark.
pub(super) fn has_mark(folder: &Path, mark: Mark) -> bool {
    // Reading from a pipe might never end.
    let file = folder.join(mark.0);
    file.is_file() && std::fs::read(file).is_ok_and(|content| is_mark(mark, &content))
}

/// Whether `inspect` made a folder.
pub(crate) fn is_inspection(folder: &Path) -> bool {
    has_mark(folder, INSPECTION)
}

/// Whether a file holds the settings of a run or of an exported model.
pub(crate) fn are_settings(content: &[u8]) -> bool {
    is_mark(RUN, content)
}
