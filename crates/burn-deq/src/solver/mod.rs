//! The solvers. Each file holds one method: a state and its step.
//!
//! To add your own solver, implement [`Step`] and pass [`Custom`] to [`Solver`](crate::Solver). The
//! methods of this crate use the same trait where it suffices.

mod accelerated;
mod anderson;
mod broyden;
mod conjugate_gradients;
mod minres;
mod plain;
pub(crate) mod step;
mod weights;

use burn::tensor::Tensor;

pub use crate::config::AcceleratedConfig;
pub use step::{Custom, Iterate, Step};

use self::step::Stepped;
use crate::config::{LinearMethod, Method};
use crate::driver::drive;
use crate::iteration::{Iteration, Operator, Outcome, Requests};
use crate::termination::Termination;

/// A solver for z = map(z) that starts at `start`.
pub(crate) fn nonlinear(method: &Method, start: Tensor<2>) -> Box<dyn Iteration> {
    let plain = |damping: f64| Box::new(plain::Plain { damping });
    let step: Box<dyn Step> = match method {
        Method::Plain { damping } => plain(*damping),
        Method::Anderson(config) if config.history == 0 => plain(config.damping),
        Method::Anderson(config) => return Box::new(anderson::Anderson::new(start, config)),
        Method::Broyden(config) if config.history == 0 => plain(config.damping),
        Method::Broyden(config) => Box::new(broyden::Broyden::new(config)),
        Method::Accelerated(config) => Box::new(accelerated::Accelerated::new(config)),
        Method::Custom(custom) => custom.init(start.clone()),
    };
    Box::new(Stepped::new(step, start))
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
