//! What a training needs, and checks that it is possible.

use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::prelude::*;

use super::{TrainError, Weights};
use crate::Error;
use crate::checkpoint::{self, Position};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::data::{DataError, DataSet, DataSource, Picture, Sample};
use crate::device::SelectedDevice;
use crate::evaluate::{Outcome, batcher};
use crate::history::History;
use crate::parts::{FileList, Parts, check_data};
use crate::run::{RunError, RunFolder};
use crate::seed::{Stream, derive};

/// A training that has been found possible: its config is sound, its data are there, and the
/// devices can hold its model.
pub struct Task {
    pub(super) config: TrainConfig,
    pub(super) devices: Vec<SelectedDevice>,
    pub(super) train: Arc<[Picture]>,
    pub(super) valid: Vec<Picture>,
    pub(super) test: Vec<Picture>,
    pub(super) parameters: usize,
    /// The list of the pictures, if the task trains.
    pub(super) files: Option<FileList>,
    /// Validation pictures that the weights were trained on before.
    pub(super) known_valid: usize,
    /// Whether the data are elsewhere than the run says. The run finds them there from now on.
    pub(super) moved: bool,
    /// What the training starts from, in place of random parameters.
    pub(super) weights: Option<Weights>,
    /// The final model's answers to the test pictures. The report uses them.
    pub(super) outcome: OnceLock<Outcome>,
    /// Whether TensorBoard can follow the training.
    pub(super) log_events: bool,
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
    /// are now, if elsewhere. Set `going_on` for a run that continues to train, because it needs
    /// all of its training pictures.
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
        // The run is of an earlier version, which split differently.
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

    /// Set `trains` for a task that trains, not for one that only looks back.
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

    /// Makes the training start from these weights. If the classes differ, the tensors that depend
    /// on them are drawn at random, and their names are returned.
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

    /// Training pictures that each epoch leaves out, different ones in every epoch: those of a last
    /// batch that is smaller than the others, on devices that compile for every size.
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

    /// Lets TensorBoard follow the training: it reads the folder `tensorboard` of the run. A run
    /// that was followed before is followed without asking.
    pub fn log_events(&mut self) {
        self.log_events = true;
    }

    /// The final model's results on the test pictures, once this task has trained it.
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

    /// Whether all epochs are done, or enough of them without an improvement.
    pub(super) fn is_over(&self, history: &History) -> bool {
        let last = history.epochs.last().map_or(0, |row| row.epoch);
        // Of equal epochs the later one is the best, which would reset the count for ever.
        let patience = self.config.patience;
        last >= self.config.epochs
            || (patience > 0 && last >= history.first_best().unwrap_or(last) + patience)
    }

    /// A model with the parameters of the seed. They are the same on every device, because they are
    /// drawn on the CPU if it is built in.
    pub(super) fn new_model(&self, device: &Device) -> Result<Classifier, Error> {
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

    pub(super) fn optimizer(&self) -> ModuleOptimizer {
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

/// Refuses an imported model. It is not a stopped training, and training over it would lose it.
pub(super) fn refuse_imported(run: &RunFolder, config: &TrainConfig) -> Result<(), RunError> {
    let first = checkpoint::positions(run).first().copied();
    match first == Some(Position::default()) && config.from.is_none() {
        true => Err(RunError::Imported(run.path().into())),
        false => Ok(()),
    }
}
