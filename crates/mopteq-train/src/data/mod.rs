//! Pictures with labels: where they come from, how they are split, augmented and batched.

mod augment;
mod batch;
mod digits;
mod idx;
mod loader;
mod split;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use augment::Augmentation;
pub use batch::{Batch, Normalisation, PictureBatcher, Sample};
pub use idx::{IdxError, read_images, read_labels, read_pictures};
pub use loader::{EpochLoader, fixed_loader};
pub use split::{Split, stratified_split};

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

/// One picture in memory; cloning it copies no pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Values of 0 to 255 in the order channel, row, column.
    pub pixels: Arc<[u8]>,
    /// Index of the class.
    pub label: usize,
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
}

/// The data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An IDX file is damaged or of another kind.
    #[error(transparent)]
    Idx(#[from] IdxError),
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
}

/// The data sets that the program knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// 5,000 MNIST digits, embedded in the program.
    Digits,
}

impl DataKind {
    /// The name on the command line and in folder names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
        }
    }

    /// Reads the pictures.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, naming it.
    pub fn load(self) -> Result<DataSet, DataError> {
        match self {
            Self::Digits => digits::load(),
        }
    }
}
