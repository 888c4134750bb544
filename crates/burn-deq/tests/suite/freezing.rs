//! Finished samples leave the batch.

use burn::tensor::{Device, Tensor};
use burn_deq::{
    Check, Declared, Equilibrium, EquilibriumConfig, Freezing, Gradient, LinearSolver, Solver,
    Structure,
};

use crate::problems::Place;
use crate::support::{Numbers, values};

/// z = slope * sin(z) + x, one slope per sample.
fn sine(z: Tensor<2>, (slope, x): (Tensor<2>, Tensor<2>)) -> Tensor<2> {
    z.sin() * slope + x
}

type Map = fn(Tensor<2>, (Tensor<2>, Tensor<2>)) -> Tensor<2>;

fn map() -> Declared<Map> {
    Declared::new(sine as Map)
        .with_structure(Structure::SymmetricPositiveDefinite)
        .with_independent_samples(true)
}

/// Slopes for which plain iteration takes 5 to 100 steps.
fn batch(place: &Place, n: usize) -> (Tensor<2>, Tensor<2>) {
    let slopes: Vec<f64> = (0..n)
        .map(|k| 0.05 + 0.9 * (((k * 29) % n) as f64 / n as f64).powi(2))
        .collect();
    let x = Numbers::new(5).tensor([n, 20], 0.5);
    let x = Tensor::from_data(x.into_data(), (&place.device, place.dtype));
    (place.tensor(&slopes, [n, 1]), x)
}

fn layer(solver: Solver, freezing: Freezing) -> Equilibrium {
    let gradient = Gradient::implicit(solver.clone());
    EquilibriumConfig::new()
        .with_forward(solver)
        .with_gradient(gradient)
        .with_freezing(freezing)
        .init()
}

/// Work and results with and without freezing, for every solver. The wgpu tests call this, too.
pub fn check_freezing(place: &Place, n: usize, solvers: &[Solver]) {
    let (slope, x) = batch(place, n);
    let z0 = x.zeros_like();
    let tolerance = 1e-8f64.max(place.floor);
    for solver in solvers.iter().cloned() {
        let solver = solver.with_relative(tolerance).with_max_steps(300);
        let run = |freezing| {
            let deq = layer(solver.clone(), freezing);
            let x = x.clone().autodiff().require_grad();
            let out = deq.solve_map(&map(), (slope.clone(), x.clone()), z0.clone());
            let gradients = out.state.clone().powi_scalar(2).sum().backward();
            let backward = out.adjoint.report().unwrap();
            (
                values(out.state),
                values(x.grad(&gradients).unwrap()),
                out.forward,
                backward,
            )
        };
        let (z, g, whole, whole_back) = run(Freezing::Off);
        let (frozen_z, frozen_g, frozen, frozen_back) = run(Freezing::Declared);
        for (whole, frozen) in [(&whole, &frozen), (&whole_back, &frozen_back)] {
            assert!(whole.all_converged() && frozen.all_converged());
            let own: usize = frozen.steps.iter().sum();
            println!(
                "{:?}: samples need {} to {} steps; evaluations of samples {} with freezing, {} \
                 without, {own} at least",
                solver.method,
                frozen.steps.iter().min().unwrap(),
                frozen.steps.iter().max().unwrap(),
                frozen.sample_evaluations,
                whole.sample_evaluations,
            );
            assert_eq!(whole.sample_evaluations, whole.evaluations * n);
            assert!(frozen.sample_evaluations < whole.sample_evaluations);
            if solver.termination.check == Check::Every(1) {
                let most = own + own / 10;
                assert!(frozen.sample_evaluations <= most, "{frozen:?}");
            }
        }
        let bound = 1e-6f64.max(place.floor * 50.0);
        for (a, b) in z.iter().zip(&frozen_z).chain(g.iter().zip(&frozen_g)) {
            assert!((a - b).abs() <= bound * (1.0 + b.abs()), "{a} {b}");
        }
    }
}

pub fn every_kind() -> [Solver; 4] {
    [
        Solver::plain(),
        Solver::anderson(5),
        Solver::broyden(20),
        Solver::anderson(5).with_check(Check::Every(2)),
    ]
}

#[test]
fn the_work_is_the_sum_of_the_samples_steps() {
    check_freezing(&Place::flex(), 48, &every_kind());
}

#[test]
fn the_work_is_the_sum_of_the_samples_steps_in_f32() {
    check_freezing(&Place::f32_on(Device::flex()), 48, &every_kind());
}

#[test]
fn a_batch_of_5_to_100_steps() {
    let place = Place::flex();
    let (slope, x) = batch(&place, 48);
    let solver = Solver::plain().with_relative(1e-7).with_max_steps(300);
    let out = layer(solver, Freezing::Declared).solve_map(&map(), (slope, x.clone()), x);
    let steps = &out.forward.steps;
    let (least, most) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
    assert!(
        (5..=7).contains(least) && (95..=120).contains(most),
        "{steps:?}"
    );
    let own: usize = steps.iter().sum();
    assert!(out.forward.sample_evaluations <= own + own / 10);
}

#[test]
fn krylov_solvers_freeze_too() {
    let place = Place::flex();
    let (slope, x) = batch(&place, 48);
    for adjoint in [LinearSolver::conjugate_gradients(), LinearSolver::minres()] {
        let run = |freezing| {
            let x = x.clone().autodiff().require_grad();
            let adjoint = adjoint.clone().with_relative(1e-9).with_max_steps(100);
            let deq = EquilibriumConfig::new()
                .with_forward(Solver::default().with_relative(1e-10))
                .with_gradient(Gradient::implicit(adjoint))
                .with_freezing(freezing)
                .init();
            let out = deq.solve_map(&map(), (slope.clone(), x.clone()), x.clone().inner());
            let gradients = out.state.powi_scalar(2).sum().backward();
            let report = out.adjoint.report().unwrap();
            assert!(report.all_converged(), "{report:?}");
            (values(x.grad(&gradients).unwrap()), report)
        };
        let (g, whole) = run(Freezing::Off);
        let (frozen_g, frozen) = run(Freezing::Assumed);
        assert!(frozen.sample_evaluations < whole.sample_evaluations);
        assert_eq!(frozen.steps, whole.steps);
        assert!(crate::support::relative(&frozen_g, &g) < 1e-8);
    }
}

#[test]
fn nothing_is_frozen_without_a_declaration_or_a_selectable_input() {
    /// An input that cannot select its samples.
    #[derive(Clone)]
    struct Opaque((Tensor<2>, Tensor<2>));
    impl burn_deq::Input for Opaque {
        fn plain(&self) -> Self {
            Self(self.0.plain())
        }
        fn is_autodiff(&self) -> bool {
            self.0.is_autodiff()
        }
    }
    let place = Place::flex();
    let (slope, x) = batch(&place, 48);
    let z0 = x.zeros_like();
    let deq = EquilibriumConfig::new()
        .with_forward(Solver::plain().with_max_steps(300))
        .init();
    let silent = deq.solve_map(&sine, (slope.clone(), x.clone()), z0.clone());
    assert_eq!(
        silent.forward.sample_evaluations,
        silent.forward.evaluations * 48
    );
    let opaque =
        Declared::new(|z: Tensor<2>, x: Opaque| sine(z, x.0)).with_independent_samples(true);
    let out = deq.solve_map(&opaque, Opaque((slope, x)), z0);
    assert!(out.forward.all_converged());
    assert_eq!(out.forward.sample_evaluations, out.forward.evaluations * 48);
    assert_eq!(values(out.state), values(silent.state));
}
