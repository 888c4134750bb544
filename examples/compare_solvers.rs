//! Every solver on one map: evaluations, time, and a plot of residuals against evaluations.
//!
//! cargo run --release -p examples --example compare_solvers [PICTURE.svg]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;

use burn::prelude::*;
use burn::tensor::Distribution;
use burn_deq::{
    AndersonConfig, AndersonType, EquilibriumConfig, Method, Solver, SpectralNormConfig,
    SpectralOperator,
};

fn main() -> Result<(), Box<dyn Error>> {
    let picture = (std::env::args().nth(1)).unwrap_or("compare_solvers.svg".into());
    let device = Device::flex();
    device.seed(3);
    // z = tanh(W z + x) for 32 samples of 256 units, with W symmetric, as in a gradient step of an
    // energy, and ||W|| = 1. The map is a contraction, because the slopes of tanh are below 1, but
    // a slow one.
    let normal =
        |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let w = normal([256, 256]);
    let w = w.clone() + w.transpose();
    let norm = SpectralNormConfig::norm(SpectralOperator::Matrix, w.clone(), 500);
    let (w, x) = (w / norm, normal([32, 256]) * 0.1);

    let anderson = AndersonConfig::new();
    let solvers: [(&str, Method); 6] = [
        ("plain", Method::Plain { damping: 1.0 }),
        ("plain, damping 0.7", Method::Plain { damping: 0.7 }),
        ("Anderson, type II", anderson.clone().into()),
        (
            "Anderson, type I",
            anderson.clone().with_kind(AndersonType::I).into(),
        ),
        ("Anderson, every 2nd step", anderson.with_period(2).into()),
        ("Broyden", Method::Broyden(Default::default())),
    ];
    let mut lines = Vec::new();
    println!(
        "{:26}{:>12}{:>11}{:>12}{:>10}",
        "solver", "evaluations", "converged", "residual", "ms"
    );
    for (name, method) in solvers {
        let solver = Solver::from(method)
            .with_relative(1e-5)
            .with_max_steps(400)
            .with_trace();
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let f = |z: Tensor<2>, (w, x): (Tensor<2>, Tensor<2>)| (z.matmul(w) + x).tanh();
        let solve = || {
            deq.solve_map(&f, (w.clone(), x.clone()), x.zeros_like())
                .forward
        };
        // The first run warms up; the time is the median of the others.
        let mut runs: Vec<_> = (0..8).map(|_| solve()).skip(1).collect();
        runs.sort_by_key(|report| report.elapsed);
        let report = runs.swap_remove(runs.len() / 2);
        let worst = |residuals: &[f64]| residuals.iter().copied().fold(0.0, f64::max);
        println!(
            "{name:26}{:12}{:8}/32{:12.1e}{:10.2}",
            report.evaluations,
            report.status.iter().filter(|s| s.is_converged()).count(),
            worst(&report.relative_residual),
            report.elapsed.as_secs_f64() * 1e3
        );
        // The slowest sample's residual. NaN, which `max` skips, marks finished samples.
        let line = report
            .trace
            .iter()
            .map(|(n, residuals)| (*n as f64, worst(residuals)));
        lines.push((name.to_owned(), line.collect()));
    }
    let title = "z = tanh(W z + x), 32 samples of 256 units: the slowest sample";
    examples::layers::draw_residuals(&picture, title, &lines)?;
    println!("the residuals are in {picture}");
    Ok(())
}
