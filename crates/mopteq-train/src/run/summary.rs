//! The outcome of a run.

use serde::{Deserialize, Serialize};

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
