//! A training run from its config to its summary.

mod error;
mod fit;
mod parameters;
mod stop;
mod team;
mod weights;

use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::prelude::*;

use crate::Error;
use crate::checkpoint::{self, Position, Which};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash;
use crate::data::{DataError, DataSet, DataSource, FileList, Parts, Picture, Sample, check_data};
use crate::device::SelectedDevice;
use crate::evaluate::{Outcome, Scores, batcher, infer, scores};
use crate::history::History;
use crate::metrics;
use crate::progress::{View, warn};
pub use crate::run::Summary;
use crate::run::{RunError, RunFolder};
use crate::seed::{Stream, derive};
pub use error::TrainError;
pub(crate) use error::{crashed, remedy};
use parameters::are_finite;
pub use stop::StopFlag;
pub use weights::{Weights, WeightsError};

/// A training that has been found possible: its config is sound, its data are there, and the
/// devices can hold its model.
pub struct Task {
    config: TrainConfig,
    devices: Vec<SelectedDevice>,
    train: Arc<[Picture]>,
    valid: Vec<Picture>,
    test: Vec<Picture>,
    parameters: usize,
    /// What the pictures are, if the task trains.
    files: Option<FileList>,
    /// Validation pictures that the weights were trained on before.
    known_valid: usize,
    /// The data are elsewhere than the run says, and are found there from now on.
    moved: bool,
    /// What the training starts from, in place of random parameters.
    weights: Option<Weights>,
    /// What the final model made of the test pictures, for the report.
    outcome: OnceLock<Outcome>,
    /// TensorBoard can follow the training.
    log_events: bool,
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
        check_data(&config, &data)?;
        let parts = Parts::split(data, &config);
        Self::with_parts(config, parts, devices, true)
    }

    /// The task of an existing run, with the pictures that it began with; `moved` says where these
    /// are now, if elsewhere. `going_on` is for one that trains on, which needs all of its training
    /// pictures.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), or when the data of the run are not what they were.
    pub fn of_run(
        run: &RunFolder,
        devices: Vec<SelectedDevice>,
        going_on: bool,
        moved: Option<&DataSource>,
    ) -> Result<Self, Error> {
        let mut config = run.read_config()?;
        if let Some(moved) = moved {
            config.data = config.data.moved_to(moved);
        }
        if going_on {
            refuse_imported(run, &config)?;
        }
        let parts = run.read_parts(&config, going_on)?;
        // Of an earlier version: its split was another.
        let started = !checkpoint::positions(run).is_empty();
        if going_on && started && run.read_files()?.is_none() && parts.are_files() {
            let reason = "the run has no list of its files, so what it trained on is not known";
            let (path, reason) = (config.data.describe(), reason.into());
            return Err(DataError::Changed { path, reason }.into());
        }
        let task = Self::with_parts(config, parts, devices, going_on)?;
        let moved = moved.is_some();
        Ok(Self { moved, ..task })
    }

    /// `trains` is for a task that is not there only to look back.
    fn with_parts(
        config: TrainConfig,
        parts: Parts,
        devices: Vec<SelectedDevice>,
        trains: bool,
    ) -> Result<Self, Error> {
        if (trains && parts.train.is_empty()) || devices.is_empty() {
            return Err(TrainError::NoPictures.into());
        }
        let parameters = Classifier::new(&config, &devices[0].device)?.num_parameters();
        if trains && config.patience > 0 && parts.valid.is_empty() {
            return Err(TrainError::NoValidation {
                patience: config.patience,
                fraction: config.validation_fraction,
            }
            .into());
        }
        let files = trains.then(|| parts.list());
        let known_valid = parts.known_valid();
        let mut test = parts.test;
        test.truncate(config.test_limit.unwrap_or(usize::MAX));
        Ok(Self {
            config,
            devices,
            train: parts.train.into(),
            valid: parts.valid,
            test,
            parameters,
            files,
            known_valid,
            moved: false,
            weights: None,
            outcome: OnceLock::new(),
            log_events: false,
        })
    }

    /// Has the training start from these weights. What depends on the classes is drawn at random
    /// where they are others: the names of those tensors are returned.
    ///
    /// # Errors
    ///
    /// When the weights are those of another model.
    pub fn start_from(&mut self, weights: Weights) -> Result<Vec<String>, Error> {
        let device = &self.device().device;
        let mut model = Classifier::new(&self.config, device)?.materialised();
        let fresh = weights.put_into(&mut model, &self.config, device)?;
        if let Some(files) = &mut self.files {
            files.start_from(weights.seen());
        }
        self.weights = Some(weights);
        Ok(fresh)
    }

    /// The config of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Training pictures that each epoch leaves out, other ones in every epoch: those of a last batch
    /// that is smaller than the others, on devices for which every size is compiled.
    pub fn left_out(&self) -> usize {
        let (all, size) = (self.train.len(), self.config.batch_size.max(1));
        let compiled = |device: &SelectedDevice| deq_kernels::compiles_at_run_time(&device.device);
        match self.devices.iter().any(compiled) && all >= size {
            true => all % size,
            false => 0,
        }
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

    /// Lets TensorBoard follow the training: it reads the folder `tensorboard` of the run. A run that
    /// was followed before is followed without asking.
    pub fn log_events(&mut self) {
        self.log_events = true;
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

    /// Number of these that the weights were trained on before.
    pub fn known_validation_pictures(&self) -> usize {
        self.known_valid
    }

    /// Where an existing run of this config goes on: at its last checkpoint that can be read, or
    /// at the start when it was stopped before the first.
    ///
    /// # Errors
    ///
    /// When there are checkpoints but all of them are damaged.
    pub fn resume_point(&self, run: &RunFolder) -> Result<Position, Error> {
        refuse_imported(run, &self.config)?;
        let mut first_error = None;
        for position in checkpoint::positions(run).into_iter().rev() {
            let model = Classifier::new(&self.config, &self.device().device)?;
            let optimizer = self.optimizer();
            match checkpoint::restore(run, position, model, optimizer, self.config.ema > 0.0) {
                Ok(restored) if are_finite(&restored.model) => return Ok(position),
                Ok(_) => {
                    let error = RunError::Checkpoint {
                        file: checkpoint::path(run, position),
                        reason: "its parameters are no finite numbers".into(),
                    };
                    warn(&error);
                    first_error.get_or_insert(error);
                }
                Err(error) => {
                    warn(&error);
                    first_error.get_or_insert(error);
                }
            }
        }
        match (first_error, &self.config.from) {
            (Some(error), _) => Err(error.into()),
            (None, Some(from)) => Err(RunError::NoWeights {
                run: run.path().into(),
                from: from.clone(),
            }
            .into()),
            (None, None) => {
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
        if self.moved {
            run.write_config(&self.config)?;
        }
        if let Some(summary) = run.read_summary()? {
            return Ok(summary);
        }
        refuse_imported(run, &self.config)?;
        run.remove_unfinished()?;
        checkpoint::remove_unfinished(run)?;
        if let (Some(files), None) = (&self.files, run.read_files()?) {
            run.write_files(files)?;
        }
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
        if !scores.loss.is_finite() {
            let wrong = self.test.len() - outcome.finite();
            let what = format!(
                "the values that the model gives of {wrong} of {} test pictures are",
                self.test.len()
            );
            return Err(TrainError::diverged(&what, tested, run).into());
        }
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
        let mut drawn = Classifier::new(&config, &cpu)?.materialised();
        if self.config.whitening && self.weights.is_none() {
            drawn = drawn.whitened(&self.some_pictures(&cpu)?);
        }
        if let Some(weights) = &self.weights {
            weights.put_into(&mut drawn, &config, &cpu)?;
        }
        if *device == cpu {
            return Ok(drawn);
        }
        let model = Classifier::new(&config, device)?;
        Ok(model.load_record(drawn.into_record()).materialised())
    }

    /// Normalised training pictures, spread over all.
    fn some_pictures(&self, device: &Device) -> Result<Tensor<4>, Error> {
        const ENOUGH: usize = 512;
        let step = self.train.len().div_ceil(ENOUGH).max(1);
        let plain = |picture| Sample {
            picture,
            augmentation: None,
        };
        let samples: Vec<_> = self.train.iter().step_by(step).map(plain).collect();
        let batch = batcher(&self.config).stack(&samples)?;
        Ok(batch.to_device(&device.clone().without_autodiff()).images)
    }

    fn optimizer(&self) -> ModuleOptimizer {
        // Burn's default dampening is 0.1; without it, this is the usual momentum.
        let momentum = MomentumConfig::new()
            .with_momentum(self.config.momentum)
            .with_nesterov(self.config.nesterov)
            .with_dampening(0.0);
        let decay = match self.config.decay_kernels_only {
            true => 0.0,
            false => self.config.weight_decay as f32,
        };
        SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(WeightDecayConfig::new(decay)))
            .init()
    }
}

/// An imported model is no training that stopped: to train over it would lose it.
fn refuse_imported(run: &RunFolder, config: &TrainConfig) -> Result<(), RunError> {
    let first = checkpoint::positions(run).first().copied();
    match first == Some(Position::default()) && config.from.is_none() {
        true => Err(RunError::Imported(run.path().into())),
        false => Ok(()),
    }
}
