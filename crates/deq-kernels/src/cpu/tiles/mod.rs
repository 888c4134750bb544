//! Convolutions, their kernel gradients and products with G by the tile unit of recent x86
//! processors (AMX).
//!
//! The unit multiplies bf16 numbers, which have 8 binary digits, and adds in f32. A number x is
//! therefore split into two halves, x = high + low, with an error of at most 2^-17 |x|. A product is
//!
//! ```text
//! a b = high(a) high(b) + high(a) low(b) + low(a) high(b)
//! ```
//!
//! with an error of at most about 2^-15 |a b|. The errors have either sign, so those of long sums
//! partly cancel: the tests see less than 1e-5 of the sums' norm. Three products of tiles take less time
//! than one product in f32 vectors.
//!
//! Convolutions use the borders of `direct`: a tap is one offset for the whole plane.

#[cfg(test)]
mod exact;
mod gradient;
mod halves;
mod unit;
mod weights;

pub(super) use self::gradient::add_kernel_gradient;
pub(super) use self::unit::{pay, present};
pub(super) use self::weights::Weights;
