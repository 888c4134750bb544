//! Small programs, one idea each: run one with `cargo run --release -p examples --example NAME`.
//!
//! Several of them share the helpers in this file.

pub mod corruptions;
pub mod layers;
#[cfg(feature = "learner")]
pub mod learner_parts;
#[cfg(feature = "learner")]
pub mod photographs;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use burn::tensor::TensorData;
use mopteq::{Context, MOptEqs, MOptEqsConfig};
use mopteq_train::Error;
use mopteq_train::Predictor;
use mopteq_train::RunFolder;
use mopteq_train::TrainConfig;
use mopteq_train::View;
use mopteq_train::batcher;
use mopteq_train::data::{DataKind, Picture};
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::{Position, Which};
use mopteq_train::{StopFlag, Summary, Task};

/// Pictures of embedded digits and their classes.
#[derive(Clone, Debug)]
pub struct Digits {
    /// `[n, 1, 28, 28]`, normalised.
    pub images: Tensor<4>,
    /// `[n]`.
    pub labels: Tensor<1, Int>,
}

impl Digits {
    /// Pictures `start` to `start + length`, fewer at the end.
    pub fn range(&self, start: usize, length: usize) -> Self {
        let length = length.min(self.len() - start);
        Self {
            images: self.images.clone().narrow(0, start, length),
            labels: self.labels.clone().narrow(0, start, length),
        }
    }

    /// The same digits on a tape.
    pub fn autodiff(self) -> Self {
        Self {
            images: self.images.autodiff(),
            labels: self.labels.autodiff(),
        }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.images.dims()[0]
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Share of the pictures whose largest logit is that of their class, in percent.
    pub fn accuracy(&self, logits: Tensor<2>) -> f64 {
        let hits = logits
            .argmax(1)
            .squeeze_dim::<1>(1)
            .equal(self.labels.clone());
        100.0 * hits.float().mean().into_scalar::<f64>()
    }
}

/// The embedded training and test pictures.
pub fn digits(device: &Device) -> Result<(Digits, Digits), Error> {
    let data = DataKind::Digits.load()?;
    let batcher = batcher(&TrainConfig::digits());
    let all = |pictures: &[Picture]| {
        let plain = |picture| mopteq_train::data::Sample {
            picture,
            augmentation: None,
        };
        let samples: Vec<_> = pictures.iter().map(plain).collect();
        let batch = batcher.stack(&samples)?.to_device(device);
        Ok::<_, Error>(Digits {
            images: batch.images,
            labels: batch.targets,
        })
    };
    Ok((all(&data.train)?, all(&data.test)?))
}

/// Mean and standard deviation of a sample.
pub fn mean_and_deviation(values: &[f64]) -> [f64; 2] {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|a| (a - mean).powi(2)).sum();
    [mean, (squares / (values.len().max(2) - 1) as f64).sqrt()]
}

/// Trains on the CPU, silently, in a folder that is removed afterwards.
pub fn train(config: TrainConfig) -> Result<(Predictor, Summary), Error> {
    let device = select(DeviceChoice::CPU)?;
    let task = Task::new(config, vec![device.clone()])?;
    let name = format!("mopteq-example-{}", std::process::id());
    let run = RunFolder::create_next(&std::env::temp_dir(), &name)?;
    run.write_config(task.config())?;
    let trained = task
        .train(
            &run,
            Position::default(),
            View::Silent,
            &StopFlag::default(),
        )
        .and_then(|summary| Ok((Predictor::load(&run, Which::Last, device, None)?, summary)));
    // A folder that cannot be removed only costs some megabytes.
    std::fs::remove_dir_all(run.path()).ok();
    trained
}

/// A MOptEq after some steps of gradient descent on the batches of 32 that start at 0, 32, ...
///
/// # Panics
///
/// Panics if the configuration cannot be built.
pub fn trained(
    config: &MOptEqsConfig,
    steps: usize,
    batch: impl Fn(usize) -> (Tensor<4>, Tensor<1, Int>),
) -> MOptEqs {
    let model = config.init(&Device::flex());
    let mut model = model.expect("the configuration is valid").train();
    let mut optimizer = SgdConfig::new().init();
    for step in 0..steps {
        let (images, labels) = batch(32 * step);
        let logits = model.forward(images).logits;
        let loss = CrossEntropyLossConfig::new()
            .init(&logits.device())
            .forward(logits, labels);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.02, model, grads);
    }
    model.valid()
}

/// The n-th argument as a number, counted from 1, or a default.
pub fn argument(n: usize, default: usize) -> usize {
    let given = std::env::args().nth(n).and_then(|text| text.parse().ok());
    given.unwrap_or(default)
}

/// Numbers in [-1, 1), the same on every machine.
pub fn numbers<const D: usize>(shape: [usize; D], scale: f32) -> Tensor<D> {
    let next = |i: usize| {
        let bits = (i as u32 + 1).wrapping_mul(2_654_435_761) >> 8;
        scale * (bits as f32 / (1u32 << 23) as f32 - 1.0)
    };
    let data = (0..shape.iter().product()).map(next).collect();
    Tensor::from_data(TensorData::new(data, shape), &Device::flex())
}

/// Kernels (of norm below 1) and injections of MOptEqs small: three branches of 32 channels, the
/// finest of `side` pixels.
pub fn random_context(side: usize, batch: usize) -> Context {
    let sides = [side, side / 2, side / 4];
    let kernels = sides.iter().map(|_| numbers([32, 32, 3, 3], 0.003));
    let injections = sides.iter().map(|s| numbers([batch, 32, *s, *s], 0.5));
    Context::new(kernels.collect(), injections.collect())
}
