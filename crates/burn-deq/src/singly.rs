//! Solves samples one by one, in parallel on all cores.
//!
//! If a map asks for it ([`Batching::Single`](crate::fast::Batching)), the solver iterates on every
//! sample separately instead of on the whole batch. Each sample stops at its own tolerance, its
//! history stays in the cache, and the work is spread over the cores. The result is the same as for
//! the whole batch.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use deq_kernels::side_by_side;
use deq_kernels::vectors::{Rows, join};

use crate::forward::Forward;
use crate::input::Input;
use crate::iteration::Outcome;
use crate::report::Report;

/// Runs `solve` on each sample of a map's input, with its rows of some tensors. The first tensor
/// must be `Some`. Returns `None` if the input cannot select its samples.
pub(crate) fn each<F, X, L, R, const N: usize>(
    forward: &Forward<'_, F, X, L>,
    tensors: [Option<&Tensor<2>>; N],
    solve: impl Fn(Forward<'_, F, X, L>, [Option<Tensor<2>>; N]) -> R + Send + Sync,
) -> Option<Vec<R>>
where
    F: Clone + Send,
    X: Input,
    L: Clone + Send,
    R: Send,
{
    let first = tensors[0]?;
    let (batch, device) = (first.dims()[0], first.device());
    let single = |i: usize| {
        let x = forward.x.select(&Rows::new(vec![i], batch, &device))?;
        let rows = tensors.map(|t| Some(t?.clone().narrow(0, i, 1)));
        Some((forward.map.clone(), x, forward.packing.clone(), rows))
    };
    let singles: Option<Vec<_>> = (0..batch).map(single).collect();
    let run = |(map, x, packing, rows)| {
        let (map, packing) = (&map, &packing);
        solve(Forward { map, x, packing }, rows)
    };
    Some(side_by_side(singles?, run))
}

/// The row of a tensor that was given.
pub(crate) fn given(row: Option<Tensor<2>>) -> Tensor<2> {
    row.expect("this tensor was given")
}

/// The outcome of the batch, joined from the outcomes of its samples.
pub(crate) fn joined(outcomes: Vec<Outcome>, recorded: usize) -> Outcome {
    let recorded = (0..recorded)
        .map(|k| Tensor::cat(outcomes.iter().map(|o| o.recorded[k].clone()).collect(), 0));
    let residuals: Option<Vec<_>> = outcomes.iter().map(|o| o.residual.clone()).collect();
    let images: Option<Vec<_>> = outcomes.iter().map(|o| o.image.clone()).collect();
    Outcome {
        recorded: recorded.collect(),
        residual: residuals.map(|r| Tensor::cat(r, 0)),
        image: images.map(|f| join(f, 0)),
        state: join(outcomes.iter().map(|o| o.state.clone()).collect(), 0),
        report: merged(outcomes.into_iter().map(|o| o.report)),
    }
}

/// Merges the reports of the samples into that of the batch.
pub(crate) fn merged(reports: impl Iterator<Item = Report>) -> Report {
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
