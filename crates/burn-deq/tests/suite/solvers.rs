//! Evaluation counts and fixed points of known problems.

use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, Report, Solver};

use crate::support::{Affine, Numbers, f64_tensor, values};

fn solve<F>(solver: Solver, f: F, z0: Tensor<2>) -> (Vec<f64>, Report)
where
    F: Fn(Tensor<2>, ()) -> Tensor<2> + Clone + Send + 'static,
{
    let out = EquilibriumConfig::new()
        .with_forward(solver)
        .init()
        .solve_map(&f, (), z0);
    (values(out.state), out.forward)
}

#[test]
fn slow_affine_map_takes_at_most_42_evaluations_at_any_scale() {
    let device = Device::flex();
    for dtype in [DType::F64, DType::F32] {
        let map = Affine::slow(&device, dtype);
        let mut counts = Vec::new();
        for scale in [1e-3, 1.0, 1e3] {
            let x = Numbers::new(11).tensor([1, 200], scale);
            let x = Tensor::from_data(x.into_data(), (&device, dtype));
            let z0 = x.zeros_like();
            let solver = Solver::default().with_relative(1e-5).with_max_steps(400);
            let deq = EquilibriumConfig::new().with_forward(solver).init();
            let out = deq.solve(&map, Affine::forward, x.clone(), z0.clone());
            assert!(
                out.forward.all_converged(),
                "{dtype:?} {scale}: {:?}",
                out.forward
            );
            counts.push(out.forward.evaluations);

            let plain = Solver::plain().with_relative(1e-5).with_max_steps(400);
            let plain = EquilibriumConfig::new().with_forward(plain).init();
            let plain = plain.solve(&map, Affine::forward, x, z0).forward;
            assert!(plain.all_converged() && plain.evaluations > 3 * out.forward.evaluations);
        }
        println!("{dtype:?}: evaluations at scales 1e-3, 1, 1e3: {counts:?}");
        assert!(counts.iter().all(|c| *c <= 42), "{dtype:?}: {counts:?}");
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(spread <= 2, "{dtype:?}: {counts:?}");
    }
}

#[test]
fn scalar_fixed_points() {
    let start = || f64_tensor(vec![0.5], [1, 1]);
    let tight = |s: Solver| s.with_relative(1e-10).with_max_steps(100);
    for solver in [Solver::plain(), Solver::anderson(4)] {
        let (z, report) = solve(tight(solver.clone()), |z, _| z.cos(), start());
        assert!(report.all_converged() && (z[0] - 0.739_085_133_215_160_6).abs() < 1e-9);
        let (z, report) = solve(tight(solver.clone()), |z, _| (z + 1.0).tanh(), start());
        assert!(
            report.all_converged() && (z[0] - 0.9611797513715394).abs() < 1e-9,
            "{z:?} {report:?}"
        );
        let heron = |z: Tensor<2>, _| (z.clone() + z.recip() * 2.0) * 0.5;
        let (z, report) = solve(tight(solver), heron, start());
        assert!(report.all_converged() && (z[0] - 2f64.sqrt()).abs() < 1e-9);
    }
}

#[test]
fn anderson_solves_what_plain_iteration_cannot() {
    // z = 1 - 2 z: slope -2.
    let expanding = |z: Tensor<2>, _| z * -2.0 + 1.0;
    let start = || f64_tensor(vec![0.0], [1, 1]);
    let (z, report) = solve(Solver::anderson(4).with_relative(1e-10), expanding, start());
    assert!(
        report.all_converged() && (z[0] - 1.0 / 3.0).abs() < 1e-9,
        "{z:?} {report:?}"
    );
    let (_, report) = solve(Solver::plain().with_max_steps(100), expanding, start());
    assert_eq!(report.count(burn_deq::Status::Diverged), 1);

    // Rotations about a centre: no contraction at any angle.
    for divisor in [2.0, 3.0, 4.0, 5.0, 6.0, 1.27, 1.73] {
        let (s, c) = (std::f64::consts::PI / divisor).sin_cos();
        let rotation = f64_tensor(vec![c, s, -s, c], [2, 2]);
        let centre = f64_tensor(vec![0.7, -1.3], [1, 2]);
        let map =
            move |z: Tensor<2>, _| (z - centre.clone()).matmul(rotation.clone()) + centre.clone();
        let start = f64_tensor(vec![3.0, 2.0], [1, 2]);
        let (z, report) = solve(Solver::anderson(10).with_relative(1e-8), map, start);
        assert!(report.all_converged(), "pi / {divisor}: {report:?}");
        assert!((z[0] - 0.7).abs() < 1e-6 && (z[1] + 1.3).abs() < 1e-6);
    }
}

#[test]
fn conjugate_gradients_take_no_more_products_than_anderson() {
    // The backward solve of a symmetric affine map, where u = A u + g has a closed form.
    use burn::module::Module;
    use burn_deq::{FixedPointMap, Gradient, Structure, WithModule};

    #[derive(Clone)]
    struct Symmetric;
    impl FixedPointMap<Tensor<2>, WithModule<Affine, Tensor<2>>> for Symmetric {
        fn apply(&self, z: Tensor<2>, x: WithModule<Affine, Tensor<2>>) -> Tensor<2> {
            x.module.forward(z, x.input)
        }
        fn structure(&self) -> Structure {
            Structure::SymmetricPositiveDefinite
        }
    }

    let device = Device::flex();
    let module = Affine::slow(&device, DType::F64).train();
    let x = Numbers::new(11).tensor([3, 200], 1.0);
    let run = |adjoint: Option<burn_deq::LinearSolver>| {
        let forward = Solver::default().with_relative(1e-8).with_max_steps(400);
        let config = EquilibriumConfig::new()
            .with_forward(forward)
            .with_gradient(adjoint.map_or_else(Gradient::default, Gradient::implicit));
        let x = x.clone().autodiff().require_grad();
        let input = WithModule {
            module: module.clone(),
            input: x.clone(),
        };
        let out = config
            .init()
            .solve_map(&Symmetric, input, x.clone().inner().zeros_like());
        let grads = out.state.powf_scalar(2.0).sum().backward();
        let report = out.adjoint.report().unwrap();
        assert!(report.all_converged(), "{report:?}");
        (values(x.grad(&grads).unwrap()), report.evaluations)
    };
    let tolerance = |s: Solver| s.with_relative(1e-8).with_max_steps(400);
    let (by_default, cg) = run(None);
    let (by_anderson, anderson) = run(Some(tolerance(Solver::anderson(6)).into()));
    let (_, explicit) = run(Some(
        burn_deq::LinearSolver::conjugate_gradients()
            .with_relative(1e-8)
            .with_max_steps(400),
    ));
    println!("products: conjugate gradients {cg}, Anderson(6) {anderson}");
    assert_eq!(
        cg, explicit,
        "the declared structure selects conjugate gradients"
    );
    assert!(cg <= anderson, "{cg} > {anderson}");
    assert!(crate::support::relative(&by_default, &by_anderson) < 1e-6);
}
