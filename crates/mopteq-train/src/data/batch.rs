//! From pictures in memory to tensors.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Augmentation, DataError, Picture, PictureShape};

/// Per channel: (x / 255 - mean) / std. Kept in the run's config, because it belongs to the model.
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
pub struct Sample<'a> {
    /// The picture.
    pub picture: &'a Picture,
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

/// A batch that is on no device yet.
#[derive(Clone, Debug, PartialEq)]
pub struct RawBatch {
    /// Shape of a picture.
    pub shape: PictureShape,
    /// Normalised values, picture after picture.
    pub values: Vec<f32>,
    /// Class indices.
    pub targets: Vec<i64>,
}

impl RawBatch {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no pictures in it.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The batch on a device.
    pub fn to_device(self, device: &Device) -> Batch {
        let PictureShape {
            channels,
            height,
            width,
        } = self.shape;
        let count = self.targets.len();
        let images = TensorData::new(self.values, [count, channels, height, width]);
        Batch {
            images: Tensor::from_data(images, device),
            targets: Tensor::from_data(TensorData::new(self.targets, [count]), device),
        }
    }

    /// The batch cut into at most `parts` of nearly equal size, for as many devices.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let each = self.len().div_ceil(parts.max(1)).max(1);
        let values = self.values.chunks(each * self.shape.len());
        let pairs = values.zip(self.targets.chunks(each));
        pairs
            .map(|(values, targets)| Self {
                shape: self.shape,
                values: values.to_vec(),
                targets: targets.to_vec(),
            })
            .collect()
    }
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

impl PictureBatcher {
    /// Stacks the samples.
    ///
    /// # Errors
    ///
    /// When a picture cannot be read back from the cache file.
    pub fn stack(&self, samples: &[Sample<'_>]) -> Result<RawBatch, DataError> {
        let mut values = Vec::with_capacity(samples.len() * self.shape.len());
        let Normalisation { mean, std } = &self.normalisation;
        for sample in samples {
            let pixels = sample.picture.pixels.read();
            let pixels = pixels.map_err(|source| DataError::read("cache file", source))?;
            match sample.augmentation {
                Some(seed) => {
                    self.augmentation
                        .apply(&pixels, self.shape, mean, seed, &mut values);
                }
                None => values.extend(pixels.iter().map(|value| f32::from(*value))),
            }
        }
        let plane = self.shape.height * self.shape.width;
        let constants = mean.iter().zip(std).cycle();
        for (channel, (mean, std)) in values.chunks_exact_mut(plane).zip(constants) {
            for value in channel {
                *value = (*value / 255.0 - mean) / std;
            }
        }
        let targets = samples.iter().map(|sample| sample.picture.label as i64);
        Ok(RawBatch {
            shape: self.shape,
            values,
            targets: targets.collect(),
        })
    }
}
