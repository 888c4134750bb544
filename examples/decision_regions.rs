//! An equilibrium MLP learns to separate two spirals. Draws its decision regions.
//!
//! cargo run --release -p examples --example decision_regions [PICTURE.svg]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{error::Error, f32::consts::TAU};

use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::prelude::*;
use burn_deq::{EquilibriumConfig, Solution, SpectralNormConfig, SpectralOperator};
use examples::layers::{accuracy, cross_entropy, draw_regions, spirals};

#[derive(Module, Debug)]
struct Net {
    w: Linear,
    u: Linear,
    head: Linear,
}

impl Net {
    fn new(width: usize, device: &Device) -> Self {
        let linear = |i, o| LinearConfig::new(i, o).init(device);
        // tanh has a slope of at most 1, so with ||W|| <= 0.95 the map is a contraction, whatever
        // it learns.
        let bound = SpectralNormConfig::new(SpectralOperator::Matrix, 0.95);
        Self {
            w: linear(width, width).apply_reparameterization(bound),
            u: linear(2, width),
            head: linear(width, 2),
        }
    }

    /// Logits, and the solution of z = tanh(W z + U x + b).
    fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Solution<Tensor<2>>) {
        let z0 = Tensor::zeros([x.dims()[0], self.u.weight.dims()[1]], &x.device());
        let f = |net: &Net, z: Tensor<2>, x: Tensor<2>| (net.w.forward(z) + x).tanh();
        let deq = EquilibriumConfig::new().init();
        let out = deq.solve(self, f, self.u.forward(x), z0);
        (self.head.forward(out.state.clone()), out)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let picture = (std::env::args().nth(1)).unwrap_or("decision_regions.svg".into());
    let device = Device::flex();
    device.seed(1);
    let mut net = Net::new(64, &device).train();
    let mut optimizer = AdamConfig::new().init();
    let (points, labels) = spirals(150, 1.5 * TAU);
    let x = Tensor::<1>::from_data(points.as_slice(), &device.clone().autodiff()).reshape([-1, 2]);
    let y = Tensor::<1, Int>::from_data(labels.as_slice(), &device.clone().autodiff());
    println!("step    loss  accuracy  solver steps forward, backward");
    for step in 0..=300 {
        let (logits, out) = net.forward(x.clone());
        let loss = cross_entropy(&logits, &y);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        if step % 50 == 0 {
            let backward = out.adjoint.report().ok_or("no backward solve")?;
            println!(
                "{step:4}  {:.4}   {:5.1} %  {:20.1}, {:8.1}",
                loss.into_scalar::<f32>(),
                accuracy(&logits, &y),
                out.forward.mean_steps(),
                backward.mean_steps(),
            );
        }
        net = optimizer.step(0.01, net, gradients);
    }
    let net = net.valid();
    let probability = |points: &[f32]| -> Result<Vec<f32>, Box<dyn Error>> {
        let x = Tensor::<1>::from_data(points, &device).reshape([-1, 2]);
        let p = burn::tensor::activation::softmax(net.forward(x).0, 1);
        Ok(p.slice(s![.., 1]).try_into_data()?.iter::<f32>().collect())
    };
    draw_regions(&picture, &points, &labels, probability)?;
    println!("the regions are in {picture}");
    Ok(())
}
