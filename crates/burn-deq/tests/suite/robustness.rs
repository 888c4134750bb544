//! Bad samples, degenerate settings, misuse.

use std::sync::mpsc;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{
    Declared, EquilibriumConfig, Freezing, Gradient, LinearSolver, Report, Solver, Status,
    Structure,
};
use proptest::prelude::*;

use crate::problems::Place;
use crate::support::{Numbers, Tanh, f64_tensor, values};

/// z = slope * tanh(z) + offset, with one slope and offset per sample, in x = (slope, offset).
fn per_sample(z: Tensor<2>, x: (Tensor<2>, Tensor<2>)) -> Tensor<2> {
    // A slope above 10 marks a sample without a fixed point: z = slope z^2 + 1 has no real root.
    let hopeless = x.0.clone().greater_elem(10.0).expand(z.dims());
    let contracting = z.clone().tanh() * x.0.clone() + x.1;
    contracting.mask_where(hopeless, z.clone() * z * x.0 + 1.0)
}

fn run(solver: Solver, slopes: &[f64], offsets: &[f64], width: usize) -> (Vec<Vec<f64>>, Report) {
    run_with(solver, slopes, offsets, width, Freezing::Off)
}

fn run_with(
    solver: Solver,
    slopes: &[f64],
    offsets: &[f64],
    width: usize,
    freezing: Freezing,
) -> (Vec<Vec<f64>>, Report) {
    run_on(&Place::flex(), solver, [slopes, offsets], width, freezing)
}

fn run_on(
    place: &Place,
    solver: Solver,
    [slopes, offsets]: [&[f64]; 2],
    width: usize,
    freezing: Freezing,
) -> (Vec<Vec<f64>>, Report) {
    let b = slopes.len();
    let x = (place.tensor(slopes, [b, 1]), place.tensor(offsets, [b, 1]));
    let start = Numbers::new(1).vec(width).repeat(b);
    let start = place.tensor(&start, [b, width]);
    let out = EquilibriumConfig::new()
        .with_forward(solver)
        .with_freezing(freezing)
        .init()
        .solve_map(&per_sample, x, start);
    let rows = values(out.state)
        .chunks(width)
        .map(<[f64]>::to_vec)
        .collect();
    (rows, out.forward)
}

#[test]
fn a_bad_sample_leaves_the_others_untouched() {
    let good = ([0.5, 0.9, -0.7], [0.1, 0.2, 0.3]);
    // Diverging, NaN from the first evaluation, infinite.
    let bad = [
        (20.0, 1.0, Status::Diverged),
        (f64::NAN, 0.0, Status::NotFinite),
        (0.5, f64::INFINITY, Status::NotFinite),
    ];
    for (solver, exact) in [(Solver::plain(), true), (Solver::anderson(5), false)] {
        let solver = solver.with_relative(1e-9).with_max_steps(400);
        let (alone, report) = run(solver.clone(), &good.0, &good.1, 7);
        assert!(report.all_converged());
        for (slope, offset, expected) in bad {
            let slopes = [good.0[0], slope, good.0[1], good.0[2]];
            let offsets = [good.1[0], offset, good.1[1], good.1[2]];
            let (mixed, report) = run(solver.clone(), &slopes, &offsets, 7);
            if exact {
                assert_eq!(report.status[1], expected, "{report:?}");
            } else {
                assert!(!report.status[1].is_converged(), "{report:?}");
            }
            assert!(
                mixed[1].iter().all(|v| v.is_finite()),
                "the best state is finite"
            );
            for (m, a) in [(0, 0), (2, 1), (3, 2)] {
                assert_eq!(report.status[m], Status::Converged);
                for (x, y) in mixed[m].iter().zip(&alone[a]) {
                    if exact {
                        assert_eq!(x.to_bits(), y.to_bits());
                    } else {
                        assert!((x - y).abs() <= 1e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn a_solved_sample_is_returned_bit_for_bit() {
    // Slope 0: the fixed point is the first image, not the start. Fixed point 0 from 0: already
    // solved.
    let x = (
        f64_tensor(vec![0.9, 0.5], [2, 1]),
        f64_tensor(vec![0.3, 0.0], [2, 1]),
    );
    let start = f64_tensor(vec![1.0, 0.0], [2, 1]);
    for solver in [Solver::plain(), Solver::anderson(3)] {
        let deq = EquilibriumConfig::new()
            .with_forward(solver.with_max_steps(200))
            .init();
        let out = deq.solve_map(&per_sample, x.clone(), start.clone());
        assert!(out.forward.all_converged());
        assert_eq!(out.forward.steps[1], 1);
        assert_eq!(values(out.state)[1].to_bits(), 0f64.to_bits());
    }
}

fn type_one(history: usize) -> Solver {
    let config = burn_deq::AndersonConfig::new().with_history(history);
    Solver::from(burn_deq::Method::from(
        config.with_kind(burn_deq::AndersonType::I),
    ))
}

#[test]
fn degenerate_limits_give_a_typed_status() {
    check_degenerate_limits(
        &Place::flex(),
        &[
            Solver::plain(),
            Solver::anderson(6),
            Solver::anderson(1),
            Solver::anderson(0),
            type_one(6),
            type_one(1),
            Solver::broyden(20),
            Solver::broyden(1),
            Solver::broyden(0),
        ],
    );
    for solver in [Solver::anderson(50), Solver::broyden(50), type_one(50)] {
        let (_, report) = run(solver.with_max_steps(20), &[0.9], &[0.3], 3);
        assert!(report.all_converged(), "{report:?}");
    }
}

/// The wgpu tests call this, too.
pub fn check_degenerate_limits(place: &Place, solvers: &[Solver]) {
    let run = |solver: Solver, slopes: &[f64], offsets: &[f64]| {
        run_on(place, solver, [slopes, offsets], 3, Freezing::Off)
    };
    for solver in solvers {
        for limit in [0, 1, 2] {
            let (rows, report) = run(solver.clone().with_max_steps(limit), &[0.9], &[0.3]);
            assert_eq!(report.status, [Status::StepLimit]);
            assert_eq!(report.evaluations, limit);
            assert!(rows[0].iter().all(|v| v.is_finite()));
        }
        // With tolerance 0, a solve ends by exact convergence or stalls at rounding error.
        let zero = solver
            .clone()
            .with_relative(0.0)
            .with_absolute(0.0)
            .with_max_steps(1000);
        let (_, report) = run(zero, &[0.5], &[0.3]);
        assert!(
            matches!(report.status[0], Status::Converged | Status::Stalled),
            "{report:?}"
        );
        assert!(report.residual[0] < place.floor.max(1e-12));
        // Empty batch; batch of one; identity; zero map; history beyond the step limit.
        let (rows, report) = run(solver.clone(), &[], &[]);
        assert!(rows.is_empty() && report.status.is_empty() && report.evaluations == 0);
        let deq = EquilibriumConfig::new().with_forward(solver.clone()).init();
        let z0 = place.tensor(&Numbers::new(2).vec(6), [2, 3]);
        let identity = deq.solve_map(&|z: Tensor<2>, ()| z, (), z0.clone());
        assert!(identity.forward.all_converged());
        assert_eq!(values(identity.state), values(z0.clone()));
        let zero_map = deq.solve_map(&|z: Tensor<2>, ()| z.zeros_like(), (), z0.clone());
        assert!(zero_map.forward.all_converged());
        assert!(values(zero_map.state).iter().all(|v| *v == 0.0));
        // One dimension: only the batch.
        let flat = deq.solve_map(
            &|z: Tensor<1>, ()| z.cos(),
            (),
            z0.clone().flatten::<1>(0, 1),
        );
        assert!(flat.forward.all_converged());
        // A state without elements, and a start that is not finite.
        let empty = place.tensor(&[], [2, 0]);
        assert!(
            deq.solve_map(&|z: Tensor<2>, ()| z, (), empty)
                .forward
                .all_converged()
        );
        let nan = place.tensor(&[f64::NAN], [1, 1]);
        let report = deq.solve_map(&|z: Tensor<2>, ()| z.cos(), (), nan).forward;
        assert_eq!(report.status, [Status::NotFinite]);
    }
}

/// The same for the backward solve, by every linear method.
#[test]
fn degenerate_backward_solves_give_a_typed_status() {
    check_degenerate_backward_solves(
        &Place::flex(),
        &[
            LinearSolver::conjugate_gradients(),
            LinearSolver::minres(),
            Solver::plain().into(),
            Solver::anderson(6).into(),
            Solver::broyden(20).into(),
        ],
    );
}

/// The wgpu tests call this, too.
pub fn check_degenerate_backward_solves(place: &Place, solvers: &[LinearSolver]) {
    for solver in solvers {
        // Zero map, identity map (I - J = 0), a slope of 1.
        for (slope, solvable) in [(0.0, true), (1.0, false), (0.5, true)] {
            for (batch, limit) in [(0, 50), (1, 0), (1, 1), (1, 2), (2, 50)] {
                let map = Declared::new(move |z: Tensor<2>, x: Tensor<2>| z * slope + x)
                    .with_structure(Structure::SymmetricPositiveDefinite);
                let deq = EquilibriumConfig::new()
                    .with_forward(Solver::plain().with_relative(place.floor.max(1e-10)))
                    .with_gradient(Gradient::implicit(solver.clone().with_max_steps(limit)))
                    .init();
                let x = place.tensor(&vec![0.1; 3 * batch], [batch, 3]);
                let x = x.autodiff().require_grad();
                let out = deq.solve_map(&map, x.clone(), x.clone().inner());
                let gradients = out.state.sum().backward();
                let g = x.grad(&gradients).map(values).unwrap_or_default();
                assert!(g.iter().all(|g| g.is_finite()));
                if batch == 0 {
                    continue;
                }
                let report = out.adjoint.report().unwrap();
                assert!(report.evaluations <= limit);
                if limit == 50 {
                    assert_eq!(report.all_converged(), solvable, "{solver:?} {report:?}");
                    let exact = 1.0 / (1.0 - slope);
                    assert!(!solvable || g.iter().all(|g| (g - exact).abs() < 1e-3));
                }
            }
        }
    }
}

/// Runs `f` on a separate thread and fails if it has not ended after `limit`.
fn within<T: Send + 'static>(limit: Duration, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(f()));
    receiver
        .recv_timeout(limit)
        .expect("the function ends in time")
}

/// The message of the panic when a map captures the module that is trained with it.
fn panic_of_a_capturing_map(forward: Solver) -> Option<String> {
    within(Duration::from_secs(20), || {
        let result = std::panic::catch_unwind(|| {
            let device = Device::flex();
            let cell = Tanh::new(4, 4, &device, DType::F64).train();
            let captured = cell.clone();
            let x = Numbers::new(1).tensor([2, 4], 1.0);
            let gradient = burn_deq::Gradient::implicit(Solver::plain());
            let config = EquilibriumConfig::new()
                .with_forward(forward)
                .with_gradient(gradient);
            let out = config.init().solve(
                &cell,
                move |_: &Tanh, z: Tensor<2>, x: Tensor<2>| captured.forward(z, x),
                x.clone(),
                x,
            );
            out.state.sum().backward();
        });
        let panic = result.expect_err("a captured module is refused");
        let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    })
}

#[test]
fn a_captured_tracked_tensor_panics_at_once() {
    // Even if the forward solve evaluates nothing.
    for forward in [Solver::default(), Solver::plain().with_max_steps(0)] {
        let message = panic_of_a_capturing_map(forward).expect("a panic with a message");
        assert!(
            message.contains("captures") && message.contains("argument"),
            "{message}"
        );
    }
}

#[test]
fn a_map_that_returns_another_shape_is_told_so() {
    let panic = std::panic::catch_unwind(|| {
        let z0 = Numbers::new(1).tensor([2, 4], 1.0);
        EquilibriumConfig::new()
            .init()
            .solve_map(&|z: Tensor<2>, ()| z.narrow(1, 0, 3), (), z0)
    })
    .expect_err("a wrong shape is refused");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("[2, 4]") && message.contains("[2, 3]"),
        "{message}"
    );
}

#[test]
fn settings_survive_json() {
    use burn::config::Config;
    use burn_deq::{AndersonConfig, Gradient, Method};
    let config = EquilibriumConfig::new()
        .with_forward(Solver {
            method: Method::Anderson(AndersonConfig::new().with_history(3)),
            ..Solver::default().with_relative(1e-7)
        })
        .with_gradient(Gradient::implicit(
            burn_deq::LinearSolver::conjugate_gradients(),
        ));
    let path = std::env::temp_dir().join(format!("burn-deq-config-{}.json", std::process::id()));
    config.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"type_2\""), "{text}");
    let loaded = EquilibriumConfig::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(config, loaded);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// Whatever the map's slopes, the solver ends with a finite state, a status that agrees with
    /// its residual, and for each sample the result that it has alone.
    #[test]
    fn every_end_is_honest(
        slopes in prop::collection::vec(-3.0f64..3.0, 1..6),
        offset in -2.0f64..2.0,
        history in 0usize..8,
        limit in 0usize..60,
        method in 0usize..3,
        frozen in any::<bool>(),
    ) {
        let offsets = vec![offset; slopes.len()];
        let solver = match method {
            0 => Solver::anderson(history),
            1 => Solver::broyden(history),
            _ => Solver::from(burn_deq::Method::from(
                burn_deq::AndersonConfig::new()
                    .with_history(history)
                    .with_kind(burn_deq::AndersonType::I),
            )),
        };
        let solver = solver.with_relative(1e-8).with_max_steps(limit);
        let run = |solver: Solver, slopes: &[f64], offsets: &[f64], width: usize| {
            let freezing = if frozen { Freezing::Assumed } else { Freezing::Off };
            run_with(solver, slopes, offsets, width, freezing)
        };
        let (rows, report) = run(solver.clone(), &slopes, &offsets, 4);
        prop_assert!(report.evaluations <= limit);
        for i in 0..slopes.len() {
            prop_assert!(rows[i].iter().all(|v| v.is_finite()));
            // The reported residual is that of the returned state.
            if limit > 0 {
                let f: Vec<f64> = rows[i].iter().map(|z| slopes[i] * z.tanh() + offset).collect();
                let r = f.iter().zip(&rows[i]).map(|(f, z)| (f - z).powi(2)).sum::<f64>().sqrt();
                let scale = f.iter().map(|f| f * f).sum::<f64>().sqrt();
                prop_assert!((r - report.residual[i]).abs() <= 1e-12 * (1.0 + r));
                let met = r <= 1e-10 + 1e-8 * scale * (1.0 + 1e-6);
                prop_assert!(!report.status[i].is_converged() || met);
            }
            let (alone, single) = run(solver.clone(), &slopes[i..=i], &offsets[i..=i], 4);
            prop_assert_eq!(single.status[0], report.status[i]);
            for (x, y) in rows[i].iter().zip(&alone[0]) {
                prop_assert!((x - y).abs() <= 1e-6 * (1.0 + y.abs()));
            }
        }
    }
}

/// Row 15 of the catalogue: a permuted batch gives the permuted solution and report.
#[test]
fn permuting_the_batch_permutes_the_result() {
    let slopes = [0.5, -0.9, 0.95, 0.1, -3.0, 20.0];
    let offsets = [0.1, 0.4, -0.2, 0.0, 0.3, 1.0];
    let order = [3, 5, 0, 4, 2, 1];
    for solver in [Solver::plain(), Solver::anderson(4), Solver::broyden(8)] {
        for freezing in [Freezing::Off, Freezing::Assumed] {
            let solver = solver.clone().with_relative(1e-9).with_max_steps(200);
            let (rows, report) = run_with(solver.clone(), &slopes, &offsets, 5, freezing);
            let shuffled = |v: &[f64]| order.map(|k| v[k]);
            let (other, moved) =
                run_with(solver, &shuffled(&slopes), &shuffled(&offsets), 5, freezing);
            for (k, i) in order.into_iter().enumerate() {
                assert_eq!(moved.status[k], report.status[i]);
                assert_eq!(moved.steps[k], report.steps[i]);
                for (a, b) in other[k].iter().zip(&rows[i]) {
                    assert!((a - b).abs() <= 1e-9 * (1.0 + b.abs()));
                }
            }
        }
    }
}
