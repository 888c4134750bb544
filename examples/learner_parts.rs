//! Loaders and progress lines for Burn's `Learner`.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use mopteq_train::data::Batch;

/// A digit: its normalised pixels and its class.
type Digit = (Vec<f32>, i32);

/// Stacks digits into batches.
#[derive(Clone)]
struct Stack;

impl Batcher<Digit, Batch> for Stack {
    fn batch(&self, digits: Vec<Digit>, device: &Device) -> Batch {
        let n = digits.len();
        let (images, labels): (Vec<_>, Vec<_>) = digits.into_iter().unzip();
        let images = TensorData::new(images.concat(), [n, 1, 28, 28]);
        Batch {
            images: Tensor::from_data(images, device),
            targets: Tensor::from_data(TensorData::new(labels, [n]), device),
        }
    }
}

/// Batches, repeated every epoch.
pub type Loader = Arc<dyn DataLoader<Batch>>;

/// Loaders of embedded digits in batches of 50: `train` digits for training, shuffled, and `test`
/// digits for testing.
///
/// # Errors
///
/// Returns an error if the embedded files cannot be read.
pub fn digits(train: usize, test: usize, device: &Device) -> Result<[Loader; 2], Box<dyn Error>> {
    let part = |digits: crate::Digits, n: usize| {
        let digits = digits.range(0, n);
        let pixels: Vec<f32> = digits.images.into_data().iter::<f32>().collect();
        let labels = digits.labels.into_data();
        let labels: Vec<i32> = labels.iter::<i32>().collect();
        let digits = pixels.chunks(28 * 28).map(<[f32]>::to_vec).zip(labels);
        InMemDataset::new(digits.collect::<Vec<Digit>>())
    };
    let (all, tests) = crate::digits(device)?;
    let loader = || DataLoaderBuilder::new(Stack).batch_size(50);
    let on = device.clone().autodiff();
    Ok([
        loader().set_device(on).shuffle(1).build(part(all, train)),
        loader().set_device(device.clone()).build(part(tests, test)),
    ])
}

/// Shows a training as one line per epoch.
#[derive(Default)]
pub struct EpochLines {
    names: HashMap<MetricId, String>,
    values: BTreeMap<String, f64>,
    epoch: usize,
}

impl EpochLines {
    fn update(&mut self, split: &str, state: MetricState) {
        if let MetricState::Numeric(entry, Some(value)) = state
            && let Some(name) = self.names.get(&entry.metric_id)
        {
            let name = format!("{split} {}", name.to_lowercase());
            self.values.insert(name, value.current());
        }
    }
}

impl MetricsRendererTraining for EpochLines {
    fn update_train(&mut self, state: MetricState) {
        self.update("train", state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.update("test", state);
    }

    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for EpochLines {
    fn update_epoch(&mut self, _: usize) {
        self.epoch += 1;
        print!("epoch {}", self.epoch);
        for (name, value) in &self.values {
            print!(" | {name} {value:.4}");
        }
        println!();
    }

    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl MetricsRenderer for EpochLines {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, metric: MetricDefinition) {
        self.names.insert(metric.metric_id, metric.name.to_string());
    }
}

// Burn requires these of every renderer.
impl MetricsRendererEvaluation for EpochLines {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for EpochLines {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}
