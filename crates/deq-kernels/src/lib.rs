//! The operations under equilibrium models, on [Burn](https://burn.dev)'s tensors.
//!
//! This crate is all that knows of hardware. Each operation has a portable form of Burn's operations
//! and, where that pays, a fast form that is chosen at run time; the two agree to rounding. Nothing
//! here knows of equilibria or objectives.
//!
//! - [`convolution`]: convolutions that keep the resolution, by Winograd's filtering or directly.
//! - [`norm_relu`]: batch norm with the ReLU behind it.
//! - [`mean_pool`]: means over the cells of a grid.
//! - [`step`]: a step of proximal gradient descent on several branches, and its linearisation.
//! - [`custom_gradient`], [`grad_hook`], [`joint_hook`]: values whose backward pass is a closure.
//!
//! Enable the feature that bears the name of the backend in use.

// The README's example is run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod convolution;
mod gradient;
mod norm;
mod pooling;
pub mod step;

#[cfg(feature = "flex")]
mod cpu;
/// Without the CPU backend there is no fast form.
#[cfg(not(feature = "flex"))]
#[path = "portable.rs"]
mod cpu;

pub use gradient::{custom_gradient, grad_hook, joint_hook};
pub use norm::norm_relu;
pub use pooling::mean_pool;
