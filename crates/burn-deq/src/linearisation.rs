//! What is known about a map's Jacobian.

use burn::tensor::Tensor;

/// What a map guarantees about its Jacobian J = df/dz. Default: nothing.
///
/// If the Jacobian has a [`mask`](Jacobian::mask) D, the guarantee is about D J D. A wrong
/// guarantee gives a wrong result or a stalled backward solve;
/// [`check_declarations`](crate::check_declarations) finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Nothing is known.
    #[default]
    General,
    /// J is symmetric, so MINRES can solve the adjoint system.
    Symmetric,
    /// J is symmetric and I - J is positive definite, so conjugate gradients can solve the adjoint
    /// system. An example is z - step * dG/dz with G strongly convex and sufficiently smooth.
    SymmetricPositiveDefinite,
}

impl Structure {
    /// Whether J is symmetric.
    pub fn is_symmetric(self) -> bool {
        self != Self::General
    }
}

/// Products with the Jacobian J = df/dz at a point.
pub trait Jacobian<S>: Send {
    /// J'u, the vector-Jacobian product.
    fn vjp(&self, u: S) -> S;

    /// J u, the Jacobian-vector product, if the map knows it in closed form.
    fn jvp(&self, u: S) -> Option<S> {
        let _ = u;
        None
    }

    /// D, in the shape of the state, if J = D A, where D is a diagonal of zeros and ones and A is
    /// symmetric. An example is the projection of a gradient step onto a constraint: relu(A z + c).
    ///
    /// The adjoint system is then solved on the range of D, where it is symmetric:
    /// (I - D A D) v = D g, and u = g + A v.
    fn mask(&self) -> Option<S> {
        None
    }
}

/// Products of the Jacobian J = df/dz at a point with packed vectors `[batch, n]`.
pub trait PackedJacobian: Send {
    /// J'u.
    fn vjp(&self, u: &Tensor<2>) -> Tensor<2>;

    /// J u.
    fn jvp(&self, u: &Tensor<2>) -> Tensor<2>;

    /// As [`Jacobian::mask`].
    fn mask(&self) -> Option<Tensor<2>>;
}
