//! From pictures in memory to tensors.

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Augmentation, Picture, PictureShape};

/// Per channel: (x / 255 - mean) / std. Kept in the run's config, for it belongs to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of each channel, on the scale 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, on the scale 0 to 1.
    pub std: Vec<f32>,
}

/// A picture as it is drawn for a batch.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The picture.
    pub picture: Picture,
    /// Seed of its augmentation; `None` leaves it as it is.
    pub augmentation: Option<u64>,
}

/// What one step of training or inference sees.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalised pictures, `[batch, channels, height, width]`.
    pub images: Tensor<4>,
    /// Class indices, `[batch]`.
    pub targets: Tensor<1, Int>,
}

/// Augments, normalises and stacks pictures.
#[derive(Clone, Debug)]
pub struct PictureBatcher {
    /// Shape of every picture.
    pub shape: PictureShape,
    /// Constants of the normalisation, one for each channel.
    pub normalisation: Normalisation,
    /// Applied to samples that carry a seed.
    pub augmentation: Augmentation,
}

impl Batcher<Sample, Batch> for PictureBatcher {
    fn batch(&self, samples: Vec<Sample>, device: &Device) -> Batch {
        let PictureShape {
            channels,
            height,
            width,
        } = self.shape;
        let count = samples.len();
        let mut values = Vec::with_capacity(count * self.shape.len());
        let mut targets = Vec::with_capacity(count);
        for Sample {
            picture,
            augmentation,
        } in samples
        {
            targets.push(picture.label as i64);
            match augmentation {
                Some(seed) => {
                    self.augmentation
                        .apply(&picture.pixels, self.shape, seed, &mut values);
                }
                None => values.extend(picture.pixels.iter().map(|value| f32::from(*value))),
            }
        }
        let plane = height * width;
        let constants = self.normalisation.mean.iter().zip(&self.normalisation.std);
        for (channel, (mean, std)) in values.chunks_exact_mut(plane).zip(constants.cycle()) {
            for value in channel {
                *value = (*value / 255.0 - mean) / std;
            }
        }
        Batch {
            images: Tensor::from_data(
                TensorData::new(values, [count, channels, height, width]),
                device,
            ),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
        }
    }
}
