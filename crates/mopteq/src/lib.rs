//! Multi-branch optimization-induced equilibrium networks (MOptEqs) on Burn.
//!
//! A [`HiddenObjective`] G(z; g(x)) over several resolutions is a sum of [`Term`](terms::Term)s. The layer is
//! its gradient step, and the network's output is its minimiser. [`burn_deq`] finds the minimiser
//! and differentiates it. [`MOptEqs`] and [`Deep`] are image classifiers built on it, and
//! [`multi_view`] has one for several views of the same object. [`Mdeq`] and [`Residual`] serve as
//! comparisons.
//!
//! After Li, Wang, Xie and Lin, "Optimization inspired Multi-Branch Equilibrium Models" (ICLR
//! 2022). The paper's text was not available: objective, coupling and perturbation are
//! reconstructions from its public summary and from later papers by the same authors.

// Runs the README's example with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod constraint;
mod context;
pub mod diagnostics;
mod error;
pub mod graph;
mod interchange;
pub mod lipschitz;
mod models;
pub mod norm;
pub mod norm_bound;
mod objective;
pub mod perturbation;
pub mod posedness;
mod resample;
pub mod terms;

pub use constraint::{Constraint, Proximal};
pub use context::{Branches, Context, CrossKernel, Precision};
pub use error::ConfigError;
pub use interchange::{Weights, WeightsError};
pub use models::multi_view;
pub use models::{
    Coding, CodingConfig, CodingForm, Core, CoreConfig, Deep, DeepConfig, Family, Fusion,
    HeadConfig, LayerConfig, LayerSolve, LayerState, MOptEqs, MOptEqsConfig, Mdeq, MdeqConfig,
    Network, NetworkConfig, NetworkKind, Prediction, Residual, ResidualConfig, StageConfig,
    StemConfig,
};
pub use objective::{DescentJacobian, HiddenObjective, Step};
pub use resample::{resample, scaled_pool, scaled_upsample};
