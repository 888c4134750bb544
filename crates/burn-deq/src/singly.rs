//! Solves samples one by one, in parallel on all cores.
//!
//! If a map asks for it ([`Batching::Single`](crate::Batching)), every sample is solved to its own
//! tolerance instead of iterating on the whole batch. Its history stays in the cache, and the work
//! is spread over the cores. The result is that of the whole batch.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::adjoint::{AdjointPlan, Forward, ForwardMap, Linearised};
use crate::config::Solver;
use crate::driver::{Operator, Outcome, Requests};
use crate::input::{Input, Rows};
use crate::map::FixedPointMap;
use crate::report::Report;
use crate::solver;
use crate::state::{Packing, State};

/// Everything that the solve of one sample needs.
struct Single<F, X, L, const N: usize> {
    map: F,
    x: X,
    packing: Packing<L>,
    rows: [Option<Tensor<2>>; N],
}

/// The samples of a map's input, each with its rows of some tensors. The first tensor must be
/// there. `None` if the input cannot select its samples.
fn singles<F, X, L, const N: usize>(
    forward: &Forward<'_, F, X, L>,
    tensors: [Option<&Tensor<2>>; N],
) -> Option<Vec<Single<F, X, L, N>>>
where
    F: Clone,
    X: Input,
    L: Clone,
{
    let first = tensors[0]?;
    let (batch, device) = (first.dims()[0], first.device());
    let row = |i: usize| {
        let x = forward.x.select(&Rows::new(vec![i], batch, &device))?;
        Some(Single {
            map: forward.map.clone(),
            x,
            packing: forward.packing.clone(),
            rows: tensors.map(|t| Some(t?.clone().narrow(0, i, 1))),
        })
    };
    (0..batch).map(row).collect()
}

/// Runs tasks on all cores if the CPU backend is built in.
fn side_by_side<T: Send, R: Send>(tasks: Vec<T>, run: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    #[cfg(feature = "flex")]
    {
        use rayon::prelude::*;
        tasks.into_par_iter().map(run).collect()
    }
    #[cfg(not(feature = "flex"))]
    tasks.into_iter().map(run).collect()
}

/// The forward solve; `None` if the input cannot select its samples.
pub(crate) fn forward<S: State, F: FixedPointMap<S, X>, X: Input>(
    forward: &Forward<'_, F, X, S::Layout>,
    z0: &Tensor<2>,
    solver: &Solver,
    requests: &Requests,
) -> Option<Outcome> {
    let singles = singles(forward, [Some(z0)])?;
    let outcomes = side_by_side(singles, |single| {
        let [z0] = single.rows.map(wanted);
        let forward = Forward {
            map: &single.map,
            x: single.x,
            packing: &single.packing,
        };
        let (outcome, _) = solver::solve(
            solver::nonlinear(&solver.method, z0.clone()),
            Operator::new(ForwardMap::<S, F, X> { inner: forward }),
            z0,
            &solver.termination,
            requests.clone(),
        );
        outcome
    });
    let recorded = (0..requests.record.len())
        .map(|k| Tensor::cat(outcomes.iter().map(|o| o.recorded[k].clone()).collect(), 0));
    let residuals: Option<Vec<_>> = outcomes.iter().map(|o| o.residual.clone()).collect();
    let images: Option<Vec<_>> = outcomes.iter().map(|o| o.image.clone()).collect();
    Some(Outcome {
        recorded: recorded.collect(),
        residual: residuals.map(|r| Tensor::cat(r, 0)),
        image: images.map(|f| solver::join(f, 0)),
        state: solver::join(outcomes.iter().map(|o| o.state.clone()).collect(), 0),
        report: merged(outcomes.into_iter().map(|o| o.report)),
    })
}

fn wanted(row: Option<Tensor<2>>) -> Tensor<2> {
    row.expect("this tensor was given")
}

/// The backward solve from z, g and, if known, the start and f(z). `None` as for [`forward`].
pub(crate) fn adjoint<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &AdjointPlan,
    forward: &Forward<'_, F, X, S::Layout>,
    of: [Option<&Tensor<2>>; 4],
) -> Option<(Tensor<2>, Report)> {
    let singles = singles(forward, of)?;
    let solutions = side_by_side(singles, |single| {
        let [z, g, start, value] = single.rows;
        let (z, g) = (wanted(z), wanted(g));
        let forward = Forward {
            map: &single.map,
            x: single.x,
            packing: &single.packing,
        };
        let plan = AdjointPlan {
            start,
            solver: plan.solver.clone(),
            ..*plan
        };
        plan.solve(Linearised::<S, F, X>::new(forward, z, value), g)
    });
    let (solutions, reports): (Vec<_>, Vec<_>) = solutions.into_iter().unzip();
    Some((solver::join(solutions, 0), merged(reports.into_iter())))
}

/// Merges the reports of the samples into that of the batch.
fn merged(reports: impl Iterator<Item = Report>) -> Report {
    let mut all = Report::default();
    let mut trace: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    for (i, report) in reports.enumerate() {
        all.status.extend(report.status);
        all.steps.extend(report.steps);
        all.residual.extend(report.residual);
        all.relative_residual.extend(report.relative_residual);
        // In parallel, only the longest solve counts.
        all.evaluations = all.evaluations.max(report.evaluations);
        all.read_backs = all.read_backs.max(report.read_backs);
        all.sample_evaluations += report.sample_evaluations;
        for (step, seen) in report.trace {
            let seen = seen.into_iter().map(|residual| (i, residual));
            trace.entry(step).or_default().extend(seen);
        }
    }
    let batch = all.status.len();
    all.trace = trace
        .into_iter()
        .map(|(step, seen)| {
            let mut row = vec![f64::NAN; batch];
            seen.into_iter().for_each(|(i, residual)| row[i] = residual);
            (step, row)
        })
        .collect();
    all
}
