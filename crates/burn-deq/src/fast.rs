//! Computations that a map can do faster than by evaluating its definition.
//!
//! A solve is correct without any of them. [`FixedPointMap::fast`](crate::FixedPointMap::fast)
//! returns a map's faster forms; each of them may decline, and the solver then uses the general
//! form.

use burn::tensor::Tensor;

use crate::config::{LinearSolver, Solver};
use crate::input::Input;
pub use crate::iteration::PackedSolution;
use crate::linearisation::Jacobian;
pub use crate::linearisation::PackedJacobian;
use crate::state::State;

/// Faster forms of a map. `None` declines.
///
/// A packed state holds the state's tensors side by side, `[batch, n]`. The solvers work on packed
/// states.
pub trait FastMap<S: State, X: Input> {
    /// f(z, x) with its gradients for x, given the plain `value` of f at the plain z.
    fn attach(&self, z: &S, x: &X, value: &S) -> Option<S> {
        let _ = (z, x, value);
        None
    }

    /// The Jacobian at (z, x), given the plain `value` of f.
    fn jacobian_of(&self, z: &S, x: &X, value: &S) -> Option<Box<dyn Jacobian<S>>> {
        let _ = (z, x, value);
        None
    }

    /// f(z, x) of a plain packed state.
    fn apply_packed(&self, z: &Tensor<2>, x: &X) -> Option<Tensor<2>> {
        let _ = (z, x);
        None
    }

    /// Like [`attach`](Self::attach), for packed states.
    fn attach_packed(&self, z: &Tensor<2>, x: &X, value: &Tensor<2>) -> Option<Tensor<2>> {
        let _ = (z, x, value);
        None
    }

    /// The Jacobian at a plain packed state. `value` is f there, if known.
    fn jacobian_packed(
        &self,
        z: &Tensor<2>,
        x: &X,
        value: Option<&Tensor<2>>,
    ) -> Option<Box<dyn PackedJacobian>> {
        let _ = (z, x, value);
        None
    }

    /// The whole forward solve from the plain packed `z0`, by the solver's method and rule.
    /// Declines if it cannot follow them exactly. It is called only for independent samples,
    /// without a trace or recorded iterates.
    fn solve(&self, z0: &Tensor<2>, x: &X, solver: &Solver) -> Option<PackedSolution> {
        let _ = (z0, x, solver);
        None
    }

    /// The whole solve of u = J'u + g from its default start, at the plain packed state where f has
    /// this `value`. Otherwise like [`solve`](Self::solve).
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

    /// The best way to solve the samples of a batch, if they are
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
    /// Together until the last sample is done. This suits devices where a new batch size costs more
    /// than it saves, such as a GPU whose kernels are compiled and tuned for each size.
    Whole,
    /// One by one, in parallel on all cores. This suits devices where evaluating the map on one
    /// sample costs no more than its share of a batch, such as a CPU, if a sample is enough work
    /// for a core. Every sample then stops on its own, and its history stays in the cache.
    Single,
}
