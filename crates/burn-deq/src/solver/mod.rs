//! The solvers: each a small state with `observe` and `advance`; the driver does the rest.

mod anderson;
mod conjugate_gradients;
mod plain;

use burn::tensor::Tensor;

use crate::config::{Method, Solver};
use crate::driver::{Iteration, Operator, drive};
use crate::report::Report;

/// Solves z = map(z) from `start`.
pub(crate) fn solve(
    solver: &Solver,
    map: &mut Operator<'_>,
    start: Tensor<2>,
) -> (Tensor<2>, Report) {
    let mut iteration: Box<dyn Iteration> = match &solver.method {
        Method::Plain { damping } => Box::new(plain::Plain::new(start.clone(), *damping)),
        Method::Anderson(config) if config.history == 0 => {
            Box::new(plain::Plain::new(start.clone(), config.damping))
        }
        Method::Anderson(config) => {
            Box::new(anderson::Anderson::new(start.clone(), config.clone()))
        }
        Method::ConjugateGradients => {
            assert!(
                map.is_affine(),
                "burn-deq: conjugate gradients solve the linear backward system only; choose \
                 Method::Anderson or Method::Plain for the forward solve"
            );
            Box::new(conjugate_gradients::ConjugateGradients::new(start.clone()))
        }
    };
    drive(iteration.as_mut(), map, start, &solver.termination)
}

/// Sum of squares over everything but the batch: `[batch, n] -> [batch, 1]`.
fn square_norm(x: Tensor<2>) -> Tensor<2> {
    inner(x.clone(), x)
}

/// Inner product of each sample: `[batch, n], [batch, n] -> [batch, 1]`.
fn inner(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    (x * y).sum_dim(1)
}
