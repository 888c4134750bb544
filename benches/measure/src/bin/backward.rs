//! The backward solve of MOptEqs small: closed form and conjugate gradients against autodiff and
//! Anderson acceleration, wall time and products with the Jacobian.
//!
//! cargo run --release -p measure --bin backward [STEPS_OF_TRAINING [REPETITIONS]]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use burn::prelude::*;
use burn::tensor::ops::PadMode;
use burn_deq::{EquilibriumConfig, FixedPointMap, Gradient, Solver};
use examples::{argument, digits, trained};
use mopteq::{Branches, Context, Family, MOptEqsConfig};

fn main() -> Result<(), mopteq_train::Error> {
    let (steps, repetitions) = (argument(1, 20), argument(2, 5));
    println!(
        "MOptEqs small, 32 x 32, batch 32, relative tolerance 1e-4, after {steps} steps of training"
    );
    let device = Device::flex();
    let (data, _) = digits(&device)?;
    let pad = |x: Tensor<4>| x.pad((2, 2, 2, 2), PadMode::Constant(0.0));
    for family in [Family::S, Family::P] {
        let config = MOptEqsConfig::small(10, 1, [32, 32]).map_core(|c| c.with_family(family));
        let model = trained(&config, steps, |start| {
            let batch = data.range(start, 32).autodiff();
            (pad(batch.images), batch.labels)
        });
        let x = model.context(pad(data.range(0, 32).images));
        let map = model.core().objective().clone();
        let knowing = map.clone();
        // A closure is a map without a closed-form Jacobian.
        let opaque = move |z: Branches, x: Context| map.apply(z, x);
        let by_anderson = Gradient::implicit(Solver::default().with_relative(1e-4));
        let z = model.equilibrium(&x).state;
        let (fast, products) = time(&knowing, &x, &z, Gradient::default(), repetitions);
        let (slow, more) = time(&opaque, &x, &z, by_anderson, repetitions);
        println!(
            "family {family:?}: closed form {fast:.0} ms ({products} products), autodiff and \
             Anderson {slow:.0} ms ({more}): {:.1} times",
            slow / fast
        );
    }
    Ok(())
}

/// Milliseconds of the backward solve alone, the minimum over the repetitions, and its products
/// with the Jacobian. The time is that of the whole backward pass minus one whose gradient needs no
/// solve.
fn time(
    map: &impl FixedPointMap<Branches, Context>,
    x: &Context,
    z: &Branches,
    gradient: Gradient,
    repetitions: usize,
) -> (f64, usize) {
    let run = |gradient: &Gradient| {
        let config = EquilibriumConfig::new()
            .with_forward(Solver::default().with_relative(1e-4))
            .with_gradient(gradient.clone());
        let leaf = |t: &Tensor<4>| t.clone().autodiff().require_grad();
        let leaves = |all: &Branches| all.iter().map(leaf).collect();
        let x = Context::new(leaves(x.kernels()), leaves(x.injection()));
        let out = config.init().solve_map(map, x, z.clone());
        let parts = out.state.into_iter().map(|z| z.sin().sum());
        let loss = Tensor::cat(parts.collect(), 0).sum();
        let begin = Instant::now();
        loss.backward();
        let elapsed = begin.elapsed().as_secs_f64() * 1e3;
        (elapsed, out.adjoint.report().map_or(0, |r| r.evaluations))
    };
    let least = |gradient: &Gradient| {
        let all = (0..repetitions).map(|_| run(gradient));
        all.reduce(|a, b| if b.0 < a.0 { b } else { a })
            .unwrap_or_default()
    };
    let (whole, products) = least(&gradient);
    (whole - least(&Gradient::OneStep).0, products)
}
