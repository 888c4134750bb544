//! Decides when a sample is finished, and which of its iterates is best.

use crate::growth::Growth;
use crate::report::Status;
use crate::termination::Termination;

/// Residual relative to the norm of f; 0 when both are 0.
pub(crate) fn ratio([residual, scale]: [f64; 2]) -> f64 {
    if residual == 0.0 {
        0.0
    } else {
        residual / scale
    }
}

/// Norms of the residual and of f at an iterate.
#[derive(Clone, Copy)]
pub(crate) struct Norms {
    /// Norms of the whole state.
    pub(crate) whole: [f64; 2],
    /// The norms that the rule judges: those of the branch furthest from its tolerance if branches
    /// are judged separately, otherwise those of the whole state.
    pub(crate) judged: [f64; 2],
}

impl Norms {
    /// For a state that is judged as a whole.
    pub(crate) fn whole(norms: [f64; 2]) -> Self {
        Self {
            whole: norms,
            judged: norms,
        }
    }

    /// For a state and its branches. `branches` holds the norms of the residuals, then of f.
    pub(crate) fn branches(whole: [f64; 2], branches: &[f64], rule: &Termination) -> Self {
        let (residuals, images) = branches.split_at(branches.len() / 2);
        let pairs = residuals.iter().zip(images).map(|(r, f)| [*r, *f]);
        let worst = pairs.max_by(|a, b| excess(*a, rule).total_cmp(&excess(*b, rule)));
        Self {
            whole,
            judged: worst.unwrap_or(whole),
        }
    }
}

/// The residual in units of its tolerance.
fn excess(norms: [f64; 2], rule: &Termination) -> f64 {
    ratio([norms[0], rule.absolute + rule.relative * norms[1]])
}

/// The rules by which all samples of a solve are judged.
pub(crate) struct Judge<'r> {
    pub(crate) rule: &'r Termination,
    /// Whether the solver rejects bad steps.
    pub(crate) recovers: bool,
    /// Rounding error of the state's type.
    pub(crate) epsilon: f64,
}

impl Judge<'_> {
    /// Whether the rule holds and is meaningful.
    fn converged(&self, norms: Norms, growth: &Growth) -> bool {
        let [residual, scale] = norms.judged;
        residual <= self.rule.absolute + self.rule.relative * scale
            && growth.settled(norms.whole, self.rule.absolute, self.epsilon)
    }

    fn away(&self, norms: Norms, growth: &Growth) -> bool {
        growth.away(norms.whole, self.rule.absolute, self.epsilon)
    }

    /// The problem with an iterate, given the best residual so far (NaN at first).
    fn trouble(&self, norms: Norms, best: f64, growth: &Growth) -> Option<Status> {
        let [residual, scale] = norms.whole;
        if !residual.is_finite() || !scale.is_finite() {
            return Some(Status::NotFinite);
        }
        let far = residual > self.rule.divergence * best
            || growth.lost(norms.whole, self.rule.absolute, self.epsilon);
        far.then_some(Status::Diverged)
    }
}

/// Progress of one sample.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) status: Option<Status>,
    /// Norms of the residual and of f at the best iterate, for the report.
    pub(crate) best: [f64; 2],
    pub(crate) best_step: usize,
    /// Residual of the whole state at the best iterate.
    lowest: f64,
    growth: Growth,
    /// Whether the state had run away at the last evaluation.
    away: bool,
    /// Evaluation of the last improvement by 1 %, and the values to improve on: the residual, and
    /// that of the branch furthest from its tolerance, in units of the tolerance.
    mark_step: usize,
    marks: [f64; 2],
    /// Whether only a solver that rejects bad steps can recover from the last residual.
    bad: bool,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self {
            status: None,
            best: [f64::NAN; 2],
            best_step: 0,
            lowest: f64::NAN,
            growth: Growth::new(),
            away: false,
            mark_step: 0,
            marks: [f64::INFINITY; 2],
            bad: false,
        }
    }

    pub(crate) fn is_trivial(&mut self) {
        self.status = Some(Status::Converged);
        self.best = [0.0; 2];
    }

    /// The status if the step limit came first.
    pub(crate) fn end(&self) -> Status {
        let unfinished = if self.away {
            Status::Diverged
        } else {
            Status::StepLimit
        };
        self.status.unwrap_or(unfinished)
    }

    /// Judges the norms at one evaluation. Returns whether to keep this iterate as the best.
    pub(crate) fn judge(&mut self, now: Norms, step: usize, judge: &Judge<'_>) -> bool {
        if self.status.is_some() {
            return false;
        }
        let first = self.lowest.is_nan();
        if now.whole.iter().all(|n| n.is_finite()) {
            self.growth.follow(now.whole);
            self.away = judge.away(now, &self.growth);
        }
        let trouble = judge.trouble(now, self.lowest, &self.growth);
        let grace = judge.recovers && !first && !self.bad;
        self.bad = trouble.is_some();
        if let Some(status) = trouble {
            if !grace {
                self.status = Some(status);
            }
            return false;
        }
        // f(z) may have grown, so a sample can converge at an iterate without its smallest
        // residual.
        let converged = judge.converged(now, &self.growth);
        let keep = first || now.whole[0] < self.lowest && !self.away || converged;
        if keep {
            self.best = now.judged;
            self.lowest = now.whole[0];
            self.best_step = step;
        }
        if converged {
            self.status = Some(Status::Converged);
        } else {
            self.watch(now, now.whole[0], step, judge);
        }
        keep
    }

    /// Like [`judge`](Self::judge), for norms that are read only at some steps: those of the
    /// current and the best iterate, the evaluation that found the best one, and the growth.
    pub(crate) fn look(
        &mut self,
        now: Norms,
        (best, found): (Norms, usize),
        growth: Growth,
        step: usize,
        judge: &Judge<'_>,
    ) {
        self.growth = growth;
        let seen = best.whole[0].is_finite();
        if seen {
            self.best = best.judged;
            self.lowest = best.whole[0];
            self.best_step = found;
        }
        self.away = judge.away(now, &self.growth);
        if seen && judge.converged(best, &self.growth) {
            self.status = Some(Status::Converged);
        } else if let Some(status) = judge.trouble(now, best.whole[0], &self.growth) {
            self.status = Some(status);
        } else {
            self.watch(now, best.whole[0], step, judge);
        }
    }

    /// Ends a sample that has stopped improving. `residual` is its best or its last one.
    fn watch(&mut self, now: Norms, residual: f64, step: usize, judge: &Judge<'_>) {
        let branch = if now.judged == now.whole {
            f64::INFINITY
        } else {
            excess(now.judged, judge.rule)
        };
        let mut improved = false;
        for (mark, value) in self.marks.iter_mut().zip([residual, branch]) {
            if value < 0.99 * *mark {
                *mark = value;
                improved = true;
            }
        }
        if improved {
            self.mark_step = step;
        } else if step - self.mark_step >= judge.rule.patience {
            let settled = self
                .growth
                .settled(now.whole, judge.rule.absolute, judge.epsilon);
            self.status = Some(if settled {
                Status::Stalled
            } else {
                Status::Diverged
            });
        }
    }
}
