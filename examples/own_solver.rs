//! A custom solver: Jacobi's preconditioned step, for maps z = z A + 0.1 sin(z) + x whose matrix A
//! has a large diagonal d:
//!
//!     z+ = z + (f(z) - z) / (1 - d)
//!
//! The layer adds termination, best states, statuses and reports. It also uses the solver backward.
//!
//! cargo run --release -p examples --example own_solver
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::prelude::*;
use burn_deq::solver::{Custom, Iterate, Step};
use burn_deq::{EquilibriumConfig, Gradient, Rows, Solver};

/// The state: 1 / (1 - d), `[1, n]`. All samples share it, so none of its rows is ever removed.
struct Jacobi(Tensor<2>);

impl Step for Jacobi {
    fn step(&mut self, at: Iterate) -> Tensor<2> {
        at.z + at.r * self.0.clone()
    }

    fn keep(&mut self, _rows: &Rows) {}
}

fn main() {
    let (device, n) = (Device::flex(), 50);
    let slopes = (0..n).map(|k| 0.8 * (k as f32 / n as f32).sqrt());
    let d = Tensor::<1>::from_floats(slopes.collect::<Vec<_>>().as_slice(), &device);
    let off = Tensor::<2>::full([n, n], 0.05 / n as f64, &device);
    let a = Tensor::<2>::eye(n, &device) * d.clone().unsqueeze::<2>() + off;
    let scale = (d.neg() + 1.0).recip().unsqueeze::<2>();

    let jacobi = Custom::new(move |_z0| Jacobi(scale.clone()));
    for (name, solver) in [
        ("plain", Solver::plain()),
        ("Jacobi", Solver::from(jacobi)),
        ("Anderson", Solver::anderson(6)),
    ] {
        let solver = solver.with_max_steps(500);
        let deq = EquilibriumConfig::new()
            .with_forward(solver.clone())
            .with_gradient(Gradient::implicit(solver))
            .init();
        let map =
            |z: Tensor<2>, (a, x): (Tensor<2>, Tensor<2>)| z.clone().matmul(a) + z.sin() * 0.1 + x;
        let x = Tensor::<2>::ones([4, n], &device.clone().autodiff()).require_grad();
        let z0 = Tensor::zeros([4, n], &device);
        let out = deq.solve_map(&map, (a.clone().autodiff(), x.clone()), z0);
        out.state.sum().backward();
        let backward = out.adjoint.report().expect("backward has run");
        assert!(out.forward.all_converged() && backward.all_converged());
        let (forward, backward) = (out.forward.evaluations, backward.evaluations);
        println!("{name:9} {forward:4} evaluations forward, {backward:4} products backward");
    }
}
