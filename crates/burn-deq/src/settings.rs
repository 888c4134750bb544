//! Settings of a layer.

use burn::config::Config;

use crate::config::{Freezing, Gradient, Solver};
use crate::error::ConfigError;

/// Settings of an [`Equilibrium`](crate::Equilibrium).
#[derive(Config, Debug, PartialEq)]
pub struct EquilibriumConfig {
    /// The forward solve. Default: Anderson acceleration, relative tolerance 1e-4, 50 steps.
    #[config(default = "Default::default()")]
    pub forward: Solver,
    /// How gradients pass. Default: exact, by the implicit function theorem.
    #[config(default = "Default::default()")]
    pub gradient: Gradient,
    /// Whether finished samples leave the batch, in both solves. Default: if the map declares
    /// independent samples
    #[config(default = "Freezing::Declared")]
    pub freezing: Freezing,
    /// Evaluations whose iterates are returned as
    /// [`Solution::intermediate`](crate::Solution::intermediate), ascending, for auxiliary losses.
    /// Default: none
    #[config(default = "Vec::new()")]
    pub record: Vec<usize>,
}

impl Default for EquilibriumConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl EquilibriumConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns the first setting that no solver can work with, by name. Without this check, such a
    /// setting gives samples whose status is not `Converged`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.forward.termination.validate("forward.termination")?;
        self.forward.method.validate("forward.method")?;
        self.gradient.validate("gradient")?;
        match self.record.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => Err(ConfigError {
                field: "record".to_owned(),
                value: pair[1] as f64,
                expected: "in strictly ascending order",
            }),
            None => Ok(()),
        }
    }
}
