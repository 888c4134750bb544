//! Three views of the embedded digits, one per branch: the upper half, the lower half, and the
//! means of all rows and columns. Together they are more accurate than the best of them.
//!
//! cargo run --release -p examples --example multi_view [EPOCHS [PICTURES]]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use examples::{Digits, argument, digits};
use mopteq::CoreConfig;
use mopteq::multi_view::{MultiView, MultiViewConfig, View, ViewInput};

const HALF: View = View::Image {
    channels: 1,
    size: [14, 28],
    stride: 2,
    padding: 1,
};
const NAMES: [&str; 3] = ["upper half", "lower half", "rows and columns"];

/// The three views of pictures.
fn views(digits: &Digits) -> [ViewInput; 3] {
    let half = |start| ViewInput::Image(digits.images.clone().narrow(2, start, 14));
    let rows = digits.images.clone().mean_dim(3).flatten::<2>(1, 3);
    let columns = digits.images.clone().mean_dim(2).flatten::<2>(1, 3);
    let means = Tensor::cat(vec![rows, columns], 1);
    [half(0), half(14), ViewInput::Vector(means)]
}

fn chosen(digits: &Digits, which: &[usize]) -> Vec<ViewInput> {
    let all = views(digits);
    which.iter().map(|i| all[*i].clone()).collect()
}

fn train(which: &[usize], epochs: usize, data: &Digits, device: &Device) -> MultiView {
    device.seed(1);
    let shapes = [HALF, HALF, View::Vector { length: 56 }];
    let core = CoreConfig::new().with_channels(16).with_hidden(16);
    let config = MultiViewConfig::new(10, which.iter().map(|i| shapes[*i]).collect());
    let model = config.with_core(core).with_head_grid(2).init(device);
    let mut model = model.expect("the configuration is valid").train();
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    for epoch in 0..epochs {
        let rate = if 3 * epoch < 2 * epochs { 0.02 } else { 0.004 };
        for start in (0..data.len()).step_by(50) {
            let batch = data.range(start, 50).autodiff();
            let labels = batch.labels.clone();
            let out = model.forward(chosen(&batch, which), Some(labels.clone()));
            let loss = CrossEntropyLossConfig::new()
                .init(&labels.device())
                .forward(out.logits, labels);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(rate, model, grads);
        }
    }
    model
}

fn main() -> Result<(), mopteq_train::Error> {
    let (epochs, pictures) = (argument(1, 6), argument(2, 4000));
    let device = Device::flex();
    let (data, test) = digits(&device)?;
    let data = data.range(0, pictures);
    println!(
        "{epochs} epochs on {} pictures, test accuracy in percent",
        data.len()
    );
    for which in [&[0][..], &[1], &[2], &[0, 1, 2]] {
        let model = train(which, epochs, &data, &device).valid();
        let logits = model.forward(chosen(&test, which), None).logits;
        let names: Vec<&str> = which.iter().map(|i| NAMES[*i]).collect();
        let (names, size) = (names.join(" + "), model.num_parameters());
        println!("{:5.1}  {names} ({size} parameters)", test.accuracy(logits));
    }
    Ok(())
}
