//! Two equilibrium layers in a row, trained together. The gradient from the second layer's backward
//! solve is the input of the first layer's.
//!
//! cargo run --release -p examples --example stack
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::prelude::*;
use burn_deq::{EquilibriumConfig, Solution, SpectralNormConfig, SpectralOperator};
use examples::layers::{cross_entropy, in_words};

/// z* = tanh(W z* + U x + b), with ||W|| <= 0.9.
#[derive(Module, Debug)]
struct Layer {
    w: Linear,
    u: Linear,
}

impl Layer {
    fn new(inputs: usize, width: usize, device: &Device) -> Self {
        let bound = SpectralNormConfig::new(SpectralOperator::Matrix, 0.9);
        let w: Linear = LinearConfig::new(width, width).init(device);
        Self {
            w: w.apply_reparameterization(bound),
            u: LinearConfig::new(inputs, width).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Solution<Tensor<2>> {
        let x = self.u.forward(x);
        let f = |layer: &Self, z: Tensor<2>, x: Tensor<2>| (layer.w.forward(z) + x).tanh();
        let z0 = x.zeros_like();
        EquilibriumConfig::new().init().solve(self, f, x, z0)
    }
}

#[derive(Module, Debug)]
struct Stack {
    first: Layer,
    second: Layer,
    head: Linear,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(1);
    let mut net = Stack {
        first: Layer::new(784, 96, &device),
        second: Layer::new(96, 48, &device),
        head: LinearConfig::new(48, 10).init(&device),
    }
    .train();
    let mut optimizer = AdamConfig::new().init();
    let train = examples::digits(&device)?.0.range(0, 1000).autodiff();
    for epoch in 1..=5 {
        for step in 0..20 {
            let batch = train.range(50 * step, 50);
            let first = net.first.forward(batch.images.flatten(1, 3));
            let second = net.second.forward(first.state.clone());
            let loss = cross_entropy(&net.head.forward(second.state.clone()), &batch.labels);
            // Backward through the head, the second solve and the first solve.
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            if step == 0 {
                println!("epoch {epoch}, loss {:.4}", loss.into_scalar::<f32>());
                for (name, layer) in [("first", first), ("second", second)] {
                    let backward = layer.adjoint.report().ok_or("no backward solve")?;
                    println!("  {name:6}  forward  {}", in_words(&layer.forward));
                    println!("          backward {}", in_words(&backward));
                }
            }
            net = optimizer.step(2e-3, net, gradients);
        }
    }
    println!("memory: each layer keeps one application of its map for the backward pass");
    Ok(())
}
