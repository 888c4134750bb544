//! Multi-branch optimization-induced equilibrium networks (MOptEqs) on Burn.
//!
//! A [`HiddenObjective`] G(z; g(x)) over several resolutions is a sum of [`Term`]s; the layer is
//! its gradient step, the network's output its minimiser, found and differentiated by
//! [`burn_deq`]. [`MOptEqs`] is the image classifier built on it.
//!
//! After Li, Wang, Xie and Lin, "Optimization inspired Multi-Branch Equilibrium Models" (ICLR
//! 2022). The paper's text was not at hand: objective, coupling and perturbation are
//! reconstructions from its public summary and from later papers of the same authors.

mod config;
mod error;
mod model;
mod norm;
mod objective;
mod resample;

pub use config::{Family, MOptEqsConfig};
pub use error::ConfigError;
pub use model::{MOptEqs, Prediction};
pub use norm::{BoundedKernel, convolution_norm};
pub use objective::{
    ActivationPotential, Branches, Context, Coupling, Hessian, HiddenObjective, KernelEnergy,
    Proximity, Quadratic, Term,
};
pub use resample::{scaled_pool, scaled_upsample};
