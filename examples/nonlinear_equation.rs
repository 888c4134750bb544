//! Kepler's equation E = M + e sin E, solved for many orbits at once, with the derivatives of the
//! solution with respect to the orbit. They do not depend on the solver's path.
//!
//! cargo run --release -p examples --example nonlinear_equation
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;

use burn::prelude::*;
use burn::tensor::DType;
use burn_deq::{EquilibriumConfig, Freezing, Solver};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    let orbits = [
        ("Earth", 0.0167, 1.0),
        ("Mercury", 0.2056, 2.0),
        ("Pluto", 0.2488, 0.5),
        ("Sedna", 0.855, 0.3),
        ("Halley", 0.9671, 0.1),
        ("Hale-Bopp", 0.9951, 0.02),
    ];
    // Leaves of autodiff: the variables of the derivatives.
    let leaf = |values: [f64; 6]| {
        let data = TensorData::new(values.to_vec(), [6, 1]);
        Tensor::<2>::from_data(data, (&device.clone().autodiff(), DType::F64)).require_grad()
    };
    let (e, m) = (leaf(orbits.map(|o| o.1)), leaf(orbits.map(|o| o.2)));

    // Any closure f(z, x) is a map. It cannot declare that its samples, the orbits, are
    // independent. Assuming it lets finished samples leave the batch.
    let kepler = |z: Tensor<2>, (m, e): (Tensor<2>, Tensor<2>)| m + e * z.sin();
    let solver = Solver::anderson(2).with_relative(1e-14).with_absolute(0.0);
    let deq = EquilibriumConfig::new()
        .with_forward(solver.with_max_steps(200))
        .with_freezing(Freezing::Assumed)
        .init();
    let out = deq.solve_map(&kepler, (m.clone(), e.clone()), m.clone());
    let gradients = out.state.clone().sum().backward();

    let values = |t: Tensor<2>| t.without_autodiff().try_into_vec_as::<f64>();
    let anomaly = values(out.state)?;
    let by_m = values(m.grad(&gradients).ok_or("no gradient for M")?)?;
    let by_e = values(e.grad(&gradients).ok_or("no gradient for e")?)?;
    println!("{:43}{:<30}dE/de", "", "dE/dM");
    println!(
        "orbit          e     M            E  steps  implicit       closed form    implicit       \
         closed form"
    );
    let mut worst: f64 = 0.0;
    for (i, (name, e, m)) in orbits.into_iter().enumerate() {
        let steps = out.forward.steps[i];
        // dE/dM = 1 / (1 - e cos E), dE/de = sin E / (1 - e cos E).
        let by_m_exact = 1.0 / (1.0 - e * anomaly[i].cos());
        let by_e_exact = by_m_exact * anomaly[i].sin();
        let (anomaly, by_m, by_e) = (anomaly[i], by_m[i], by_e[i]);
        println!(
            "{name:9} {e:.4}  {m:.2}  {anomaly:.9}  {steps:5}  {by_m:.11}  {by_m_exact:.11}  \
             {by_e:.11}  {by_e_exact:.11}"
        );
        for (found, exact) in [(by_m, by_m_exact), (by_e, by_e_exact)] {
            worst = worst.max((found / exact - 1.0).abs());
        }
    }
    println!("\nlargest relative error of a derivative: {worst:.1e}");
    println!(
        "{} evaluations for the batch, {} for single orbits: finished orbits leave",
        out.forward.evaluations, out.forward.sample_evaluations,
    );
    Ok(())
}
