//! Peak memory of one training step of MOptEqs small against the solver's step limit (Linux).
//!
//! cargo run --release -p measure --bin peak_memory
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::process::Command;

use burn::prelude::*;
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::MOptEqsConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Every limit runs in a separate process, because the peak of a process never falls.
    match std::env::args().nth(1) {
        Some(limit) => println!("{}", train_step(limit.parse()?)?),
        None => {
            println!("MOptEqs small, 3 x 32 x 32 pictures, batch 16, one training step on the CPU");
            println!("{:>10}  {:>12}", "step limit", "peak (MiB)");
            let mut peaks = Vec::new();
            for limit in ["5", "20", "80"] {
                let output = Command::new(std::env::current_exe()?).arg(limit).output()?;
                let kib: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
                println!("{limit:>10}  {:>12.1}", kib / 1024.0);
                peaks.push(kib);
            }
            let growth = peaks[2] / peaks[0] - 1.0;
            println!("growth from 5 to 80 steps: {:+.1} %", growth * 100.0);
        }
    }
    Ok(())
}

/// Peak resident memory in KiB after one forward and backward pass that use up the step limit.
fn train_step(limit: usize) -> Result<u64, Box<dyn std::error::Error>> {
    let device = Device::flex();
    let mut solver = Solver::default()
        .with_relative(0.0)
        .with_absolute(0.0)
        .with_max_steps(limit);
    solver.termination.patience = usize::MAX;
    let model = MOptEqsConfig::small(10, 3, [32, 32])
        .map_core(|c| c.with_equilibrium(EquilibriumConfig::new().with_forward(solver)))
        .init(&device)?
        .train();
    let images = Tensor::random(
        [16, 3, 32, 32],
        burn::tensor::Distribution::Default,
        &device,
    );
    let out = model.forward(images.autodiff());
    let grads = out.logits.powf_scalar(2.0).sum().backward();
    let backward = out.adjoint.report().ok_or("no backward solve")?;
    assert_eq!(
        (out.forward.evaluations, backward.evaluations),
        (limit, limit)
    );
    drop(grads);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}
