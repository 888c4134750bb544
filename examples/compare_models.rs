//! MOptEqs against OptEq, MDEQ and an explicit network on the embedded digits, with and without
//! perturbation of the equilibrium: a table with mean and standard deviation over the seeds.
//!
//! cargo run --release -p examples --example compare_models [SEEDS [EPOCHS]]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use examples::{argument, mean_and_deviation, train};
use mopteq::NetworkKind;
use mopteq_train::Error;
use mopteq_train::TrainConfig;

fn main() -> Result<(), Error> {
    let (seeds, epochs) = (argument(1, 3), argument(2, 12));
    println!("embedded digits, {epochs} epochs, {seeds} seeds, test accuracy in percent\n");
    println!(
        "| network | perturbation | accuracy | each seed | parameters | seconds | steps forward | backward |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for kind in NetworkKind::ALL {
        for size in [0.0, 0.1] {
            row(kind, size, seeds, epochs)?;
        }
    }
    Ok(())
}

fn row(kind: NetworkKind, size: f64, seeds: usize, epochs: usize) -> Result<(), Error> {
    let mut config = TrainConfig {
        epochs,
        ..TrainConfig::digits()
    };
    if let Some(base) = config.model.mopteqs() {
        config.model = kind.comparable(base);
    }
    match config.model.mopteqs_mut() {
        Some(model) => model.perturbation.size = size,
        // Only the minimiser of an objective can be perturbed.
        None if size > 0.0 => return Ok(()),
        None => {}
    }
    let mut runs = Vec::new();
    for seed in 0..seeds as u64 {
        let seeded = TrainConfig {
            seed,
            ..config.clone()
        };
        runs.push(train(seeded)?.1);
    }
    let each: Vec<f64> = runs.iter().map(|run| run.test_accuracy).collect();
    let [accuracy, deviation] = mean_and_deviation(&each);
    let mean = |values: &[f64]| mean_and_deviation(values)[0];
    let seconds: Vec<f64> = runs.iter().map(|run| run.training_seconds).collect();
    let steps = |of: fn(&mopteq_train::Summary) -> Option<f64>| {
        let all: Vec<f64> = runs.iter().filter_map(of).collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            format!("{:.1}", mean(&all))
        }
    };
    let listed: Vec<String> = each.iter().map(|a| format!("{a:.1}")).collect();
    println!(
        "| {} | {size} | {accuracy:.2} +- {deviation:.2} | {} | {} | {:.0} | {} | {} |",
        kind.name(),
        listed.join(", "),
        runs[0].parameters,
        mean(&seconds),
        steps(|run| run.forward_steps),
        steps(|run| run.backward_steps),
    );
    Ok(())
}
