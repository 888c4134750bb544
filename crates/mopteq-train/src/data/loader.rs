//! Batches prepared ahead by worker threads, the same ones whatever the number of workers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{DataError, Picture, PictureBatcher, RawBatch, Sample};
use crate::seed::{Stream, derive};

/// Batches that each worker prepares ahead.
const AHEAD: usize = 2;

/// Shuffled, augmented training batches.
///
/// The order of the pictures and their augmentation depend on the seed and the number of the
/// epoch alone, so an epoch can be entered at any batch. Batch i is made by worker i modulo their
/// number, and they are taken in turn: Burn's own loader hands batches over as its threads happen
/// to finish.
#[derive(Clone)]
pub struct Loader {
    pictures: Arc<[Picture]>,
    batcher: Arc<PictureBatcher>,
    batch_size: usize,
    seed: u64,
    workers: usize,
    whole: bool,
}

impl Loader {
    /// A loader of these pictures. Sizes of 0 count as 1.
    pub fn new(
        pictures: Arc<[Picture]>,
        batcher: PictureBatcher,
        batch_size: usize,
        seed: u64,
        workers: usize,
    ) -> Self {
        Self {
            pictures,
            batcher: Arc::new(batcher),
            batch_size: batch_size.max(1),
            seed,
            workers: workers.max(1),
            whole: false,
        }
    }

    /// The same without a last batch that is smaller than the others. Each epoch then leaves out a
    /// few pictures, different ones in every epoch. Use it where a new size costs more than these
    /// pictures bring, as on a GPU that compiles kernels for each size.
    pub fn in_whole_batches(self, whole: bool) -> Self {
        Self {
            whole: whole && self.pictures.len() >= self.batch_size,
            ..self
        }
    }

    /// Batches in an epoch; the last one may be smaller.
    pub fn batches(&self) -> usize {
        match self.whole {
            true => self.pictures.len() / self.batch_size,
            false => self.pictures.len().div_ceil(self.batch_size),
        }
    }

    /// Pictures in an epoch.
    pub fn pictures(&self) -> usize {
        self.pictures.len().min(self.batches() * self.batch_size)
    }

    /// The batches of an epoch (counted from 1) from the batch `first` on (counted from 0).
    pub fn epoch(&self, number: usize, first: usize) -> EpochBatches {
        let position = [number as u64, 0];
        let mut order: Vec<usize> = (0..self.pictures.len()).collect();
        let order_seed = derive(self.seed, Stream::Order, position);
        order.shuffle(&mut StdRng::seed_from_u64(order_seed));
        let order: Arc<[usize]> = order.into();
        let receivers = (0..self.workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (loader, order) = (self.clone(), order.clone());
                let mine = (first..self.batches()).skip(worker).step_by(self.workers);
                std::thread::spawn(move || {
                    for batch in mine {
                        // Nobody waits for the rest of an epoch that was given up.
                        if sender.send(loader.batch(number, batch, &order)).is_err() {
                            break;
                        }
                    }
                });
                receiver
            })
            .collect();
        EpochBatches {
            next: 0,
            left: self.batches().saturating_sub(first),
            receivers,
        }
    }

    /// One batch of an epoch with the given order of the pictures.
    fn batch(&self, epoch: usize, batch: usize, order: &[usize]) -> Result<RawBatch, DataError> {
        let start = batch * self.batch_size;
        let end = (start + self.batch_size).min(order.len());
        let sample = |index: &usize| {
            // The picture's own number, not its place in the order. So its augmentation in an epoch
            // does not depend on how the work is divided.
            let position = [epoch as u64, *index as u64];
            Sample {
                picture: &self.pictures[*index],
                augmentation: Some(derive(self.seed, Stream::Augmentation, position)),
            }
        };
        let samples: Vec<Sample<'_>> = order[start..end].iter().map(sample).collect();
        self.batcher.stack(&samples)
    }
}

/// The batches of an epoch, in order.
pub struct EpochBatches {
    next: usize,
    left: usize,
    receivers: Vec<Receiver<Result<RawBatch, DataError>>>,
}

impl Iterator for EpochBatches {
    type Item = Result<RawBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let receiver = &self.receivers[self.next];
        self.next = (self.next + 1) % self.receivers.len();
        // A worker that is gone without a word has panicked.
        Some(receiver.recv().unwrap_or(Err(DataError::Loader)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Augmentation, Normalisation, PictureShape, RandAugment};

    fn loader(workers: usize) -> Loader {
        let pictures =
            (0..50_u8).map(|i| Picture::new(vec![i, 2 * i, 3 * i, 255 - i], (i % 3).into()));
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
                flip: true,
                rand_augment: RandAugment {
                    operations: 2,
                    magnitude: 5.0,
                },
                brightness: 0.2,
                ..Augmentation::NONE
            },
        };
        Loader::new(pictures.collect(), batcher, 8, 42, workers)
    }

    fn epoch(loader: &Loader, number: usize, first: usize) -> Vec<RawBatch> {
        loader.epoch(number, first).map(Result::unwrap).collect()
    }

    #[test]
    fn an_epoch_is_a_function_of_seed_and_number() {
        let whole = epoch(&loader(1), 1, 0);
        assert_eq!(whole.len(), 7);
        assert_ne!(whole, epoch(&loader(1), 2, 0));
        for workers in [1, 2, 3, 20] {
            assert_eq!(epoch(&loader(workers), 1, 0), whole);
            assert_eq!(epoch(&loader(workers), 1, 3), whole[3..]);
        }
        assert!(epoch(&loader(2), 1, 7).is_empty());
        // An epoch that is given up half way leaves no trace.
        let given_up = loader(2);
        given_up.epoch(1, 0).take(2).for_each(drop);
        assert_eq!(epoch(&given_up, 1, 0), whole);
    }

    #[test]
    fn whole_batches_leave_out_a_few_pictures_of_an_epoch() {
        let cut = loader(2).in_whole_batches(true);
        assert_eq!((cut.batches(), cut.pictures()), (6, 48));
        assert_eq!(epoch(&cut, 1, 0), epoch(&loader(1), 1, 0)[..6]);
    }

    #[test]
    fn a_batch_is_cut_into_nearly_equal_parts() {
        let batch = epoch(&loader(1), 1, 0).swap_remove(0);
        let parts = batch.clone().split(3);
        assert_eq!(
            parts.iter().map(RawBatch::len).collect::<Vec<_>>(),
            [3, 3, 2]
        );
        let values: Vec<f32> = parts.into_iter().flat_map(|part| part.values).collect();
        assert_eq!(values, batch.values);
    }
}
