//! Fixed pieces of work whose instructions `benches/instructions` counts.
//!
//! cargo run --release -p examples --example instructions PIECE REPETITIONS
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::prelude::*;
use burn::tensor::{TensorData, Tolerance};
use burn_deq::{EquilibriumConfig, FixedPointMap, Solver};
use mopteq::{Branches, Context, CoreConfig, Family};

/// Numbers in [-1, 1), the same on every machine.
fn numbers<const D: usize>(shape: [usize; D], scale: f32) -> Tensor<D> {
    let next = |i: usize| {
        let bits = (i as u32 + 1).wrapping_mul(2_654_435_761) >> 8;
        scale * (bits as f32 / (1u32 << 23) as f32 - 1.0)
    };
    let data = (0..shape.iter().product()).map(next).collect();
    Tensor::from_data(TensorData::new(data, shape), &Device::flex())
}

/// So many steps of a solver on a map that costs next to nothing.
fn solver(solver: Solver, steps: usize) {
    let x = numbers([4, 4096], 1.0);
    let solver = solver.with_relative(0.0).with_max_steps(steps);
    let config = EquilibriumConfig::new().with_forward(solver);
    // Of many eigenvalues, so that no solver is done early.
    let map = |z: Tensor<2>, x: Tensor<2>| z * (x.clone() * 0.9) + x;
    let out = config.init().solve_map(&map, x.clone(), x.zeros_like());
    println!("{} evaluations", out.forward.evaluations);
}

/// So many steps of the hidden objective of the preset small, three branches of 32 channels from
/// 16 x 16 pixels on, or products with its Jacobian.
fn cell(family: Family, product: bool, steps: usize) {
    let sizes = [16, 8, 4];
    let branches = || -> Branches {
        sizes
            .iter()
            .map(|s| numbers([1, 32, *s, *s], 0.5))
            .collect()
    };
    let kernels = sizes
        .iter()
        .map(|_| numbers([32, 32, 3, 3], 0.05))
        .collect();
    let x = Context::new(kernels, branches());
    let config = CoreConfig::new().with_family(family);
    let objective = config.objective(3).expect("a valid configuration");
    let mut z = branches();
    let jacobian = product.then(|| objective.jacobian(z.clone(), x.clone()));
    for _ in 0..steps {
        z = match &jacobian {
            Some(Some(jacobian)) => jacobian.vjp(z),
            _ => objective.apply(z, x.clone()),
        };
    }
    let data = z.swap_remove(0).into_data();
    data.assert_approx_eq::<f32>(&data, Tolerance::default());
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let repetitions = arguments.get(2).and_then(|n| n.parse().ok()).unwrap_or(1);
    match arguments.get(1).map_or("", String::as_str) {
        "anderson" => solver(Solver::anderson(6), repetitions),
        "broyden" => solver(Solver::broyden(20), repetitions),
        "step" => cell(Family::S, false, repetitions),
        "proximal-step" => cell(Family::P, false, repetitions),
        "product" => cell(Family::P, true, repetitions),
        _ => println!("pieces: anderson, broyden, step, proximal-step, product"),
    }
}
