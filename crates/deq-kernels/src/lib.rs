//! The tensor operations below equilibrium models, on [Burn](https://burn.dev)'s tensors.
//!
//! Only this crate is specific to hardware. Each operation has a portable form of Burn's operations
//! and, where that pays, a fast form that is chosen at run time. The two agree to rounding. Nothing
//! here knows about equilibria or objectives.
//!
//! - [`convolution`]: convolutions that keep the resolution, by Winograd's filtering or directly.
//! - [`norm_relu`]: batch norm followed by ReLU.
//! - [`mean_pool`]: means over the cells of a grid.
//! - [`step`]: a step of proximal gradient descent on several branches, and its linearisation.
//! - [`custom_gradient`], [`grad_hook`], [`joint_hook`]: values whose backward pass is a closure.
//!
//! Enable the feature with the name of your backend.

// Runs the README's example with the tests.
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
/// Without the CPU backend, there is no fast form.
#[cfg(not(feature = "flex"))]
#[path = "portable.rs"]
mod cpu;

pub use gradient::{custom_gradient, grad_hook, joint_hook};
pub use norm::norm_relu;
pub use pooling::mean_pool;
