//! Does perturbation in training help against noise and attacks? Accuracy on the embedded digits.
//! cargo run --release -p examples --example robustness [EPOCHS [PICTURES [SEEDS]]]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use examples::{Digits, argument, digits, mean_and_deviation, train};
use mopteq::perturbation::{PerturbationKind, gaussian};
use mopteq::{MOptEqs, Network};
use mopteq_train::Error;
use mopteq_train::TrainConfig;

fn main() -> Result<(), Error> {
    let (epochs, pictures, seeds) = (argument(1, 12), argument(2, 1000), argument(3, 3));
    let (_, test) = digits(&Device::flex())?;
    let test = test.range(0, pictures);
    let columns = "clean | input 0.5 | input 1 | z* 0.5 | z* 1 | attack 0.1 | attack 0.2";
    println!(
        "{epochs} epochs, {seeds} seeds, {} test pictures; noise relative to the root mean square;",
        test.len()
    );
    println!("attack: one signed gradient step of this size on normalised pixels\n");
    println!("| trained with | {columns} |\n|---|---|---|---|---|---|---|---|");
    let kinds = [
        PerturbationKind::Gaussian,
        PerturbationKind::Ascent,
        PerturbationKind::Input,
    ];
    let trainings = kinds.map(|kind| (format!("{kind:?}"), 0.1, kind));
    let off = ("nothing".to_owned(), 0.0, PerturbationKind::Gaussian);
    for (name, size, kind) in std::iter::once(off).chain(trainings) {
        let mut columns = vec![Vec::new(); 7];
        for seed in 0..seeds {
            let mut config = TrainConfig {
                epochs,
                seed: seed as u64,
                ..TrainConfig::digits()
            };
            if let Some(model) = config.model.mopteqs_mut() {
                (model.perturbation.size, model.perturbation.kind) = (size, kind);
            }
            let (predictor, _) = train(config)?;
            let Network::MOptEqs(model) = predictor.model().network() else {
                unreachable!("the preset of the digits is a MOptEq");
            };
            let row = accuracies(model, &test);
            columns.iter_mut().zip(row).for_each(|(c, a)| c.push(a));
        }
        let cell = |column: &Vec<f64>| {
            let [mean, deviation] = mean_and_deviation(column);
            format!("{mean:.1} +- {deviation:.1}")
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// A row of the table.
fn accuracies(model: &MOptEqs, test: &Digits) -> [f64; 7] {
    let hits = |images: Tensor<4>| test.accuracy(model.forward(images).logits);
    [
        hits(test.images.clone()),
        hits(gaussian(test.images.clone(), 0.5)),
        hits(gaussian(test.images.clone(), 1.0)),
        test.accuracy(moved(model, test, 0.5)),
        test.accuracy(moved(model, test, 1.0)),
        hits(attacked(model, test, 0.1)),
        hits(attacked(model, test, 0.2)),
    ]
}

/// Logits of the equilibrium with added noise.
fn moved(model: &MOptEqs, test: &Digits, size: f64) -> Tensor<2> {
    let state = model.equilibrium(&model.context(test.images.clone())).state;
    model.classify(state.into_iter().map(|z| gaussian(z, size)).collect())
}

/// The pictures after one signed gradient step up the loss (Goodfellow et al. 2015,
/// arXiv:1412.6572), with the gradient through the equilibrium.
fn attacked(model: &MOptEqs, test: &Digits, size: f64) -> Tensor<4> {
    let images = test.images.clone().autodiff().require_grad();
    let logits = model.classify(model.equilibrium(&model.context(images.clone())).state);
    let loss = CrossEntropyLossConfig::new()
        .init(&logits.device())
        .forward(logits, test.labels.clone().autodiff());
    match images.grad(&loss.backward()) {
        Some(gradient) => test.images.clone() + gradient.sign() * size,
        None => test.images.clone(),
    }
}
