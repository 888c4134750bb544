//! Puts a solved equilibrium back on the tape, with the configured gradient.

use burn::tensor::Tensor;
use deq_kernels::grad_hook;

use crate::adjoint::{AdjointPlan, Point, neumann};
use crate::config::Gradient;
use crate::forward::Forward;
use crate::input::Input;
use crate::iteration::Iteration;
use crate::linearised::Linearised;
use crate::map::FixedPointMap;
use crate::report::{AdjointMonitor, Report};
use crate::solution::{Intermediate, Solution};
use crate::solve::{Found, Plan};
use crate::state::State;

/// Puts the result of a forward solve on the tape, if the input is on the tape.
pub(crate) fn attach<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
    found: Found,
) -> Solution<S> {
    let (outcome, mut factors) = (found.outcome, found.factors);
    let intermediate = outcome.recorded.into_iter().map(|z| {
        let adjoint = AdjointMonitor::default();
        let at = Point { z, value: None };
        Intermediate {
            state: attach_at(plan, at, None, None, &adjoint),
            adjoint,
        }
    });
    let intermediate = intermediate.collect();
    // If no residual was finite, there is no value either.
    let seen = outcome.report.residual.iter().all(|r| r.is_finite());
    let at = Point {
        z: outcome.state,
        value: outcome.image.filter(|_| seen),
    };
    let adjoint = AdjointMonitor::default();
    let start = plan.adjoint.clone();
    Solution {
        state: attach_at(plan, at, start, factors.take(), &adjoint),
        forward: outcome.report,
        adjoint,
        intermediate,
        residual: outcome.residual,
    }
}

/// A point with the configured gradient. The backward solve starts at `start`, or at the point
/// given by `factors`.
fn attach_at<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
    at: Point,
    start: Option<Tensor<2>>,
    factors: Option<Box<dyn Iteration>>,
    monitor: &AdjointMonitor,
) -> S {
    if !plan.tracked {
        return plan.packing.unpack(at.z);
    }
    match &plan.config.gradient {
        Gradient::Implicit(implicit) => {
            let termination = &plan.config.forward.termination;
            let structure = plan.map.structure();
            let (freeze, singly) = (plan.freeze, plan.singly);
            let mut adjoint =
                AdjointPlan::new(implicit, structure, termination, start, freeze, singly);
            hooked(plan, at, monitor, move |forward, at, g| {
                if let (None, Some(factors)) = (&adjoint.start, factors) {
                    adjoint.start = factors.inverse_transposed(g.clone()).map(Tensor::neg);
                }
                adjoint.solve_at::<S, F, X>(forward, at, g)
            })
        }
        Gradient::Neumann { terms } => {
            let terms = *terms;
            hooked(plan, at, monitor, move |forward, at, g| {
                let linearised = Linearised::<S, F, X>::new(forward, at.z, at.value);
                neumann(&linearised, g, terms)
            })
        }
        Gradient::Phantom { steps, damping } => {
            let step = |z, _| step(plan, z, *damping);
            plan.packing.unpack((0..*steps).fold(at.z, step))
        }
        Gradient::OneStep => plan.packing.unpack(step(plan, at.z, 1.0)),
        Gradient::Unrolled { .. } => {
            unreachable!("an unrolled equilibrium never leaves the tape")
        }
    }
}

/// One application of the map on the tape, whose backward pass first replaces g by u.
fn hooked<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
    at: Point,
    monitor: &AdjointMonitor,
    solve: impl FnOnce(Forward<'_, F, X, S::Layout>, Point, Tensor<2>) -> (Tensor<2>, Report)
    + Send
    + 'static,
) -> S {
    let (map, x, packing) = (plan.map.clone(), plan.plain.clone(), plan.packing.clone());
    let monitor = monitor.clone();
    let (z, value) = (at.z.clone(), at.value.clone());
    let backward = move |g| {
        let forward = Forward {
            map: &map,
            x,
            packing: &packing,
        };
        let (u, report) = solve(forward, at, g);
        monitor.deliver(report, u.clone());
        u
    };
    let known = plan.map.fast().zip(value);
    let packed = known.as_ref();
    if let Some(f) = packed.and_then(|(fast, value)| fast.attach_packed(&z, plan.x, value)) {
        return plan.packing.unpack(grad_hook(f, backward));
    }
    let state: S = plan.packing.unpack(z);
    let attached =
        known.and_then(|(fast, value)| fast.attach(&state, plan.x, &plan.packing.unpack(value)));
    let f = attached.unwrap_or_else(|| plan.map.apply(state, plan.x.clone()));
    plan.packing.hook(f, backward)
}

/// z + damping (f(z) - z), on the tape.
fn step<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
    z: Tensor<2>,
    damping: f64,
) -> Tensor<2> {
    let state: S = plan.packing.unpack(z.clone());
    let f = plan.packing.repack(plan.map.apply(state, plan.x.clone()));
    if damping == 1.0 {
        f
    } else {
        f * damping + z * (1.0 - damping)
    }
}

/// Steps on the tape from the start instead of a solve. The report describes the last step.
pub(crate) fn unrolled<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
    steps: usize,
    damping: f64,
) -> Solution<S> {
    let record = &plan.config.record;
    let batch = plan.z0.dims()[0];
    let mut z = plan.z0.clone();
    let mut recorded = Vec::new();
    for k in 1..=steps {
        if record.get(recorded.len()) == Some(&k) {
            recorded.push(z.clone());
        }
        z = step(plan, z, damping);
    }
    recorded.resize(record.len(), z.clone());
    let intermediate = recorded.into_iter().map(|z| Intermediate {
        state: plan.packing.unpack(z),
        adjoint: AdjointMonitor::default(),
    });
    Solution {
        intermediate: intermediate.collect(),
        state: plan.packing.unpack(z),
        forward: Report::unchecked(batch, steps),
        adjoint: AdjointMonitor::default(),
        residual: None,
    }
}
