//! Every variant of the perturbation.

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor};
use mopteq::perturbation::{Perturbation, PerturbationGradient, PerturbationKind};
use mopteq::{Branches, Family, MOptEqs};

use crate::support::{flat, images, model_f64, parameter_gradients, point, tiny, values};

const KINDS: [PerturbationKind; 3] = [
    PerturbationKind::Gaussian,
    PerturbationKind::Ascent,
    PerturbationKind::Input,
];

fn labels() -> Tensor<1, Int> {
    Tensor::from_data([0, 2, 1], &burn::tensor::Device::flex()).autodiff()
}

fn training(kind: PerturbationKind, gradient: PerturbationGradient) -> MOptEqs {
    let config = tiny(Family::P).with_perturbation(
        Perturbation::new()
            .with_size(0.2)
            .with_kind(kind)
            .with_gradient(gradient),
    );
    model_f64(&config).train()
}

#[test]
fn every_variant_trains_every_parameter() {
    let calm = model_f64(&tiny(Family::P)).train();
    let all = parameter_gradients(
        &calm,
        &calm
            .forward(images(3).autodiff())
            .logits
            .sin()
            .sum()
            .backward(),
    );
    for kind in KINDS {
        for gradient in [PerturbationGradient::Implicit, PerturbationGradient::Steps] {
            let model = training(kind, gradient);
            let out = model.forward_labelled(images(3).autodiff(), labels());
            let solved = out.adjoint.clone();
            let grads = out.logits.sin().sum().backward();
            let found = parameter_gradients(&model, &grads);
            assert_eq!(found.len(), all.len(), "{kind:?} {gradient:?}");
            assert!(found.iter().flatten().all(|g| g.is_finite()));
            // Only the implicit gradient has a backward solve.
            let implicit = gradient == PerturbationGradient::Implicit;
            assert_eq!(solved.report().is_some(), implicit, "{kind:?} {gradient:?}");
        }
    }
}

#[test]
fn no_variant_acts_in_evaluation() {
    for kind in KINDS {
        let model = training(kind, PerturbationGradient::Implicit).valid();
        let off = model_f64(&tiny(Family::P));
        let (a, b) = (
            model.forward(images(3)).logits,
            off.forward(images(3)).logits,
        );
        assert_eq!(values(a), values(b), "{kind:?}");
    }
}

#[test]
fn the_size_is_relative_to_each_branch() {
    let (z, _) = point(&tiny(Family::P), 3);
    let rms = |z: &Tensor<4>| {
        let v = values(z.clone());
        (v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64).sqrt()
    };
    let direction =
        |z: &Branches| -> Branches { z.iter().map(|z| z.clone().cos() * 7.0).collect() };
    for kind in [PerturbationKind::Gaussian, PerturbationKind::Ascent] {
        let perturbation = Perturbation::new().with_size(0.3).with_kind(kind);
        let moved = perturbation.state(z.clone(), direction);
        for (moved, z) in moved.iter().zip(&z) {
            for i in 0..3 {
                let at = |t: &Tensor<4>| t.clone().narrow(0, i, 1);
                let share = rms(&(at(moved) - at(z))) / rms(&at(z));
                // The noise has at least 12 draws per sample and branch.
                let slack = if kind == PerturbationKind::Ascent {
                    1e-12
                } else {
                    0.25
                };
                assert!((share - 0.3).abs() <= slack, "{kind:?}: {share}");
            }
        }
    }
    let off = Perturbation::off().state(z.clone(), direction);
    assert_eq!(flat(&off), flat(&z));
}

#[test]
fn the_ascent_direction_raises_the_loss() {
    let ascent = Perturbation::new()
        .with_kind(PerturbationKind::Ascent)
        .with_steps(0);
    let loss = |size: f64| {
        let perturbation = ascent.clone().with_size(size);
        let model = model_f64(&tiny(Family::P).with_perturbation(perturbation)).train();
        let logits = model
            .forward_labelled(images(3).autodiff(), labels())
            .logits;
        let log = burn::tensor::activation::log_softmax(logits, 1);
        -values(log.gather(1, labels().unsqueeze_dim(1)).sum())[0]
    };
    let (calm, perturbed) = (loss(0.0), loss(0.05));
    assert!(perturbed > calm + 1e-4, "{calm} {perturbed}");
}

#[test]
fn gaussian_noise_has_the_type_of_the_state() {
    let z = Tensor::<4>::ones([2, 1, 2, 2], (&burn::tensor::Device::flex(), DType::F64));
    assert_eq!(mopteq::perturbation::gaussian(z, 0.1).dtype(), DType::F64);
}
