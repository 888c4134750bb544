//! A training run from its config to its summary.

mod fit;
mod parameters;
mod team;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::checkpoint::{self, Position, Which};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::data::{DataError, DataSet, Picture, stratified_split};
use crate::device::SelectedDevice;
use crate::evaluate::{Outcome, Scores, infer, scores};
use crate::history::History;
use crate::metrics;
use crate::progress::{View, warn};
use crate::run::{RunError, RunFolder};
use crate::seed::{Stream, derive};

/// A training did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing is left to train on.
    #[error(
        "no picture is left to train on; raise limit (--limit) or lower validation_fraction \
         (--validation-fraction)"
    )]
    NoPictures,
    /// The loss is no number any more.
    #[error(
        "the loss became {loss} in epoch {epoch}, batch {batch}; lower the learning rate (--lr) \
         or clip the gradient (--clip-norm 1); what was saved before is intact in {run}"
    )]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Batch, from 1.
        batch: usize,
        /// The run folder.
        run: PathBuf,
    },
    /// The user stopped it.
    #[error(
        "stopped and saved after {done} of {epochs} epochs; go on by: mopteq train --resume {run}"
    )]
    Interrupted {
        /// What is done and saved.
        done: Position,
        /// Epochs of the whole run.
        epochs: usize,
        /// The run folder.
        run: PathBuf,
    },
    /// A library underneath gave up.
    #[error(
        "{what} failed: {message}; {remedy}; what was saved is intact, go on by --resume {run}"
    )]
    Crashed {
        /// What was going on.
        what: &'static str,
        /// The first thing that went wrong.
        message: String,
        /// What may help.
        remedy: &'static str,
        /// The run folder.
        run: PathBuf,
    },
}

/// The final result of a run, as it is kept in `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The data: a name, or the path.
    pub data: String,
    /// Correct test pictures, in percent.
    pub test_accuracy: f64,
    /// Mean cross entropy of the test pictures.
    pub test_loss: f64,
    /// Number of test pictures.
    pub test_pictures: usize,
    /// Epochs after which the tested model was saved: the last one, or the best one of a run
    /// that stopped early.
    pub tested_epoch: usize,
    /// Mean solver steps on the test pictures.
    pub forward_steps: Option<f64>,
    /// Mean relative residual on the test pictures.
    pub forward_residual: Option<f64>,
    /// Test pictures whose equilibrium met the tolerance, in percent.
    pub forward_converged: Option<f64>,
    /// Mean steps of the backward solves of the last epoch.
    pub backward_steps: Option<f64>,
    /// Mean relative residual of the backward solves of the last epoch.
    pub backward_residual: Option<f64>,
    /// Training samples of the last epoch whose gradient met the tolerance, in percent.
    pub backward_converged: Option<f64>,
    /// Mean cross entropy of the last epoch's training batches.
    pub train_loss: Option<f64>,
    /// Correct validation pictures after the last epoch, in percent.
    pub valid_accuracy: Option<f64>,
    /// Epochs trained.
    pub epochs: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Seed of the run.
    pub seed: u64,
    /// The device of the last part of the run.
    pub device: String,
    /// Wall time of all epochs, those before a resume included.
    pub training_seconds: f64,
}

/// A wish to stop that can come from another thread or from a signal handler.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// The flag itself, for signal handlers to set.
    pub fn shared(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Asks the training to save and stop after the current batch.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A training that has been found possible: its config is sound, its data are there, and the
/// devices can hold its model.
pub struct Task {
    config: TrainConfig,
    devices: Vec<SelectedDevice>,
    train: Arc<[Picture]>,
    valid: Vec<Picture>,
    test: Vec<Picture>,
    parameters: usize,
    /// What the final model made of the test pictures, for the report.
    outcome: OnceLock<Outcome>,
}

impl Task {
    /// Reads the data and checks everything that can be checked before a file is written.
    ///
    /// # Errors
    ///
    /// When the config cannot work, the data cannot be read or are not those of the config, or
    /// nothing is left to train on.
    pub fn new(config: TrainConfig, devices: Vec<SelectedDevice>) -> Result<Self, Error> {
        let data = config.data.load()?;
        Self::with_data(config, data, devices)
    }

    /// The same with data that have been read already.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_data(
        config: TrainConfig,
        data: DataSet,
        devices: Vec<SelectedDevice>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let changed = |reason: String| DataError::Changed {
            path: config.data.describe(),
            reason,
        };
        if data.shape != config.shape {
            let text = format!("its pictures are {:?}, not {:?}", data.shape, config.shape);
            return Err(changed(text).into());
        }
        if data.classes != config.classes {
            let text = format!("its classes are {}", data.classes.join(", "));
            return Err(changed(text).into());
        }
        let mut pictures = data.train;
        pictures.truncate(config.limit.unwrap_or(usize::MAX));
        let mut test = data.test;
        test.truncate(config.test_limit.unwrap_or(usize::MAX));
        let split = stratified_split(pictures, config.validation_fraction, config.seed);
        if split.train.is_empty() || devices.is_empty() {
            return Err(TrainError::NoPictures.into());
        }
        let parameters = Classifier::new(&config, &devices[0].device)?.num_parameters();
        Ok(Self {
            config,
            devices,
            train: split.train.into(),
            valid: split.valid,
            test,
            parameters,
            outcome: OnceLock::new(),
        })
    }

    /// The config of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The first device of the run, which also evaluates.
    pub fn device(&self) -> &SelectedDevice {
        &self.devices[0]
    }

    /// Checks that every device can train the model as its config says; one that cannot may still
    /// evaluate it.
    ///
    /// # Errors
    ///
    /// When a device does not compute in the model's precision.
    pub fn check_devices(&self) -> Result<(), Error> {
        for device in &self.devices {
            device.can_train(&self.config.model)?;
        }
        Ok(())
    }

    /// What the final model made of the test pictures, once this task has trained it.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// The pictures that are tested at the end.
    pub fn test_pictures(&self) -> &[Picture] {
        &self.test
    }

    /// Number of parameters that are trained.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Number of pictures that the gradient sees.
    pub fn training_pictures(&self) -> usize {
        self.train.len()
    }

    /// Number of pictures that are held out to choose by.
    pub fn validation_pictures(&self) -> usize {
        self.valid.len()
    }

    /// Where an existing run of this config goes on: at its last checkpoint that can be read, or
    /// at the start when it was stopped before the first.
    ///
    /// # Errors
    ///
    /// When there are checkpoints but all of them are damaged.
    pub fn resume_point(&self, run: &RunFolder) -> Result<Position, Error> {
        let mut first_error = None;
        for position in checkpoint::positions(run).into_iter().rev() {
            let model = Classifier::new(&self.config, &self.device().device)?;
            let optimizer = self.optimizer();
            match checkpoint::restore(run, position, model, optimizer, self.config.ema > 0.0) {
                Ok(_) => return Ok(position),
                Err(error) => {
                    warn(&error);
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) => Err(error.into()),
            None => {
                let run = run.path().display();
                warn(format_args!(
                    "{run} has no checkpoint yet; training starts anew"
                ));
                Ok(Position::default())
            }
        }
    }

    /// Trains from `start` to the end, evaluates the final model on the test pictures and writes
    /// the summary. A run that has its summary already is left as it is.
    ///
    /// When it resumes, the process needs Burn's default device to be usable (`BURN_DEVICE=flex`
    /// always is), for Burn unpacks the optimiser's state there, whatever the device of the run.
    ///
    /// # Errors
    ///
    /// When a device cannot train the model, another process trains in this folder, the device or
    /// the disk fails, the loss is no number, or the user stops it. The run folder then holds the last whole checkpoint.
    pub fn train(
        &self,
        run: &RunFolder,
        start: Position,
        view: View,
        stop: &StopFlag,
    ) -> Result<Summary, Error> {
        self.check_devices()?;
        let _lock = run.lock()?;
        if let Some(summary) = run.read_summary()? {
            return Ok(summary);
        }
        run.remove_unfinished()?;
        let mut history = run.read_history()?;
        history.truncate(start.epochs);
        let mut done = start;
        if !self.is_over(&history) {
            let trained =
                crash::catch(|| fit::Fit::new(self, run, start, &mut history)?.run(view, stop))
                    .map_err(|crash| crashed("the training", crash, run))?;
            done = trained?;
            if !self.is_over(&history) {
                let (epochs, run) = (self.config.epochs, run.path().into());
                return Err(TrainError::Interrupted { done, epochs, run }.into());
            }
        }

        // The tested model is one that was saved, so that `eval` and `predict` use the same.
        let tested = match self.config.patience {
            0 => done,
            _ => Which::Best.position(run)?,
        };
        let model = Classifier::new(&self.config, &self.device().device)?;
        let model = checkpoint::load_model(run, tested, model)?;
        let outcome = infer(&model, &self.config, &self.test, &self.device().device)
            .map_err(|crash| crashed("the evaluation", crash, run))?;
        let scores = scores(&outcome, &self.test);
        self.outcome.get_or_init(|| outcome);
        let summary = self.summary(&history, tested, &scores, model.num_parameters());
        run.write_summary(&summary)?;
        Ok(summary)
    }

    /// Whether all epochs are done, or enough without an improvement.
    fn is_over(&self, history: &History) -> bool {
        let last = history.epochs.last().map_or(0, |row| row.epoch);
        // Of equals the later epoch is the best, which would reset the count for ever.
        let patience = self.config.patience;
        last >= self.config.epochs
            || (patience > 0 && last >= history.first_best().unwrap_or(last) + patience)
    }

    fn summary(
        &self,
        history: &History,
        tested: Position,
        scores: &Scores,
        parameters: usize,
    ) -> Summary {
        let config = &self.config;
        let epochs = history.epochs.last().map_or(0, |row| row.epoch);
        let last = |name| history.value(epochs, name);
        let forward = scores.forward;
        Summary {
            data: config.data.describe(),
            test_accuracy: scores.accuracy(),
            test_loss: scores.loss,
            test_pictures: scores.pictures,
            tested_epoch: tested.epochs,
            forward_steps: forward.map(|solve| solve.steps),
            forward_residual: forward.map(|solve| solve.residual),
            forward_converged: forward.map(|solve| 100.0 * solve.converged),
            backward_steps: last(metrics::BACKWARD_STEPS),
            backward_residual: last(metrics::BACKWARD_RESIDUAL),
            backward_converged: last(metrics::BACKWARD_CONVERGED),
            train_loss: last(metrics::TRAIN_LOSS),
            valid_accuracy: last(metrics::VALID_ACCURACY),
            epochs,
            parameters,
            seed: config.seed,
            device: self.device().name.clone(),
            training_seconds: history.seconds(),
        }
    }

    /// A model with the parameters that the seed gives: the same ones on every device, for they
    /// are drawn on the CPU where it is built in.
    fn new_model(&self, device: &Device) -> Result<Classifier, Error> {
        #[cfg(feature = "flex")]
        let cpu = Device::flex().autodiff();
        #[cfg(not(feature = "flex"))]
        let cpu = device.clone();
        cpu.seed(derive(self.config.seed, Stream::Parameters, [0, 0]));
        let config = self.config.in_epoch(1);
        let drawn = Classifier::new(&config, &cpu)?.materialised();
        if *device == cpu {
            return Ok(drawn);
        }
        let model = Classifier::new(&config, device)?;
        Ok(model.load_record(drawn.into_record()).materialised())
    }

    fn optimizer(&self) -> ModuleOptimizer {
        // Burn's default dampening is 0.1; without it, this is the usual momentum.
        let momentum = MomentumConfig::new()
            .with_momentum(self.config.momentum)
            .with_dampening(0.0);
        SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(WeightDecayConfig::new(
                self.config.weight_decay as f32,
            )))
            .init()
    }
}

/// Keeps the stack of a crash in the run folder, and its message for the user.
pub(crate) fn crashed(what: &'static str, crash: Crash, run: &RunFolder) -> TrainError {
    let log = format!("{what}: {}\n\n{}\n", crash.message, crash.backtrace);
    if let Err(error @ RunError::Io { .. }) = run.write_crash(&log) {
        warn(error);
    }
    TrainError::Crashed {
        what,
        remedy: remedy(&crash.message),
        message: crash.message,
        run: run.path().into(),
    }
}

/// What may help against a crash of the device, by its message.
pub(crate) fn remedy(message: &str) -> &'static str {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&[
        "out of memory",
        "outofmemory",
        "out_of_memory",
        "allocat",
        "too large",
    ]) {
        "the device is out of memory: use a smaller --batch-size, with --accumulate for the same \
         step"
    } else if says(&["lost", "device removed", "illegal", "ecc", "xid"]) {
        "the device was lost: check its driver and temperature, or use --device cpu"
    } else {
        "crash.log in the run folder has the details"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_of_the_device_have_a_remedy() {
        assert!(remedy("CUDA_ERROR_OUT_OF_MEMORY").contains("--batch-size"));
        assert!(remedy("Parent device is lost").contains("--device cpu"));
        assert!(remedy("index out of bounds").contains("crash.log"));
    }
}
