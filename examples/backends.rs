//! The same training on every backend that is built in: losses side by side, and the time of a step.
//!
//! cargo run --release -p examples --features mopteq-train/wgpu --example backends [STEPS]
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use examples::layers::cross_entropy;
use examples::{argument, digits};
use mopteq::{DeepConfig, NetworkConfig};
use mopteq_train::device::{Backend, DeviceChoice, DeviceError, select};

const BATCH: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps = argument(1, 20);
    let config = NetworkConfig::Deep(DeepConfig::digits(10, 1, [28, 28]));
    // All start from these parameters.
    let cpu = Device::flex();
    cpu.seed(0);
    let start = config.init(&cpu)?.into_record();
    let mut reference: Option<Vec<f32>> = None;
    for backend in Backend::ALL {
        let selected = match select(DeviceChoice::On(backend, 0)) {
            Ok(selected) => selected,
            Err(DeviceError::NotBuiltIn { .. }) => continue,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let device = selected.device.clone().autodiff();
        let mut model = config.init(&device)?.load_record(start.clone());
        let mut optimizer = SgdConfig::new().init();
        let (train, _) = digits(&selected.device)?;
        let mut losses = Vec::new();
        let mut times = Vec::new();
        for step in 0..steps {
            let batch = train.range(step * BATCH % train.len(), BATCH).autodiff();
            let begin = Instant::now();
            let logits = model.forward(batch.images).logits;
            let loss = cross_entropy(&logits, &batch.labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(0.05, model, gradients);
            losses.push(loss.into_scalar::<f32>());
            times.push(begin.elapsed().as_secs_f64());
        }
        let reference = reference.get_or_insert_with(|| losses.clone());
        let apart = losses.iter().zip(reference.iter());
        let apart = apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{}", selected.name);
        println!("  losses        {}", row(&losses));
        println!("  largest difference from the first device  {apart:.1e}");
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied().unwrap_or(first);
        println!("  first step {first:.2} s, median of the others {median:.3} s");
    }
    Ok(())
}

/// Every fifth value.
fn row(losses: &[f32]) -> String {
    let shown: Vec<_> = losses
        .iter()
        .step_by(5)
        .map(|l| format!("{l:.4}"))
        .collect();
    shown.join(" ")
}
