//! What a map can do faster than by its definition.
//!
//! A solve is right without any of it. [`FixedPointMap::fast`](crate::FixedPointMap::fast) returns
//! a map's faster forms; each of them may decline, and the solver then takes the general way.

use burn::tensor::Tensor;

use crate::config::{LinearSolver, Solver};
use crate::input::Input;
pub use crate::iteration::PackedSolution;
use crate::linearisation::Jacobian;
pub use crate::linearisation::PackedJacobian;
use crate::state::State;

/// Faster forms of a map. `None` declines.
///
/// A packed state is the state's tensors side by side, `[batch, n]`: what the solvers work on.
pub trait FastMap<S: State, X: Input> {
    /// f(z, x) with its gradients for x, where the plain `value` of f at the plain z is known.
    fn attach(&self, z: &S, x: &X, value: &S) -> Option<S> {
        let _ = (z, x, value);
        None
    }

    /// The Jacobian at (z, x), where the plain `value` of f is known.
    fn jacobian_of(&self, z: &S, x: &X, value: &S) -> Option<Box<dyn Jacobian<S>>> {
        let _ = (z, x, value);
        None
    }

    /// f(z, x) of a plain packed state.
    fn apply_packed(&self, z: &Tensor<2>, x: &X) -> Option<Tensor<2>> {
        let _ = (z, x);
        None
    }

    /// As [`attach`](Self::attach), with packed states.
    fn attach_packed(&self, z: &Tensor<2>, x: &X, value: &Tensor<2>) -> Option<Tensor<2>> {
        let _ = (z, x, value);
        None
    }

    /// The Jacobian at a plain packed state, where f may be known.
    fn jacobian_packed(
        &self,
        z: &Tensor<2>,
        x: &X,
        value: Option<&Tensor<2>>,
    ) -> Option<Box<dyn PackedJacobian>> {
        let _ = (z, x, value);
        None
    }

    /// The whole forward solve from the plain packed `z0`, by the solver's method and rule. Declines
    /// what it cannot do exactly so. It is asked only about independent samples, without a trace or
    /// recorded iterates.
    fn solve(&self, z0: &Tensor<2>, x: &X, solver: &Solver) -> Option<PackedSolution> {
        let _ = (z0, x, solver);
        None
    }

    /// The whole solve of u = J'u + g at the plain packed state of this `value` of f, from its
    /// default start. As [`solve`](Self::solve) otherwise.
    fn solve_adjoint(
        &self,
        value: &Tensor<2>,
        x: &X,
        g: &Tensor<2>,
        solver: &LinearSolver,
    ) -> Option<PackedSolution> {
        let _ = (value, x, g, solver);
        None
    }

    /// How the samples of a batch are best solved, if they are
    /// [independent](crate::FixedPointMap::independent_samples).
    fn batching(&self, z: &S, x: &X) -> Batching {
        let _ = (z, x);
        Batching::Shrinking
    }
}

/// How a batch of independent samples is solved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// Together; samples that are done leave the batch.
    #[default]
    Shrinking,
    /// Together to the end: where a new batch size costs more than it saves, as on a GPU whose
    /// kernels are compiled and tuned for a size.
    Whole,
    /// One by one, side by side on all cores: where evaluating the map on one sample costs no more
    /// than its share of a batch, as on a CPU, if a sample is work enough for a core. Every sample
    /// then stops by itself, and its history stays in the cache.
    Single,
}
