//! States that run away, secants of rounding errors, and branches of very different scale.

use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{
    AndersonConfig, AndersonType, Branches, BroydenConfig, Check, Declared, EquilibriumConfig,
    FixedPointMap, Freezing, Gradient, LinearSolver, Method, Report, Solver, Status, Structure,
};

use crate::problems::{Place, accelerated};
use crate::support::{Numbers, values};

fn places() -> [Place; 2] {
    [Place::flex(), Place::f32_on(Device::flex())]
}

fn solvers() -> Vec<Solver> {
    let one = AndersonConfig::new().with_kind(AndersonType::I);
    let mut all: Vec<Solver> = accelerated().into_iter().map(|(_, s)| s).collect();
    all.extend([
        Solver::plain(),
        Solver::damped(0.5),
        Solver::anderson(1),
        Method::from(one.with_safeguard(f64::INFINITY)).into(),
        Solver::broyden(1),
        Method::from(BroydenConfig::new().with_safeguard(f64::INFINITY)).into(),
    ]);
    all
}

/// Solves from every start in `starts`, each as a sample.
fn run(
    f: impl FixedPointMap<Tensor<2>, ()>,
    solver: Solver,
    place: &Place,
    starts: &[f64],
) -> (Vec<f64>, Report) {
    let deq = EquilibriumConfig::new().with_forward(solver).init();
    let out = deq.solve_map(&f, (), place.tensor(starts, [starts.len(), 1]));
    (values(out.state), out.forward)
}

/// Two steps down a slope of 1 differ by rounding errors. A secant of these led to 1.5e6 in f32 and
/// to 4e14 in f64, where the relative rule holds.
#[test]
fn a_secant_of_rounding_errors_is_not_taken() {
    let starts: Vec<f64> = (1..=200).map(|k| 0.05 * f64::from(k)).collect();
    for place in places() {
        for solver in [Solver::broyden(20), Solver::anderson(6)] {
            let f = |z: Tensor<2>, ()| relu(z - 0.3);
            let (z, report) = run(f, solver, &place, &starts);
            assert!(report.all_converged(), "{report:?}");
            assert!(z.iter().all(|z| z.abs() < 1e-9), "{z:?}");
        }
    }
}

/// z + 0.3 has no fixed point, but from 3000 on its residual is 1e-4 of z.
#[test]
fn a_state_that_grows_without_end_has_diverged() {
    let starts = [0.0, 1.5, -2.0];
    for place in places() {
        for mut solver in solvers() {
            for check in [Check::Every(1), Check::Every(7)] {
                // With less patience, such a solve would end earlier.
                solver = solver.with_max_steps(12_000).with_check(check);
                solver.termination.patience = usize::MAX;
                let (z, report) = run(|z: Tensor<2>, ()| z + 0.3, solver.clone(), &place, &starts);
                assert_eq!(report.count(Status::Diverged), 3, "{solver:?}: {report:?}");
                assert!(z.iter().all(|z| z.abs() < 1e4), "{solver:?}: {z:?}");
            }
        }
    }
}

/// A sample that stalls while its state grows has diverged.
#[test]
fn a_residual_that_does_not_fall_while_the_state_grows_is_no_stall() {
    let solver = Solver::plain().with_max_steps(400);
    let (_, report) = run(|z: Tensor<2>, ()| z + 0.3, solver, &Place::flex(), &[0.0]);
    assert_eq!(report.status, [Status::Diverged], "{report:?}");
    // A state that does not move has stalled.
    let solver = Solver::plain().with_max_steps(400);
    let (_, report) = run(
        |z: Tensor<2>, ()| z.neg() + 0.3,
        solver,
        &Place::flex(),
        &[1.0],
    );
    assert_eq!(report.status, [Status::Stalled], "{report:?}");
}

/// Large and correct states: fixed points a million times the start, from zero, from near an
/// unstable fixed point, and with a slope near 1.
#[test]
fn fixed_points_far_from_the_start_are_found() {
    type Map = fn(Tensor<2>, ()) -> Tensor<2>;
    let cases: [(&str, Map, f64, f64); 5] = [
        (
            "scale 1e6",
            |z, ()| (z * 1e-6).tanh() * 0.5e6 + 1e6,
            1.0,
            1_450_000.0,
        ),
        ("scale 1e6 from zero", |z, ()| z * 0.5 + 1e6, 0.0, 2e6),
        ("unstable start", |z, ()| (z * 2.0).tanh(), 1e-4, 0.957_504),
        ("slope 0.999", |z, ()| z * 0.999 + 1.0, 0.0, 1e3),
        ("slope 0.9999", |z, ()| z * 0.9999 + 1.0, 0.0, 1e4),
    ];
    for place in places() {
        for (name, f, start, fixed) in cases {
            for solver in solvers() {
                // With slopes near 1, only secants get there in time.
                let plain = matches!(solver.method, Method::Plain { .. });
                let solver = solver.with_relative(1e-5).with_max_steps(400);
                if plain && (1e3..=1e4).contains(&fixed) {
                    continue;
                }
                let (z, report) = run(f, solver.clone(), &place, &[start]);
                // An accelerated solver may find the other end or the unstable fixed point.
                let other = name == "unstable start" && (z[0].abs() < 1e-9 || z[0] < 0.0);
                let near = (z[0] - fixed).abs() < 0.03 * fixed;
                assert!(
                    report.all_converged() && (near || other),
                    "{name} by {solver:?}: {z:?} {report:?}"
                );
            }
        }
    }
}

/// A rotation by 0.01 about a centre needs weights of 1e4 and more.
#[test]
fn a_slow_rotation_is_solved_by_two_differences() {
    for place in places() {
        for angle in [0.1f64, 0.01, 0.003] {
            let (s, c) = angle.sin_cos();
            let (turn, centre) = (
                place.tensor(&[c, s, -s, c], [2, 2]),
                place.tensor(&[0.7, -1.3], [1, 2]),
            );
            let f =
                move |z: Tensor<2>, ()| (z - centre.clone()).matmul(turn.clone()) + centre.clone();
            let solver = Solver::default().with_relative(1e-4 * angle);
            let deq = EquilibriumConfig::new().with_forward(solver).init();
            let out = deq.solve_map(&f, (), place.tensor(&[3.0, 2.0], [1, 2]));
            let z = values(out.state);
            let error = (z[0] - 0.7).hypot(z[1] + 1.3);
            println!(
                "angle {angle}: {} evaluations, {error:.1e} off",
                out.forward.evaluations
            );
            assert!(
                out.forward.all_converged() && error < 1e-3,
                "{angle}: {z:?} {:?}",
                out.forward
            );
            assert!(out.forward.evaluations <= 8, "{angle}: {:?}", out.forward);
        }
    }
}

/// A singular backward system without a solution: its solvers run away along the kernel.
#[test]
fn a_singular_backward_system_does_not_converge() {
    for place in places() {
        for solver in [
            LinearSolver::conjugate_gradients(),
            LinearSolver::minres(),
            Solver::anderson(6).into(),
            Solver::broyden(20).into(),
            Solver::plain().into(),
        ] {
            for seed in 1..=20 {
                let spectrum = [0.9, 0.3, -0.4, 1.0];
                let w = crate::support::Affine::matrix(&spectrum, seed);
                let (w, g) = (
                    place.tensor(&w, [4, 4]),
                    place.tensor(&Numbers::new(seed).vec(4), [1, 4]),
                );
                let map = Declared::new(|z: Tensor<2>, x: Tensor<2>| z.matmul(x))
                    .with_structure(Structure::SymmetricPositiveDefinite);
                let deq = EquilibriumConfig::new()
                    .with_gradient(Gradient::implicit(solver.clone().with_max_steps(300)))
                    .init();
                let x = w.autodiff().require_grad();
                // The forward solve starts at its fixed point, 0.
                let out = deq.solve_map(&map, x, place.tensor(&[0.0; 4], [1, 4]));
                let _ = (out.state * g.autodiff()).sum().backward();
                let report = out.adjoint.report().unwrap();
                assert!(
                    !report.all_converged(),
                    "{solver:?}, seed {seed}: {report:?}"
                );
            }
        }
    }
}

type Pair = (Tensor<2>, Tensor<2>);

/// Fixed points 1e6 and 1e-3; the small one is reached more slowly.
fn unequal((a, b): Pair, (): ()) -> Pair {
    (a * 0.5 + 5e5, b * 0.9 + 1e-4)
}

fn solve_unequal(solver: Solver, place: &Place, freezing: Freezing) -> ([Vec<f64>; 2], Report) {
    let deq = EquilibriumConfig::new()
        .with_forward(solver)
        .with_freezing(freezing)
        .init();
    let start = (
        place.tensor(&[0.0, 9e5, 1e6], [3, 1]),
        place.tensor(&[0.0, 5e-4, 9e-4, 1e-3, 0.0, 2e-3], [3, 2]),
    );
    let out = deq.solve_map(&unequal, (), start);
    ([values(out.state.0), values(out.state.1)], out.forward)
}

#[test]
fn each_branch_meets_the_tolerance_if_each_is_to() {
    for place in places() {
        for solver in solvers() {
            for check in [Check::Every(1), Check::Every(3)] {
                for freezing in [Freezing::Off, Freezing::Assumed] {
                    let solver = solver.clone().with_check(check).with_max_steps(300);
                    let each = solver.clone().with_branches(Branches::Each);
                    let ([a, b], report) = solve_unequal(each, &place, freezing);
                    assert!(report.all_converged(), "{solver:?}: {report:?}");
                    assert!(a.iter().all(|a| (a - 1e6).abs() < 1e3), "{solver:?}: {a:?}");
                    // A relative residual of 1e-4, and an error ten times that.
                    assert!(
                        b.iter().all(|b| (b - 1e-3).abs() < 2e-6),
                        "{solver:?}: {b:?}"
                    );
                    // The report describes the worse branch.
                    for i in 0..3 {
                        let [a, b] = [&a[i..=i], &b[2 * i..2 * i + 2]];
                        let norm =
                            |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
                        let of = |z: &[f64], slope: f64, c: f64| {
                            let r = norm(&mut z.iter().map(|z| slope * z + c - z));
                            r / norm(&mut z.iter().map(|z| slope * z + c))
                        };
                        let worse = of(a, 0.5, 5e5).max(of(b, 0.9, 1e-4));
                        let said = report.relative_residual[i];
                        assert!(
                            (worse - said).abs() < 1e-6,
                            "{solver:?}: {worse:e} {said:e}"
                        );
                    }
                }
            }
        }
    }
    // By default the state is judged as a whole, as documented.
    let ([_, b], report) = solve_unequal(Solver::plain(), &Place::flex(), Freezing::Off);
    assert!(
        report.all_converged() && (b[0] - 1e-3).abs() > 2e-4,
        "{b:?}"
    );
}

/// Nothing changes for a state of one tensor.
#[test]
fn one_branch_is_judged_as_a_whole() {
    for (name, solver) in accelerated() {
        let f = |z: Tensor<2>, ()| z.cos();
        let run = |branches| {
            run(
                f,
                solver.clone().with_branches(branches),
                &Place::flex(),
                &[0.3, 2.0],
            )
        };
        let (z, report) = run(Branches::Each);
        let (same, whole) = run(Branches::Together);
        assert_eq!(z, same, "{name}");
        assert_eq!(report.steps, whole.steps, "{name}");
        assert_eq!(report.residual, whole.residual, "{name}");
    }
}

/// The backward solve judges branches one by one, too.
#[test]
fn each_branch_of_a_backward_solve_meets_the_tolerance() {
    let place = Place::flex();
    let run = |branches| {
        let adjoint = Solver::plain().with_branches(branches).with_max_steps(400);
        let deq = EquilibriumConfig::new()
            .with_gradient(Gradient::implicit(adjoint))
            .init();
        let x = place.tensor(&[1.0], [1, 1]).autodiff().require_grad();
        let f = |(a, b): Pair, x: Tensor<2>| (a * 0.5 + x.clone(), b * 0.9 + x);
        let start = (place.tensor(&[0.0], [1, 1]), place.tensor(&[0.0], [1, 1]));
        let out = deq.solve_map(&f, x, start);
        // du/da = 2e6, du/db = 1e-3 / 0.1.
        let _ = (out.state.0 * 1e6 + out.state.1 * 1e-3).sum().backward();
        assert!(out.adjoint.report().unwrap().all_converged());
        values(out.adjoint.solution().unwrap())
    };
    let u = run(Branches::Each);
    assert!(
        (u[1] - 1e-2).abs() < 2e-5 && (u[0] - 2e6).abs() < 1e3,
        "{u:?}"
    );
    assert!((run(Branches::Together)[1] - 1e-2).abs() > 1e-3);
    assert_eq!(place.dtype, DType::F64);
}
