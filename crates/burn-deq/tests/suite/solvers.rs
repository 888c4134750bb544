//! Every solver on every problem of the catalogue, and the promised evaluation counts.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{
    AndersonConfig, AndersonType, EquilibriumConfig, FixedPointMap, Gradient, LinearSolver, Method,
    Shared, Solver, Status, Structure, WithModule,
};

use crate::problems::{Place, Problem, accelerated, catalogue};
use crate::support::{Affine, Numbers, f64_tensor, relative, values};

/// Runs the chosen problems. The wgpu tests call this, too.
pub fn check_table(place: &Place, choose: impl Fn(&Problem) -> bool) {
    let mut failures = Vec::new();
    for problem in catalogue().into_iter().filter(choose) {
        let mut counts = Vec::new();
        for (name, solver) in accelerated() {
            let (z, report) = problem.solve(&solver, place);
            let error = problem.error_of(&z);
            counts.push(report.evaluations);
            if !report.all_converged()
                || error > place.error(problem.error)
                || report.evaluations > problem.limit
            {
                failures.push(format!(
                    "{} by {name}: error {error:.1e}, {:?} after {}",
                    problem.name, report.status, report.evaluations
                ));
            }
        }
        // Plain iteration solves the contractions, but more slowly than the default.
        let plain = Solver::plain().with_max_steps(8000);
        let (z, report) = problem.solve(&plain, place);
        let solved = report.all_converged() && problem.error_of(&z) <= place.error(problem.error);
        println!(
            "{:30} accelerated {counts:?}, plain {}",
            problem.name, report.evaluations
        );
        if problem.contraction {
            // Quadratic convergence (Heron) leaves nothing to accelerate.
            let slower = report.evaluations > counts[0] || problem.name == "Heron";
            if !solved || !slower {
                failures.push(format!("{} by plain: {report:?}", problem.name));
            }
        } else if report.all_converged() != solved {
            failures.push(format!("{}: plain iteration converged", problem.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_solver_solves_the_catalogue() {
    check_table(&Place::flex(), |_| true);
}

#[test]
fn every_solver_solves_the_catalogue_in_f32() {
    check_table(&Place::f32_on(Device::flex()), |_| true);
}

#[test]
fn plain_iteration_says_where_it_fails() {
    for (name, expected) in [
        ("slope -2", Status::Diverged),
        ("rotation", Status::Stalled),
        ("logistic map, no stable point", Status::Stalled),
    ] {
        let problem = catalogue().into_iter().find(|p| p.name == name).unwrap();
        let (z, report) = problem.solve(&Solver::plain().with_max_steps(400), &Place::flex());
        assert_eq!(report.status, [expected], "{name}");
        assert!(z.iter().all(|v| v.is_finite()));
    }
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
            assert!(out.forward.all_converged(), "{dtype:?} {scale}");
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

/// Row 5 of the catalogue: a nested state whose last block only flips its sign under plain
/// iteration.
pub fn check_nested_state(place: &Place) {
    type Nested = (Tensor<2>, (Tensor<2>, Tensor<1>));
    let f = |(a, (b, c)): Nested, ()| -> Nested {
        let sine = a.clone().sin() * a.clone() * a;
        (sine, (b.clone() * b.clone() * b, -c))
    };
    let start = || -> Nested {
        let a = place.tensor(&[0.5, -0.4], [1, 2]);
        let b = place.tensor(&[0.6, 0.3, -0.2], [1, 3]);
        (a, (b, place.tensor(&[0.8], [1, 1]).squeeze_dim(1)))
    };
    let absolute = 1e-6f64.max(place.floor);
    let tight = |s: Solver| {
        s.with_relative(0.0)
            .with_absolute(absolute)
            .with_max_steps(200)
    };
    for solver in [Solver::anderson(3), Solver::broyden(10)] {
        let deq = EquilibriumConfig::new().with_forward(tight(solver)).init();
        let out = deq.solve_map(&f, (), start());
        assert!(out.forward.all_converged(), "{:?}", out.forward);
        let (a, (b, c)) = out.state;
        let all = [values(a), values(b), values(c)].concat();
        assert!(all.iter().all(|v| v.abs() < 1e-2), "{all:?}");
        // The block that flips is linear, so it is solved to the tolerance.
        assert!(all[5].abs() < 1e-6, "{all:?}");
    }
    let deq = EquilibriumConfig::new().with_forward(tight(Solver::plain()));
    let out = deq.init().solve_map(&f, (), start());
    assert_eq!(out.forward.status, [Status::Stalled]);
}

#[test]
fn a_block_that_flips_its_sign() {
    check_nested_state(&Place::flex());
}

/// Row 9: acceleration every 1, 5 and 10 steps.
#[test]
fn periodic_acceleration_converges() {
    let slow = catalogue()
        .into_iter()
        .find(|p| p.name == "slow affine")
        .unwrap();
    for period in [1, 5, 10] {
        let method = Method::from(AndersonConfig::new().with_period(period));
        let solver = Solver::from(method).with_max_steps(1000);
        let (z, report) = slow.solve(&solver, &Place::flex());
        assert!(
            report.all_converged() && slow.error_of(&z) < 1e-7,
            "{period}"
        );
        let (_, plain) = slow.solve(&Solver::plain().with_max_steps(1000), &Place::flex());
        assert!(report.evaluations < plain.evaluations, "{period}");
    }
}

#[test]
fn a_restart_changes_the_path_but_not_the_solution() {
    let slow = catalogue()
        .into_iter()
        .find(|p| p.name == "slow affine")
        .unwrap();
    let method = Method::from(AndersonConfig::new().with_restart(Some(5)));
    let (z, report) = slow.solve(&Solver::from(method).with_max_steps(1000), &Place::flex());
    let (_, without) = slow.solve(&Solver::default().with_max_steps(1000), &Place::flex());
    assert!(report.all_converged() && slow.error_of(&z) < 1e-7);
    assert_ne!(report.evaluations, without.evaluations);
}

/// On an affine map, both Anderson types are exact with as many differences as dimensions, and
/// Broyden's method is exact after twice as many steps (Gay 1979).
#[test]
fn secant_methods_are_exact_on_small_affine_maps() {
    let n = 6;
    let a = Numbers::new(4).tensor([n, n], 1.5);
    let x = Numbers::new(5).tensor([1, n], 1.0);
    let map = move |z: Tensor<2>, ()| z.matmul(a.clone()) + x.clone();
    let anderson = |kind| {
        Method::from(
            AndersonConfig::new()
                .with_history(n)
                .with_kind(kind)
                .with_safeguard(f64::INFINITY),
        )
    };
    let broyden = burn_deq::BroydenConfig::new().with_safeguard(f64::INFINITY);
    for (method, steps) in [
        (anderson(AndersonType::I), n + 3),
        (anderson(AndersonType::II), n + 3),
        (Method::from(broyden), 2 * n + 2),
    ] {
        let solver = Solver::from(method.clone()).with_relative(1e-8);
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let z0 = f64_tensor(vec![0.0; n], [1, n]);
        let report = deq.solve_map(&map, (), z0).forward;
        assert!(report.all_converged(), "{method:?}: {report:?}");
        assert!(report.evaluations <= steps, "{method:?}: {report:?}");
    }
}

/// z = z A + x with A symmetric, as declared.
#[derive(Clone)]
struct Symmetric(Structure);

impl FixedPointMap<Tensor<2>, WithModule<Affine, Tensor<2>>> for Symmetric {
    fn apply(&self, z: Tensor<2>, x: WithModule<Affine, Tensor<2>>) -> Tensor<2> {
        x.module.forward(z, x.input)
    }

    fn structure(&self) -> Structure {
        self.0
    }
}

/// dL/dx for L = |z*|^2 and the backward report, for a map with this spectrum.
fn backward(
    spectrum: &[f64],
    structure: Structure,
    adjoint: Option<LinearSolver>,
    place: &Place,
) -> (Vec<f64>, burn_deq::Report) {
    let n = spectrum.len();
    let module = Affine::symmetric(spectrum, 3, &place.device, place.dtype).train();
    let x = Numbers::new(11).tensor([3, n], 1.0);
    let x = Tensor::<2>::from_data(x.into_data(), (&place.device, place.dtype))
        .autodiff()
        .require_grad();
    // Anderson acceleration with a large history also solves forward maps that are not
    // contractions.
    let forward = Solver::anderson(n.min(40))
        .with_relative(1e-8f64.max(place.floor))
        .with_max_steps(400);
    let config = EquilibriumConfig::new()
        .with_forward(forward)
        .with_gradient(adjoint.map_or_else(Gradient::default, Gradient::implicit));
    let input = WithModule {
        module,
        input: x.clone(),
    };
    let z0 = x.clone().inner().zeros_like();
    let out = config.init().solve_map(&Symmetric(structure), input, z0);
    let grads = out.state.powf_scalar(2.0).sum().backward();
    let report = out.adjoint.report().expect("a backward solve");
    (values(x.grad(&grads).unwrap()), report)
}

fn line(n: usize, low: f64, high: f64) -> Vec<f64> {
    (0..n)
        .map(|k| low + (high - low) * k as f64 / (n - 1) as f64)
        .collect()
}

/// Conjugate gradients and MINRES against Anderson(6) on the symmetric problems.
pub fn check_krylov(place: &Place, choose: impl Fn(&str) -> bool) {
    let tolerance = 1e-8f64.max(place.floor * 5.0);
    let with = |s: LinearSolver| s.with_relative(tolerance).with_max_steps(400);
    for (name, spectrum) in [
        ("affine", line(200, -0.49, 0.49)),
        ("slow affine", line(200, -0.95, 0.95)),
        ("stiff", line(100, -20.0, 0.9)),
        ("clustered", [vec![0.0; 60], line(6, -0.9, 0.98)].concat()),
    ]
    .into_iter()
    .filter(|(name, _)| choose(name))
    {
        let definite = Structure::SymmetricPositiveDefinite;
        let (by_default, cg) = backward(&spectrum, definite, None, place);
        let explicit = with(LinearSolver::conjugate_gradients());
        let (by_cg, explicit) = backward(&spectrum, definite, Some(explicit), place);
        let (by_minres, minres) = backward(
            &spectrum,
            Structure::Symmetric,
            Some(with(LinearSolver::minres())),
            place,
        );
        let anderson = with(Solver::anderson(6).into());
        let (by_anderson, anderson) = backward(&spectrum, definite, Some(anderson), place);
        println!(
            "{name}: products by conjugate gradients {}, MINRES {}, Anderson(6) {} ({:?})",
            explicit.evaluations, minres.evaluations, anderson.evaluations, anderson.status[0]
        );
        for (method, report) in [("cg", &explicit), ("minres", &minres), ("default", &cg)] {
            assert!(report.all_converged(), "{name} by {method}: {report:?}");
        }
        // Anderson may give up.
        let solved = anderson.all_converged();
        let most = if solved { anderson.evaluations } else { 400 };
        assert!(explicit.evaluations <= most, "{name}");
        assert!(minres.evaluations <= most, "{name}");
        let close = tolerance * 1e3;
        assert!(relative(&by_cg, &by_minres) < close, "{name}");
        assert!(relative(&by_default, &by_cg) < close, "{name}");
        if solved {
            assert!(relative(&by_cg, &by_anderson) < close, "{name}");
        }
    }
}

#[test]
fn conjugate_gradients_take_no_more_products_than_anderson() {
    check_krylov(&Place::flex(), |_| true);
}

#[test]
fn minres_solves_indefinite_systems_and_conjugate_gradients_say_that_they_do_not() {
    // Eigenvalues of J on both sides of 1: I - J is indefinite.
    let spectrum = [line(20, -3.0, 0.5), line(20, 1.5, 3.0)].concat();
    let tight = |s: LinearSolver| s.with_relative(1e-10).with_max_steps(200);
    let place = Place::flex();
    let (by_minres, report) = backward(
        &spectrum,
        Structure::Symmetric,
        Some(tight(LinearSolver::minres())),
        &place,
    );
    assert!(report.all_converged(), "{report:?}");
    let (by_default, default) = backward(&spectrum, Structure::Symmetric, None, &place);
    assert!(default.all_converged() && relative(&by_default, &by_minres) < 1e-5);
    let anderson = Some(tight(Solver::anderson(40).into()));
    let (by_anderson, other) = backward(&spectrum, Structure::General, anderson, &place);
    assert!(other.all_converged(), "{other:?}");
    assert!(relative(&by_minres, &by_anderson) < 1e-6);
    let cg = Some(tight(LinearSolver::conjugate_gradients()));
    let (_, report) = backward(&spectrum, Structure::SymmetricPositiveDefinite, cg, &place);
    assert!(!report.all_converged(), "{report:?}");
}

#[test]
fn the_residual_of_minres_is_the_true_one() {
    (1..=8).for_each(check_singular);
}

fn check_singular(seed: u64) {
    // A singular system without a solution: the residual ends at the part of g in the kernel.
    let spectrum = [line(9, -0.8, 0.8), vec![1.0]].concat();
    let matrix = f64_tensor(Affine::matrix(&spectrum, seed), [10, 10]);
    let kernel = crate::support::orthogonal(10, seed)[9].clone();
    let g = Numbers::new(seed + 8).vec(10);
    let component: f64 = kernel.iter().zip(&g).map(|(a, b)| a * b).sum();
    let map = burn_deq::Declared::new(|z: Tensor<2>, (x, a): (Tensor<2>, Tensor<2>)| {
        // The loss is <g, z>, so the backward solve is u = A u + g.
        z.matmul(a) * 0.0 + x
    });
    // The forward map is trivial; its closed-form Jacobian gives the backward one.
    #[derive(Clone)]
    struct Singular<F>(F);
    struct Product(Tensor<2>);
    impl burn_deq::Jacobian<Tensor<2>> for Product {
        fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
            u.matmul(self.0.clone())
        }
    }
    type Input = (Tensor<2>, Tensor<2>);
    impl<F: FixedPointMap<Tensor<2>, Input>> FixedPointMap<Tensor<2>, Input> for Singular<F> {
        fn apply(&self, z: Tensor<2>, x: Input) -> Tensor<2> {
            self.0.apply(z, x)
        }
        fn jacobian(
            &self,
            _z: Tensor<2>,
            x: Input,
        ) -> Option<Box<dyn burn_deq::Jacobian<Tensor<2>>>> {
            Some(Box::new(Product(x.1)))
        }
    }
    let solver = LinearSolver::minres()
        .with_relative(1e-12)
        .with_max_steps(40);
    let deq = EquilibriumConfig::new()
        .with_gradient(Gradient::implicit(solver))
        .init();
    let x = Numbers::new(2)
        .tensor([1, 10], 1.0)
        .autodiff()
        .require_grad();
    let z0 = f64_tensor(vec![0.0; 10], [1, 10]);
    let out = deq.solve_map(&Singular(map), (x, matrix.clone()), z0);
    let weights = f64_tensor(g.clone(), [1, 10]);
    let _ = (out.state * weights.clone()).sum().backward();
    let report = out.adjoint.report().unwrap();
    assert!(!report.all_converged(), "seed {seed}: {report:?}");
    assert!(
        (report.residual[0] - component.abs()).abs() < 1e-8,
        "{report:?}"
    );
    let u = out.adjoint.solution().unwrap();
    let residual = values(u.clone().matmul(matrix) + weights - u);
    let norm = residual.iter().map(|r| r * r).sum::<f64>().sqrt();
    assert!(
        (norm - report.residual[0]).abs() < 1e-8,
        "{norm} {report:?}"
    );
}

/// The problems of the catalogue with a symmetric Jacobian that plain iteration solves.
const SYMMETRIC: [&str; 8] = [
    "cosine",
    "tanh",
    "Heron",
    "decay",
    "affine",
    "slow affine",
    "Kepler, e = 0.9",
    "Bratu",
];

#[test]
fn accelerated_descent_takes_no_more_evaluations_than_plain_iteration() {
    for name in SYMMETRIC {
        let problem = catalogue().into_iter().find(|p| p.name == name).unwrap();
        let run = |solver: Solver| problem.solve(&solver.with_max_steps(5000), &Place::flex());
        let (z, accelerated) = run(Solver::accelerated());
        let (_, plain) = run(Solver::plain());
        assert!(plain.all_converged(), "{name}: {plain:?}");
        assert!(accelerated.all_converged(), "{name}: {accelerated:?}");
        let [a, b] = [accelerated.evaluations, plain.evaluations];
        println!("{name}: {a} and {b}");
        assert!(a <= b, "{name}: {a} evaluations, plain {b}");
        let error = problem.error_of(&z);
        assert!(error <= problem.error.max(1e-6), "{name}: {error:e}");
    }
}

/// A least-squares problem of condition 1000, by gradient steps of the inverse Lipschitz constant.
#[test]
fn accelerated_descent_needs_the_root_of_the_condition() {
    let n = 50;
    let slopes: Vec<f64> = (0..n)
        .map(|k| 1.0 - 10f64.powf(-3.0 * k as f64 / (n - 1) as f64))
        .collect();
    let device = Device::flex();
    let tensor =
        |v: Vec<f64>| Tensor::<2>::from_data(TensorData::new(v, [1, n]), (&device, DType::F64));
    let (slopes, one) = (tensor(slopes), tensor(vec![1.0; n]));
    let map = |z: Tensor<2>, x: Shared<[Tensor<2>; 2]>| z * x.0[0].clone() + x.0[1].clone();
    let evaluations = |solver: Solver| {
        let solver = solver.with_relative(1e-8).with_max_steps(20_000);
        let layer = EquilibriumConfig::new().with_forward(solver).init();
        let out = layer.solve_map(
            &map,
            Shared([slopes.clone(), one.clone()]),
            one.zeros_like(),
        );
        assert!(out.forward.all_converged());
        out.forward.evaluations
    };
    let [fast, plain] = [Solver::accelerated(), Solver::plain()].map(evaluations);
    assert!(fast * 8 <= plain, "{fast} and {plain}");
}
