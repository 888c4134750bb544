//! Solvers of one's own.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::solver::{Custom, Iterate, Step};
use burn_deq::{Check, Declared, EquilibriumConfig, Gradient, LinearSolver, Rows, Solver, Status};

use crate::problems::{Place, catalogue};
use crate::support::{Numbers, Tanh, f64_tensor, relative_error, values};

/// Heavy ball with a momentum of each sample's own.
struct HeavyBall {
    before: Tensor<2>,
    momentum: Tensor<2>,
}

impl HeavyBall {
    fn solver() -> Custom {
        Custom::new(|z0: Tensor<2>| Self {
            momentum: z0.clone().narrow(1, 0, 1).zeros_like() + 0.3,
            before: z0,
        })
    }
}

impl Step for HeavyBall {
    fn step(&mut self, at: Iterate) -> Tensor<2> {
        assert_eq!(at.z.dims()[0], self.momentum.dims()[0]);
        let before = std::mem::replace(&mut self.before, at.z.clone());
        at.f + (at.z - before) * self.momentum.clone()
    }

    fn keep(&mut self, rows: &Rows) {
        self.before = rows.of(self.before.clone());
        self.momentum = rows.of(self.momentum.clone());
    }
}

#[test]
fn a_solver_of_ones_own_solves_the_contractions() {
    let solver = Solver::from(HeavyBall::solver()).with_max_steps(10_000);
    // Momentum turns fast rotations into divergence.
    let slow = |name: &str| name != "slow cycle of 5";
    let contractions = catalogue().into_iter();
    let contractions = contractions.filter(|p| p.contraction && slow(p.name));
    for problem in contractions {
        for solver in [solver.clone(), solver.clone().with_check(Check::Every(7))] {
            let (z, report) = problem.solve(&solver, &Place::flex());
            assert!(report.all_converged(), "{}: {report:?}", problem.name);
            assert!(problem.error_of(&z) <= problem.error, "{}", problem.name);
        }
    }
}

#[test]
fn it_is_judged_frozen_and_counted_as_any_other() {
    let slopes = f64_tensor(vec![0.0, 0.5, 0.9, -1.2, f64::NAN], [5, 1]);
    let map =
        Declared::new(|z: Tensor<2>, a: Tensor<2>| z * a + 1.0).with_independent_samples(true);
    let z0 = f64_tensor(vec![0.0; 15], [5, 3]);
    let solver = Solver::from(HeavyBall::solver())
        .with_max_steps(200)
        .with_relative(1e-8);
    let run = |solver: Solver| {
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        deq.solve_map(&map, slopes.clone(), z0.clone())
    };
    let out = run(solver);
    let report = out.forward;
    assert_eq!(report.count(Status::Converged), 4, "{report:?}");
    assert_eq!(report.status[4], Status::NotFinite);
    assert!(report.steps[0] < report.steps[1] && report.steps[1] < report.steps[2]);
    assert!(report.sample_evaluations < 5 * report.evaluations);
    let z = values(out.state);
    for (i, slope) in [0.0, 0.5, 0.9, -1.2].into_iter().enumerate() {
        assert!((z[3 * i] * (1.0 - slope) - 1.0).abs() < 1e-6, "{slope}");
    }
}

#[test]
fn it_solves_the_backward_pass() {
    let device = Device::flex();
    let cell = Tanh::new(6, 4, &device, DType::F64).train();
    let gradient = |forward: Solver, backward: LinearSolver| {
        let x = Numbers::new(2).tensor([3, 4], 1.0);
        let x: Tensor<2> = x.autodiff().require_grad();
        let deq = EquilibriumConfig::new()
            .with_forward(forward.with_relative(1e-12).with_max_steps(300))
            .with_gradient(Gradient::implicit(
                backward.with_relative(1e-12).with_max_steps(300),
            ))
            .init();
        let out = deq.solve(
            &cell,
            Tanh::forward,
            x.clone(),
            f64_tensor(vec![0.0; 18], [3, 6]),
        );
        let gradients = out.state.powi_scalar(2).sum().backward();
        assert!(out.adjoint.report().unwrap().all_converged());
        x.grad(&gradients).unwrap()
    };
    let own = || Solver::from(HeavyBall::solver());
    let reference = gradient(Solver::default(), Solver::default().into());
    let error = relative_error(gradient(own(), own().into()), reference);
    assert!(error < 1e-9, "{error:e}");
}

/// A configuration with code in it cannot be written; it compares by identity.
#[test]
fn it_is_code() {
    let own = HeavyBall::solver();
    assert_eq!(own, own.clone());
    assert_ne!(own, HeavyBall::solver());
    let config = EquilibriumConfig::new().with_forward(own.into());
    assert!(config.validate().is_ok());
}
