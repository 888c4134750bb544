//! Perturbation enhancement: training on points near the equilibrium.
//!
//! This is a reconstruction. The paper's public summary mentions "perturbation size epsilon = 0.1"
//! and says that the strategy is "inspired by our understandings of the hidden objective function".
//! The equilibrium is a minimiser, so requiring the same class in its neighbourhood favours a wide
//! minimum.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Distribution, Tensor};

use crate::context::Branches;
use crate::error::ConfigError;

/// Location and direction of the perturbation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum PerturbationKind {
    /// Gaussian noise on z*, relative to the root mean square of each sample's branch. The default.
    #[default]
    Gaussian,
    /// A step along the gradient of the loss with respect to z*, of the size of the Gaussian noise.
    /// Without labels, it uses the most likely class.
    Ascent,
    /// Gaussian noise on the features g(x) before the solve, relative to their root mean square.
    Input,
}

/// How gradients pass through the perturbed equilibrium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum PerturbationGradient {
    /// Through the equilibrium by the implicit function theorem, and through the following steps.
    /// The default.
    #[default]
    Implicit,
    /// Through the following steps only; the equilibrium is a constant. No backward solve.
    Steps,
}

/// Perturbation enhancement, in training only.
#[derive(Config, Debug, PartialEq)]
pub struct Perturbation {
    /// epsilon, relative to the size of the perturbed tensor. 0 turns it off. Default: 0.1
    #[config(default = 0.1)]
    pub size: f64,
    /// Location and direction. Default: Gaussian noise on z*
    #[config(default = "Default::default()")]
    pub kind: PerturbationKind,
    /// Differentiable steps of the map after the perturbation, which pull the state back towards
    /// the minimiser. Default: 1
    #[config(default = 1)]
    pub steps: usize,
    /// How gradients pass through the equilibrium. Default: implicitly
    #[config(default = "Default::default()")]
    pub gradient: PerturbationGradient,
}

impl Default for Perturbation {
    fn default() -> Self {
        Self::new()
    }
}

impl Perturbation {
    /// No perturbation.
    pub fn off() -> Self {
        Self::new().with_size(0.0)
    }

    /// Whether anything is perturbed.
    pub fn is_on(&self) -> bool {
        self.size > 0.0
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// Returns an error if the size is negative or not finite, or if no gradient would reach the
    /// parameters.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_least_zero("perturbation.size", self.size)?;
        let lost = self.gradient == PerturbationGradient::Steps && self.steps == 0;
        ConfigError::range(
            "perturbation.steps",
            self.steps as f64,
            !lost,
            "at least 1 if gradients pass through the steps only",
        )
    }

    /// The features with the noise of [`PerturbationKind::Input`]; unchanged for other kinds.
    pub fn features(&self, g: Tensor<4>) -> Tensor<4> {
        if self.is_on() && self.kind == PerturbationKind::Input {
            gaussian(g, self.size)
        } else {
            g
        }
    }

    /// The perturbed equilibrium. `ascent` computes the gradient of the loss with respect to a
    /// plain state, in its shape.
    pub fn state(&self, state: Branches, ascent: impl FnOnce(&Branches) -> Branches) -> Branches {
        match self.kind {
            _ if !self.is_on() => state,
            PerturbationKind::Input => state,
            PerturbationKind::Gaussian => {
                state.into_iter().map(|z| gaussian(z, self.size)).collect()
            }
            PerturbationKind::Ascent => {
                let plain = state.iter().map(|z| z.clone().without_autodiff()).collect();
                let gradient = ascent(&plain);
                let moved = state.into_iter().zip(plain).zip(gradient);
                moved
                    .map(|((state, z), g)| {
                        let size = rms(z) * self.size;
                        let length = rms(g.clone());
                        // A sample whose loss does not depend on the branch does not move.
                        let still = length.clone().equal_elem(0.0);
                        let factor = (size / length).mask_fill(still, 0.0);
                        state + g * factor
                    })
                    .collect()
            }
        }
    }
}

/// z plus Gaussian noise of `size` times its root mean square, per sample.
pub fn gaussian(z: Tensor<4>, size: f64) -> Tensor<4> {
    let plain = z.clone().without_autodiff();
    let options = (&plain.device(), plain.dtype());
    let noise = Tensor::random(plain.dims(), Distribution::Normal(0.0, 1.0), options);
    z + noise * rms(plain) * size
}

/// Root mean square of each sample, `[batch, 1, 1, 1]`.
fn rms(z: Tensor<4>) -> Tensor<4> {
    (z.clone() * z).mean_dims(&[1, 2, 3]).sqrt()
}
