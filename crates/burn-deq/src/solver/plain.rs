//! Damped plain iteration (Picard, Krasnoselskij-Mann): z+ = z + damping (f(z) - z).

use burn::tensor::Tensor;
use deq_kernels::vectors::Rows;

use super::step::{Iterate, Step};

/// The method has no state.
pub(super) struct Plain {
    pub(super) damping: f64,
}

impl Step for Plain {
    fn step(&mut self, at: Iterate) -> Tensor<2> {
        if self.damping == 1.0 {
            at.f
        } else {
            at.z + at.r * self.damping
        }
    }

    fn keep(&mut self, _rows: &Rows) {}
}
