//! A custom model from the library's layers: two codings around a plain convolution, trained
//! through both backward solves.
//!
//! cargo run --release -p examples --example own_model
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig, momentum::MomentumConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use deq_kernels::mean_pool;
use examples::layers::cross_entropy;
use mopteq::{Coding, CodingConfig, resample};

#[derive(Module, Debug)]
struct Net {
    first: Coding,
    second: Coding,
    head: Linear,
}

impl Net {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // The codes of two resolutions, side by side at the finer one.
        let codes = |layer: &Coding, g: Tensor<4>| {
            let [_, _, height, width] = g.dims();
            let state = layer.equilibrium(g).state.into_iter();
            Tensor::cat(state.map(|z| resample(z, [height, width])).collect(), 1)
        };
        let z = mean_pool(codes(&self.first, images), [14, 14]);
        let z = mean_pool(codes(&self.second, relu(z) * 4.0), [2, 2]);
        self.head.forward(z.flatten(1, 3))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(1);
    let coding = CodingConfig::new().with_l1(0.01);
    let mut net = Net {
        first: coding.init([1, 16], [28, 28], &device)?,
        second: coding.init([16, 32], [14, 14], &device)?,
        head: LinearConfig::new(32 * 4, 10).init(&device),
    }
    .train();
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let (train, test) = examples::digits(&device)?;
    for step in 0..160 {
        let batch = train.range(25 * step, 25).autodiff();
        let loss = cross_entropy(&net.forward(batch.images), &batch.labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(0.05, net, gradients);
    }
    let logits = net.valid().forward(test.images.clone());
    println!("test accuracy {:.1} %", test.accuracy(logits));
    Ok(())
}
