//! Fast forms for Burn's CPU backend: plain `f32` tensors on Flex.
//!
//! Every entry returns `None` if it does not apply, and the caller uses the portable form. pulp
//! chooses the instruction set at run time: AVX-512, AVX2, NEON or none. Where the processor has a
//! tile unit, [`tiles`] takes over the products that need no more than 17 binary digits.

mod batch_norm;
mod coding;
mod convolution;
mod direct;
mod elementwise;
mod gram;
mod kernel;
mod memory;
mod pooling;
pub(crate) mod prepared;
mod pullback;
mod sample;
mod step;
mod tiles;
pub(crate) mod vectors;
mod winograd;
mod winograd_gradient;

pub(crate) use batch_norm::norm_above;
pub(crate) use coding::{solve, solve_adjoint};
pub(crate) use convolution::convolve;
pub(crate) use pooling::{mean_pool, repeat};
pub(crate) use step::{Product, applies, mask, step, tracked_step};
