//! How the cost of a solve grows: with the batch, with the pixels, and with the mean of the
//! samples' steps, not their maximum. Uses MOptEqs small's hidden objective on the CPU.
//!
//! cargo run --release -p measure --bin scaling [PLOT.svg]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;
use std::time::Instant;

use burn::tensor::Tensor;
use burn_deq::{EquilibriumConfig, Solver};
use examples::layers::draw_scaling;
use examples::random_context;
use mopteq::{Branches, CoreConfig, Family};

/// Rounds in which every solve of a line runs once, so that other processes slow down all of them
/// alike.
const ROUNDS: usize = 15;

/// A solve: its milliseconds and the mean of the samples' steps.
type Solve = Box<dyn Fn() -> (f64, f64)>;

/// A solve for `batch` samples, `done` of which start at their solution.
fn solve(side: usize, batch: usize, done: usize, solver: Solver) -> Solve {
    let config = CoreConfig::new().with_family(Family::S);
    let objective = config.objective(3).expect("the defaults are valid");
    let x = random_context(side, batch);
    let zero: Branches = x.injection().iter().map(Tensor::zeros_like).collect();
    let equilibrium = EquilibriumConfig::new().with_forward(solver).init();
    // The first samples start at their solution and need one step to detect it.
    let solution = equilibrium.solve_map(&objective, x.clone(), zero.clone());
    let start = solution.state.iter().zip(&zero).map(|(z, zero)| {
        let parts = [z.clone().narrow(0, 0, done.max(1)), zero.clone()];
        Tensor::cat(parts.to_vec(), 0).narrow(0, usize::from(done == 0), batch)
    });
    let start: Branches = start.collect();
    Box::new(move || {
        let begin = Instant::now();
        let out = equilibrium.solve_map(&objective, x.clone(), start.clone());
        let spent = out.forward.sample_evaluations as f64 / batch as f64;
        (begin.elapsed().as_secs_f64() * 1e3, spent)
    })
}

/// The smallest time of every solve, and its mean steps.
fn least<const N: usize>(solves: [Solve; N]) -> [(f64, f64); N] {
    let mut found = [(f64::INFINITY, 0.0); N];
    for _ in 0..ROUNDS {
        for (found, solve) in found.iter_mut().zip(&solves) {
            let (time, steps) = solve();
            *found = (found.0.min(time), steps);
        }
    }
    found
}

/// Slope of log(time) over log(work) by least squares.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| logs.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    mean(&|p| (p.0 - x) * (p.1 - y)) / mean(&|p| (p.0 - x).powi(2))
}

fn main() -> Result<(), Box<dyn Error>> {
    let fixed = || Solver::anderson(6).with_relative(0.0).with_max_steps(8);
    let along = |work: &[usize], found: &[(f64, f64)]| -> Vec<(f64, f64)> {
        let pairs = work.iter().zip(found);
        pairs
            .map(|(work, (time, _))| (*work as f64, *time))
            .collect()
    };
    let batches = [4, 8, 16, 32, 64];
    let batches = along(&batches, &least(batches.map(|b| solve(32, b, 0, fixed()))));
    let sides = [16, 32, 64, 128];
    let found = least(sides.map(|s| solve(s, 4, 0, fixed())));
    let pixels = along(&sides.map(|s| s * s), &found);
    let until_done = || Solver::anderson(6).with_relative(1e-3).with_max_steps(50);
    let found = least([0, 8, 16, 24].map(|done| solve(32, 32, done, until_done())));
    let steps = found.map(|(time, steps)| (steps, time));
    let mut lines = Vec::new();
    for (name, points) in [
        ("samples of a batch", &batches[..]),
        ("pixels", &pixels),
        ("mean of the samples' steps", &steps),
    ] {
        println!("{name}: exponent {:.2}", exponent(points));
        for (work, time) in points {
            println!("{work:>9.1} {time:>9.1} ms");
        }
        let least = points.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
        let fastest = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let relative = points.iter().map(|(x, y)| (x / least, y / fastest));
        lines.push((name.to_owned(), relative.collect()));
    }
    if let Some(path) = std::env::args().nth(1) {
        draw_scaling(&path, &lines)?;
    }
    Ok(())
}
