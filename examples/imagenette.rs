//! ImageNette with a stack of equilibria in Burn's `Learner`, at 128 x 128 pixels or whatever the files have.
//!
//! cargo run --release -p examples --features learner --example imagenette -- --data PATH
//!
//! PATH is the official archive or folder, or a folder of pictures; `mopteq data get imagenette` puts the
//! data where they are found without it. Further options: --device cuda, --epochs 4, --limit 2000.
//! A GPU needs its feature: --features learner,mopteq-train/cuda.

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::Dataset;
use burn::data::dataset::transform::{PartialDataset, ShuffledDataset};
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::{SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};
use examples::learner_parts::EpochLines;
use examples::photographs::{Net, Options};
use mopteq::DeepConfig;
use mopteq_train::data::{Augmentation, DataKind, Normalisation, PictureBatcher, Pictures};

const BATCH: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::read()?;
    let epochs = options.epochs.unwrap_or(16);
    let device = options.device.clone();
    let tape = device.clone().autodiff();
    device.seed(0);

    // Pictures as Burn's data sets, with Burn's transforms.
    let data = options.load(DataKind::Imagenette)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let part = |pictures: Vec<_>| {
        let limit = limit.min(pictures.len());
        PartialDataset::new(ShuffledDataset::new(Pictures::from(pictures), 0), 0, limit)
    };
    let (train, test) = (part(data.train), part(data.test));
    let plain = PictureBatcher {
        shape: data.shape,
        normalisation: Normalisation {
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        },
        augmentation: Augmentation::NONE,
    };
    let augmented = PictureBatcher {
        augmentation: Augmentation {
            flip: true,
            min_crop_area: 0.35,
            ..Augmentation::NONE
        },
        ..plain.clone()
    };

    // The model, with a first kernel that whitens patches of the pictures.
    let size = [data.shape.height, data.shape.width];
    let config = DeepConfig::fast(10, 3, size)
        .with_stem_kernel(7)
        .with_stem_stride(4)
        .with_stem_padding(3);
    let some: Result<_, _> = (0..train.len().min(512)).map(|i| train.get(i)).collect();
    let net = Net::new(config, &tape)?.whitened(&plain.batch(some?, &device).images);

    let steps = epochs * train.len().div_ceil(BATCH);
    let schedule = CosineAnnealingLrSchedulerConfig::new(0.05, steps).init()?;
    let momentum = MomentumConfig::new()
        .with_dampening(0.0)
        .with_nesterov(true);
    let optimizer = SgdConfig::new()
        .with_momentum(Some(momentum))
        .with_weight_decay(Some(WeightDecayConfig::new(5e-4)));
    let learner = Learner::new(net, optimizer.init(), schedule);

    let train = DataLoaderBuilder::new(augmented)
        .batch_size(BATCH)
        .shuffle(0)
        .num_workers(2)
        .set_device(tape)
        .build(train);
    let test = DataLoaderBuilder::new(plain)
        .batch_size(BATCH)
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
