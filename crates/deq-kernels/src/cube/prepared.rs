//! Kernels and injections in the forms that the GPU kernels read.

use std::sync::{Arc, OnceLock};

use burn::tensor::Tensor;

use super::plan::Plan;

/// The plan for kernels, and the kernels laid out.
pub(super) type Kernels = (Arc<Plan>, Tensor<1>);

/// Kernels and injections in the forms that the GPU kernels read, made at first use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub(super) kernels: Arc<OnceLock<Option<Kernels>>>,
    pub(super) injections: Arc<OnceLock<Tensor<2>>>,
}

impl Prepared {
    /// The kernels alone.
    pub(crate) fn with_other_injections(&self) -> Self {
        Self {
            kernels: self.kernels.clone(),
            injections: Arc::default(),
        }
    }
}
