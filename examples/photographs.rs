//! Photographs in Burn's `Learner`: Burn's data sets, loaders, schedule and optimiser, with the network
//! and the constants of a preset.

use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::Dataset;
use burn::data::dataset::transform::{PartialDataset, ShuffledDataset};
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::{SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig};
use burn::prelude::*;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};
use mopteq_train::data::{DataKind, DataSource, PictureBatcher, Pictures};
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::{Classifier, Preset, TrainConfig, batcher};

use crate::learner_parts::EpochLines;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Trains and tests a preset's network on these data, one line per epoch.
///
/// # Errors
///
/// Returns an error if an option is wrong, the data are missing, or the device fails.
pub fn train(kind: DataKind, preset: Preset) -> Result<()> {
    let options = Options::read()?;
    let device = options.device.clone();
    let tape = device.clone().autodiff();
    device.seed(0);

    // Pictures as Burn's data sets, with Burn's transforms.
    let source = DataSource {
        path: options.data,
        ..DataSource::new(kind)
    };
    // As text, because `main` prints errors in debug format.
    let data = source.load().map_err(|e| e.to_string())?;
    let config = TrainConfig::preset(source, &data, preset)?;
    let epochs = options.epochs.unwrap_or(config.epochs);
    let part = |pictures: Vec<_>| {
        let limit = options.limit.unwrap_or(usize::MAX).min(pictures.len());
        PartialDataset::new(ShuffledDataset::new(Pictures::from(pictures), 0), 0, limit)
    };
    let (train, test) = (part(data.train), part(data.test));
    let plain = batcher(&config);
    let augmented = PictureBatcher {
        augmentation: config.augmentation.clone(),
        ..plain.clone()
    };

    // The first kernel whitens patches of the pictures.
    let some: std::result::Result<_, _> = (0..train.len().min(512)).map(|i| train.get(i)).collect();
    let images = plain.batch(some?, &device).images;
    let model = Classifier::new(&config, &tape)?.whitened(&images);

    let steps = epochs * train.len().div_ceil(config.batch_size);
    let schedule = CosineAnnealingLrSchedulerConfig::new(config.learning_rate, steps).init()?;
    let momentum = MomentumConfig::new()
        .with_dampening(0.0)
        .with_nesterov(config.nesterov);
    let decay = WeightDecayConfig::new(config.weight_decay as f32);
    let optimizer = SgdConfig::new()
        .with_momentum(Some(momentum))
        .with_weight_decay(Some(decay));
    let learner = Learner::new(model, optimizer.init(), schedule);

    let train = DataLoaderBuilder::new(augmented)
        .batch_size(config.batch_size)
        .shuffle(0)
        .num_workers(2)
        .set_device(tape)
        .build(train);
    let test = DataLoaderBuilder::new(plain)
        .batch_size(config.batch_size)
        .num_workers(1)
        .set_device(device)
        .build(test);
    let folder = tempfile::tempdir()?;
    let training = SupervisedTraining::new(folder.path(), train, test)
        .renderer(Box::new(EpochLines::default()))
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .num_epochs(epochs);
    let error = training.launch(learner).error;
    error.map_or(Ok(()), |error| Err(error.to_string().into()))
}

/// The command line: `--data PATH --device NAME --epochs N --limit N`, all of them optional.
#[derive(Default)]
struct Options {
    data: Option<PathBuf>,
    device: Device,
    epochs: Option<usize>,
    /// Use only this number of pictures of each part.
    limit: Option<usize>,
}

impl Options {
    fn read() -> Result<Self> {
        let mut options = Self::default();
        let mut device = DeviceChoice::Auto;
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--data" => options.data = Some(value.into()),
                "--device" => {
                    let choice = value.parse().map_err(|e| format!("--device {value}: {e}"));
                    device = choice?;
                }
                "--epochs" => options.epochs = Some(number(&name, &value)?),
                "--limit" => options.limit = Some(number(&name, &value)?),
                _ => {
                    let known = "--data, --device, --epochs, --limit";
                    return Err(format!("there is no option {name}; there are {known}").into());
                }
            }
        }
        options.device = select(device).map_err(|e| e.to_string())?.device;
        Ok(options)
    }
}

fn number(name: &str, value: &str) -> std::result::Result<usize, String> {
    let number = usize::from_str(value).ok().filter(|n| *n > 0);
    number.ok_or(format!("{name}: {value} is not a number above 0"))
}
