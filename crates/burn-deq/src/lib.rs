//! Deep equilibrium layers for [Burn](https://burn.dev). The output of a layer is the fixed point
//! z* = f(z*, x) of a map. A solver finds it, and the implicit function theorem differentiates it.
//!
//! - [`Equilibrium`] turns your own module into a layer: see the example there.
//! - [`State`] is the iterate: a tensor, or several branches of different shapes.
//! - [`Solver`] and [`LinearSolver`] choose the methods, [`Termination`] when a sample is finished,
//!   [`Gradient`] how gradients pass, and [`Freezing`] whether finished samples leave the batch.
//! - [`FixedPointMap`] is a map that provides more than its value: its Jacobian in closed form, its
//!   symmetry, the independence of samples. [`Declared`] adds declarations to a closure, and
//!   [`check_declarations`] tests them.
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
mod check;
mod config;
mod driver;
mod dropout;
mod equilibrium;
mod fast;
mod growth;
mod input;
mod jacobian;
mod linearisation;
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
    AcceleratedConfig, AdjointStart, AndersonConfig, AndersonType, BroydenConfig, ConfigError,
    Freezing, Gradient, Implicit, LinearMethod, LinearSolver, Method, Solver, SolverOf,
};
pub use deq_kernels::custom_gradient;
pub use dropout::dropout_mask;
pub use equilibrium::{Equilibrium, EquilibriumConfig, Intermediate, Solution, Start};
pub use fast::{Batching, FastMap, PackedSolution};
pub use input::{Input, Rows, Shared, WithModule};
pub use jacobian::{JacobianNormConfig, jacobian_norm, spectral_radius};
pub use linearisation::{Jacobian, PackedJacobian, Structure};
pub use map::{Declared, FixedPointMap};
pub use normalization::{
    SpectralNorm, SpectralNormConfig, SpectralOperator, WeightNorm, WeightNormConfig,
};
pub use report::{AdjointMonitor, Report, Status};
pub use state::State;
pub use termination::{Branches, Check, Norm, Termination};
