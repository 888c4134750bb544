//! The one loop that runs every solver: evaluation, termination, best state and statistics.
//!
//! A solver only knows how to observe and how to move on. Each step it hands over one small
//! tensor of scalars per sample, which is read back to the host once: it holds the norms that the
//! driver judges and whatever the solver needs for its next step.

use burn::tensor::{Bool, Tensor, TensorData};

use crate::config::Termination;
use crate::report::{Report, Status};

/// A packed map `[batch, n] -> [batch, n]` that counts its evaluations.
pub(crate) struct Operator<'a> {
    apply: Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>,
    linear: Option<Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>>,
    evaluations: usize,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(apply: impl Fn(Tensor<2>) -> Tensor<2> + 'a) -> Self {
        Self {
            apply: Box::new(apply),
            linear: None,
            evaluations: 0,
        }
    }

    /// The affine map u -> linear(u) + constant.
    pub(crate) fn affine(
        linear: impl Fn(Tensor<2>) -> Tensor<2> + Clone + 'a,
        constant: Tensor<2>,
    ) -> Self {
        let product = linear.clone();
        Self {
            apply: Box::new(move |u| product(u) + constant.clone()),
            linear: Some(Box::new(linear)),
            evaluations: 0,
        }
    }

    pub(crate) fn is_affine(&self) -> bool {
        self.linear.is_some()
    }

    pub(crate) fn apply(&mut self, z: Tensor<2>) -> Tensor<2> {
        self.evaluations += 1;
        (self.apply)(z)
    }

    /// The linear part of an affine map.
    pub(crate) fn linear(&mut self, p: Tensor<2>) -> Tensor<2> {
        self.evaluations += 1;
        match &self.linear {
            Some(linear) => linear(p),
            None => unreachable!("solvers that need the linear part are given affine maps only"),
        }
    }
}

/// What a solver knows after it has looked at its current iterate.
pub(crate) struct Observation {
    /// The iterate whose residual is reported.
    pub(crate) state: Tensor<2>,
    /// `[batch, 2 + k]`: |f(z) - z|^2, |f(z)|^2, and k scalars of the solver's own.
    pub(crate) scalars: Tensor<2>,
}

/// Scalars on the host, one row a sample.
pub(crate) struct Scalars {
    values: Vec<f64>,
    width: usize,
}

impl Scalars {
    fn read(tensor: Tensor<2>) -> Self {
        let width = tensor.dims()[1];
        let values = tensor.into_data().iter::<f64>().collect();
        Self { values, width }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }
}

/// A solver with its state.
pub(crate) trait Iteration {
    /// Looks at the current iterate.
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation;

    /// Moves to the next iterate.
    fn advance(&mut self, map: &mut Operator<'_>, scalars: &Scalars);
}

/// Runs a solver from `start` until every sample is done or the step limit is reached.
///
/// Returns for each sample the iterate with the smallest residual. A sample that is done is never
/// touched again, whatever happens to the others; `start` is returned where nothing finite was
/// seen.
pub(crate) fn drive(
    iteration: &mut dyn Iteration,
    map: &mut Operator<'_>,
    start: Tensor<2>,
    termination: &Termination,
) -> (Tensor<2>, Report) {
    let [batch, width] = start.dims();
    let mut samples = vec![Sample::new(); batch];
    let mut best = start;

    if width == 0 {
        // A state without elements is its own fixed point.
        for sample in &mut samples {
            sample.finish(Status::Converged);
        }
    }
    while map.evaluations < termination.max_steps && samples.iter().any(|s| s.status.is_none()) {
        let Observation { state, scalars } = iteration.observe(map);
        let scalars = Scalars::read(scalars);
        let improved: Vec<bool> = samples
            .iter_mut()
            .zip(scalars.rows())
            .map(|(sample, row)| sample.judge(row, map.evaluations, termination))
            .collect();
        best = select(&improved, state, best);

        let undone = samples.iter().any(|s| s.status.is_none());
        if undone && map.evaluations < termination.max_steps {
            iteration.advance(map, &scalars);
        }
    }
    (best, report(samples, map.evaluations))
}

/// Rows of `new` where `mask` is set, of `old` elsewhere: by selection, for NaN * 0 is NaN.
pub(crate) fn select(mask: &[bool], new: Tensor<2>, old: Tensor<2>) -> Tensor<2> {
    if mask.iter().all(|m| *m) {
        return new;
    }
    if !mask.contains(&true) {
        return old;
    }
    let [batch, width] = old.dims();
    let mask = TensorData::new(mask.to_vec(), [batch, 1]);
    let mask = Tensor::<2, Bool>::from_data(mask, &old.device()).expand([batch, width]);
    old.mask_where(mask, new)
}

/// Progress of one sample.
#[derive(Clone)]
struct Sample {
    status: Option<Status>,
    best: f64,
    best_relative: f64,
    best_step: usize,
    /// Evaluation and residual at the last improvement by 1 %.
    mark_step: usize,
    mark: f64,
}

impl Sample {
    fn new() -> Self {
        Self {
            status: None,
            best: f64::NAN,
            best_relative: f64::NAN,
            best_step: 0,
            mark_step: 0,
            mark: f64::INFINITY,
        }
    }

    fn finish(&mut self, status: Status) {
        self.status = Some(status);
        if self.best.is_nan() && status == Status::Converged {
            (self.best, self.best_relative) = (0.0, 0.0);
        }
    }

    /// Takes in the norms at one evaluation; says whether this iterate is the best so far.
    fn judge(&mut self, scalars: &[f64], step: usize, rule: &Termination) -> bool {
        if self.status.is_some() {
            return false;
        }
        let (residual, scale) = (scalars[0].sqrt(), scalars[1].sqrt());
        if !residual.is_finite() || !scale.is_finite() {
            self.status = Some(Status::NotFinite);
            return false;
        }
        let improved = self.best.is_nan() || residual < self.best;
        if improved {
            self.best = residual;
            self.best_relative = if residual == 0.0 {
                0.0
            } else {
                residual / scale
            };
            self.best_step = step;
        }
        if residual < 0.99 * self.mark {
            self.mark = residual;
            self.mark_step = step;
        }
        if residual <= rule.absolute + rule.relative * scale {
            self.status = Some(Status::Converged);
        } else if residual > rule.divergence * self.best {
            self.status = Some(Status::Diverged);
        } else if step - self.mark_step >= rule.patience {
            self.status = Some(Status::Stalled);
        }
        // A sample may converge at an iterate whose residual is not its smallest, when f(z) grew.
        let converged = self.status == Some(Status::Converged);
        if converged && !improved {
            self.best = residual;
            self.best_relative = residual / scale;
            self.best_step = step;
        }
        improved || converged
    }
}

fn report(samples: Vec<Sample>, evaluations: usize) -> Report {
    Report {
        status: samples
            .iter()
            .map(|s| s.status.unwrap_or(Status::StepLimit))
            .collect(),
        steps: samples.iter().map(|s| s.best_step).collect(),
        residual: samples.iter().map(|s| s.best).collect(),
        relative_residual: samples.iter().map(|s| s.best_relative).collect(),
        evaluations,
    }
}
