//! The closed-form backward against autodiff with Anderson acceleration, on MOptEqs small.

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device};
use burn_deq::{EquilibriumConfig, FixedPointMap, Gradient, Implicit, Solver};
use mopteq::perturbation::Perturbation;
use mopteq::{Branches, Context, Family, MOptEqs, MOptEqsConfig};

use crate::support::{Numbers, cast, gradients_of, leaves, relative, settle};

/// MOptEqs small after a few steps of training on random pictures.
fn trained(family: Family, dtype: DType) -> MOptEqs {
    let config = MOptEqsConfig::small(10, 3, [32, 32])
        .map_core(|c| c.with_family(family))
        .with_perturbation(Perturbation::new().with_size(0.0));
    let model = config.init(&Device::flex()).unwrap();
    let mut model = cast(model, dtype).train();
    let mut optimizer = SgdConfig::new().init();
    let images = Numbers::new(3)
        .tensor::<4>([4, 3, 32, 32], dtype)
        .autodiff();
    let weights = Numbers::new(4).tensor::<2>([4, 10], dtype);
    for _ in 0..3 {
        let logits = model.forward(images.clone()).logits;
        let loss = (logits.tanh() * weights.clone()).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.05, model, gradients);
    }
    // Training moved the kernels, so the estimates of their norms lag behind.
    settle(model, 100)
}

/// Gradients of <z*, c> with respect to the injections and the kernels.
fn gradients(
    map: &impl FixedPointMap<Branches, Context>,
    x: &Context,
    start: Branches,
    forward: &Solver,
    backward: Option<Solver>,
) -> (Vec<f64>, usize) {
    let (x, all) = leaves(x);
    let equilibrium = EquilibriumConfig::new()
        .with_forward(forward.clone())
        .with_gradient(Gradient::Implicit(Implicit {
            solver: backward.map(Into::into),
            ..Implicit::default()
        }))
        .init();
    let out = equilibrium.solve_map(map, x, start);
    assert!(out.forward.all_converged(), "{:?}", out.forward);
    let mut numbers = Numbers::new(9);
    let loss = out
        .state
        .into_iter()
        .map(|z| {
            let c = numbers.tensor(z.dims(), z.dtype());
            (z * c).sum()
        })
        .reduce(|a, b| a + b)
        .unwrap();
    let gradients = gradients_of(&all, loss).concat();
    let report = out.adjoint.report().expect("a backward solve");
    assert!(report.all_converged(), "{report:?}");
    (gradients, report.evaluations)
}

#[allow(clippy::print_stdout, reason = "the test prints what it measures")]
fn compare(family: Family, dtype: DType, tolerance: f64, limit: f64) {
    let model = trained(family, dtype).valid();
    let images = Numbers::new(5).tensor::<4>([4, 3, 32, 32], dtype);
    let x = model.context(images);
    let start = model.core().start(&x);
    let objective = model.core().objective().clone();
    let solver = |s: Solver| {
        s.with_relative(tolerance)
            .with_absolute(1e-14)
            .with_max_steps(400)
    };
    let anderson = solver(Solver::anderson(6));
    let closed = gradients(&objective, &x, start.clone(), &anderson, None);
    // A closure is a map without a closed-form Jacobian.
    let map = objective.clone();
    let opaque = move |z: Branches, x: Context| map.apply(z, x);
    let by_autodiff = gradients(&opaque, &x, start, &anderson, Some(anderson.clone()));
    let error = relative(&closed.0, &by_autodiff.0);
    println!(
        "{family:?} {dtype:?}: closed form {} products, autodiff {}, difference {error:.1e}",
        closed.1, by_autodiff.1
    );
    assert!(error <= limit, "{family:?} {dtype:?}: {error:e}");
}

#[test]
fn in_f32_the_closed_form_backward_matches_autodiff_with_anderson() {
    for family in [Family::S, Family::P] {
        compare(family, DType::F32, 1e-5, 1e-4);
    }
}

#[test]
fn in_f64_the_closed_form_backward_matches_autodiff_with_anderson() {
    for family in [Family::S, Family::P] {
        compare(family, DType::F64, 1e-12, 1e-9);
    }
}
