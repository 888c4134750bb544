//! Why data could not be read.

use std::io;
use std::path::PathBuf;

use super::{DownloadError, IdxError};

/// The data could not be read. Every message names the file and, if there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An IDX file is damaged or of another kind.
    #[error(transparent)]
    Idx(#[from] IdxError),
    /// A file could not be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A file or folder could not be read or written.
    #[error("{path}: cannot be {action} ({source})")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An archive ends too early or is damaged.
    #[error("{file}: damaged or cut off archive, or no archive ({source}); get the file again")]
    Archive {
        /// The archive.
        file: PathBuf,
        /// What the reader said.
        source: io::Error,
    },
    /// The path holds none of the layouts that can be read.
    #[error("{path}: {reason}; docs/own-pictures.md shows the layouts that can be read")]
    Layout {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A link of a picture folder leads to where pictures are read anyway.
    #[error(
        "{path}: links to {target}, which is part of these data or contains them, so its pictures \
         would count twice; remove the link"
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A class has no pictures.
    #[error("{path}: class '{class}' has no {part} picture; add some or remove its folder{hint}")]
    EmptyClass {
        /// Folder or archive of the data.
        path: PathBuf,
        /// Name of the class.
        class: String,
        /// `training` or `test`, or empty.
        part: &'static str,
        /// What may explain it.
        hint: String,
    },
    /// More pictures are damaged than is allowed.
    #[error(
        "{path}: {damaged} of {total} pictures cannot be decoded, more than the {allowed} allowed \
         (--max-corrupt); the first is {first}"
    )]
    Corrupt {
        /// Folder or archive of the data.
        path: PathBuf,
        /// Number of damaged pictures.
        damaged: usize,
        /// Number of pictures.
        total: usize,
        /// Number that would be skipped.
        allowed: usize,
        /// Name of a damaged picture, and why.
        first: String,
    },
    /// A file has a length that its format does not allow.
    #[error(
        "{file}: {found} bytes is not a multiple of the record size ({record} bytes); get it again"
    )]
    Records {
        /// The file.
        file: PathBuf,
        /// Its length.
        found: usize,
        /// Length of a record.
        record: usize,
    },
    /// A file is not a picture that can be read.
    #[error("{file}: not a picture that can be read ({reason}); PNG, JPEG, BMP, GIF and WebP can")]
    NotAPicture {
        /// The file.
        file: String,
        /// What the decoder said.
        reason: String,
    },
    /// A label has no class.
    #[error("{file}: picture {index} has label {label}, but there are only {classes} classes")]
    Label {
        /// File of the labels.
        file: String,
        /// Position of the picture.
        index: usize,
        /// The label found.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Two files that belong together hold pictures of different size.
    #[error("{file}: pictures of {found} pixels, but the data set has {expected}")]
    Shape {
        /// File of the pictures.
        file: String,
        /// Height x width found.
        found: String,
        /// Height x width wanted.
        expected: String,
    },
    /// The data are not where they should be.
    #[error(
        "{path}: cannot be read ({source}); if the data have moved, name the new location with --data \
         PATH"
    )]
    Moved {
        /// Where they were.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that belongs to the user would be overwritten.
    #[error("{path} exists, and {reason}; choose another with {option}, or remove it")]
    Taken {
        /// The file or folder.
        path: PathBuf,
        /// Why it is not overwritten.
        reason: &'static str,
        /// The option or argument that names it.
        option: &'static str,
    },
    /// The data are no longer those that the run began with.
    #[error(
        "{path}: {reason}; the run needs the data that it began with: put them back, name their new \
         location (--data PATH), or start a new run from its weights on the data as they are (train \
         --from RUN --data PATH)"
    )]
    Changed {
        /// Where the data are, or their name.
        path: String,
        /// What differs.
        reason: String,
    },
    /// The classes of other data are not those of a run.
    #[error(
        "{path}: its classes are not those of the run, they are {reason}; rename, add or remove \
         class folders"
    )]
    Classes {
        /// The data.
        path: String,
        /// What differs.
        reason: String,
    },
    /// The name of the data is unknown and there is no such path.
    #[error(
        "--data {name}: neither a known data set ({known}) nor a file or folder that exists{hint}"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names known.
        known: String,
        /// The nearest known name, as a question.
        hint: String,
    },
    /// The background threads that prepare batches are gone.
    #[error("the data loader stopped; the first error above says why")]
    Loader,
}

impl DataError {
    pub(crate) fn read(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let (path, action) = (path.into(), "read");
        Self::Io {
            path,
            action,
            source,
        }
    }

    pub(crate) fn written(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let (path, action) = (path.into(), "written");
        Self::Io {
            path,
            action,
            source,
        }
    }
}
