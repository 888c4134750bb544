//! Norms, checks, read-backs, traces, intermediate states, warm starts.

use burn::tensor::{Device, Tensor};
use burn_deq::{
    AdjointStart, AndersonConfig, AndersonType, Check, EquilibriumConfig, Gradient, Implicit,
    Method, Norm, Solver, Start, Status,
};

use crate::problems::{Place, accelerated, catalogue};
use crate::support::{Numbers, Tanh, relative, values};
use burn::module::Module;

fn cell(place: &Place) -> (Tanh, Tensor<2>, Tensor<2>) {
    let cell = Tanh::new(16, 9, &place.device, place.dtype);
    let x = Numbers::new(1).tensor([5, 9], 1.0);
    let x = Tensor::from_data(x.into_data(), (&place.device, place.dtype));
    let z0 = Tensor::zeros([5, 16], (&place.device, place.dtype));
    (cell, x, z0)
}

#[test]
fn norms_are_what_they_say() {
    let (cell, x, z0) = cell(&Place::flex());
    for norm in [Norm::L2, Norm::Rms, Norm::Max] {
        let solver = Solver::plain().with_norm(norm).with_relative(1e-6);
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let out = deq.solve(&cell, Tanh::forward, x.clone(), z0.clone());
        assert!(out.forward.all_converged());
        let f = cell.forward(out.state.clone(), x.clone());
        let of = |row: &[f64]| match norm {
            Norm::L2 => row.iter().map(|v| v * v).sum::<f64>().sqrt(),
            Norm::Rms => (row.iter().map(|v| v * v).sum::<f64>() / 16.0).sqrt(),
            Norm::Max => row.iter().fold(0.0, |m: f64, v| m.max(v.abs())),
        };
        let (r, f) = (values(f.clone() - out.state), values(f));
        for (i, (r, f)) in r.chunks(16).zip(f.chunks(16)).enumerate() {
            assert!((of(r) - out.forward.residual[i]).abs() < 1e-15, "{norm:?}");
            let relative = of(r) / of(f);
            assert!((relative - out.forward.relative_residual[i]).abs() < 1e-12);
            assert!(relative <= 1e-6, "{norm:?}");
        }
    }
}

/// At most one read-back per step, none in the fixed-step mode, and one every k steps in between.
/// The wgpu tests call this, too.
pub fn check_read_backs(place: &Place) {
    let (cell, x, z0) = cell(place);
    let reference = {
        let solver = Solver::default().with_relative(1e-12f64.max(place.floor));
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        values(deq.solve(&cell, Tanh::forward, x.clone(), z0.clone()).state)
    };
    let type_one = AndersonConfig::new().with_kind(AndersonType::I);
    for solver in [
        Solver::plain(),
        Solver::anderson(4),
        Method::from(type_one).into(),
        Solver::broyden(20),
    ] {
        let run = |solver: Solver| {
            let deq = EquilibriumConfig::new().with_forward(solver).init();
            deq.solve(&cell, Tanh::forward, x.clone(), z0.clone())
        };
        let tolerance = 1e-6f64.max(place.floor);
        let each = run(solver.clone().with_relative(tolerance));
        assert!(each.forward.all_converged());
        assert_eq!(each.forward.read_backs, each.forward.evaluations);

        let some = run(solver
            .clone()
            .with_relative(tolerance)
            .with_check(Check::Every(4)));
        assert!(some.forward.all_converged(), "{:?}", some.forward);
        assert_eq!(
            some.forward.read_backs,
            some.forward.evaluations.div_ceil(4)
        );
        assert!(some.forward.evaluations < each.forward.evaluations + 6);

        let fixed = run(solver.with_fixed_steps(20));
        assert_eq!(fixed.forward.read_backs, 0);
        assert_eq!(fixed.forward.evaluations, 20);
        assert_eq!(fixed.forward.count(Status::Unchecked), 5);
        assert!(fixed.forward.residual.iter().all(|r| r.is_nan()));
        let residual = values(fixed.residual.expect("residuals on the device"));
        assert!(residual.iter().all(|r| *r < tolerance), "{residual:?}");
        let error = relative(&values(fixed.state), &reference);
        assert!(error < tolerance * 10.0, "{error:e}");
    }
}

#[test]
fn read_backs_are_counted() {
    check_read_backs(&Place::flex());
}

#[test]
fn solves_that_are_seldom_looked_at_solve_the_catalogue_too() {
    for problem in catalogue() {
        for (name, solver) in accelerated() {
            let solver = solver.with_check(Check::Every(5));
            let (z, report) = problem.solve(&solver, &Place::flex());
            assert!(
                report.all_converged() && problem.error_of(&z) <= 10.0 * problem.error,
                "{} by {name}: {report:?}",
                problem.name
            );
        }
    }
}

#[test]
fn a_bad_sample_leaves_the_others_alone_when_nobody_looks() {
    let place = Place::flex();
    let f = |z: Tensor<2>, x: Tensor<2>| (z * 0.5 + x).tanh();
    let x = place.tensor(&[0.3, f64::NAN, -0.2], [3, 1]);
    for method in [
        Method::Plain { damping: 1.0 },
        AndersonConfig::new().into(),
        burn_deq::BroydenConfig::new().into(),
    ] {
        let z0 = place.tensor(&[0.0; 3], [3, 1]);
        let solver = Solver::from(method).with_fixed_steps(30);
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let out = deq.solve_map(&f, x.clone(), z0);
        let (z, r) = (values(out.state), values(out.residual.unwrap()));
        assert!(z.iter().all(|v| v.is_finite()), "{z:?}");
        assert!(r[0] < 1e-10 && r[2] < 1e-10 && !r[1].is_finite(), "{r:?}");
    }
}

#[test]
fn the_trace_holds_every_residual() {
    let (cell, x, z0) = cell(&Place::flex());
    let deq = EquilibriumConfig::new()
        .with_forward(Solver::plain().with_trace())
        .init();
    let out = deq.solve(&cell, Tanh::forward, x.clone(), z0.clone());
    assert_eq!(out.forward.trace.len(), out.forward.evaluations);
    // Plain iteration is easy to follow by hand.
    let mut z = z0;
    for (k, (step, residuals)) in out.forward.trace.iter().enumerate() {
        assert_eq!(*step, k + 1);
        let f = cell.forward(z.clone(), x.clone());
        let (r, fs) = (values(f.clone() - z), values(f.clone()));
        for i in 0..5 {
            let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            let expected = norm(&r[i * 16..][..16]) / norm(&fs[i * 16..][..16]);
            let done = *step > out.forward.steps[i];
            assert_eq!(residuals[i].is_nan(), done);
            assert!(done || (residuals[i] - expected).abs() < 1e-12);
        }
        z = f;
    }
    assert!(out.forward.elapsed.as_nanos() > 0);
}

/// Every requested state comes back, each with the implicit gradient at that state. TorchDEQ
/// silently drops it if a solve ends early.
#[test]
fn intermediate_states_have_right_gradients() {
    let place = Place::flex();
    let (cell, x, z0) = cell(&place);
    let cell = cell.train();
    let tight = |s: Solver| s.with_relative(1e-12).with_absolute(1e-14);
    let asked = vec![2, 5, 1000];
    let deq = EquilibriumConfig::new()
        .with_forward(tight(Solver::plain()).with_max_steps(200))
        .with_gradient(Gradient::implicit(
            tight(Solver::anderson(6)).with_max_steps(200),
        ))
        .with_record(asked.clone())
        .init();
    let out = deq.solve(&cell, Tanh::forward, x.clone(), z0.clone());
    assert_eq!(out.intermediate.len(), asked.len());
    let mut z = z0.clone();
    for step in 1..=6 {
        if let Some(k) = asked.iter().position(|s| *s == step) {
            // The iterate after one more application on the tape.
            let expected = cell.valid().forward(z.clone(), x.clone());
            let error = relative(
                &values(out.intermediate[k].state.clone()),
                &values(expected),
            );
            assert!(error < 1e-14, "step {step}: {error:e}");
        }
        z = cell.valid().forward(z, x.clone());
    }
    // The gradient of state k is (df/dW)' (I - J')^-1 g with J at that state. A second layer, whose
    // forward solve stops there, computes it.
    for (k, step) in [(0, 2), (1, 5)] {
        let gradient_of = |state: Tensor<2>| {
            let gradients = state.cos().sum().backward();
            values(cell.w.val().grad(&gradients).unwrap())
        };
        let stopped = EquilibriumConfig::new()
            .with_forward(Solver::plain().with_relative(0.0).with_max_steps(step))
            .with_gradient(Gradient::implicit(
                tight(Solver::plain()).with_max_steps(300),
            ))
            .init();
        let other = stopped.solve(&cell, Tanh::forward, x.clone(), z0.clone());
        let reference = gradient_of(other.state);
        let out = deq.solve(&cell, Tanh::forward, x.clone(), z0.clone());
        let state = out.intermediate[k].state.clone();
        let gradient = gradient_of(state);
        assert!(relative(&gradient, &reference) < 1e-9);
        let report = out.intermediate[k].adjoint.report().expect("its own solve");
        assert!(report.all_converged());
        assert!(
            out.adjoint.report().is_none(),
            "the final state took no part"
        );
    }
}

#[test]
fn warm_starts_save_evaluations_and_change_nothing_else() {
    let place = Place::flex();
    let (cell, x, z0) = cell(&place);
    let cell = cell.train();
    let layer = |start| {
        let solver = Solver::broyden(30).with_relative(1e-10);
        EquilibriumConfig::new()
            .with_forward(solver.clone())
            .with_gradient(Gradient::Implicit(Implicit {
                solver: Some(solver.with_trace().into()),
                start,
            }))
            .init()
    };
    let f = |z: Tensor<2>, x: burn_deq::WithModule<Tanh, Tensor<2>>| x.module.forward(z, x.input);
    let input = || burn_deq::WithModule {
        module: cell.clone(),
        input: x.clone(),
    };
    let run = |start: AdjointStart, from: Start<Tensor<2>>| {
        let out = layer(start).solve_from(&f, input(), from);
        let gradients = out.state.clone().cos().sum().backward();
        let w = values(cell.w.val().grad(&gradients).unwrap());
        (w, out)
    };
    let (cold, first) = run(AdjointStart::Gradient, z0.clone().into());
    let (shine, second) = run(AdjointStart::BroydenFactors, z0.clone().into());
    // Mean initial residual of the backward solve.
    let begins = |out: &burn_deq::Solution<Tensor<2>>| {
        let trace = out.adjoint.report().unwrap().trace;
        trace[0].1.iter().sum::<f64>() / 5.0
    };
    let (from_g, from_factors) = (begins(&first), begins(&second));
    println!(
        "the backward solve starts at a residual of {from_g:.1e} from g, {from_factors:.1e} from the factors"
    );
    assert!(from_factors < from_g);
    let (warm, third) = run(
        AdjointStart::Gradient,
        Start {
            state: first.state.clone().without_autodiff(),
            adjoint: first.adjoint.solution(),
        },
    );
    assert!(third.forward.evaluations < first.forward.evaluations);
    assert!(third.adjoint.report().unwrap().evaluations <= 2);
    assert!(relative(&shine, &cold) < 1e-8 && relative(&warm, &cold) < 1e-8);
}

/// In one dimension the secant converges to the derivative, so the factors solve the backward
/// system.
#[test]
fn broyden_factors_are_the_inverse_in_one_dimension() {
    let place = Place::flex();
    let x = place
        .tensor(&[0.3, -0.5, 1.2], [3, 1])
        .autodiff()
        .require_grad();
    let solver = Solver::broyden(20).with_relative(1e-12);
    let deq = EquilibriumConfig::new()
        .with_forward(solver.clone())
        .with_gradient(Gradient::Implicit(Implicit {
            solver: Some(solver.with_trace().into()),
            start: AdjointStart::BroydenFactors,
        }))
        .init();
    let f = |z: Tensor<2>, x: Tensor<2>| (z * 0.8 + x).tanh();
    let out = deq.solve_map(&f, x.clone(), x.clone().inner());
    let _ = out.state.sum().backward();
    let trace = out.adjoint.report().unwrap().trace;
    assert!(trace[0].1.iter().all(|r| *r < 1e-4), "{trace:?}");
}

#[test]
fn settings_that_cannot_work_are_named() {
    use burn_deq::{BroydenConfig, LinearSolver};
    let ok = EquilibriumConfig::new();
    assert!(ok.validate().is_ok());
    let forward = |s: Solver| EquilibriumConfig::new().with_forward(s);
    let method = |m: Method| forward(m.into());
    for (config, field) in [
        (forward(Solver::damped(0.0)), "forward.method.damping"),
        (forward(Solver::damped(f64::NAN)), "forward.method.damping"),
        (
            forward(Solver::plain().with_relative(-1.0)),
            "forward.termination.relative",
        ),
        (
            method(AndersonConfig::new().with_period(0).into()),
            "forward.method.period",
        ),
        (
            method(BroydenConfig::new().with_safeguard(0.5).into()),
            "forward.method.safeguard",
        ),
        (
            ok.clone().with_gradient(Gradient::implicit(
                LinearSolver::minres().with_absolute(f64::INFINITY),
            )),
            "gradient.termination.absolute",
        ),
        (
            ok.clone().with_gradient(Gradient::Phantom {
                steps: 0,
                damping: 1.0,
            }),
            "gradient.steps",
        ),
        (ok.clone().with_record(vec![3, 3]), "record"),
    ] {
        let error = config.validate().expect_err(field);
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(field), "{error}");
        // Without the check, nothing panics either.
        let z0 = Tensor::<2>::zeros([1, 2], &Device::flex());
        config.init().solve_map(&|z: Tensor<2>, ()| z.cos(), (), z0);
    }
}

#[test]
fn a_step_into_nan_is_taken_back() {
    // sqrt is NaN below 0: accelerated steps that overshoot must not ruin the sample.
    let place = Place::flex();
    let f = |z: Tensor<2>, ()| (z.clone() * 0.98).sqrt() * (z * 4.0).cos().abs() + 1e-3;
    for (name, solver) in accelerated() {
        for start in [0.3, 1.5, 2.9] {
            let deq = EquilibriumConfig::new().with_forward(solver.clone()).init();
            let out = deq.solve_map(&f, (), place.tensor(&[start], [1, 1]));
            let z = values(out.state)[0];
            assert!(z.is_finite(), "{name}");
            assert_ne!(
                out.forward.status,
                [Status::NotFinite],
                "{name} from {start}"
            );
        }
    }
}
