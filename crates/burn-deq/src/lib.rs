//! Deep equilibrium layers for [Burn](https://burn.dev): layers whose output is the fixed point
//! z* = f(z*, x) of a map, found by a solver and differentiated by the implicit function theorem.
//!
//! - [`Equilibrium`] turns a module of one's own into a layer: see the example there.
//! - [`State`] is what is iterated on: a tensor or several branches of different shapes.
//! - [`Solver`] and [`LinearSolver`] choose the methods, [`Termination`] when a sample is done,
//!   [`Gradient`] how gradients pass, [`Freezing`] whether samples that are done leave the batch.
//! - [`FixedPointMap`] is a map that knows more than its value: its Jacobian in closed form, that
//!   it is symmetric, that samples are independent; [`Declared`] adds declarations to a closure and
//!   [`check_declarations`] tests them.
//! - [`WeightNormConfig`], [`SpectralNormConfig`], [`jacobian_norm`], [`spectral_radius`] and
//!   [`dropout_mask`] keep maps well-behaved.
//! - [`Report`] says for every sample how its solve ended, forward and backward.
//!
//! Enable the feature that bears the name of the backend in use: `flex`, `wgpu`, `vulkan`, `metal`,
//! `cuda`, `rocm` or `cpu`.

// The README's example is run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod adjoint;
mod check;
mod config;
mod driver;
mod dropout;
mod equilibrium;
mod fast;
mod growth;
mod jacobian;
mod map;
mod normalization;
mod report;
mod run;
mod sample;
mod singly;
mod solver;
mod state;
mod termination;

pub use check::{CheckConfig, DeclarationError, Measured, check_declarations};
pub use config::{
    AdjointStart, AndersonConfig, AndersonType, BroydenConfig, ConfigError, Freezing, Gradient,
    Implicit, LinearMethod, LinearSolver, Method, Solver, SolverOf,
};
pub use deq_kernels::custom_gradient;
pub use dropout::dropout_mask;
pub use equilibrium::{Equilibrium, EquilibriumConfig, Intermediate, Solution, Start};
pub use fast::{Batching, FastMap, PackedJacobian};
pub use jacobian::{JacobianNormConfig, jacobian_norm, spectral_radius};
pub use map::{Declared, FixedPointMap, Input, Jacobian, Rows, Shared, Structure, WithModule};
pub use normalization::{
    SpectralNorm, SpectralNormConfig, SpectralOperator, WeightNorm, WeightNormConfig,
};
pub use report::{AdjointMonitor, Report, Status};
pub use state::State;
pub use termination::{Branches, Check, Norm, Termination};
