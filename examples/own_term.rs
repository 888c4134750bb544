//! A custom term: the minimiser of 1/2 |z - c|^2 + total variation denoises c.
//!
//! cargo run --release -p examples --example own_term
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::sync::Arc;

use burn::prelude::*;
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::perturbation::gaussian;
use mopteq::terms::{ByValue, Curvature, Energy, Proximity, Setting, Term};
use mopteq::{Branches, Context, HiddenObjective, Step};

/// The weight times the sum of sqrt(d^2 + 1/100) over the differences d of neighbours.
#[derive(Debug)]
struct Variation(f64);

impl Energy for Variation {
    fn name(&self) -> &str {
        "variation"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let along = |dim: usize| {
            let part = |start| z[0].clone().narrow(dim, start, z[0].dims()[dim] - 1);
            let d = part(1) - part(0);
            (d.clone() * d + 0.01).sqrt().flatten::<2>(1, 3).sum_dim(1)
        };
        (along(2) + along(3)).squeeze_dim::<1>(1) * self.0
    }

    fn curvature(&self, _setting: &Setting) -> Curvature {
        // The second derivative is at most 10, and the differences have a norm of at most sqrt(8).
        Curvature::new(0.0, 80.0 * self.0)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(1);
    let clean = examples::digits(&device)?.1.range(0, 200).images;
    let clean = clean.clone() - clean.min().reshape([1, 1, 1, 1]);
    let noisy = gaussian(clean.clone(), 0.4);
    let error = |z: &Tensor<4>| (z.clone() - clean.clone()).powi_scalar(2).mean();
    let term = Variation(0.2);
    let terms: Vec<Arc<dyn Term>> = vec![Arc::new(Proximity), Arc::new(ByValue::new(term))];
    let setting = Setting {
        branches: 1,
        kernel_norm: 0.0,
    };
    let objective = HiddenObjective::new(terms, None, Step::Guaranteed, &setting)?;
    let deq = EquilibriumConfig::new().with_forward(Solver::accelerated().with_max_steps(200));
    let context = Context::new(Vec::new(), vec![noisy.clone()]);
    let start = vec![noisy.zeros_like()];
    let out = deq.init().solve_map(&objective, context, start);
    let errors = [error(&noisy), error(&out.state[0])].map(Tensor::into_scalar::<f32>);
    println!("errors {errors:?} after {} steps", out.forward.mean_steps());
    Ok(())
}
