//! Deep equilibrium layers for [Burn](https://burn.dev). The output of a layer is the fixed point
//! z* = f(z*, x) of a map. A solver finds it, and the implicit function theorem differentiates it.
//!
//! - [`Equilibrium`] turns your own module into a layer: see the example there.
//! - [`State`] is the iterate: a tensor, or several branches of different shapes.
//! - [`Solver`] and [`LinearSolver`] choose the methods, [`Termination`] when a sample is finished,
//!   [`Gradient`] how gradients pass, and [`Freezing`] whether finished samples leave the batch.
//!   Implement [`solver::Step`] for your own solver.
//! - [`FixedPointMap`] is a map that provides more than its value: its Jacobian in closed form, its
//!   symmetry, the independence of samples, faster forms ([`fast`]). [`Declared`] adds declarations
//!   to a closure, and [`check_declarations`] tests them.
//! - [`WeightNormConfig`], [`SpectralNormConfig`], [`jacobian_norm`], [`spectral_radius`] and
//!   [`dropout_mask`] keep maps well-behaved.
//! - [`Report`] says how the solve of every sample ended, forward and backward.
//!
//! Enable the feature with the name of your backend: `flex`, `wgpu`, `vulkan`, `metal`, `cuda`,
//! `rocm` or `cpu`.

// Runs the README's example with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod adjoint;
mod attach;
mod check;
mod config;
mod driver;
mod dropout;
mod equilibrium;
mod error;
pub mod fast;
mod forward;
mod growth;
mod input;
mod iteration;
mod jacobian;
mod linearisation;
mod linearised;
mod map;
mod normalization;
mod report;
mod run;
mod sample;
mod settings;
mod singly;
mod solution;
mod solve;
pub mod solver;
mod state;
mod termination;

pub use check::{CheckConfig, DeclarationError, Measured, check_declarations};
pub use config::{
    AdjointStart, AndersonConfig, AndersonType, BroydenConfig, Freezing, Gradient, Implicit,
    LinearMethod, LinearSolver, Method, Solver, SolverOf,
};
pub use deq_kernels::custom_gradient;
pub use deq_kernels::vectors::Rows;
pub use dropout::dropout_mask;
pub use equilibrium::Equilibrium;
pub use error::ConfigError;
pub use input::{Input, Shared, WithModule};
pub use jacobian::{JacobianNormConfig, jacobian_norm, spectral_radius};
pub use linearisation::{Jacobian, Structure};
pub use map::{Declared, FixedPointMap};
pub use normalization::{
    SpectralNorm, SpectralNormConfig, SpectralOperator, WeightNorm, WeightNormConfig,
};
pub use report::{AdjointMonitor, Report, Status};
pub use settings::EquilibriumConfig;
pub use solution::{Intermediate, Solution, Start};
pub use state::State;
pub use termination::{Branches, Check, Norm, Termination};
