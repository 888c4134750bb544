//! The network's gradients against unrolled autodiff and central differences.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_deq::{FixedPointMap, Solver};
use mopteq::perturbation::Perturbation;
use mopteq::{Family, MOptEqs};

use crate::support::{
    Numbers, dtype_of, images, images_of, nudged, parameter_gradients, relative, settled_f64, tiny,
    values,
};

/// Stem: its weight and two of its norm; per branch: W, U, b and two of the head norm; the head:
/// two.
const PARAMETERS: usize = 3 + 3 * 5 + 2;

fn loss(logits: Tensor<2>) -> Tensor<1> {
    let c = Numbers::new(5).tensor(logits.dims(), logits.dtype());
    (logits.sin() * c).sum()
}

type Forward = fn(&MOptEqs, Tensor<4>) -> Tensor<2>;

fn implicit(model: &MOptEqs, images: Tensor<4>) -> Tensor<2> {
    let out = model.forward(images);
    assert!(out.forward.all_converged(), "{:?}", out.forward);
    out.logits
}

/// Plain iteration on the tape, 400 steps from zero.
fn unrolled(model: &MOptEqs, images: Tensor<4>) -> Tensor<2> {
    let context = model.context(images);
    let objective = model.config().objective().unwrap();
    let config = model.config();
    let [h, w] = config.finest();
    let mut z = (0..config.branches)
        .map(|i| {
            let c = &context.injection()[i];
            let shape = [c.dims()[0], config.core.channels, h >> i, w >> i];
            Tensor::zeros(shape, (&c.device(), c.dtype()))
        })
        .collect();
    for _ in 0..400 {
        z = objective.apply(z, context.clone());
    }
    model.classify(z)
}

fn gradients(model: &MOptEqs, forward: Forward) -> (Vec<Vec<f64>>, Vec<f64>) {
    let x = images_of(3, dtype_of(model)).autodiff().require_grad();
    let grads = loss(forward(model, x.clone())).backward();
    (
        parameter_gradients(model, &grads),
        values(x.grad(&grads).expect("dx")),
    )
}

#[test]
fn every_parameter_and_the_input_match_unrolled_autodiff() {
    for family in [Family::S, Family::P] {
        let model = settled_f64(&tiny(family)).train();
        let (implicit, dx) = gradients(&model, implicit);
        let (reference, dx_reference) = gradients(&model, unrolled);
        assert_eq!(implicit.len(), PARAMETERS);
        for (k, (a, b)) in implicit.iter().zip(&reference).enumerate() {
            let error = relative(a, b);
            assert!(error <= 1e-9, "{family:?}, parameter {k}: {error:e}");
        }
        let error = relative(&dx, &dx_reference);
        assert!(error <= 1e-9, "{family:?}, input: {error:e}");
    }
}

#[test]
fn in_f32_every_parameter_and_the_input_match_unrolled_autodiff() {
    for family in [Family::S, Family::P] {
        let exact = Solver::anderson(6)
            .with_relative(3e-7)
            .with_absolute(1e-9)
            .with_max_steps(100);
        let equilibrium = burn_deq::EquilibriumConfig::new().with_forward(exact);
        let config = tiny(family).map_core(|c| c.with_equilibrium(equilibrium));
        let model = crate::support::model(&config, burn::tensor::DType::F32).train();
        let forward: Forward = |model, images| model.forward(images).logits;
        let (implicit, dx) = gradients(&model, forward);
        let (reference, dx_reference) = gradients(&model, unrolled);
        assert_eq!(implicit.len(), PARAMETERS);
        // One norm over all parameters, because some of their gradients are sums that nearly
        // cancel.
        let error = relative(&implicit.concat(), &reference.concat());
        assert!(error <= 2e-6, "{family:?}: {error:e}");
        let error = relative(&dx, &dx_reference);
        assert!(error <= 2e-6, "{family:?}, input: {error:e}");
    }
}

#[test]
fn every_parameter_and_the_input_match_central_differences() {
    let h = 1e-6;
    for family in [Family::S, Family::P] {
        let model = settled_f64(&tiny(family)).train();
        let (exact, dx) = gradients(&model, implicit);
        assert_eq!(exact.len(), PARAMETERS);
        let value = |m: &MOptEqs, x: Tensor<4>| values(loss(implicit(m, x.autodiff())))[0];
        for (k, gradient) in exact.iter().enumerate() {
            let direction: Vec<f64> = {
                let mut numbers = Numbers::new(100 + k as u64);
                gradient.iter().map(|_| numbers.next()).collect()
            };
            // The nudged kernel has a different norm, so its estimate, already close, must converge
            // again.
            let at = |h: f64| {
                let nudged = crate::support::settle(nudged(&model, k, &direction, h), 150);
                value(&nudged, images(3))
            };
            let fd = (at(h) - at(-h)) / (2.0 * h);
            let dot: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!(
                (fd - dot).abs() <= 1e-6 * size.max(dot.abs()),
                "{family:?} {k}: {fd} {dot}"
            );
        }
        let direction = Numbers::new(99).tensor([3, 2, 8, 8], images(1).dtype());
        let at = |h: f64| value(&model, images(3) + direction.clone() * h);
        let fd = (at(h) - at(-h)) / (2.0 * h);
        let dot: f64 = dx
            .iter()
            .zip(values(direction.clone()))
            .map(|(g, d)| g * d)
            .sum();
        assert!(
            (fd - dot).abs() <= 1e-6 * dot.abs(),
            "{family:?} input: {fd} {dot}"
        );
    }
}

#[test]
fn conjugate_gradients_and_anderson_give_the_same_backward() {
    // Family S declares its structure, so the default backward runs conjugate gradients.
    let config = tiny(Family::S);
    let model = settled_f64(&config).train();
    let (by_default, _) = gradients(&model, implicit);
    let tight = Solver::anderson(6)
        .with_relative(1e-13)
        .with_absolute(1e-15)
        .with_max_steps(500);
    let equilibrium = config
        .core
        .equilibrium
        .clone()
        .with_gradient(burn_deq::Gradient::implicit(tight));
    let record = model.clone().into_record();
    let other = config
        .map_core(|c| c.with_equilibrium(equilibrium))
        .init(&burn::tensor::Device::flex())
        .unwrap();
    let other = other.train().load_record(record);
    let (by_anderson, _) = gradients(&other, implicit);
    assert_eq!(
        (by_default.len(), by_anderson.len()),
        (PARAMETERS, PARAMETERS)
    );
    for (a, b) in by_default.iter().zip(&by_anderson) {
        assert!(relative(a, b) <= 1e-9);
    }
}

#[test]
fn the_perturbation_is_of_its_size_and_off_in_evaluation() {
    let config =
        tiny(Family::S).with_perturbation(Perturbation::new().with_size(0.1).with_steps(0));
    let model = settled_f64(&config);
    let x = images(3);
    let calm = values(model.forward(x.clone()).logits);
    assert_eq!(
        calm,
        values(model.forward(x.clone()).logits),
        "evaluation is deterministic"
    );
    let training = model.train();
    let perturbed: Vec<Vec<f64>> = (0..2)
        .map(|_| values(training.forward(x.clone().autodiff()).logits))
        .collect();
    assert_ne!(perturbed[0], perturbed[1], "training draws noise");
}
