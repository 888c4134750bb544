//! A step of conjugate gradients: several updates and inner products of the same vectors.

use burn::tensor::Tensor;

use super::arithmetic::{inner_within, ratio};
use super::store::ConjugateStep;
use crate::{cpu, cube};

/// The step from iterate u, residual r and <r, r>, `[batch, 1]`, with direction p and J p:
///
/// ```text
/// q = p - J p,   alpha = <r, r> / <p, q>
/// u+ = u + alpha p,   r+ = r - alpha q,   p+ = r+ + <r+, r+> / <r, r> p
/// ```
///
/// Inner products count the elements where `within` is 1, if it is given. A quotient whose
/// denominator is not positive counts as 0.
///
/// # Shapes
///
/// All tensors are `[batch, n]`, except <r, r>.
pub fn conjugate_step(
    [u, r, rr]: [&Tensor<2>; 3],
    within: Option<&Tensor<2>>,
    p: Tensor<2>,
    product: Tensor<2>,
) -> ConjugateStep {
    let [p, product] = match cpu::vectors::conjugate_step([u, r, rr], within, [p, product]) {
        Ok(step) => return step,
        Err(moved) => moved,
    };
    if let Some(step) = cube::conjugate_step([u, r, &p, &product], rr, within) {
        return step;
    }
    let q = p.clone() - product;
    let curvature = inner_within(within, p.clone(), q.clone());
    let alpha = ratio(rr.clone(), curvature);
    let u = u.clone() + p.clone() * alpha.clone();
    let r = r.clone() - q * alpha;
    let rr_new = inner_within(within, r.clone(), r.clone());
    let image = u.clone() + r.clone();
    let ff = inner_within(within, image.clone(), image);
    ConjugateStep {
        p: r.clone() + p * ratio(rr_new.clone(), rr.clone()),
        squares: Tensor::cat(vec![rr_new.clone(), ff], 1),
        rr: rr_new,
        u,
        r,
    }
}
