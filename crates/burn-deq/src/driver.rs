//! The one loop that runs every solver: evaluation, termination, best state, freezing, statistics.
//!
//! A solver only knows how to observe and how to move on. Normally the driver reads one small
//! tensor a step back to the host; it holds the norms that are judged and whatever the solver needs
//! for its next step. When it is told to look less often, best states are kept by masks on the
//! device, and the solver decides there, too.

use std::time::Duration;

use burn::tensor::{Bool, Tensor, TensorData};

use crate::config::{Check, Norm, Termination};
use crate::map::Rows;
use crate::report::{Report, Status};
use crate::sample::{Sample, ratio};
use crate::solver::square_norm;

/// A packed map `[batch, n] -> [batch, n]`.
pub(crate) trait PackedMap {
    /// f(z).
    fn apply(&self, z: Tensor<2>) -> Tensor<2>;

    /// The linear part of an affine map.
    fn linear(&self, p: Tensor<2>) -> Tensor<2>;

    /// Forgets all samples but these; says whether it can.
    fn keep(&mut self, rows: &Rows) -> bool;
}

/// A packed map that counts its evaluations.
pub(crate) struct Operator<'a> {
    map: Box<dyn PackedMap + 'a>,
    evaluations: usize,
    sample_evaluations: usize,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(map: impl PackedMap + 'a) -> Self {
        Self {
            map: Box::new(map),
            evaluations: 0,
            sample_evaluations: 0,
        }
    }

    fn count(&mut self, z: &Tensor<2>) {
        self.evaluations += 1;
        self.sample_evaluations += z.dims()[0];
    }

    pub(crate) fn apply(&mut self, z: Tensor<2>) -> Tensor<2> {
        self.count(&z);
        self.map.apply(z)
    }

    /// The linear part of an affine map.
    pub(crate) fn linear(&mut self, p: Tensor<2>) -> Tensor<2> {
        self.count(&p);
        self.map.linear(p)
    }
}

/// What a solver knows after it has looked at its current iterate.
pub(crate) struct Observation {
    /// The iterate z whose residual is reported.
    pub(crate) state: Tensor<2>,
    /// f(z); without it, the sum of z and the residual. Always there or never.
    pub(crate) image: Option<Tensor<2>>,
    /// f(z) - z, if it has been computed.
    pub(crate) residual: Option<Tensor<2>>,
    /// Zeros and ones: the elements whose norms count, if not all do.
    pub(crate) within: Option<Tensor<2>>,
    /// |f(z) - z|^2 and |f(z)|^2, `[batch, 2]`, if the solver has them already.
    pub(crate) squares: Option<Tensor<2>>,
    /// `[batch, k]`: scalars that the solver needs on the host for its next step.
    pub(crate) extra: Option<Tensor<2>>,
}

impl Observation {
    fn image(&self) -> Tensor<2> {
        match (&self.image, &self.residual) {
            (Some(image), _) => image.clone(),
            (None, Some(residual)) => self.state.clone() + residual.clone(),
            (None, None) => unreachable!("a solver gives f(z) or the residual"),
        }
    }

    /// The iterate, and f there or else the residual.
    fn into_pair(self) -> [Tensor<2>; 2] {
        let second = self.image.or(self.residual);
        [
            self.state,
            second.expect("a solver gives f(z) or the residual"),
        ]
    }
}

/// Scalars of one observation on the host, one row a sample.
pub(crate) struct Scalars {
    values: Vec<f64>,
    width: usize,
    /// Columns in front of the solver's own.
    norms: usize,
}

impl Scalars {
    /// |f(z) - z|^2 and the solver's own scalars for every sample.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (f64, &[f64])> {
        self.values
            .chunks_exact(self.width)
            .map(|row| (row[0], &row[self.norms..]))
    }

    fn norms(&self) -> impl Iterator<Item = &[f64]> {
        self.values
            .chunks_exact(self.width)
            .map(|row| &row[..self.norms])
    }

    fn keep(&mut self, rows: &Rows) {
        let of = |i: &usize| &self.values[i * self.width..(i + 1) * self.width];
        self.values = rows.indices().iter().flat_map(of).copied().collect();
    }
}

/// A solver with its state.
pub(crate) trait Iteration: Send {
    /// Looks at the current iterate.
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation;

    /// Moves to the next iterate. Without scalars it must decide on the device.
    fn advance(&mut self, map: &mut Operator<'_>, scalars: Option<&Scalars>);

    /// Forgets all samples but these. Called between `observe` and `advance`.
    fn keep(&mut self, rows: &Rows);

    /// Whether the next look costs no evaluation.
    fn observes_freely(&self) -> bool {
        false
    }

    /// Whether it takes a step back that made the residual explode or NaN.
    fn recovers(&self) -> bool {
        false
    }

    /// B'g for the inverse Jacobian B of f(z) - z that a quasi-Newton solver has gathered.
    fn inverse_transposed(&self, g: Tensor<2>) -> Option<Tensor<2>> {
        let _ = g;
        None
    }
}

/// What the driver is asked for besides the solution.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    /// Let samples that are done leave the batch.
    pub(crate) freeze: bool,
    /// Keep every residual that is read.
    pub(crate) trace: bool,
    /// Keep f at the best iterate.
    pub(crate) image: bool,
    /// Evaluations whose iterates are wanted, ascending.
    pub(crate) record: Vec<usize>,
}

/// What a solve ends with.
pub(crate) struct Outcome {
    /// For each sample the iterate with the smallest residual; where nothing finite was seen, the
    /// start.
    pub(crate) state: Tensor<2>,
    /// f there, if it was asked for; where nothing finite was seen, the start.
    pub(crate) image: Option<Tensor<2>>,
    pub(crate) report: Report,
    /// The iterates that were asked for; the final state for evaluations past the end.
    pub(crate) recorded: Vec<Tensor<2>>,
    /// `[batch]`, relative residuals, if nothing was read back.
    pub(crate) residual: Option<Tensor<1>>,
}

/// Runs a solver from `start` until every sample is done or the step limit is reached. A sample
/// that is done is never touched again, whatever happens to the others.
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
        // A state without elements is its own fixed point.
        run.samples.iter_mut().for_each(Sample::is_trivial);
    }
    let left = |map: &Operator<'_>| map.evaluations < rule.max_steps;
    while run.undone() && batch > 0 && (left(map) || iteration.observes_freely()) {
        let observation = iteration.observe(map);
        let scalars = run.take_in(observation, map.evaluations);
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

/// The bookkeeping of one solve.
struct Run<'r> {
    rule: &'r Termination,
    requests: Requests,
    recovers: bool,
    /// All samples of the batch.
    samples: Vec<Sample>,
    /// Positions in the batch of the samples that are still iterated on.
    active: Vec<usize>,
    /// Their best iterates so far, and f there if it was asked for, or the residual if the solver
    /// gives only that.
    best: Vec<Tensor<2>>,
    residuals: bool,
    /// Their norms, when the host does not follow them: see `Looks`.
    looks: Option<Looks>,
    /// The same of samples that have left, with their positions.
    left: Vec<(Vec<usize>, Vec<Tensor<2>>)>,
    recorded: Vec<Tensor<2>>,
    read_backs: usize,
    trace: Vec<(usize, Vec<f64>)>,
}

/// Norms on the device, `[active, 1]` each, for solves that are not looked at every step.
struct Looks {
    /// |f - z| and |f| at the best iterate, and the evaluation that found it.
    best: [Tensor<2>; 3],
}

impl<'r> Run<'r> {
    fn new(start: Tensor<2>, rule: &'r Termination, requests: Requests, recovers: bool) -> Self {
        let batch = start.dims()[0];
        let kept = if requests.image { 2 } else { 1 };
        let looks = (!matches!(rule.check, Check::Every(0 | 1))).then(|| {
            let filled = |v: f64| Tensor::full([batch, 1], v, (&start.device(), start.dtype()));
            Looks {
                best: [filled(f64::INFINITY), filled(1.0), filled(0.0)],
            }
        });
        Self {
            rule,
            requests,
            recovers,
            samples: vec![Sample::new(); batch],
            active: (0..batch).collect(),
            best: vec![start; kept],
            residuals: false,
            looks,
            left: Vec::new(),
            recorded: Vec::new(),
            read_backs: 0,
            trace: Vec::new(),
        }
    }

    fn undone(&self) -> bool {
        self.active
            .iter()
            .any(|i| self.samples[*i].status.is_none())
    }

    /// Judges an observation. Returns its scalars if they were read.
    fn take_in(&mut self, observation: Observation, step: usize) -> Option<Scalars> {
        let state = observation.state.clone();
        if observation.image.is_none() && !self.residuals {
            self.residuals = true;
            if let Some(residual) = self.best.get_mut(1) {
                *residual = residual.zeros_like();
            }
        }
        let scalars = match self.looks.take() {
            None => Some(self.judge_on_host(observation, step)),
            Some(looks) => {
                let looks = self.judge_on_device(looks, observation, step);
                self.looks = Some(looks);
                None
            }
        };
        while self.requests.record.get(self.recorded.len()) == Some(&step) {
            let done = self
                .active
                .iter()
                .map(|i| self.samples[*i].status.is_some())
                .collect::<Vec<_>>();
            let now = select(&done, self.best[0].clone(), state.clone());
            self.recorded.push(self.assemble(now, 0));
        }
        scalars
    }

    /// The norms that the rule speaks of, `[active, 1]` each: of the residual and of f.
    fn norms(&self, observation: &Observation) -> [Tensor<2>; 2] {
        if self.rule.norm == Norm::Max {
            return counted(observation).map(|x| x.abs().max_dim(1));
        }
        let mut squares = squares(observation);
        if self.rule.norm == Norm::Rms {
            squares = squares / observation.state.dims()[1] as f64;
        }
        let norms = squares.sqrt();
        [norms.clone().narrow(1, 0, 1), norms.narrow(1, 1, 1)]
    }

    fn judge_on_host(&mut self, observation: Observation, step: usize) -> Scalars {
        let mut columns = vec![squares(&observation)];
        let mut norms = 2;
        if self.rule.norm == Norm::Max {
            columns.extend(self.norms(&observation));
            norms += 2;
        }
        columns.extend(observation.extra.clone());
        let tensor = Tensor::cat(columns, 1);
        let scalars = Scalars {
            width: tensor.dims()[1],
            values: self.read(tensor),
            norms,
        };
        let size = observation.state.dims()[1] as f64;
        let mut improved = Vec::with_capacity(self.active.len());
        let mut seen = vec![f64::NAN; self.samples.len()];
        for (row, i) in scalars.norms().zip(&self.active) {
            let norms = match self.rule.norm {
                Norm::L2 => [row[0].sqrt(), row[1].sqrt()],
                Norm::Rms => [(row[0] / size).sqrt(), (row[1] / size).sqrt()],
                Norm::Max => [row[2], row[3]],
            };
            let sample = &mut self.samples[*i];
            if sample.status.is_none() {
                seen[*i] = ratio(norms);
            }
            improved.push(sample.judge(norms, step, self.rule, self.recovers));
        }
        if self.requests.trace {
            self.trace.push((step, seen));
        }
        for (best, new) in self.best.iter_mut().zip(observation.into_pair()) {
            let old = std::mem::replace(best, new.clone());
            *best = select(&improved, new, old);
        }
        scalars
    }

    fn judge_on_device(
        &mut self,
        mut looks: Looks,
        observation: Observation,
        step: usize,
    ) -> Looks {
        let now = self.norms(&observation);
        // NaN is not lower than anything; an infinite image comes with an infinite residual.
        let mut better = now[0].clone().lower(looks.best[0].clone());
        let done: Vec<bool> = self
            .active
            .iter()
            .map(|i| self.samples[*i].status.is_some())
            .collect();
        if done.contains(&true) {
            let undone = mask(&done, &self.best[0]).bool_not();
            better = better.bool_and(undone);
        }
        let wide = better.clone().expand(observation.state.dims());
        for (best, new) in self.best.iter_mut().zip(observation.into_pair()) {
            *best = best.clone().mask_where(wide.clone(), new);
        }
        let [residual, scale, found] = looks.best;
        looks.best = [
            residual.mask_where(better.clone(), now[0].clone()),
            scale.mask_where(better.clone(), now[1].clone()),
            found.mask_fill(better, step as f64),
        ];
        let due = match self.rule.check {
            Check::Every(k) => step.is_multiple_of(k.max(1)) || step == self.rule.max_steps,
            Check::Never => false,
        };
        if due {
            let columns = now.into_iter().chain(looks.best.clone()).collect();
            let values = self.read(Tensor::cat(columns, 1));
            let mut seen = vec![f64::NAN; self.samples.len()];
            for (row, i) in values.chunks_exact(5).zip(&self.active) {
                let sample = &mut self.samples[*i];
                if sample.status.is_none() {
                    seen[*i] = ratio([row[0], row[1]]);
                    sample.look(row, step, self.rule);
                }
            }
            if self.requests.trace {
                self.trace.push((step, seen));
            }
        }
        looks
    }

    /// The only place where a solve reads from the device.
    fn read(&mut self, tensor: Tensor<2>) -> Vec<f64> {
        self.read_backs += 1;
        tensor.into_data().iter::<f64>().collect()
    }

    /// Lets samples that are done leave, once they are more than a sixteenth of the batch: what
    /// is evaluated in vain stays below that, and the copying below the work of a few steps.
    fn freeze(&mut self, iteration: &mut dyn Iteration, map: &mut Operator<'_>) -> Option<Rows> {
        let undone = |i: &usize| self.samples[*i].status.is_none();
        let count = self.active.len();
        let done = count - self.active.iter().filter(|i| undone(i)).count();
        if !self.requests.freeze || done == 0 || 16 * done < count {
            return None;
        }
        let (stay, go): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|k| undone(&self.active[*k]));
        let device = self.best[0].device();
        let stay = Rows::new(stay, count, &device);
        if !map.map.keep(&stay) {
            self.requests.freeze = false;
            return None;
        }
        iteration.keep(&stay);
        let positions = go.iter().map(|k| self.active[*k]).collect();
        let go = Rows::new(go, count, &device);
        let of = |rows: &Rows| self.best.iter().map(|t| rows.of(t.clone())).collect();
        let (left, best) = (of(&go), of(&stay));
        self.left.push((positions, left));
        self.best = best;
        self.active = stay.indices().iter().map(|k| self.active[*k]).collect();
        if let Some(looks) = &mut self.looks {
            looks.best = looks.best.clone().map(|t| stay.of(t));
        }
        Some(stay)
    }

    /// The whole batch: `active` rows and those that have left, each at its position. `which` is 0
    /// for iterates and 1 for f there.
    fn assemble(&self, active: Tensor<2>, which: usize) -> Tensor<2> {
        if self.left.is_empty() {
            return active;
        }
        let mut source = vec![0; self.samples.len()];
        let mut parts = vec![active];
        let mut position = 0;
        for i in &self.active {
            source[*i] = position;
            position += 1;
        }
        for (positions, part) in &self.left {
            parts.push(part[which].clone());
            for i in positions {
                source[*i] = position;
                position += 1;
            }
        }
        let all = Tensor::cat(parts, 0);
        Rows::new(source, position, &all.device()).of(all)
    }

    fn finish(mut self, map: &Operator<'_>, elapsed: Duration) -> Outcome {
        let state = self.assemble(self.best[0].clone(), 0);
        let image = self.best.get(1).map(|second| {
            let second = self.assemble(second.clone(), 1);
            if self.residuals {
                state.clone() + second
            } else {
                second
            }
        });
        while self.recorded.len() < self.requests.record.len() {
            self.recorded.push(state.clone());
        }
        let unchecked = self.rule.check == Check::Never;
        let residual = match &self.looks {
            Some(looks) if unchecked => {
                let [residual, scale, _] = looks.best.clone();
                let solved = residual.clone().equal_elem(0.0);
                Some((residual / scale).mask_fill(solved, 0.0).squeeze_dim(1))
            }
            _ => None,
        };
        if unchecked {
            for sample in &mut self.samples {
                sample.status.get_or_insert(Status::Unchecked);
                sample.best_step = map.evaluations;
            }
        }
        let report = Report {
            status: self
                .samples
                .iter()
                .map(|s| s.status.unwrap_or(Status::StepLimit))
                .collect(),
            steps: self.samples.iter().map(|s| s.best_step).collect(),
            residual: self.samples.iter().map(|s| s.best[0]).collect(),
            relative_residual: self.samples.iter().map(|s| ratio(s.best)).collect(),
            evaluations: map.evaluations,
            sample_evaluations: map.sample_evaluations,
            read_backs: self.read_backs,
            elapsed,
            trace: self.trace,
        };
        Outcome {
            state,
            image,
            report,
            recorded: self.recorded,
            residual,
        }
    }
}

/// |f(z) - z|^2 and |f(z)|^2, `[active, 2]`.
fn squares(observation: &Observation) -> Tensor<2> {
    let squares = observation.squares.clone();
    squares.unwrap_or_else(|| Tensor::cat(counted(observation).map(square_norm).to_vec(), 1))
}

/// The residual and f, as far as their norms count.
fn counted(observation: &Observation) -> [Tensor<2>; 2] {
    let image = observation.image();
    let residual = observation.residual.clone();
    let residual = residual.unwrap_or_else(|| image.clone() - observation.state.clone());
    [residual, image].map(|x| match &observation.within {
        Some(within) => x * within.clone(),
        None => x,
    })
}

/// Rows of `new` where `choose` is set, of `old` elsewhere: by selection, for NaN * 0 is NaN.
pub(crate) fn select(choose: &[bool], new: Tensor<2>, old: Tensor<2>) -> Tensor<2> {
    if choose.iter().all(|m| *m) {
        return new;
    }
    if !choose.contains(&true) {
        return old;
    }
    let shape = old.dims();
    let choose = mask(choose, &old).expand(shape);
    old.mask_where(choose, new)
}

/// `[rows, 1]` on the device of `like`.
pub(crate) fn mask(rows: &[bool], like: &Tensor<2>) -> Tensor<2, Bool> {
    let data = TensorData::new(rows.to_vec(), [rows.len(), 1]);
    Tensor::from_data(data, &like.device())
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
