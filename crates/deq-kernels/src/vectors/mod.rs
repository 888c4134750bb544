//! The solvers' work on vectors `[batch, n]`.
//!
//! Each function has a portable form composed of Burn's operations. In the host's memory, one pass
//! with the CPU's vector instructions replaces it; on GPUs, one launch. [`history`] and [`ring`]
//! choose where the vectors that a solver remembers are stored. Nothing above this crate knows
//! which form runs.

mod arithmetic;
mod conjugate;
mod differences;
mod points;
mod ring;
mod rows;
pub(crate) mod store;

use burn::tensor::Tensor;

pub use arithmetic::{
    inner, inner_within, join, ratio, rounding, split, square_distance, square_norm, squares,
};
pub use conjugate::conjugate_step;
pub use rows::{Rows, mask};
pub use store::{ConjugateStep, History, HistoryShape, Numbers, Ring, Seen};

use crate::cpu;

/// A history for points like (z, f), `[batch, n]` each.
pub fn history(shape: HistoryShape, z: &Tensor<2>, f: &Tensor<2>) -> Box<dyn History> {
    cpu::vectors::history(shape, z, f)
        .or_else(|| points::history(shape, f))
        .unwrap_or_else(|| differences::history(shape))
}

/// A ring of m slots for vectors like this one.
pub fn ring(like: &Tensor<2>, slots: usize) -> Box<dyn Ring> {
    cpu::vectors::ring(like, slots).unwrap_or_else(|| ring::ring(like, slots))
}
