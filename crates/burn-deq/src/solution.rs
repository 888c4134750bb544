//! Where the solves of a layer start, and what it returns.

use burn::tensor::Tensor;

use crate::report::{AdjointMonitor, Report};

/// The fixed point and the cost of finding it.
#[derive(Clone, Debug)]
pub struct Solution<S> {
    /// The fixed point, in the shape of the initial state. With autodiff and an implicit, Neumann,
    /// phantom or one-step gradient, it is a few applications of f past the z* of the report (one
    /// for an implicit gradient). Without autodiff, it is z* itself. They differ by no more than
    /// the tolerance if f is a contraction.
    pub state: S,
    /// The forward solve.
    pub forward: Report,
    /// The backward solve, once `backward()` has run.
    pub adjoint: AdjointMonitor,
    /// The iterates at the evaluations in
    /// [`EquilibriumConfig::record`](crate::EquilibriumConfig::record), one each; the final state
    /// if the solve ended earlier.
    pub intermediate: Vec<Intermediate<S>>,
    /// `[batch]`: relative residuals on the device if the solve read nothing back
    /// ([`Check::Never`](crate::Check::Never)). Otherwise `None`, and the report has them.
    pub residual: Option<Tensor<1>>,
}

/// An intermediate state of the solve, for auxiliary losses ("fixed-point correction" in DEQ-Flow,
/// Bai et al. 2022, arXiv:2204.08442).
#[derive(Clone, Debug)]
pub struct Intermediate<S> {
    /// The state. Its gradient is the configured one with the map linearised at this state. It
    /// approaches the exact gradient as the state approaches the equilibrium.
    pub state: S,
    /// The backward solve of this state.
    pub adjoint: AdjointMonitor,
}

/// The starting points of the two solves.
#[derive(Clone, Debug)]
pub struct Start<S> {
    /// The start of the forward solve.
    pub state: S,
    /// The start of the backward solve, packed as `[batch, n]`: the result of
    /// [`AdjointMonitor::solution`] of an earlier step. `None` uses the configured start.
    pub adjoint: Option<Tensor<2>>,
}

impl<S> From<S> for Start<S> {
    fn from(state: S) -> Self {
        Self {
            state,
            adjoint: None,
        }
    }
}
