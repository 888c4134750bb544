//! Fast forms for GPUs, written in CubeCL: one launch per step, for all branches and samples.
//!
//! They work on packed states `[batch, n]`, plain `f32` tensors on one of CubeCL's devices. Every
//! entry returns `None` if it does not apply, and the caller uses the portable form. One kernel
//! body serves every device; a cube's tile is as large as the device's shared memory allows.

mod calls;
mod convolution;
mod kernels;
mod launch;
mod norm;
mod plan;
pub(crate) mod prepared;
mod step;
mod tensors;
mod vectors;

pub(crate) use convolution::convolve;
pub(crate) use norm::bounded;
pub(crate) use step::{Product, applies, attach, step};
pub(crate) use vectors::{combine, conjugate_step, most_points, products};
