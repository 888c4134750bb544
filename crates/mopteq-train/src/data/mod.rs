//! Pictures with labels: where they come from, how they are split, augmented and batched.

mod archive;
mod augment;
mod batch;
mod cache;
mod cifar;
#[cfg(feature = "learner")]
mod dataset;
mod decode;
mod digits;
mod download;
mod entries;
mod folder;
mod found;
mod huffman;
mod idx;
mod idx_files;
mod interleave;
mod jpeg;
mod known;
mod layout;
mod listing;
mod loader;
mod members;
mod meter;
mod origin;
mod part_names;
mod parts;
mod rand_augment;
mod seen;
mod sheet;
mod source;
mod split;
mod statistics;
mod transform;
mod walk;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use augment::Augmentation;
pub use batch::{Batch, Normalisation, PictureBatcher, RawBatch, Sample};
pub use cache::{Spilled, cache_folder, memory_budget};
#[cfg(feature = "learner")]
pub use dataset::Pictures;
pub(crate) use decode::decode_within;
pub use decode::{decode, decode_file};
pub use download::{Download, DownloadError};
pub(crate) use entries::{are_settings, is_inspection};
pub use idx::{IdxError, read_images, read_labels, read_pictures};
pub use known::{KNOWN, KnownData, ensure};
pub(crate) use layout::composed;
pub(crate) use listing::pictures_below;
pub use loader::{EpochBatches, Loader};
pub use origin::{Digest, Origin};
pub(crate) use parts::check as check_data;
pub use parts::{Changes, FileList, Parts, difference};
pub use rand_augment::RandAugment;
pub use seen::Seen;
pub use sheet::contact_sheet;
pub use source::{DataKind, DataSource};
pub use split::{Split, stratified_split};
pub use statistics::normalisation;

/// Channels, height and width of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureShape {
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl fmt::Display for PictureShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = if self.channels == 1 { "grey" } else { "RGB" };
        write!(f, "{} x {} {colour}", self.height, self.width)
    }
}

impl PictureShape {
    /// Number of values in a picture.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether a picture of this shape has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of a picture, 0 to 255 in the order channel, row, column; cloning copies none.
#[derive(Clone, Debug)]
pub enum Pixels {
    /// In memory.
    Memory(Arc<[u8]>),
    /// In a cache file, for data sets that do not fit into memory.
    File(Spilled),
}

impl Pixels {
    /// The values.
    ///
    /// # Errors
    ///
    /// When the cache file cannot be read.
    pub fn read(&self) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Memory(values) => Ok(Cow::Borrowed(values)),
            Self::File(place) => place.read().map(Cow::Owned),
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(values: Vec<u8>) -> Self {
        Self::Memory(values.into())
    }
}

/// One picture with its label.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its values.
    pub pixels: Pixels,
    /// Index of the class.
    pub label: usize,
    /// The file that it is; `None` for one of many in a file, which its position tells.
    pub origin: Option<Arc<Origin>>,
}

impl Picture {
    /// A picture that is no file of its own.
    pub fn new(pixels: impl Into<Pixels>, label: usize) -> Self {
        Self {
            pixels: pixels.into(),
            label,
            origin: None,
        }
    }

    /// What tells its content from that of another: of its file, or of its values where it has no
    /// file of its own. `None` where these cannot be read.
    pub fn digest(&self) -> Option<Digest> {
        match &self.origin {
            Some(origin) => Some(origin.digest),
            None => Some(Digest::of(&self.pixels.read().ok()?)),
        }
    }
}

/// A data set: shape, class names, training and test pictures.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// The shape that all pictures share.
    pub shape: PictureShape,
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// Pictures to train on, the validation split among them.
    pub train: Vec<Picture>,
    /// Pictures that are looked at once, at the end.
    pub test: Vec<Picture>,
    /// Name of the test part; `None` where the test pictures were taken from all.
    pub part: Option<String>,
    /// Picture files that were left out, each with the reason.
    pub skipped: Vec<String>,
    /// What systems and this program left beside the pictures, which was not looked into, with the
    /// number of pictures in it.
    pub ignored: Vec<(String, usize)>,
    /// Files that hold many pictures each, in place of the pictures' own.
    pub files: Vec<(String, Digest)>,
    /// What the weights that a training starts from have seen.
    pub earlier: Seen,
}

impl DataSet {
    /// A data set of which nothing else is known.
    pub fn new(
        shape: PictureShape,
        classes: Vec<String>,
        train: Vec<Picture>,
        test: Vec<Picture>,
    ) -> Self {
        Self {
            shape,
            classes,
            train,
            test,
            part: None,
            skipped: Vec::new(),
            ignored: Vec::new(),
            files: Vec::new(),
            earlier: Seen::default(),
        }
    }

    /// Number of test pictures whose content is that of a training picture.
    pub fn repeated(&self) -> usize {
        let mut trained = Seen::default();
        let digests = self.train.par_iter().filter_map(Picture::digest);
        trained.add(digests.collect::<Vec<_>>(), None);
        let again = self.test.par_iter().filter(|p| trained.contains(p));
        again.count()
    }
}

/// The data could not be read. Every message names the file and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An IDX file is damaged or of another kind.
    #[error(transparent)]
    Idx(#[from] IdxError),
    /// A file could not be got from the net.
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
    /// A file has another length than its format allows.
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
    /// A file is no picture that can be read.
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
    /// Something of the user's would be overwritten.
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
