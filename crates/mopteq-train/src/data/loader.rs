//! Data loaders whose every epoch is a function of (seed, epoch number).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use burn::data::dataloader::{DataLoader, DataLoaderBuilder, DataLoaderIterator};
use burn::data::dataset::{Dataset, DatasetError, InMemDataset};
use burn::prelude::*;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{Batch, Picture, PictureBatcher, Sample};
use crate::seed::{Stream, derive};

/// Batches are prepared ahead in one background thread. With several, Burn's loader would hand
/// them over in the order in which the threads happen to finish.
const WORKERS: usize = 1;

/// Every picture once, in order, as it is: for validation, tests and prediction.
pub fn fixed_loader(
    pictures: &[Picture],
    batcher: PictureBatcher,
    batch_size: usize,
    device: &Device,
) -> Arc<dyn DataLoader<Batch>> {
    let samples = pictures
        .iter()
        .map(|picture| Sample {
            picture: picture.clone(),
            augmentation: None,
        })
        .collect();
    DataLoaderBuilder::new(batcher)
        .batch_size(batch_size)
        .set_device(device.clone())
        .build(InMemDataset::new(samples))
}

/// Shuffled, augmented training batches. Each call of `iter` is the next epoch.
///
/// The order of the pictures and their augmentation depend on the seed and the number of the
/// epoch alone, and at the start of an epoch the device's random numbers are seeded from the two
/// as well, so that noise drawn by the model is the same. A run that goes on from the end of
/// epoch n with `first_epoch` n + 1 therefore sees exactly what it would have seen uninterrupted.
pub struct EpochLoader {
    parts: Parts,
    device: Device,
    next_epoch: AtomicUsize,
    epoch: Arc<RwLock<Epoch>>,
    batches: Arc<dyn DataLoader<Batch>>,
}

/// What stays the same when a loader moves to another device.
#[derive(Clone)]
struct Parts {
    pictures: Arc<[Picture]>,
    batcher: PictureBatcher,
    batch_size: usize,
    seed: u64,
}

/// The epoch that is being read.
struct Epoch {
    number: usize,
    order: Vec<usize>,
}

impl EpochLoader {
    /// A loader whose first epoch has the number `first_epoch` (Burn counts from 1).
    pub fn new(
        pictures: Vec<Picture>,
        batcher: PictureBatcher,
        batch_size: usize,
        seed: u64,
        first_epoch: usize,
        device: &Device,
    ) -> Self {
        let parts = Parts {
            pictures: pictures.into(),
            batcher,
            batch_size,
            seed,
        };
        Self::from_parts(parts, first_epoch, device)
    }

    fn from_parts(parts: Parts, first_epoch: usize, device: &Device) -> Self {
        let epoch = Arc::new(RwLock::new(Epoch {
            number: first_epoch,
            order: Vec::new(),
        }));
        let dataset = EpochDataset {
            pictures: parts.pictures.clone(),
            seed: parts.seed,
            epoch: epoch.clone(),
        };
        let batches = DataLoaderBuilder::new(parts.batcher.clone())
            .batch_size(parts.batch_size)
            .num_workers(WORKERS)
            .set_device(device.clone())
            .build(dataset);
        let next_epoch = AtomicUsize::new(first_epoch);
        Self {
            parts,
            device: device.clone(),
            next_epoch,
            epoch,
            batches,
        }
    }
}

impl DataLoader<Batch> for EpochLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let number = self.next_epoch.fetch_add(1, Ordering::Relaxed);
        let position = [number as u64, 0];
        let mut order: Vec<usize> = (0..self.parts.pictures.len()).collect();
        let order_seed = derive(self.parts.seed, Stream::Order, position);
        order.shuffle(&mut StdRng::seed_from_u64(order_seed));
        *self.epoch.write().unwrap_or_else(PoisonError::into_inner) = Epoch { number, order };
        self.device
            .seed(derive(self.parts.seed, Stream::Noise, position));
        self.batches.iter()
    }

    fn num_items(&self) -> usize {
        self.parts.pictures.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        let next_epoch = self.next_epoch.load(Ordering::Relaxed);
        Arc::new(Self::from_parts(self.parts.clone(), next_epoch, device))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let pictures = self.parts.pictures[start..end].into();
        let parts = Parts {
            pictures,
            ..self.parts.clone()
        };
        let next_epoch = self.next_epoch.load(Ordering::Relaxed);
        Arc::new(Self::from_parts(parts, next_epoch, &self.device))
    }
}

/// The pictures in the order of the current epoch.
struct EpochDataset {
    pictures: Arc<[Picture]>,
    seed: u64,
    epoch: Arc<RwLock<Epoch>>,
}

impl Dataset<Sample> for EpochDataset {
    fn get(&self, index: usize) -> Result<Sample, DatasetError> {
        let epoch = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        // The picture's own number and not its place in the order: so its augmentation in an
        // epoch does not depend on how the work is cut up.
        let picture = epoch.order[index];
        let position = [epoch.number as u64, picture as u64];
        Ok(Sample {
            picture: self.pictures[picture].clone(),
            augmentation: Some(derive(self.seed, Stream::Augmentation, position)),
        })
    }

    fn len(&self) -> usize {
        self.pictures.len()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::data::{Augmentation, Normalisation, PictureShape};

    fn loader(first_epoch: usize) -> EpochLoader {
        let pictures = (0..50_u8)
            .map(|i| Picture {
                pixels: [i, 2 * i, 3 * i, 255 - i].into(),
                label: (i % 3).into(),
            })
            .collect();
        let batcher = PictureBatcher {
            shape: PictureShape {
                channels: 1,
                height: 2,
                width: 2,
            },
            normalisation: Normalisation {
                mean: vec![0.5],
                std: vec![0.5],
            },
            augmentation: Augmentation {
                max_shift: 0.5,
                max_rotation: 10.0,
                max_scale: 0.1,
            },
        };
        EpochLoader::new(pictures, batcher, 8, 42, first_epoch, &Device::flex())
    }

    fn epoch(loader: &dyn DataLoader<Batch>) -> Vec<(Vec<f32>, Vec<i64>, Vec<f32>)> {
        loader
            .iter()
            .map(|batch| {
                let batch = batch.unwrap();
                let noise = Tensor::<1>::random(
                    [3],
                    burn::tensor::Distribution::Default,
                    &batch.images.device(),
                );
                (
                    batch.images.try_into_vec_as().unwrap(),
                    batch.targets.try_into_vec_as().unwrap(),
                    noise.try_into_vec_as().unwrap(),
                )
            })
            .collect()
    }

    // One test, for the device's random numbers are shared by the whole process.
    #[test]
    fn an_epoch_is_a_function_of_seed_and_number() {
        let straight = loader(1);
        let epochs: Vec<_> = (0..3).map(|_| epoch(&straight)).collect();
        assert_eq!(epochs[0].len(), 7);
        assert_ne!(epochs[0], epochs[1]);

        let resumed = loader(2).to_device(&Device::flex());
        assert_eq!(epoch(&*resumed), epochs[1]);
        assert_eq!(epoch(&*resumed), epochs[2]);

        // An epoch that is given up half way leaves no trace in the next.
        let given_up = loader(1);
        given_up.iter().take(2).for_each(drop);
        assert_eq!(epoch(&given_up), epochs[1]);
    }
}
