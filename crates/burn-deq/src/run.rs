//! The bookkeeping of a solve: norms, best states, samples that have left the batch.

use std::time::Duration;

use burn::tensor::{Bool, Tensor};
use deq_kernels::vectors::{self, Rows, mask, split, square_norm};

use crate::growth::{DeviceGrowth, Growth};
use crate::iteration::{Iteration, Observation, Operator, Outcome, Requests, Scalars};
use crate::report::{Report, Status};
use crate::sample::{Judge, Norms, Sample, ratio};
use crate::termination::{Branches, Check, Norm, Termination};

/// The bookkeeping of one solve.
pub(crate) struct Run<'r> {
    judge: Judge<'r>,
    requests: Requests,
    /// All samples of the batch.
    samples: Vec<Sample>,
    /// Positions in the batch of the samples that still iterate.
    active: Vec<usize>,
    /// Best iterates of the active samples, and f there if requested, or the residual if the solver
    /// provides only that.
    best: Vec<Tensor<2>>,
    residuals: bool,
    /// Norms of the best iterates if the host does not track them: see `Looks`.
    looks: Option<Looks>,
    /// Best iterates of samples that have left, with their positions.
    left: Vec<(Vec<usize>, Vec<Tensor<2>>)>,
    recorded: Vec<Tensor<2>>,
    read_backs: usize,
    trace: Vec<(usize, Vec<f64>)>,
}

/// Norms on the device, `[active, 1]` each, for solves that are not checked at every step.
struct Looks {
    /// |f - z| and |f| at the best iterate, and the evaluation that found it.
    best: [Tensor<2>; 3],
    /// The norms of its branches, if they are judged separately, and whether all met the tolerance.
    branches: Option<(Tensor<2>, Tensor<2, Bool>)>,
    /// Unknown before the first iterate.
    growth: Option<DeviceGrowth>,
}

impl<'r> Run<'r> {
    pub(crate) fn new(
        start: Tensor<2>,
        rule: &'r Termination,
        requests: Requests,
        recovers: bool,
    ) -> Self {
        let batch = start.dims()[0];
        let kept = if requests.image { 2 } else { 1 };
        let looks = (!matches!(rule.check, Check::Every(0 | 1))).then(|| {
            let filled = |v: f64| Tensor::full([batch, 1], v, (&start.device(), start.dtype()));
            Looks {
                best: [filled(f64::INFINITY), filled(1.0), filled(0.0)],
                branches: None,
                growth: None,
            }
        });
        let judge = Judge {
            rule,
            recovers,
            epsilon: start.dtype().finfo().map_or(0.0, |info| info.epsilon),
        };
        Self {
            judge,
            requests,
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

    /// A state without elements is its own fixed point.
    pub(crate) fn is_trivial(&mut self) {
        self.samples.iter_mut().for_each(Sample::is_trivial);
    }

    pub(crate) fn undone(&self) -> bool {
        self.active
            .iter()
            .any(|i| self.samples[*i].status.is_none())
    }

    /// Judges an observation. Returns its scalars if they were read.
    pub(crate) fn take_in(&mut self, observation: Observation, step: usize) -> Option<Scalars> {
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
            let done = self.done();
            let now = select(&done, self.best[0].clone(), state.clone());
            self.recorded.push(self.assemble(now, 0));
        }
        scalars
    }

    /// Which of the active samples are finished.
    fn done(&self) -> Vec<bool> {
        let done = |i: &usize| self.samples[*i].status.is_some();
        self.active.iter().map(done).collect()
    }

    /// The norms of the whole state, `[active, 1]` each: of the residual and of f.
    fn norms(&self, observation: &Observation) -> [Tensor<2>; 2] {
        let norm = self.judge.rule.norm;
        if norm == Norm::Max {
            return counted(observation).map(|x| x.abs().max_dim(1));
        }
        let norms = root(norm, squares(observation), observation.state.dims()[1]);
        [norms.clone().narrow(1, 0, 1), norms.narrow(1, 1, 1)]
    }

    /// The number of branches if they are judged separately, otherwise 0.
    fn branches(&self) -> usize {
        match self.judge.rule.branches {
            Branches::Each => self.requests.branches.len(),
            Branches::Together => 0,
        }
    }

    /// Norms of the branches, `[active, 2 branches]`: those of the residual, then those of f.
    fn norms_of_branches(&self, observation: &Observation) -> Option<Tensor<2>> {
        if self.branches() == 0 {
            return None;
        }
        let norm = self.judge.rule.norm;
        let of = |x: Tensor<2>| match norm {
            Norm::Max => x.abs().max_dim(1),
            _ => {
                let width = x.dims()[1];
                root(norm, square_norm(x), width)
            }
        };
        let parts = counted(observation).map(|x| split(x, &self.requests.branches));
        let norms = parts.into_iter().flatten().map(of).collect();
        Some(Tensor::cat(norms, 1))
    }

    fn of_sample(&self, whole: [f64; 2], branches: &[f64]) -> Norms {
        if branches.is_empty() {
            Norms::whole(whole)
        } else {
            Norms::branches(whole, branches, self.judge.rule)
        }
    }

    fn judge_on_host(&mut self, observation: Observation, step: usize) -> Scalars {
        let norm = self.judge.rule.norm;
        let mut columns = vec![squares(&observation)];
        if norm == Norm::Max {
            columns.extend(self.norms(&observation));
        }
        columns.extend(self.norms_of_branches(&observation));
        let norms = columns.iter().map(|c| c.dims()[1]).sum();
        columns.extend(observation.extra.clone());
        let tensor = Tensor::cat(columns, 1);
        let width = tensor.dims()[1];
        let scalars = Scalars::new(self.read(tensor), width, norms);
        let size = observation.state.dims()[1] as f64;
        let mut improved = Vec::with_capacity(self.active.len());
        let mut seen = vec![f64::NAN; self.samples.len()];
        for (row, i) in scalars.norms().zip(&self.active) {
            let (whole, rest) = match norm {
                Norm::L2 => ([row[0].sqrt(), row[1].sqrt()], 2),
                Norm::Rms => ([(row[0] / size).sqrt(), (row[1] / size).sqrt()], 2),
                Norm::Max => ([row[2], row[3]], 4),
            };
            let now = self.of_sample(whole, &row[rest..]);
            let sample = &mut self.samples[*i];
            if sample.status.is_none() {
                seen[*i] = ratio(now.judged);
            }
            improved.push(sample.judge(now, step, &self.judge));
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

    fn judge_on_device(&mut self, looks: Looks, observation: Observation, step: usize) -> Looks {
        let now = self.norms(&observation);
        let branches = self.norms_of_branches(&observation);
        let growth = match looks.growth {
            Some(growth) => growth.follow(now.clone()),
            None => DeviceGrowth::new(now.clone()),
        };
        let (rule, epsilon) = (self.judge.rule, self.judge.epsilon);
        let away = growth.away(now.clone(), rule.absolute, epsilon);
        // NaN compares as not lower. An infinite image comes with an infinite residual.
        let mut better = now[0].clone().lower(looks.best[0].clone());
        let met = branches
            .clone()
            .map(|norms| (met(norms.clone(), rule), norms));
        if let (Some((met, _)), Some((_, before))) = (&met, &looks.branches) {
            // The residual of a large branch says nothing about the small ones, so iterates that
            // meet the tolerances take precedence.
            let first = met.clone().bool_and(before.clone().bool_not());
            let gone = before.clone().bool_and(met.clone().bool_not());
            better = better.bool_and(gone.bool_not()).bool_or(first);
        }
        better = better.bool_and(away.bool_not());
        let done = self.done();
        if done.contains(&true) {
            let undone = mask(&done, &self.best[0]).bool_not();
            better = better.bool_and(undone);
        }
        let wide = better.clone().expand(observation.state.dims());
        for (best, new) in self.best.iter_mut().zip(observation.into_pair()) {
            *best = best.clone().mask_where(wide.clone(), new);
        }
        let of_best = met.map(|(met, now)| match looks.branches {
            Some((best, before)) => {
                let wide = better.clone().expand(now.dims());
                let before = before.bool_and(better.clone().bool_not());
                let met = met.bool_and(better.clone());
                (best.mask_where(wide, now), before.bool_or(met))
            }
            None => (now, met),
        });
        let [residual, scale, found] = looks.best;
        let looks = Looks {
            best: [
                residual.mask_where(better.clone(), now[0].clone()),
                scale.mask_where(better.clone(), now[1].clone()),
                found.mask_fill(better, step as f64),
            ],
            branches: of_best,
            growth: Some(growth),
        };
        let due = match rule.check {
            Check::Every(k) => step.is_multiple_of(k.max(1)) || step == rule.max_steps,
            Check::Never => false,
        };
        if due {
            self.look(&looks, now, branches, step);
        }
        looks
    }

    /// Reads the norms of the current and the best iterates, and judges them.
    fn look(
        &mut self,
        looks: &Looks,
        now: [Tensor<2>; 2],
        branches: Option<Tensor<2>>,
        step: usize,
    ) {
        let growth = looks.growth.iter().flat_map(|g| g.0.clone());
        let columns = now.into_iter().chain(looks.best.clone()).chain(growth);
        let of_best = looks.branches.clone().map(|(norms, _)| norms);
        let branches = branches.into_iter().chain(of_best);
        let values = self.read(Tensor::cat(columns.chain(branches).collect(), 1));
        let count = 2 * self.branches();
        let mut seen = vec![f64::NAN; self.samples.len()];
        for (row, i) in values.chunks_exact(7 + 2 * count).zip(&self.active) {
            let (of_now, of_best) = row[7..].split_at(count);
            let now = self.of_sample([row[0], row[1]], of_now);
            let best = self.of_sample([row[2], row[3]], of_best);
            let growth = Growth::of([row[5], row[6]]);
            let sample = &mut self.samples[*i];
            if sample.status.is_none() {
                seen[*i] = ratio(now.judged);
                sample.look(now, (best, row[4] as usize), growth, step, &self.judge);
            }
        }
        if self.requests.trace {
            self.trace.push((step, seen));
        }
    }

    /// The only place where a solve reads from the device.
    fn read(&mut self, tensor: Tensor<2>) -> Vec<f64> {
        self.read_backs += 1;
        tensor.into_data().iter::<f64>().collect()
    }

    /// Lets finished samples leave once they are more than a sixteenth of the batch. This keeps the
    /// wasted evaluations below that share, and the copying below the work of a few steps.
    pub(crate) fn freeze(
        &mut self,
        iteration: &mut dyn Iteration,
        map: &mut Operator<'_>,
    ) -> Option<Rows> {
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
        if !map.keep(&stay) {
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
            let branches = looks.branches.take();
            looks.branches = branches.map(|(norms, met)| (stay.of(norms), stay.of(met)));
            if let Some(growth) = &mut looks.growth {
                growth.0 = growth.0.clone().map(|t| stay.of(t));
            }
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

    pub(crate) fn finish(mut self, map: &Operator<'_>, elapsed: Duration) -> Outcome {
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
        let unchecked = self.judge.rule.check == Check::Never;
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
                sample.best_step = map.evaluations();
            }
        }
        let report = Report {
            status: self.samples.iter().map(Sample::end).collect(),
            steps: self.samples.iter().map(|s| s.best_step).collect(),
            residual: self.samples.iter().map(|s| s.best[0]).collect(),
            relative_residual: self.samples.iter().map(|s| ratio(s.best)).collect(),
            evaluations: map.evaluations(),
            sample_evaluations: map.sample_evaluations(),
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

/// Whether all branches meet the rule, `[active, 1]`, from norms `[active, 2 branches]`.
fn met(norms: Tensor<2>, rule: &Termination) -> Tensor<2, Bool> {
    let count = norms.dims()[1] / 2;
    let limits = norms.clone().narrow(1, count, count) * rule.relative + rule.absolute;
    norms.narrow(1, 0, count).lower_equal(limits).all_dim(1)
}

/// Euclidean norms from squares, or root mean squares over `width` elements.
fn root(norm: Norm, squares: Tensor<2>, width: usize) -> Tensor<2> {
    match norm {
        Norm::Rms => (squares / width as f64).sqrt(),
        _ => squares.sqrt(),
    }
}

/// |f(z) - z|^2 and |f(z)|^2, `[active, 2]`.
fn squares(observation: &Observation) -> Tensor<2> {
    let squares = observation.squares.clone();
    squares.unwrap_or_else(|| {
        let [r, f] = counted(observation);
        vectors::squares(&r, &f)
    })
}

/// The elements of the residual and of f whose norms count.
fn counted(observation: &Observation) -> [Tensor<2>; 2] {
    let image = observation.image();
    let residual = observation.residual.clone();
    let residual = residual.unwrap_or_else(|| image.clone() - observation.state.clone());
    [residual, image].map(|x| match &observation.within {
        Some(within) => x * within.clone(),
        None => x,
    })
}

/// Rows of `new` where `choose` is set, of `old` elsewhere. Uses a selection, because NaN * 0 is
/// NaN.
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
