//! Pictures as Burn's data sets: a `DataLoaderBuilder` and a `Learner` take them.
//!
//! The program's own [`Loader`](super::Loader) draws every augmentation from the run's seed, so
//! that a run can resume at any batch. Burn's loaders cannot report their position.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;

use super::{Augmentation, Batch, DataError, Picture, PictureBatcher, Pixels, Sample};

/// Pictures as a Burn data set. Burn's transforms (`ShuffledDataset`, `PartialDataset`, ...) apply
/// to it.
#[derive(Clone, Debug)]
pub struct Pictures(Arc<[Picture]>);

impl<P: Into<Arc<[Picture]>>> From<P> for Pictures {
    fn from(pictures: P) -> Self {
        Self(pictures.into())
    }
}

impl Dataset<Picture> for Pictures {
    /// The picture, read back if it is in the cache file.
    fn get(&self, index: usize) -> Result<Picture, DatasetError> {
        let picture = self.0.get(index).ok_or_else(|| {
            let reason = format!("there is no picture {index} of {}", self.0.len());
            DatasetError::new(io::Error::new(io::ErrorKind::NotFound, reason))
        })?;
        let pixels = match &picture.pixels {
            Pixels::Memory(pixels) => Pixels::Memory(pixels.clone()),
            Pixels::File(place) => {
                let read = place.read().map_err(|e| DataError::read("cache file", e));
                read.map_err(DatasetError::new)?.into()
            }
        };
        let (label, origin) = (picture.label, picture.origin.clone());
        Ok(Picture {
            pixels,
            label,
            origin,
        })
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Augments, normalises and stacks the pictures. In a process with one loader and one worker, an
/// augmentation is the same in every run.
///
/// # Panics
///
/// If a picture that is not an item of [`Pictures`] cannot be read back from the cache file: Burn's
/// batchers have no errors.
impl Batcher<Picture, Batch> for PictureBatcher {
    fn batch(&self, pictures: Vec<Picture>, device: &Device) -> Batch {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        let changes = self.augmentation != Augmentation::NONE;
        let sample = |picture| Sample {
            picture,
            augmentation: changes.then(|| DRAWN.fetch_add(1, Ordering::Relaxed)),
        };
        let samples: Vec<_> = pictures.iter().map(sample).collect();
        match self.stack(&samples) {
            Ok(batch) => batch.to_device(device),
            Err(error) => panic!("{error}"),
        }
    }
}
