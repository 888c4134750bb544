//! A custom convolutional module as an equilibrium layer in Burn's `Learner`, on 1,000 digits.
//!
//! cargo run --release -p examples --features learner --example learner

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::train::{ClassificationOutput, InferenceStep, Learner, SupervisedTraining};
use burn::train::{TrainOutput, TrainStep, metric::*};
use burn::{optim::AdamConfig, prelude::*, tensor::activation::relu};
use burn_deq::{EquilibriumConfig, WeightNormConfig};
use examples::layers::cross_entropy;
use examples::learner_parts::{EpochLines, digits};
use mopteq_train::data::Batch;

#[derive(Module, Debug)]
struct Net {
    stem: Conv2d,
    conv: Conv2d,
    norm: GroupNorm,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let stem = Conv2dConfig::new([1, 16], [4, 4]).with_stride([4, 4]);
        let conv = Conv2dConfig::new([16, 16], [3, 3]).with_padding(PaddingConfig2d::Same);
        Self {
            stem: stem.init(device),
            // Folded once per solve, whatever the number of steps.
            conv: Conv2d::apply_reparameterization(conv.init(device), WeightNormConfig::new()),
            norm: GroupNormConfig::new(4, 16).init(device),
            head: LinearConfig::new(16 * 7 * 7, 10).init(device),
        }
    }

    fn forward(&self, batch: Batch) -> ClassificationOutput {
        let x = self.stem.forward(batch.images);
        let f = |net: &Self, z, x| relu(net.norm.forward(net.conv.forward(z) + x));
        let z0 = x.zeros_like();
        let out = EquilibriumConfig::new().init().solve(self, f, x, z0);
        let logits = self.head.forward(out.state.flatten(1, 3));
        ClassificationOutput::new(
            cross_entropy(&logits, &batch.targets),
            logits,
            batch.targets,
        )
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;
    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let item = self.forward(batch);
        TrainOutput::new(self, item.loss.backward(), item)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;
    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.forward(batch)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(1);
    let [train, test] = digits(1000, 500, &device)?;
    let learner = Learner::new(Net::new(&device.autodiff()), AdamConfig::new().init(), 3e-3);
    let folder = tempfile::tempdir()?;
    let training = SupervisedTraining::new(folder.path(), train, test)
        .renderer(Box::new(EpochLines::default()))
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .num_epochs(5);
    let error = training.launch(learner).error;
    error.map_or(Ok(()), |error| Err(error.to_string().into()))
}
