//! The interface of a term of a hidden objective.

use std::fmt::Debug;

use burn::tensor::Tensor;

use super::Formula;
use crate::context::{Branches, Context};
use crate::graph::{Builder, Combination, Operands, Value};

/// The Hessian of a term at a point: u -> H u, branch by branch in the shape of the state.
pub type Hessian = Box<dyn Fn(&Branches) -> Branches + Send>;

/// The data that the guarantees of a term may depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Number of branches.
    pub branches: usize,
    /// Bound on the norm of the block operator W.
    pub kernel_norm: f64,
}

/// Bounds on the eigenvalues of a Hessian, valid at every point; infinite without a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curvature {
    /// Lower bound on all eigenvalues.
    pub lower: f64,
    /// Upper bound on all eigenvalues.
    pub upper: f64,
}

impl Curvature {
    /// Nothing is guaranteed.
    pub const UNKNOWN: Self = Self::new(f64::NEG_INFINITY, f64::INFINITY);

    /// Eigenvalues between `lower` and `upper`.
    pub const fn new(lower: f64, upper: f64) -> Self {
        Self { lower, upper }
    }

    /// Whether the term is convex.
    pub fn is_convex(&self) -> bool {
        self.lower >= 0.0
    }

    /// mu > 0 for which G - mu/2 |z|^2 is convex, if it exists.
    pub fn strong_convexity(&self) -> Option<f64> {
        (self.lower > 0.0).then_some(self.lower)
    }

    /// The Lipschitz constant of the gradient, if it is bounded.
    pub fn smoothness(&self) -> Option<f64> {
        let constant = self.lower.abs().max(self.upper.abs());
        constant.is_finite().then_some(constant)
    }
}

impl std::ops::Add for Curvature {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.lower + other.lower, self.upper + other.upper)
    }
}

/// A term of a hidden objective over a multi-branch state.
///
/// Samples do not mix: sample i of every result depends only on sample i of z and c.
pub trait Term: Debug + Send + Sync {
    /// The term's name in reports.
    fn name(&self) -> &str;

    /// Value for every sample, `[batch]`.
    fn value(&self, z: &Branches, x: &Context) -> Tensor<1>;

    /// Gradient with respect to z, in the shape of z. Its operations must be differentiable,
    /// because the parameters in `x` get their gradients through it. [`ByValue`](super::ByValue)
    /// computes a gradient from the value alone, for terms without parameters.
    fn gradient(&self, z: &Branches, x: &Context) -> Branches;

    /// The (generalised) Hessian at z, which is symmetric. The arguments are plain tensors. With
    /// `None`, autodiff of the gradient computes it: see [`hessian`](super::hessian).
    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        let _ = (z, x);
        None
    }

    /// Bounds on the eigenvalues of the Hessian, valid at every z. A wrong bound gives a step that
    /// is too large or a stalled backward solve.
    fn curvature(&self, setting: &Setting) -> Curvature {
        let _ = setting;
        Curvature::UNKNOWN
    }

    /// How fast the gradient can change with the injections c: a Lipschitz constant for fixed z, in
    /// Euclidean norms, valid at every z. Without it, an equilibrium has no certificate.
    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        let _ = setting;
        None
    }

    /// The term's formula, if it is one of [`Formula`]. On the CPU, objectives that consist of such
    /// terms are evaluated as a whole.
    fn formula(&self) -> Option<Formula> {
        None
    }

    /// The gradient as operations of a graph, one sum per branch. Without them, a network with this
    /// term cannot be exported as a graph.
    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let _ = (graph, z, x);
        None
    }
}

pub(super) fn zeros_like(z: &Branches) -> Branches {
    z.iter().map(Tensor::zeros_like).collect()
}
