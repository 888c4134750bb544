//! A training run from its config to its summary.

mod error;
mod fit;
mod measure;
mod parameters;
mod stop;
mod task;
mod team;
mod weights;

use crate::Error;
use crate::checkpoint::{self, Position, Which};
use crate::classifier::Classifier;
use crate::crash;
use crate::evaluate::{Scores, infer, scores};
use crate::history::History;
use crate::metrics;
use crate::progress::{View, warn};
pub use crate::run::Summary;
use crate::run::{RunError, RunFolder};
pub use error::{TrainError, WeightsError};
pub(crate) use error::{crashed, remedy};
use parameters::are_finite;
pub use stop::StopFlag;
pub use task::Task;
use task::refuse_imported;
pub use weights::Weights;

impl Task {
    /// Where an existing run of this config resumes: at its last checkpoint that can be read, or at
    /// the start if it was stopped before the first one.
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
                    "{run} has no checkpoint yet; training starts from the beginning"
                ));
                Ok(Position::default())
            }
        }
    }

    /// Trains from `start` to the end, evaluates the final model on the test pictures and writes
    /// the summary. A run that has its summary already is left as it is.
    ///
    /// When it resumes, the process needs Burn's default device to be usable (`BURN_DEVICE=flex`
    /// always is), because Burn unpacks the optimiser's state there, whatever the device of the
    /// run.
    ///
    /// # Errors
    ///
    /// When a device cannot train the model, another process trains in this folder, the device or
    /// the disk fails, the loss is not finite, or the user stops it. The run folder then holds the
    /// last whole checkpoint.
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
}
