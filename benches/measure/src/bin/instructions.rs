//! Fixed workloads whose instructions `benches/instructions` counts.
//!
//! cargo run --release -p measure --bin instructions PIECE REPETITIONS
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::prelude::*;
use burn_deq::{EquilibriumConfig, FixedPointMap, Solver};
use examples::{numbers, random_context};
use mopteq::{CoreConfig, Family};

/// `steps` steps of a solver on a map of negligible cost.
fn solver(solver: Solver, steps: usize) {
    let x = numbers([4, 4096], 1.0);
    let solver = solver.with_relative(0.0).with_max_steps(steps);
    let config = EquilibriumConfig::new().with_forward(solver);
    // Many eigenvalues, so that no solver finishes early.
    let map = |z: Tensor<2>, x: Tensor<2>| z * (x.clone() * 0.9) + x;
    let out = config.init().solve_map(&map, x.clone(), x.zeros_like());
    println!("{} evaluations", out.forward.evaluations);
}

/// `steps` steps of the hidden objective of the preset small, three branches of 32 channels from 16
/// x 16 pixels on, or products with its Jacobian.
fn cell(family: Family, product: bool, steps: usize) {
    let x = random_context(16, 1);
    let config = CoreConfig::new().with_family(family);
    let objective = config.objective(3).expect("a valid configuration");
    let mut z = x.injection().clone();
    let jacobian = product.then(|| objective.jacobian(z.clone(), x.clone()));
    for _ in 0..steps {
        z = match &jacobian {
            Some(Some(jacobian)) => jacobian.vjp(z),
            _ => objective.apply(z, x.clone()),
        };
    }
    std::hint::black_box(z);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let repetitions = arguments.get(2).and_then(|n| n.parse().ok()).unwrap_or(1);
    match arguments.get(1).map_or("", String::as_str) {
        "anderson" => solver(Solver::anderson(6), repetitions),
        "broyden" => solver(Solver::broyden(20), repetitions),
        "step" => cell(Family::S, false, repetitions),
        "product" => cell(Family::P, true, repetitions),
        _ => println!("pieces: anderson, broyden, step, product"),
    }
}
