//! A training run from its config to its summary.

use std::path::PathBuf;
use std::sync::Arc;

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use burn::train::metric::{AccuracyMetric, LearningRateMetric, LossMetric};
use burn::train::{Interrupter, Learner, SupervisedTraining};
use serde::Serialize;

use crate::Error;
use crate::checkpoint::{self, KeepLastAndBest, RecordFiles, RecordKind};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::curves;
use crate::data::{EpochLoader, Picture, PictureBatcher, Split, fixed_loader, stratified_split};
use crate::device::SelectedDevice;
use crate::evaluate::{Scores, batcher, evaluate};
use crate::history::{FailureSlot, History, HistoryLogger, SharedHistory};
use crate::metrics::{self, SolverMetric};
use crate::progress::{View, warn};
use crate::run::{RunError, RunFolder};
use crate::schedule::MultiStep;
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
    /// Burn refused the learning-rate schedule.
    #[error("milestones: {0}")]
    Schedule(String),
    /// The user stopped it.
    #[error("training was stopped after epoch {done} of {epochs}; go on by --resume {run}")]
    Interrupted {
        /// Epochs that are finished and saved.
        done: usize,
        /// Epochs of the whole run.
        epochs: usize,
        /// The run folder.
        run: PathBuf,
    },
    /// A library underneath gave up.
    #[error("{what} failed: {message}; the run folder is intact, go on by --resume {run}")]
    Crashed {
        /// What was going on.
        what: &'static str,
        /// The first thing that went wrong.
        message: String,
        /// The run folder.
        run: PathBuf,
    },
}

/// The final result of a run, as it is kept in `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the data set.
    pub data: &'static str,
    /// Correct test pictures, in percent.
    pub test_accuracy: f64,
    /// Mean cross entropy of the test pictures.
    pub test_loss: f64,
    /// Number of test pictures.
    pub test_pictures: usize,
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

/// A training that has been found possible: its config is sound, its data are there, and the
/// device can hold its model.
pub struct Task {
    config: TrainConfig,
    device: SelectedDevice,
    split: Split,
    test: Vec<Picture>,
}

impl Task {
    /// Reads the data and checks everything that can be checked before a file is written.
    ///
    /// # Errors
    ///
    /// When the config cannot work, the data cannot be read, or nothing is left to train on.
    pub fn new(config: TrainConfig, device: SelectedDevice) -> Result<Self, Error> {
        config.validate()?;
        let data = config.data.load()?;
        let mut pictures = data.train;
        pictures.truncate(config.limit.unwrap_or(usize::MAX));
        let split = stratified_split(pictures, config.validation_fraction, config.seed);
        if split.train.is_empty() {
            return Err(TrainError::NoPictures.into());
        }
        Classifier::new(&config, &device.device)?;
        Ok(Self {
            config,
            device,
            split,
            test: data.test,
        })
    }

    /// The config of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The device of the run.
    pub fn device(&self) -> &SelectedDevice {
        &self.device
    }

    /// The epoch after which an existing run of this config goes on: that of its last checkpoint
    /// that can be read, or 0 when it was stopped before the first.
    ///
    /// # Errors
    ///
    /// When there are checkpoints but all of them are damaged.
    pub fn resume_point(&self, run: &RunFolder) -> Result<usize, Error> {
        let mut first_error = None;
        for epoch in run.complete_epochs().into_iter().rev() {
            let model = self.new_model(&self.device.device)?;
            match checkpoint::check(run, epoch, model, self.optimizer()) {
                Ok(()) => return Ok(epoch),
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
                    "{run} has no complete checkpoint; training starts anew"
                ));
                Ok(0)
            }
        }
    }

    /// Trains, or goes on training after epoch `resume_from` (0: from the start), evaluates the
    /// final model on the test pictures and writes the summary.
    ///
    /// When it resumes, the process needs Burn's default device to be usable (`BURN_DEVICE=flex`
    /// always is), for Burn unpacks the optimiser's state there, whatever the device of the run.
    ///
    /// # Errors
    ///
    /// When the device or the disk fails, or the user stops it. The run folder then holds the
    /// last whole checkpoint.
    pub fn train(&self, run: &RunFolder, resume_from: usize, view: View) -> Result<Summary, Error> {
        run.remove_unfinished()?;
        let mut history = run.read_history()?;
        history.truncate(resume_from);
        let history = SharedHistory::new(history);
        if resume_from < self.config.epochs {
            self.fit(run, resume_from, view, &history)?;
        }

        // The final model is the one that was saved, so that `eval` and `predict` use the same.
        let model = Classifier::new(&self.config, &self.device.device)?;
        let model = checkpoint::load_model(run, self.config.epochs, model)?;
        let scores = evaluate(&model, &self.config, &self.test, &self.device.device)
            .map_err(|crash| crashed("the evaluation", crash, run))?;
        let history = history.lock();
        let summary = self.summary(&history, &scores, model.num_parameters());
        run.write_summary(&summary)?;
        write_curves(run, &history);
        Ok(summary)
    }

    fn summary(&self, history: &History, scores: &Scores, parameters: usize) -> Summary {
        let config = &self.config;
        let last = |split, name| history.value(config.epochs, &metrics::key(split, name));
        let training = |name| last(&metrics::TRAIN, name);
        let forward = scores.forward;
        Summary {
            data: config.data.name(),
            test_accuracy: scores.accuracy(),
            test_loss: scores.loss,
            test_pictures: scores.pictures,
            forward_steps: forward.map(|solve| solve.steps),
            forward_residual: forward.map(|solve| solve.residual),
            forward_converged: forward.map(|solve| 100.0 * solve.converged),
            backward_steps: training(metrics::BACKWARD_STEPS),
            backward_residual: training(metrics::BACKWARD_RESIDUAL),
            backward_converged: training(metrics::BACKWARD_CONVERGED),
            train_loss: training(metrics::LOSS),
            valid_accuracy: last(&metrics::VALID, metrics::ACCURACY),
            epochs: config.epochs,
            parameters,
            seed: config.seed,
            device: self.device.name.clone(),
            training_seconds: history.seconds(),
        }
    }

    /// A model with the parameters that the seed gives.
    fn new_model(&self, device: &Device) -> Result<Classifier, Error> {
        device.seed(derive(self.config.seed, Stream::Parameters, [0, 0]));
        Ok(Classifier::new(&self.config, device)?.materialised())
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

    /// Runs Burn's training loop and makes sure that it came to its end.
    fn fit(
        &self,
        run: &RunFolder,
        resume_from: usize,
        view: View,
        history: &SharedHistory,
    ) -> Result<(), Error> {
        let failure = FailureSlot::default();
        let result = self.launch(run, resume_from, view, history, &failure)?;
        if let Some(error) = failure.take() {
            return Err(error.into());
        }
        if let Some(message) = result.map_err(|crash| crashed("the training", crash, run))? {
            let run = run.path().into();
            return Err(TrainError::Crashed {
                what: "the training",
                message,
                run,
            }
            .into());
        }
        // The dashboard forgets that the user stopped it, so the outcome is read off the folder.
        match run.complete_epochs().last().copied().unwrap_or(0) {
            done if done >= self.config.epochs => Ok(()),
            done => {
                let (epochs, run) = (self.config.epochs, run.path().into());
                Err(TrainError::Interrupted { done, epochs, run }.into())
            }
        }
    }

    /// The training loop: an error that Burn reported, or a panic.
    fn launch(
        &self,
        run: &RunFolder,
        resume_from: usize,
        view: View,
        history: &SharedHistory,
        failure: &FailureSlot,
    ) -> Result<Result<Option<String>, Crash>, Error> {
        let config = &self.config;
        let device = self.device.device.clone().autodiff();
        let steps = self.split.train.len().div_ceil(config.batch_size) * config.epochs;
        let schedule = MultiStep::new(config, steps)
            .scheduler()
            .map_err(TrainError::Schedule)?;
        let learner = Learner::new(self.new_model(&device)?, self.optimizer(), schedule);

        let train_loader = EpochLoader::new(
            self.split.train.clone(),
            PictureBatcher {
                augmentation: config.augmentation.clone(),
                ..batcher(config)
            },
            config.batch_size,
            config.seed,
            resume_from + 1,
            &device,
        );
        let valid_loader = fixed_loader(
            &self.split.valid,
            batcher(config),
            config.batch_size,
            &self.device.device,
        );
        let files = |kind| RecordFiles::new(run.clone(), kind, failure.clone());
        Ok(crash::catch(|| {
            let interrupter = Interrupter::new();
            let logger = HistoryLogger::new(
                run.clone(),
                history.clone(),
                failure.clone(),
                interrupter.clone(),
            );
            let resumed = (resume_from > 0).then_some(resume_from);
            let mut training =
                SupervisedTraining::new(run.path(), Arc::new(train_loader), valid_loader)
                    .renderer(view.renderer(interrupter.clone(), resumed))
                    .with_interrupter(interrupter)
                    // Burn's own log is a line for every step and a panic hook that shouts.
                    .with_application_logger(None)
                    .with_metric_logger(logger)
                    .with_custom_checkpointers(
                        files(RecordKind::Model),
                        files(RecordKind::Optimizer),
                        files(RecordKind::Scheduler),
                    )
                    .with_checkpointing_strategy(KeepLastAndBest::new(run.clone(), history.clone()))
                    .metrics((AccuracyMetric::new(), LossMetric::new()))
                    .num_epochs(config.epochs);
            for metric in SolverMetric::forward() {
                training = training
                    .metric_train_numeric(metric.clone())
                    .metric_valid_numeric(metric);
            }
            for metric in SolverMetric::backward() {
                training = training.metric_train_numeric(metric);
            }
            training = training.metric_train_numeric(LearningRateMetric::new());
            if let Some(epoch) = resumed {
                training = training.checkpoint(epoch);
            }
            // The result holds the renderer: dropping it here gives the terminal back.
            training
                .launch(learner)
                .error
                .map(|error| error.to_string())
        }))
    }
}

/// Curves are for looking at: a run is none the worse without.
fn write_curves(run: &RunFolder, history: &History) {
    let written = curves::draw(history).map(|svg| run.write_curves(&svg));
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn(error),
        Err(error) => warn(format_args!("{}: {error}", run.curves_path().display())),
    }
}

/// Keeps the stack of a crash in the run folder, and its message for the user.
fn crashed(what: &'static str, crash: Crash, run: &RunFolder) -> TrainError {
    let log = format!("{what}: {}\n\n{}\n", crash.message, crash.backtrace);
    if let Err(error @ RunError::Io { .. }) = run.write_crash(&log) {
        warn(error);
    }
    TrainError::Crashed {
        what,
        message: crash.message,
        run: run.path().into(),
    }
}
