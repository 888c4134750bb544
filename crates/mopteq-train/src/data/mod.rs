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
mod error;
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
mod picture;
mod rand_augment;
mod seen;
mod sheet;
mod source;
mod split;
mod statistics;
mod transform;
mod walk;

use rayon::prelude::*;

pub use augment::Augmentation;
pub use batch::{Batch, Normalisation, PictureBatcher, RawBatch, Sample};
pub(crate) use cache::{cache_folder, memory_budget};
#[cfg(feature = "learner")]
pub use dataset::Pictures;
pub(crate) use decode::{decode_file, decode_within};
pub(crate) use download::{Download, DownloadError};
pub(crate) use entries::{are_settings, is_inspection};
pub use error::DataError;
pub(crate) use idx::IdxError;
pub(crate) use known::{KNOWN, KnownData};
pub(crate) use layout::composed;
pub(crate) use listing::pictures_below;
pub(crate) use loader::Loader;
pub use origin::{Digest, Origin};
pub use picture::{Picture, PictureShape, Pixels, Spilled};
pub use rand_augment::RandAugment;
pub(crate) use seen::Seen;
pub(crate) use sheet::contact_sheet;
pub use source::{DataKind, DataSource};
pub(crate) use split::{split_with_last, stratified_split};
pub(crate) use statistics::normalisation;

/// A data set: shape, class names, training and test pictures.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// The shape that all pictures share.
    pub shape: PictureShape,
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// Pictures to train on, including the validation split.
    pub train: Vec<Picture>,
    /// Pictures that are looked at once, at the end.
    pub test: Vec<Picture>,
    /// Name of the test part; `None` if the test pictures were taken from all.
    pub part: Option<String>,
    /// Picture files that were left out, each with the reason.
    pub skipped: Vec<String>,
    /// What systems and this program left beside the pictures. It was not searched; the number is
    /// that of the pictures in it.
    pub ignored: Vec<(String, usize)>,
    /// Files that hold many pictures each, if the pictures have no files of their own.
    pub files: Vec<(String, Digest)>,
    /// What the weights that a training starts from have seen.
    pub earlier: Seen,
}

impl DataSet {
    /// A data set without any further information.
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
