//! The solvers: each is a small state with `observe` and `advance`; the driver does the rest.

mod accelerated;
mod anderson;
mod broyden;
mod conjugate_gradients;
mod device_weights;
#[cfg(feature = "flex")]
mod host;
mod minres;
mod plain;
mod point_history;
#[cfg(feature = "flex")]
mod points;
#[cfg(all(test, feature = "flex"))]
mod random_maps;
mod ring;
#[cfg(feature = "flex")]
mod vectors;
mod weights;

use burn::tensor::{DType, Tensor};

use crate::config::{LinearMethod, Method};
use crate::driver::{Iteration, Operator, Outcome, Requests, drive};
use crate::termination::Termination;

/// A solver for z = map(z) that starts at `start`.
pub(crate) fn nonlinear(method: &Method, start: Tensor<2>) -> Box<dyn Iteration> {
    match method {
        Method::Plain { damping } => Box::new(plain::Plain::new(start, *damping)),
        Method::Anderson(config) if config.history == 0 => {
            Box::new(plain::Plain::new(start, config.damping))
        }
        Method::Anderson(config) => Box::new(anderson::Anderson::new(start, config.clone())),
        Method::Broyden(config) if config.history == 0 => {
            Box::new(plain::Plain::new(start, config.damping))
        }
        Method::Broyden(config) => Box::new(broyden::Broyden::new(start, config.clone())),
        Method::Accelerated(config) => {
            Box::new(accelerated::Accelerated::new(start, config.clone()))
        }
    }
}

/// A solver for u = J u + g that starts at `start`. Conjugate gradients and MINRES use the residual
/// there, if known. For them, J may be A D, where A is symmetric and D = `within` is a diagonal of
/// zeros and ones.
pub(crate) fn linear(
    method: &LinearMethod,
    start: Tensor<2>,
    residual: Option<Tensor<2>>,
    within: Option<Tensor<2>>,
) -> Box<dyn Iteration> {
    match method {
        LinearMethod::FixedPoint(method) => nonlinear(method, start),
        LinearMethod::ConjugateGradients => Box::new(conjugate_gradients::ConjugateGradients::new(
            start, residual, within,
        )),
        LinearMethod::Minres => Box::new(minres::Minres::new(start, residual, within)),
    }
}

/// Runs a solver on a map. The solver must have been created with the same `start`.
pub(crate) fn solve(
    mut iteration: Box<dyn Iteration>,
    mut map: Operator<'_>,
    start: Tensor<2>,
    termination: &Termination,
    requests: Requests,
) -> (Outcome, Box<dyn Iteration>) {
    let outcome = drive(iteration.as_mut(), &mut map, start, termination, requests);
    (outcome, iteration)
}

/// Concatenates tensors along a dimension.
pub(crate) fn join(parts: Vec<Tensor<2>>, dim: usize) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(joined) = vectors::join(&parts, dim) {
        return joined;
    }
    Tensor::cat(parts, dim)
}

/// Splits the columns of a tensor into parts of these widths.
pub(crate) fn split(x: Tensor<2>, widths: &[usize]) -> Vec<Tensor<2>> {
    #[cfg(feature = "flex")]
    if let Some(parts) = vectors::split(&x, widths) {
        return parts;
    }
    x.split_with_sizes(widths.to_vec(), 1)
}

/// Sum of squares over all dimensions except the batch: `[batch, n] -> [batch, 1]`.
pub(crate) fn square_norm(x: Tensor<2>) -> Tensor<2> {
    inner(x.clone(), x)
}

/// |r|^2 and |f|^2, `[batch, 2]`.
pub(crate) fn squares(r: &Tensor<2>, f: &Tensor<2>) -> Tensor<2> {
    Tensor::cat([r, f].map(|x| square_norm(x.clone())).to_vec(), 1)
}

/// |x - y|^2 of each sample: `[batch, n], [batch, n] -> [batch, 1]`.
pub(crate) fn square_distance(x: &Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(squares) = host::square_distance(x, y) {
        return squares;
    }
    square_norm(x.clone() - y.clone())
}

/// Inner product of each sample: `[batch, n], [batch, n] -> [batch, 1]`.
pub(crate) fn inner(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(products) = vectors::inner(&x, &y) {
        return products;
    }
    (x * y).sum_dim(1)
}

/// As [`inner`], over the elements where `within` is 1, if it is given.
pub(crate) fn inner_within(within: &Option<Tensor<2>>, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    match within {
        Some(within) => inner(x * within.clone(), y),
        None => inner(x, y),
    }
}

/// Rounding error of a difference of two residuals, relative to the length of their states: a unit
/// in the last place of each z and each f. A map's own arithmetic adds more.
pub(crate) fn rounding(dtype: DType) -> f64 {
    4.0 * dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon)
}

/// a / b, or 0 if b is not positive.
pub(crate) fn ratio(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let bad = b.clone().greater_elem(0.0).bool_not();
    (a / b).mask_fill(bad, 0.0)
}
