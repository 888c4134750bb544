//! A user's own module as an equilibrium layer: two spirals, told apart by an implicit MLP.
//!
//! cargo run --release -p examples --example own_module
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::prelude::*;
use burn_deq::EquilibriumConfig;

/// z -> tanh(z W + x U + b), an ordinary module.
#[derive(Module, Debug)]
struct Cell {
    w: Linear,
    u: Linear,
}

impl Cell {
    fn forward(&self, z: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        // ||W|| is at most its Frobenius norm: the map is a contraction, whatever is learnt.
        let w = self.w.weight.val();
        let norm = w.clone().square().sum().sqrt();
        let w = w * (norm.recip() * 0.95).clamp_max(1.0).unsqueeze();
        (z.matmul(w) + self.u.forward(x)).tanh()
    }
}

#[derive(Module, Debug)]
struct Net {
    cell: Cell,
    head: Linear,
}

fn main() {
    let device = Device::flex();
    device.seed(1);
    let linear = |i, o| LinearConfig::new(i, o).init(&device);
    let cell = Cell {
        w: linear(64, 64),
        u: linear(2, 64),
    };
    let mut net = Net {
        cell,
        head: linear(64, 2),
    }
    .train();
    let deq = EquilibriumConfig::new().init();
    let mut optimizer = AdamConfig::new().init();

    let (x, y) = spirals(200, &device.clone().autodiff());
    let z0 = Tensor::zeros([400, 64], &device);
    for step in 0..=200 {
        let out = deq.solve(&net.cell, Cell::forward, x.clone(), z0.clone());
        let logits = net.head.forward(out.state);
        let hits = logits
            .clone()
            .argmax(1)
            .squeeze_dim::<1>(1)
            .equal(y.clone());
        let loss = CrossEntropyLossConfig::new()
            .init(&logits.device())
            .forward(logits, y.clone());
        let value = loss.clone().into_scalar::<f32>();
        let grads = GradientsParams::from_grads(loss.backward(), &net);
        if step % 50 == 0 {
            let accuracy = hits.float().mean().into_scalar::<f32>() * 100.0;
            let backward = out.adjoint.report().map_or(0.0, |r| r.mean_steps());
            println!(
                "step {step:3}  loss {value:.4}  accuracy {accuracy:5.1} %  solver steps {:.1} forward, \
                 {backward:.1} backward",
                out.forward.mean_steps()
            );
        }
        net = optimizer.step(0.01, net, grads);
    }
}

/// Two spirals of n points each.
fn spirals(n: usize, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let points = (0..2 * n).flat_map(|i| {
        let (t, side) = (
            (i / 2) as f32 / n as f32,
            if i % 2 == 0 { 1.0 } else { -1.0 },
        );
        let angle = 1.5 * std::f32::consts::TAU * t;
        [
            side * (0.1 + t) * angle.cos() * 2.0,
            side * (0.1 + t) * angle.sin() * 2.0,
        ]
    });
    let labels = (0..2 * n).map(|i| (i % 2) as i32);
    let x = TensorData::new(points.collect::<Vec<_>>(), [2 * n, 2]);
    let y = TensorData::new(labels.collect::<Vec<_>>(), [2 * n]);
    (Tensor::from_data(x, device), Tensor::from_data(y, device))
}
