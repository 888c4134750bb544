//! What a step depends on apart from the state.

use burn::tensor::Tensor;

use crate::cpu::prepared::PreparedKernels;
use crate::cube::prepared::Prepared as PreparedBatch;

/// Everything except the state that a step depends on, one tensor per branch.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// W_i, `[hidden, channels, k, k]`; for [`Kernel::Gram`](crate::step::Kernel::Gram) only G,
    /// `[channels, channels, 1, 1]` with the channels of all branches.
    pub kernels: &'a [Tensor<4>],
    /// The same kernels and injections, prepared at their first use.
    pub prepared: &'a Prepared,
    /// c_i, `[batch, hidden or channels, height, width]`.
    pub injections: &'a [Tensor<4>],
}

/// Kernels and injections in the order in which the fast forms read them. They are made at first
/// use and shared by all copies.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub(crate) cpu: PreparedKernels,
    pub(crate) cube: PreparedBatch,
}

impl Prepared {
    /// The same kernels with other injections.
    pub fn with_other_injections(&self) -> Self {
        Self {
            cpu: self.cpu.clone(),
            cube: self.cube.with_other_injections(),
        }
    }

    /// The prepared forms for plain copies of tracked kernels and injections.
    pub fn plain(&self) -> Self {
        Self {
            cpu: Default::default(),
            cube: self.cube.clone(),
        }
    }
}
