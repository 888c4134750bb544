//! A MOptEq, whose one equilibrium minimises its hidden objective.

use burn::prelude::*;
use burn_deq::{EquilibriumConfig, FixedPointMap, Solution, Solver};
use mopteq::perturbation::gaussian;
use mopteq::{Branches, Context, HiddenObjective, MOptEqs};

use super::controls::Controls;
use super::view::{Frame, Path, Stage, branch_maps, maps, text};
use crate::evaluate::softmax;

/// The results for one picture.
pub(super) struct Found {
    /// Logits of the state that the answer comes from.
    pub(super) logits: Vec<f64>,
    /// Logits before the perturbation.
    pub(super) calm: Option<Vec<f64>>,
    /// The equilibria, in the order of the data.
    pub(super) stages: Vec<Stage>,
}

/// The iterates of a solve whose residuals are known, stacked as a batch.
struct Trajectory {
    steps: Vec<usize>,
    residuals: Vec<f64>,
    states: Branches,
}

impl Trajectory {
    fn of(solution: &Solution<Branches>) -> Self {
        let mut checks: Vec<(usize, f64)> = Vec::new();
        for (step, residuals) in &solution.forward.trace {
            // Of several checks of one evaluation, the last one counts.
            checks.retain(|(known, _)| known != step);
            checks.extend(residuals.first().map(|residual| (*step, *residual)));
        }
        checks.retain(|(step, _)| (1..=solution.intermediate.len()).contains(step));
        let state = |(step, _): &(usize, f64)| solution.intermediate[step - 1].state.clone();
        let mut states = stack(checks.iter().map(state));
        if checks.is_empty() {
            states = solution.state.clone();
            checks.push((0, f64::NAN));
        }
        let (steps, residuals) = checks.into_iter().unzip();
        Self {
            steps,
            residuals,
            states,
        }
    }

    fn len(&self) -> usize {
        self.steps.len()
    }

    fn part(&self, index: usize) -> Branches {
        let part = |z: &Tensor<4>| z.clone().narrow(0, index, 1);
        self.states.iter().map(part).collect()
    }

    fn last(&self) -> Branches {
        self.part(self.len() - 1)
    }
}

/// Solves one picture `[1, channels, h, w]` as the controls say.
pub(super) fn look(
    model: &MOptEqs,
    images: Tensor<4>,
    controls: &Controls,
) -> Result<Found, String> {
    let core = model.core();
    let own = &core.config().equilibrium;
    let context = model.context(images.clone());
    let objective = match controls.objective(core.config()) {
        Some(config) => config.objective(context.kernels().len()).map_err(text)?,
        None => core.objective().clone(),
    };
    let solver = controls.solver(&own.forward);
    let solve = |solver: &Solver, start: Branches| {
        let config = EquilibriumConfig {
            forward: solver.clone(),
            record: (1..=solver.termination.max_steps).collect(),
            ..own.clone()
        };
        config.init().solve_map(&objective, context.clone(), start)
    };
    let plain = Solver {
        method: Solver::plain().method,
        ..solver.clone()
    };
    let solution = solve(&solver, core.start(&context));
    let mut paths = vec![
        Trajectory::of(&solution),
        Trajectory::of(&solve(&plain, core.start(&context))),
    ];
    if controls.perturbation > 0.0 {
        images.device().seed(controls.seed);
        let moved = |z: &Tensor<4>| gaussian(z.clone(), controls.perturbation);
        let moved: Branches = solution.state.iter().map(moved).collect();
        // As many steps as requested, whatever the residual.
        let back = plain.with_max_steps(controls.settle + 1).with_relative(0.0);
        paths.push(Trajectory::of(&solve(&back, moved)));
    }

    let logits = |state: Branches| -> Result<Vec<f64>, String> {
        model.classify(state).try_into_vec_as().map_err(text)
    };
    let calm = logits(solution.state.clone())?;
    let (logits, calm) = match paths.get(2) {
        Some(back) => (logits(back.last())?, Some(calm)),
        None => (calm, None),
    };
    let measured = measure(model, &objective, &images, &paths)?;
    let mut stage = Stage {
        name: "equilibrium".into(),
        status: solution.forward.status.first().map(ToString::to_string),
        tolerance: Some(solver.termination.relative),
        terms: objective
            .terms()
            .iter()
            .map(|t| t.name().to_owned())
            .collect(),
        inputs: branch_maps(context.injection())?,
        ..Stage::default()
    };
    let shown = paths
        .get(2)
        .map_or(solution.state.clone(), Trajectory::last);
    if stage.terms.iter().any(|term| term == "reconstruction") {
        stage.reconstruction = branch_maps(&context.w(&shown))?;
    }
    stage.frames = frames(model, &paths)?;
    let mut measured = measured.into_iter();
    for path in [&mut stage.solver, &mut stage.plain, &mut stage.perturbed] {
        *path = measured.next().unwrap_or_default();
    }
    Ok(Found {
        logits,
        calm,
        stages: vec![stage],
    })
}

/// The numbers of all paths, from one evaluation of all their iterates.
///
/// The objective is that of f(z): an accelerated iterate z may leave the domain of the constraint,
/// where the objective is infinite, and its image never does.
fn measure(
    model: &MOptEqs,
    objective: &HiddenObjective,
    images: &Tensor<4>,
    paths: &[Trajectory],
) -> Result<Vec<Path>, String> {
    let context = |count: usize| model.context(images.clone().repeat_dim(0, count));
    let values = |z: &Branches, x: &Context| -> Result<Vec<Vec<f64>>, String> {
        let mut all = vec![objective.value(z, x).try_into_vec_as().map_err(text)?];
        for term in objective.terms() {
            all.push(term.value(z, x).try_into_vec_as().map_err(text)?);
        }
        Ok(all)
    };
    let starts = filled(stack(paths.iter().map(|path| path.part(0))));
    let before = values(&starts, &context(starts[0].dims()[0]))?;
    let iterates = filled(stack(paths.iter().map(|path| path.states.clone())));
    let x = context(iterates[0].dims()[0]);
    let after = values(&objective.apply(iterates, x.clone()), &x)?;
    let mut first = 0;
    let path = |(index, path): (usize, &Trajectory)| {
        let range = first..first + path.len();
        first = range.end;
        let along = |after: &[f64], before: &[f64]| -> Vec<f64> {
            let steps = after[range.clone()].iter();
            std::iter::once(&before[index])
                .chain(steps)
                .copied()
                .collect()
        };
        let mut lines = after
            .iter()
            .zip(&before)
            .map(|(after, before)| along(after, before));
        let objective = lines.next().unwrap_or_default();
        let terms: Vec<Vec<f64>> = lines.collect();
        let rows = 0..objective.len();
        Path {
            steps: path.steps.clone(),
            residuals: path.residuals.clone(),
            terms: rows
                .map(|row| terms.iter().map(|term| term[row]).collect())
                .collect(),
            objective,
        }
    };
    Ok(paths.iter().enumerate().map(path).collect())
}

/// States as one batch.
fn stack(states: impl IntoIterator<Item = Branches>) -> Branches {
    let mut branches: Vec<Branches> = Vec::new();
    for state in states {
        branches.resize(state.len(), Vec::new());
        for (parts, part) in branches.iter_mut().zip(state) {
            parts.push(part);
        }
    }
    branches
        .into_iter()
        .map(|parts| Tensor::cat(parts, 0))
        .collect()
}

/// The batch filled up to a power of two with its last state, if the device compiles for every new
/// batch size. The extra results are not used.
fn filled(states: Branches) -> Branches {
    let fill = |z: Tensor<4>| {
        let count = z.dims()[0];
        let more = count.next_power_of_two() - count;
        if more == 0 || !deq_kernels::compiles_at_run_time(&z.device()) {
            return z;
        }
        let last = z.clone().narrow(0, count - 1, 1).repeat_dim(0, more);
        Tensor::cat(vec![z, last], 0)
    };
    states.into_iter().map(fill).collect()
}

/// The iterates of the solver and of the way back as pictures.
fn frames(model: &MOptEqs, paths: &[Trajectory]) -> Result<Vec<Frame>, String> {
    let shown: Vec<(&'static str, &Trajectory)> =
        [("solve", paths.first()), ("perturbed", paths.get(2))]
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)))
            .collect();
    let stacked = filled(stack(shown.iter().map(|(_, path)| path.states.clone())));
    let mut pictures = Vec::new();
    for branch in &stacked {
        pictures.push(maps(branch)?.into_iter());
    }
    let logits = model.classify(stacked);
    let classes = logits.dims()[1];
    let logits: Vec<f64> = logits.try_into_vec_as().map_err(text)?;
    let mut rows = logits.chunks_exact(classes);
    let mut all = Vec::new();
    for (name, path) in shown {
        for step in &path.steps {
            all.push(Frame {
                path: name,
                step: *step,
                branches: pictures.iter_mut().filter_map(Iterator::next).collect(),
                classes: rows.next().map(softmax).unwrap_or_default(),
            });
        }
    }
    Ok(all)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::sync::Arc;

    use mopteq::Step;
    use mopteq::terms::{Quadratic, Reconstruction, Setting, Term};

    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn an_objective_that_reconstructs_shows_what_it_makes_of_its_input() {
        let device = Device::flex();
        let config = TrainConfig::digits();
        let config = config.model.mopteqs().unwrap();
        let setting = Setting {
            branches: config.branches,
            kernel_norm: config.core.norm_bound,
        };
        let terms: Vec<Arc<dyn Term>> = vec![
            Arc::new(Quadratic { weight: 0.1 }),
            Arc::new(Reconstruction),
        ];
        let objective = HiddenObjective::new(terms, None, Step::Guaranteed, &setting).unwrap();
        let model = config.init(&device).unwrap().with_objective(objective);
        let images = Tensor::ones([1, 1, 28, 28], &device);
        let stage = look(&model, images, &Controls::default())
            .unwrap()
            .stages
            .remove(0);
        assert_eq!(stage.terms, ["quadratic", "reconstruction"]);
        let sizes: Vec<usize> = stage.reconstruction.iter().map(|map| map.rows).collect();
        assert_eq!(sizes, [16, 8, 4]);
        assert!(stage.reconstruction[0].high > 0.0);
    }
}
