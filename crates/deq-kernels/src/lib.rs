//! The tensor operations that equilibrium models build on, for [Burn](https://burn.dev)'s tensors.
//!
//! Only this crate is specific to hardware. Each operation has a portable form composed of Burn's
//! operations and, where it pays, a fast form that is chosen at run time. The two agree up to
//! rounding. Nothing here knows about equilibria or objectives.
//!
//! - [`convolution`]: convolutions that keep the resolution, by Winograd's filtering or directly.
//! - [`norm`], [`norm_relu`]: batch norm, alone and followed by ReLU.
//! - [`mean_pool`], [`repeat`]: means over the cells of a grid, and pixels as cells of a finer one.
//! - [`step`]: a step of proximal gradient descent on several branches, and its linearisation.
//! - [`vectors`]: the solvers' work on vectors, and where the vectors that they remember are
//!   stored.
//! - [`portably`]: runs with the portable forms only.
//! - [`custom_gradient`], [`grad_hook`], [`joint_hook`]: values whose backward pass is a closure.
//!
//! Enable the feature with the name of your backend.

// Runs the README's example with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use burn::tensor::{Device, Tensor};

pub mod convolution;
mod formula;
mod gradient;
mod inputs;
mod norm;
mod pooling;
mod solve;
pub mod step;
mod switch;
pub mod vectors;

#[cfg(feature = "flex")]
mod cpu;
/// Without the CPU backend, there is no fast form.
#[cfg(not(feature = "flex"))]
#[path = "portable.rs"]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(not(feature = "cube"))]
#[path = "without_cube.rs"]
mod cube;

#[cfg(feature = "cube")]
mod runtime;

pub use gradient::{custom_gradient, grad_hook, joint_hook};
pub use norm::{norm, norm_relu};
pub use pooling::{mean_pool, repeat};
#[cfg(feature = "cube")]
pub use runtime::{Launches, keep_kernels, separate_kernels, watch_launches};
pub use switch::{portably, side_by_side};

/// The device on which a chain of small operations, each of which waits for the one before, runs
/// fastest: the CPU if its backend is built in, otherwise the given device. On a GPU, the launches
/// would take longer than the arithmetic.
pub fn host(device: &Device) -> Device {
    #[cfg(feature = "flex")]
    {
        let _ = device;
        Device::flex()
    }
    #[cfg(not(feature = "flex"))]
    device.clone().without_autodiff()
}

/// Whether kernels are compiled and tuned at run time for the shapes they meet, as on every GPU. If
/// so, it pays to use few different shapes.
pub fn compiles_at_run_time(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    {
        device.as_dispatch().identity().is_some()
    }
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// The kernels W_i min(1, bound_i / |W_i v_i|) and the directions v_i, in a few launches for all
/// kernels together. `None` if the device has no such form. With `iterate`, W_i'W_i v_i, divided by
/// its norm, first replaces v_i. Gradients pass to the kernels and treat the directions as
/// constants.
///
/// # Shapes
///
/// - kernels: `[hidden, channels, k, k]` each, possibly tracked
/// - directions: `[1, channels, height, width]` each, plain
pub fn bounded(
    kernels: &[Tensor<4>],
    directions: &[Tensor<4>],
    bounds: &[f64],
    iterate: bool,
) -> Option<(Vec<Tensor<4>>, Vec<Tensor<4>>)> {
    cube::bounded(kernels, directions, bounds, iterate)
}
