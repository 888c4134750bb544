//! The loop that runs every solver: evaluation, termination, best state, freezing, statistics.

use burn::tensor::Tensor;

use crate::iteration::{Iteration, Operator, Outcome, Requests};
use crate::report::Clock;
use crate::run::Run;
use crate::termination::Termination;

/// Runs a solver from `start` until every sample is finished or the step limit is reached. A
/// finished sample is never changed again, whatever happens to the others.
pub(crate) fn drive(
    iteration: &mut dyn Iteration,
    map: &mut Operator<'_>,
    start: Tensor<2>,
    rule: &Termination,
    requests: Requests,
) -> Outcome {
    let clock = Clock::start();
    let [batch, width] = start.dims();
    let mut run = Run::new(start, rule, requests, iteration.recovers());
    if width == 0 {
        run.is_trivial();
    }
    let left = |map: &Operator<'_>| map.evaluations() < rule.max_steps;
    while run.undone() && batch > 0 && (left(map) || iteration.observes_freely()) {
        let observation = iteration.observe(map);
        let scalars = run.take_in(observation, map.evaluations());
        if !left(map) || !run.undone() {
            break;
        }
        let scalars = match run.freeze(iteration, map) {
            Some(rows) => scalars.map(|mut s| {
                s.keep(&rows);
                s
            }),
            None => scalars,
        };
        iteration.advance(map, scalars.as_ref());
    }
    run.finish(map, clock.elapsed())
}
