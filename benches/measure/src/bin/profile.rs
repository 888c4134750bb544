//! Profile of a training step of MOptEqs small: time, arithmetic and bytes of its parts, compared
//! with the best rates of this machine.
//!
//! cargo run --release -p measure --bin profile [BATCH [REPETITIONS]]
//!
//! - Ceilings, measured in the same run: a 1024 x 1024 x 1024 matrix product of Burn's CPU backend,
//!   and copying 256 MB, on all cores.
//! - Arithmetic: the multiplications and additions of the convolutions in the formulas, 2 per
//!   weight and pixel. Winograd's filtering needs fewer, so a part can exceed the ceiling.
//! - Bytes: the input and output tensors of a part, each counted once. Data that stay in the caches
//!   within a part are not counted.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use burn::tensor::Distribution;
use burn::tensor::ops::PadMode;
use examples::{argument, digits, trained};
use mopteq::perturbation::Perturbation;
use mopteq::{Family, MOptEqs, MOptEqsConfig};

/// The allocator of the program `mopteq`.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTS: [&str; 6] = [
    "bounded kernels, stem, injections",
    "forward solve",
    "step at the solution, head, loss",
    "backward solve",
    "rest of the backward pass",
    "optimiser",
];

fn main() -> Result<(), mopteq_train::Error> {
    mopteq_train::keep_freed_memory();
    let (batch, repetitions) = (argument(1, 32), argument(2, 7));
    let [peak, copying] = [product(), copy()].map(|rate| rate / 1e9);
    println!("at best: {peak:.0} GFLOP/s in a matrix product, {copying:.1} GB/s in copying");
    let (data, _) = digits(&Device::flex())?;
    let pad = |x: Tensor<4>| x.pad((2, 2, 2, 2), PadMode::Constant(0.0));
    for family in [Family::S, Family::P] {
        let config = MOptEqsConfig::small(10, 1, [32, 32])
            .map_core(|c| c.with_family(family))
            .with_perturbation(Perturbation::new().with_size(0.0));
        let model = trained(&config, 20, |start| {
            let batch = data.range(start, 32).autodiff();
            (pad(batch.images), batch.labels)
        });
        let batch = data.range(0, batch).autodiff();
        let (seconds, steps) = measure(
            &model.train(),
            pad(batch.images.clone()),
            batch.labels.clone(),
            repetitions,
        );
        let work = work(&config, batch.len(), steps);
        let total: f64 = seconds.iter().sum();
        println!(
            "\nfamily {family:?}, 32 x 32, batch {}: {:.0} ms a step, {:.1} + {:.1} solver steps\n",
            batch.len(),
            1e3 * total,
            steps[0] / batch.len() as f64,
            steps[1] / batch.len() as f64
        );
        println!("| part | ms | share | GFLOP | GFLOP/s | of the best | MB | GB/s | of the best |");
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for ((part, seconds), [flops, bytes]) in PARTS.iter().zip(seconds).zip(work) {
            let rate = |amount: f64, best: f64| {
                let rate = amount / 1e9 / seconds;
                format!("{rate:.1} | {:.0} %", 100.0 * rate / best)
            };
            println!(
                "| {part} | {:.1} | {:.0} % | {:.2} | {} | {:.1} | {} |",
                1e3 * seconds,
                100.0 * seconds / total,
                flops / 1e9,
                rate(flops, peak),
                bytes / 1e6,
                rate(bytes, copying),
            );
        }
    }
    Ok(())
}

/// Median seconds of every part, and evaluations of the two solves, over all samples.
fn measure(
    model: &MOptEqs,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
    repetitions: usize,
) -> ([f64; 6], [f64; 2]) {
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let mut runs = Vec::new();
    let mut steps = [0.0; 2];
    for run in 0..=repetitions {
        let clock = Instant::now();
        drop(model.context(images.clone()));
        let context = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let out = model.forward(images.clone());
        let loss = CrossEntropyLossConfig::new()
            .init(&images.device())
            .forward(out.logits, labels.clone());
        let forward = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let grads = loss.backward();
        let backward = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let grads = GradientsParams::from_grads(grads, model);
        drop(optimizer.step(1e-4, model.clone(), grads));
        let optimiser = clock.elapsed().as_secs_f64();
        let adjoint = out.adjoint.report().expect("the backward pass has run");
        let solves = [&out.forward, &adjoint].map(|report| report.elapsed.as_secs_f64());
        steps = [&out.forward, &adjoint].map(|report| report.sample_evaluations as f64);
        // The first run warms up.
        if run > 0 {
            let rest = (forward - context - solves[0]).max(0.0);
            runs.push([
                context,
                solves[0],
                rest,
                solves[1],
                backward - solves[1],
                optimiser,
            ]);
        }
    }
    let median = |part: usize| {
        let mut all: Vec<f64> = runs.iter().map(|run| run[part]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    ([0, 1, 2, 3, 4, 5].map(median), steps)
}

/// Arithmetic and bytes of every part.
fn work(config: &MOptEqsConfig, batch: usize, [forward, backward]: [f64; 2]) -> [[f64; 2]; 6] {
    let samples = batch as f64;
    let channels = config.core.channels as f64;
    // Pixels of the branches, each with half the resolution of the previous one.
    let pixels: f64 = (0..config.branches)
        .map(|i| 1024.0 / f64::from(1 << (2 * i)))
        .sum();
    let state = 4.0 * channels * pixels;
    // W, its transpose, an injection and the derivatives of each are convolutions of this size.
    let convolution = 2.0 * 9.0 * channels * channels * pixels;
    let stem = 2.0 * 9.0 * channels * 1024.0;
    // Power iteration on one picture: W'W v, then W v.
    let bound = 3.0 * convolution;
    let picture = 4.0 * 1024.0;
    let features = picture * channels;
    let parameters = 4.0 * 2.0 * config.branches as f64 * 9.0 * channels * channels;
    [
        [
            samples * (stem + convolution) + bound,
            // Pictures, features and injections; batch norm reads its input twice.
            samples * (picture + 4.0 * features + state),
        ],
        [2.0 * convolution * forward, 2.0 * state * samples],
        // The value at the solution is known from the solve; the head reads the state.
        [0.0, 2.0 * state * samples],
        [2.0 * convolution * backward, 3.0 * state * samples],
        // For the step: W z, W u and their part in the kernel's gradient, twice. For an injection:
        // both derivatives. For the stem: that of its kernel. For the bound: that of W v.
        [
            samples * (4.0 * convolution + 2.0 * convolution + stem) + convolution,
            samples * (5.0 * state + 6.0 * features + picture),
        ],
        // Reads parameter, gradient and momentum, and writes two of them.
        [0.0, 5.0 * parameters],
    ]
}

/// Floating-point operations per second of a matrix product.
fn product() -> f64 {
    let n = 1024;
    let device = Device::flex();
    let a = Tensor::<2>::random([n, n], Distribution::Default, &device);
    let least = least(60, || drop(a.clone().matmul(a.clone())));
    2.0 * (n as f64).powi(3) / least
}

/// Bytes read and written per second by copying, split over the cores.
fn copy() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let from = vec![1f32; 1 << 25];
    let mut to = vec![0f32; 1 << 25];
    let part = from.len().div_ceil(cores);
    let least = least(10, || {
        std::thread::scope(|scope| {
            for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
    });
    (2 * 4 * from.len()) as f64 / least
}

/// The smallest time of `runs` runs, in seconds.
fn least(runs: usize, mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let clock = Instant::now();
        run();
        clock.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}
