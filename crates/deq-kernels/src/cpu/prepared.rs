//! Kernels in the forms that the convolutions read.

use std::sync::{Arc, OnceLock};

use burn::tensor::Tensor;

use super::convolution::convolves;
use super::kernel::{Exactness, Packed};
use super::memory::Floats;

/// Kernels of one branch.
#[derive(Clone, Debug)]
pub(crate) struct Kernels {
    pub(crate) forward: Packed,
    pub(crate) transposed: Packed,
    /// Whether all weights are finite, so that they map zero to zero.
    pub(crate) finite: bool,
}

/// Kernels in the memory order of the convolutions, prepared at first use and shared by all copies.
#[derive(Clone, Debug, Default)]
pub struct PreparedKernels(Arc<OnceLock<Option<Vec<Kernels>>>>);

impl PreparedKernels {
    pub(super) fn get(&self, kernels: &[Tensor<4>]) -> Option<&[Kernels]> {
        let fold = |kernel: &Tensor<4>| {
            let weights = Floats::new(kernel)?;
            let [out, channels, k, l] = weights.dims;
            if !convolves([1, channels, 1, 1], [out, channels, k, l]) {
                return None;
            }
            let shape = [out, channels, k];
            Some(Kernels {
                forward: Packed::new(weights.elements(), shape, Exactness::Single),
                transposed: Packed::transposed(weights.elements(), shape, Exactness::Single),
                finite: weights.elements().iter().all(|w| w.is_finite()),
            })
        };
        let all = || kernels.iter().map(fold).collect();
        self.0.get_or_init(all).as_deref()
    }
}
