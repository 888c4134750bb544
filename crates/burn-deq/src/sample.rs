//! When a sample is done, and which of its iterates is the best.

use crate::config::Termination;
use crate::report::Status;

/// Residual relative to the norm of f; 0 when both are 0.
pub(crate) fn ratio([residual, scale]: [f64; 2]) -> f64 {
    if residual == 0.0 {
        0.0
    } else {
        residual / scale
    }
}

/// Progress of one sample.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) status: Option<Status>,
    /// Norms of the residual and of f at the best iterate.
    pub(crate) best: [f64; 2],
    pub(crate) best_step: usize,
    /// Evaluation and residual at the last improvement by 1 %.
    mark_step: usize,
    mark: f64,
    /// Whether the last residual was one that only a solver that recovers can come back from.
    bad: bool,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self {
            status: None,
            best: [f64::NAN; 2],
            best_step: 0,
            mark_step: 0,
            mark: f64::INFINITY,
            bad: false,
        }
    }

    pub(crate) fn is_trivial(&mut self) {
        self.status = Some(Status::Converged);
        self.best = [0.0; 2];
    }

    /// Takes in the norms at one evaluation; says whether this iterate is the one to keep.
    pub(crate) fn judge(
        &mut self,
        now: [f64; 2],
        step: usize,
        rule: &Termination,
        recovers: bool,
    ) -> bool {
        if self.status.is_some() {
            return false;
        }
        let [residual, scale] = now;
        let first = self.best[0].is_nan();
        let trouble = if !residual.is_finite() || !scale.is_finite() {
            Some(Status::NotFinite)
        } else if residual > rule.divergence * self.best[0] {
            Some(Status::Diverged)
        } else {
            None
        };
        let grace = recovers && !first && !self.bad;
        self.bad = trouble.is_some();
        if let Some(status) = trouble {
            if !grace {
                self.status = Some(status);
            }
            return false;
        }
        // A sample may converge at an iterate whose residual is not its smallest, when f(z) grew.
        let converged = residual <= rule.absolute + rule.relative * scale;
        let keep = first || residual < self.best[0] || converged;
        if keep {
            self.best = now;
            self.best_step = step;
        }
        if converged {
            self.status = Some(Status::Converged);
        } else {
            self.watch(residual, step, rule);
        }
        keep
    }

    /// The same for norms that are read now and then: those of now, and those of the best iterate
    /// with the evaluation that found it.
    pub(crate) fn look(&mut self, row: &[f64], step: usize, rule: &Termination) {
        let (now, best) = ([row[0], row[1]], [row[2], row[3]]);
        if best[0].is_finite() {
            self.best = best;
            self.best_step = row[4] as usize;
        }
        if best[0] <= rule.absolute + rule.relative * best[1] && best[1].is_finite() {
            self.status = Some(Status::Converged);
        } else if !now[0].is_finite() || !now[1].is_finite() {
            self.status = Some(Status::NotFinite);
        } else if now[0] > rule.divergence * best[0] {
            self.status = Some(Status::Diverged);
        } else {
            self.watch(best[0], step, rule);
        }
    }

    /// Ends a sample that has stopped improving.
    fn watch(&mut self, residual: f64, step: usize, rule: &Termination) {
        if residual < 0.99 * self.mark {
            self.mark = residual;
            self.mark_step = step;
        } else if step - self.mark_step >= rule.patience {
            self.status = Some(Status::Stalled);
        }
    }
}
