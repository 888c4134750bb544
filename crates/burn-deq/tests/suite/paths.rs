//! The portable forms and the CPU's fast ones lead to the same results.
//!
//! `DEQ_KERNELS_PORTABLE=1` runs the whole suite with the portable forms.

use burn::tensor::{DType, Tensor};
use burn_deq::{
    AndersonConfig, AndersonType, BroydenConfig, Check, Declared, EquilibriumConfig, Freezing,
    Gradient, LinearSolver, Method, Solver, Structure,
};
use deq_kernels::portably;

use crate::problems::{Place, accelerated, catalogue};
use crate::support::{Affine, Numbers, f64_tensor, relative, values};

const BATCH: usize = 5;

/// Relative residuals step by step, then the state, of z -> slope tanh(z) + shift, elementwise. Steps
/// overshoot if a slope is large, and one sample is not finite from the start.
fn run(solver: &Solver, width: usize, freezing: Freezing) -> Vec<f64> {
    let wave = |a: [f64; BATCH], f: f64| {
        let at = |k: usize| a[k / width] * (f * (k + 1) as f64).sin();
        f64_tensor((0..BATCH * width).map(at).collect(), [BATCH, width])
    };
    let slope = wave([0.9, 1.5, 0.1, 0.9, 6.0], 0.7);
    let shift = wave([0.5, 0.5, 0.5, f64::NAN, 0.5], 1.3);
    let map = |z: Tensor<2>, (slope, shift): (Tensor<2>, Tensor<2>)| z.tanh() * slope + shift;
    let deq = EquilibriumConfig::new()
        .with_forward(solver.clone().with_trace())
        .with_freezing(freezing)
        .init();
    let out = deq.solve_map(&map, (slope, shift), wave([0.1; BATCH], 2.1));
    let trace = out.forward.trace.into_iter().flat_map(|(_, r)| r);
    trace.chain(values(out.state)).collect()
}

fn assert_close(a: &[f64], b: &[f64], what: &dyn std::fmt::Debug) {
    assert_eq!(a.len(), b.len(), "{what:?}");
    for (a, b) in a.iter().zip(b) {
        let close = (a - b).abs() <= 1e-7 * (1e-3 + b.abs());
        assert!(close || a.is_nan() && b.is_nan(), "{what:?}: {a} and {b}");
    }
}

fn fourteen_steps(method: impl Into<Method>) -> Solver {
    let solver = Solver::from(method.into()).with_relative(1e-5);
    solver.with_absolute(0.0).with_max_steps(14)
}

#[test]
fn one_pass_and_tensor_operations_agree() {
    let mut taken_back = false;
    for kind in [AndersonType::II, AndersonType::I] {
        for history in [1, 2, 3, 5, 6, 8] {
            for (damping, period, restart, safeguard) in [
                (1.0, 1, None, 4.0),
                (0.7, 1, None, 4.0),
                (1.0, 3, None, 4.0),
                (1.0, 1, Some(4), 4.0),
                (1.0, 1, None, 0.4),
                (0.7, 2, Some(5), 0.4),
            ] {
                let mut config = AndersonConfig::new()
                    .with_kind(kind)
                    .with_history(history)
                    .with_damping(damping)
                    .with_period(period)
                    .with_regularization(1e-6)
                    .with_safeguard(safeguard);
                config.restart = restart;
                let never = config.clone().with_safeguard(f64::INFINITY);
                let (solver, never) = (fourteen_steps(config), fourteen_steps(never));
                for width in [1, 7, 40] {
                    for freezing in [Freezing::Off, Freezing::Assumed] {
                        let a = run(&solver, width, freezing);
                        let b = portably(|| run(&solver, width, freezing));
                        assert_close(&a, &b, &(&solver, width));
                        let c = run(&never, width, freezing);
                        taken_back |= a.iter().zip(&c).any(|(a, c)| (a - c).abs() > 1e-3);
                    }
                }
            }
        }
    }
    assert!(taken_back, "no case rejects a step");
    for history in [1, 3, 20] {
        let solver = fourteen_steps(BroydenConfig::new().with_history(history));
        for freezing in [Freezing::Off, Freezing::Assumed] {
            let a = run(&solver, 40, freezing);
            assert_close(&a, &portably(|| run(&solver, 40, freezing)), &solver);
        }
    }
}

/// If residuals are checked only every third step, masks decide in the portable form.
#[test]
fn decisions_by_masks_lead_to_the_same_fixed_points() {
    let width = 40;
    for kind in [AndersonType::II, AndersonType::I] {
        let solver = fourteen_steps(AndersonConfig::new().with_kind(kind));
        let solver = solver.with_relative(1e-9).with_max_steps(90);
        let seldom = solver.clone().with_check(Check::Every(3));
        let a = run(&solver, width, Freezing::Off);
        let b = portably(|| run(&seldom, width, Freezing::Off));
        let [a, b] = [&a, &b].map(|all| &all[all.len() - BATCH * width..]);
        // Only the contractions; the others may have several fixed points or none.
        for sample in [0, 2] {
            let row = sample * width..(sample + 1) * width;
            for (a, b) in a[row.clone()].iter().zip(&b[row]) {
                assert!(
                    (a - b).abs() < 1e-7,
                    "{kind:?}, sample {sample}: {a} and {b}"
                );
            }
        }
    }
}

/// Every solver takes the same number of steps to the same state, up to what rounding does to a
/// solve's last steps.
#[test]
fn the_catalogue_is_solved_alike() {
    let place = Place::flex();
    for problem in catalogue() {
        for (name, solver) in accelerated() {
            let (z, report) = problem.solve(&solver, &place);
            let (other, portable) = portably(|| problem.solve(&solver, &place));
            let what = format!("{} by {name}", problem.name);
            assert!(report.all_converged() && portable.all_converged(), "{what}");
            let steps = [report.evaluations, portable.evaluations];
            let limit = steps[0] / 5 + 2;
            assert!(steps[0].abs_diff(steps[1]) <= limit, "{what}: {steps:?}");
            for z in [z, other] {
                assert!(problem.error_of(&z) <= problem.error, "{what}");
            }
        }
    }
}

#[test]
fn gradients_agree() {
    let spectrum: Vec<f64> = (0..30).map(|k| -0.9 + 1.85 * k as f64 / 29.0).collect();
    let device = burn::tensor::Device::flex();
    let a = Affine::symmetric(&spectrum, 3, &device, DType::F64).a.val();
    let map = Declared::new(|z: Tensor<2>, (a, x): (Tensor<2>, Tensor<2>)| z.matmul(a) + x)
        .with_structure(Structure::SymmetricPositiveDefinite)
        .with_independent_samples(true);
    let gradient = |solver: &LinearSolver| {
        let x = Numbers::new(4).tensor([3, 30], 1.0);
        let x: Tensor<2> = x.autodiff().require_grad();
        let deq = EquilibriumConfig::new()
            .with_forward(Solver::default().with_relative(1e-11).with_max_steps(300))
            .with_gradient(Gradient::implicit(solver.clone()))
            .init();
        let z0 = x.clone().without_autodiff().zeros_like();
        let out = deq.solve_map(&map, (a.clone().autodiff(), x.clone()), z0);
        let gradients = out.state.powi_scalar(2).sum().backward();
        assert!(out.adjoint.report().unwrap().all_converged(), "{solver:?}");
        values(x.grad(&gradients).unwrap())
    };
    for solver in [
        LinearSolver::conjugate_gradients(),
        LinearSolver::minres(),
        Solver::anderson(6).into(),
        Solver::broyden(20).into(),
    ] {
        let solver = solver.with_relative(1e-11).with_max_steps(300);
        let (fast, portable) = (gradient(&solver), portably(|| gradient(&solver)));
        assert!(relative(&fast, &portable) < 1e-8, "{solver:?}");
    }
}
