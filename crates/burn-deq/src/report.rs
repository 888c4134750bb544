//! The report of a solve: a status for every sample, residuals, steps and evaluations.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use burn::tensor::Tensor;

use burn::serde::{Deserialize, Serialize};

/// Why the solver stopped working on a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Status {
    /// The residual met the tolerance.
    Converged,
    /// The best residual stopped improving before it met the tolerance, and the state did not grow.
    Stalled,
    /// The residual grew far beyond the best one seen, or the state grew and its residual did not
    /// fall: see [`Termination`](crate::Termination).
    Diverged,
    /// The map returned NaN or an infinity for this sample.
    NotFinite,
    /// The step limit was reached first.
    StepLimit,
    /// Not checked: the solve ran a fixed number of steps ([`Check::Never`](crate::Check)).
    Unchecked,
}

impl Status {
    /// Whether the sample met its tolerance.
    pub fn is_converged(self) -> bool {
        self == Self::Converged
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Converged => "converged",
            Self::Stalled => "stalled: the residual stopped improving",
            Self::Diverged => "diverged: the residual or the state grew without bound",
            Self::NotFinite => "not finite: the map returned NaN or infinity",
            Self::StepLimit => "step limit reached before the tolerance",
            Self::Unchecked => "unchecked: a fixed number of steps, residuals were not read",
        })
    }
}

/// The outcome of one solve, forward or backward, sample by sample.
///
/// All vectors have the length of the batch. Norms are those of the configured
/// [`Termination`](crate::Termination). With [`Branches::Each`](crate::Branches::Each) they are
/// those of the branch furthest from its tolerance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct Report {
    /// Why each sample stopped.
    pub status: Vec<Status>,
    /// Step at which each sample's returned state was found, counted in evaluations of the map. 1
    /// means the initial state.
    pub steps: Vec<usize>,
    /// Norm of the residual f(z) - z of the returned state; NaN if unchecked.
    pub residual: Vec<f64>,
    /// The same residual divided by the norm of f(z) (0 when both are 0).
    pub relative_residual: Vec<f64>,
    /// Evaluations of the map (or products with the Jacobian), whatever the batch size.
    pub evaluations: usize,
    /// Evaluations summed over samples. Less than evaluations times batch if finished samples left
    /// the batch.
    pub sample_evaluations: usize,
    /// Number of reads from the device to the host.
    pub read_backs: usize,
    /// Wall time of the solve. On an asynchronous device, it does not include work still queued at
    /// the end.
    pub elapsed: Duration,
    /// For every check, the evaluations so far and the relative residual of every sample; NaN for
    /// finished samples. Empty unless [`SolverOf::trace`](crate::SolverOf::trace) is set.
    pub trace: Vec<(usize, Vec<f64>)>,
}

impl Report {
    /// The report of `steps` evaluations without checks.
    pub(crate) fn unchecked(batch: usize, steps: usize) -> Self {
        Self {
            status: vec![Status::Unchecked; batch],
            steps: vec![steps; batch],
            residual: vec![f64::NAN; batch],
            relative_residual: vec![f64::NAN; batch],
            evaluations: steps,
            sample_evaluations: steps * batch,
            ..Self::default()
        }
    }

    /// Keeps the entries of the first `count` samples, for example if the batch was padded. The
    /// cost of the solve remains that of the whole batch.
    pub fn truncate(&mut self, count: usize) {
        self.status.truncate(count);
        self.steps.truncate(count);
        self.residual.truncate(count);
        self.relative_residual.truncate(count);
        for (_, seen) in &mut self.trace {
            seen.truncate(count);
        }
    }

    /// One report of several solves of the same samples: for each sample the status and residuals
    /// of the solve with the largest relative residual, and the most steps of any solve.
    /// Evaluations and read-backs are sums. Without reports, the result is empty.
    pub fn worst<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut reports = reports.into_iter();
        let Some(first) = reports.next() else {
            return Self::default();
        };
        let mut all = first.clone();
        for report in reports {
            for (i, steps) in report.steps.iter().enumerate().take(all.steps.len()) {
                all.steps[i] = all.steps[i].max(*steps);
                // NaN replaces a number, but a number never replaces NaN.
                let better = report.relative_residual[i] <= all.relative_residual[i];
                if !better && !all.relative_residual[i].is_nan() {
                    all.status[i] = report.status[i];
                    all.residual[i] = report.residual[i];
                    all.relative_residual[i] = report.relative_residual[i];
                }
            }
            all.evaluations += report.evaluations;
            all.sample_evaluations += report.sample_evaluations;
            all.read_backs += report.read_backs;
            all.elapsed += report.elapsed;
            all.trace.clear();
        }
        all
    }

    /// Whether every sample met its tolerance. True for an empty batch.
    pub fn all_converged(&self) -> bool {
        self.status.iter().all(|s| s.is_converged())
    }

    /// Number of samples with the given status.
    pub fn count(&self, status: Status) -> usize {
        self.status.iter().filter(|s| **s == status).count()
    }

    /// Mean over the samples of [`steps`](Self::steps) (0 for an empty batch).
    pub fn mean_steps(&self) -> f64 {
        mean(self.steps.iter().map(|s| *s as f64))
    }

    /// Mean over the samples of the relative residual (0 for an empty batch).
    pub fn mean_relative_residual(&self) -> f64 {
        mean(self.relative_residual.iter().copied())
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    if n == 0 {
        0.0
    } else {
        values.sum::<f64>() / n as f64
    }
}

/// The result of a backward solve.
#[derive(Clone, Debug)]
struct Delivery {
    report: Report,
    /// The solution u, packed.
    solution: Tensor<2>,
}

/// Receives the outcome of a backward solve once `backward()` has run.
///
/// The backward solve runs inside Burn's `backward()`, long after the layer returned, so this
/// shared handle delivers its outcome.
#[derive(Clone, Debug, Default)]
pub struct AdjointMonitor {
    delivery: Arc<Mutex<Option<Delivery>>>,
    /// The monitors of the solves that this one combines.
    parts: Vec<AdjointMonitor>,
}

impl AdjointMonitor {
    /// A monitor of several backward solves of the same samples. Once all of them have run, its
    /// report is the [worst](Report::worst) of theirs. It has no solution.
    pub fn joined(parts: Vec<AdjointMonitor>) -> Self {
        Self {
            parts,
            ..Self::default()
        }
    }

    /// The report of the backward solve. `None` before `backward()` has run, if the output did not
    /// take part in the loss, or if the chosen gradient needs no solve.
    pub fn report(&self) -> Option<Report> {
        if self.parts.is_empty() {
            return self.lock().as_ref().map(|d| d.report.clone());
        }
        let reports: Option<Vec<_>> = self.parts.iter().map(Self::report).collect();
        reports.map(|reports| Report::worst(&reports))
    }

    /// The solution u of u = J'u + g, packed as `[batch, n]`: a start for the next backward solve
    /// ([`Start::adjoint`](crate::Start)). `None` as for [`report`](Self::report).
    pub fn solution(&self) -> Option<Tensor<2>> {
        self.lock().as_ref().map(|d| d.solution.clone())
    }

    pub(crate) fn deliver(&self, report: Report, solution: Tensor<2>) {
        *self.lock() = Some(Delivery { report, solution });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Delivery>> {
        // A poisoned lock only means that another thread panicked while it held a plain value.
        self.delivery
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Wall time; browsers have no `Instant`.
pub(crate) struct Clock(#[cfg(not(target_family = "wasm"))] std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(
            #[cfg(not(target_family = "wasm"))]
            std::time::Instant::now(),
        )
    }

    pub(crate) fn elapsed(&self) -> Duration {
        #[cfg(not(target_family = "wasm"))]
        return self.0.elapsed();
        #[cfg(target_family = "wasm")]
        Duration::ZERO
    }
}
