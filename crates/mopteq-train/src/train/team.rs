//! Several devices that compute the parts of a batch at the same time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use burn::module::Module;
use burn::prelude::*;

use crate::classifier::{Classifier, TrainingStep};
use crate::crash::{self, Crash};
use crate::data::RawBatch;

/// A worker thread for each device. A thread keeps its device for the whole training, because GPU
/// backends hold queues and memory for each thread.
pub(super) struct Team {
    workers: Vec<Worker>,
}

struct Worker {
    tasks: Sender<(Classifier, RawBatch)>,
    steps: Receiver<Result<TrainingStep, Crash>>,
}

impl Team {
    /// Starts the workers, on devices with autodiff.
    pub(super) fn new(devices: &[Device]) -> Self {
        let workers = devices.iter().cloned().map(Worker::start).collect();
        Self { workers }
    }

    /// Cuts a batch into one part for each device and computes the parts. The results come in the
    /// order of the devices, so their sum does not depend on which is first. A batch of fewer
    /// pictures than devices leaves some of them idle.
    pub(super) fn step(
        &self,
        model: &Classifier,
        batch: RawBatch,
    ) -> Result<Vec<TrainingStep>, Crash> {
        let parts = batch.split(self.workers.len());
        let busy = &self.workers[..parts.len()];
        for (worker, part) in busy.iter().zip(parts) {
            // A worker that is gone tells so below.
            let _ = worker.tasks.send((model.clone(), part));
        }
        let gone = || Crash {
            message: "the thread of a device is gone".into(),
            backtrace: String::new(),
        };
        let results: Vec<_> = busy.iter().map(|worker| worker.steps.recv()).collect();
        results
            .into_iter()
            .map(|step| step.unwrap_or_else(|_| Err(gone())))
            .collect()
    }
}

impl Worker {
    fn start(device: Device) -> Self {
        let (tasks, inbox) = channel::<(Classifier, RawBatch)>();
        let (outbox, steps) = channel();
        thread::spawn(move || {
            for (model, part) in inbox {
                let step = crash::catch(|| model.fork(&device).step(part.to_device(&device)));
                if outbox.send(step).is_err() {
                    break;
                }
            }
        });
        Self { tasks, steps }
    }
}
