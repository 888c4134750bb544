//! Several devices that compute the parts of a batch at the same time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use burn::module::Module;
use burn::prelude::*;

use super::parameters::Buffers;
use crate::classifier::{Classifier, TrainingStep};
use crate::crash::{self, Crash};
use crate::data::RawBatch;

/// A worker thread for each device. A thread keeps its device for the whole training, because GPU
/// backends hold queues and memory for each thread.
pub(super) struct Team {
    workers: Vec<Worker>,
    /// The device of the model.
    first: Device,
}

struct Worker {
    tasks: Sender<(Classifier, RawBatch)>,
    steps: Receiver<Result<(TrainingStep, Buffers), Crash>>,
}

impl Team {
    /// Starts the workers, on devices with autodiff.
    pub(super) fn new(devices: &[Device]) -> Self {
        let workers = devices.iter().cloned().map(Worker::start).collect();
        let first = devices[0].clone();
        Self { workers, first }
    }

    /// Cuts a batch into one part for each device and computes the parts. The results come in the
    /// order of the devices, so their sum does not depend on which one finishes first. A batch of
    /// fewer pictures than devices leaves some of them idle. The model's running statistics become
    /// the mean of those of the parts, weighted by their numbers of pictures.
    pub(super) fn step(
        &self,
        model: &Classifier,
        batch: RawBatch,
    ) -> Result<Vec<TrainingStep>, Crash> {
        let parts = batch.split(self.workers.len());
        let busy = &self.workers[..parts.len()];
        for (worker, part) in busy.iter().zip(parts) {
            // A worker that is gone is noticed below.
            let _ = worker.tasks.send((model.clone(), part));
        }
        let gone = || Crash {
            message: "the thread of a device is gone".into(),
            backtrace: String::new(),
        };
        let results: Vec<_> = busy.iter().map(|worker| worker.steps.recv()).collect();
        let mut steps = Vec::with_capacity(busy.len());
        let mut buffers = Vec::with_capacity(busy.len());
        for result in results {
            let (step, found) = result.unwrap_or_else(|_| Err(gone()))?;
            buffers.push((found, step.item.targets.dims()[0] as f64));
            steps.push(step);
        }
        crash::catch(|| Buffers::set_means(model, &self.first, buffers))?;
        Ok(steps)
    }
}

impl Worker {
    fn start(device: Device) -> Self {
        let (tasks, inbox) = channel::<(Classifier, RawBatch)>();
        let (outbox, steps) = channel();
        thread::spawn(move || {
            for (model, part) in inbox {
                let step = crash::catch(|| {
                    // A fork shares its running statistics with the model, and moves them to its
                    // device; the copies have their own.
                    let copy = model.valid().train().fork(&device);
                    let step = copy.step(part.to_device(&device));
                    (step, Buffers::of(&copy))
                });
                if outbox.send(step).is_err() {
                    break;
                }
            }
        });
        Self { tasks, steps }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::module::{ModuleVisitor, Param};

    use super::*;
    use crate::config::TrainConfig;

    /// Running statistics and singular vectors, in the order of the model.
    #[derive(Default)]
    struct Found(Vec<Vec<f64>>);

    impl ModuleVisitor for Found {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                self.0.push(param.val().try_into_vec_as().unwrap());
            }
        }
    }

    fn found(model: &Classifier) -> Vec<Vec<f64>> {
        drop(model.valid());
        let mut found = Found::default();
        model.visit(&mut found);
        found.0
    }

    #[test]
    fn running_statistics_are_the_means_of_the_parts() {
        let device = Device::flex().autodiff();
        let mut config = TrainConfig::digits();
        config.model.mopteqs_mut().unwrap().perturbation.size = 0.0;
        let model = Classifier::new(&config, &device).unwrap().materialised();
        let values = (0..5 * config.shape.len()).map(|i| (i % 97) as f32 / 40.0 - 1.0);
        let batch = RawBatch {
            shape: config.shape,
            values: values.collect(),
            targets: vec![0, 1, 2, 3, 4],
        };
        // Three pictures and two.
        let parts = batch.clone().split(2).into_iter().map(|part| {
            let copy = model.valid().train();
            copy.step(part.to_device(&device));
            found(&copy)
        });
        let parts: Vec<_> = parts.collect();
        let before = found(&model);
        let team = Team::new(&[device.clone(), device]);
        assert_eq!(team.step(&model, batch).unwrap().len(), 2);
        let after = found(&model);
        assert!(!after.is_empty() && after != before);
        for (k, after) in after.iter().enumerate() {
            for (i, value) in after.iter().enumerate() {
                let mean = 0.6 * parts[0][k][i] + 0.4 * parts[1][k][i];
                assert!((value - mean).abs() <= 1e-5 * (1.0 + mean.abs()), "{k}");
            }
        }
    }
}
