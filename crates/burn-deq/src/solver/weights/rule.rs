//! The rule that the weights of all samples share, on the host and on the device.

use burn::tensor::DType;
use deq_kernels::vectors::rounding;

use crate::config::{AndersonConfig, AndersonType};

/// The rule for the weights of one solve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) kind: AndersonType,
    /// m, the number of differences.
    pub(super) history: usize,
    /// Regularisation, relative to the length of each difference.
    pub(super) ridge: f64,
    /// The largest accepted sum of absolute weights.
    pub(super) cap: f64,
    /// Rounding error of a difference relative to the state, squared.
    pub(super) noise: f64,
    /// The largest accepted growth of |r|^2 in an accelerated step.
    pub(super) growth: f64,
}

impl Rule {
    /// The rule for states of this type.
    pub(super) fn new(config: &AndersonConfig, dtype: DType) -> Self {
        let epsilon = dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon);
        let floor = match dtype {
            DType::F64 => 1e-15,
            // Rounding error of the Gram matrix's entries relative to its diagonal.
            _ => 1e-7,
        };
        Self {
            kind: config.kind,
            history: config.history,
            ridge: config.regularization.max(floor),
            // Weights multiply rounding errors, which must stay a small part of the state.
            cap: config.weight_cap.min(0.1 / epsilon),
            noise: rounding(dtype).powi(2),
            growth: config.safeguard.powi(2),
        }
    }
}

/// The largest squared remainder of a unit-length difference, after projecting out the newer ones,
/// that counts as rounding error. The difference then depends on the newer ones. Strong
/// regularisation is deliberate and does not indicate dependence.
pub(super) fn dependent(ridge: f64) -> f64 {
    3.0 * ridge.min(1e-6)
}
