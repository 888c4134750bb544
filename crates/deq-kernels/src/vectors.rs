//! The solvers' work on vectors `[batch, n]`, in one launch each on devices that have such a form.
//!
//! All functions return `None` where there is none, or where a tensor is not plain `f32`.

use burn::tensor::Tensor;

use crate::cube;

/// Points (z, f(z)), the oldest first, whose products a solver asks for.
#[derive(Clone, Copy, Debug)]
pub struct Points<'a> {
    /// z and f.
    pub points: &'a [[Tensor<2>; 2]],
    /// The slot of each difference of neighbours.
    pub slots: &'a [usize],
    /// Number of slots.
    pub width: usize,
}

impl Points<'_> {
    /// Points that the device takes at once: 0 if it has no such form.
    pub fn at_most(like: &Tensor<2>) -> usize {
        cube::most_points(like)
    }

    /// With r = f - z of each point, d_k = r_(k+1) - r_k in the slot of k, and the newest r, f and d:
    /// |r|^2, |f|^2, then <d, d_k> by slot, then <r, d_k> by slot. A slot without a difference
    /// holds zeros.
    ///
    /// # Shapes
    ///
    /// `[batch, n]` each; the result is `[batch, 2 + 2 width]`.
    pub fn products(&self) -> Option<Tensor<2>> {
        cube::products(self)
    }
}

/// The sum of `x` with these weights; a vector with weight zero does not count, whatever it holds.
///
/// # Shapes
///
/// weights `[batch, k]`, x `[batch, n]` each, k of them.
pub fn combine(weights: &Tensor<2>, x: &[Tensor<2>]) -> Option<Tensor<2>> {
    cube::combine(weights, x)
}

/// A step of conjugate gradients on I - J.
#[derive(Clone, Debug)]
pub struct ConjugateStep {
    /// The new iterate.
    pub u: Tensor<2>,
    /// The new residual.
    pub r: Tensor<2>,
    /// The new direction.
    pub p: Tensor<2>,
    /// |r|^2 and |u + r|^2, `[batch, 2]`.
    pub squares: Tensor<2>,
}

/// The step from iterate u, residual r, direction p and J p, with <r, r> `[batch, 1]`. Inner products
/// count the elements where `within` is 1, if it is given.
///
/// # Shapes
///
/// `[batch, n]` each but <r, r>.
pub fn conjugate_step(
    [u, r, p, product]: [&Tensor<2>; 4],
    rr: &Tensor<2>,
    within: Option<&Tensor<2>>,
) -> Option<ConjugateStep> {
    cube::conjugate_step([u, r, p, product], rr, within)
}
