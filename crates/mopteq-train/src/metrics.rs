//! What is measured in every epoch, under which name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluate::Scores;
use crate::solves::{LayerSums, SolveStats, SolveSums};

/// Mean cross entropy of the training batches.
pub const TRAIN_LOSS: &str = "train_loss";
/// Correct training pictures, in percent.
pub const TRAIN_ACCURACY: &str = "train_accuracy";
/// Mean steps of the solve for the equilibrium, in training.
pub const FORWARD_STEPS: &str = "train_forward_steps";
/// Mean relative residual of the solve for the equilibrium, in training.
pub const FORWARD_RESIDUAL: &str = "train_forward_residual";
/// Share of training pictures whose equilibrium met the tolerance, in percent.
pub const FORWARD_CONVERGED: &str = "train_forward_converged";
/// Mean steps of the solve for the gradient.
pub const BACKWARD_STEPS: &str = "train_backward_steps";
/// Mean relative residual of the solve for the gradient.
pub const BACKWARD_RESIDUAL: &str = "train_backward_residual";
/// Share of training pictures whose gradient met the tolerance, in percent.
pub const BACKWARD_CONVERGED: &str = "train_backward_converged";
/// Learning rate of the last step.
pub const LEARNING_RATE: &str = "train_learning_rate";
/// Mean norm of the gradient before it is clipped; measured only when it is clipped.
pub const GRADIENT_NORM: &str = "train_gradient_norm";
/// Mean cross entropy of the validation pictures.
pub const VALID_LOSS: &str = "valid_loss";
/// Correct validation pictures, in percent.
pub const VALID_ACCURACY: &str = "valid_accuracy";
/// Mean solver steps on the validation pictures.
pub const VALID_STEPS: &str = "valid_forward_steps";

/// Sums over the training batches of an epoch so far. A checkpoint within an epoch keeps them, so
/// that the epoch's averages are those of the whole epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Pictures.
    pub pictures: usize,
    /// Correct pictures.
    pub correct: usize,
    /// Cross entropy, summed over the pictures.
    pub loss: f64,
    /// Gradient norms, summed over the steps, and number of the steps.
    pub norms: [f64; 2],
    /// Solves for the equilibrium.
    pub forward: SolveSums,
    /// Solves for the gradient.
    pub backward: SolveSums,
    /// Both for each layer of a stack.
    #[serde(default)]
    pub layers: LayerSums,
}

impl Sums {
    /// The averages by name.
    pub fn values(&self) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        let mut put = |name: &str, value: f64| {
            if value.is_finite() {
                values.insert(name.to_owned(), value);
            }
        };
        let count = self.pictures as f64;
        put(TRAIN_LOSS, self.loss / count);
        put(TRAIN_ACCURACY, 100.0 * self.correct as f64 / count);
        put(GRADIENT_NORM, self.norms[0] / self.norms[1]);
        let mut solve = |solves: &str, mean: Option<SolveStats>| {
            if let Some(mean) = mean {
                put(&format!("{solves}_steps"), mean.steps);
                put(&format!("{solves}_residual"), mean.residual);
                put(&format!("{solves}_converged"), 100.0 * mean.converged);
            }
        };
        solve("train_forward", self.forward.mean());
        solve("train_backward", self.backward.mean());
        for layer in self.layers.means() {
            let layer_name = key(&layer.name);
            solve(&format!("{layer_name}_forward"), layer.forward);
            solve(&format!("{layer_name}_backward"), layer.backward);
        }
        values
    }
}

/// The beginning of the names of a layer's metrics: `train_stage_1_layer_2` for `stage 1, layer 2`.
pub fn key(layer: &str) -> String {
    let words = layer.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    format!("train_{}", words.join("_"))
}

/// The validation's numbers by name.
pub fn validation(scores: &Scores) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::from([
        (VALID_LOSS.to_owned(), scores.loss),
        (VALID_ACCURACY.to_owned(), scores.accuracy()),
    ]);
    if let Some(forward) = scores.forward {
        values.insert(VALID_STEPS.to_owned(), forward.steps);
    }
    values.retain(|_, value| value.is_finite());
    values
}
