//! The overhead of solvers over the bare map, and what freezing saves.
//!
//! cargo bench --manifest-path benches/Cargo.toml --bench overhead
//!
#![allow(
    missing_docs,
    reason = "criterion's macros make functions without documentation"
)]
#![allow(clippy::print_stdout, reason = "a benchmark talks to its user")]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use burn_deq::{
    AndersonConfig, AndersonType, Declared, EquilibriumConfig, Freezing, Method, Solver,
};
use criterion::{Criterion, criterion_group, criterion_main};

/// The allocator of the program `mopteq`. glibc's allocator returns a solve's memory to the system
/// at its end, and allocating it again would be a large part of the measured time.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 30;

type Data = (Tensor<2>, Tensor<2>);

/// z -> tanh(z W + x).
fn dense(z: Tensor<2>, (w, x): Data) -> Tensor<2> {
    (z.matmul(w) + x).tanh()
}

/// Weights whose eigenvalues fill a disc of the given radius, inputs of the given size, and zeros.
fn problem(batch: usize, width: usize, radius: f64) -> (Data, Tensor<2>) {
    let device = Device::flex();
    device.seed(1);
    let scale = radius / (width as f64).sqrt();
    let w = Tensor::random([width, width], Distribution::Normal(0.0, scale), &device);
    let x = Tensor::random([batch, width], Distribution::Normal(0.0, 1.0), &device);
    let z0 = x.zeros_like();
    ((w, x), z0)
}

/// A solver that makes exactly `STEPS` evaluations, with everything else that a solve does.
fn exhausting(method: impl Into<Method>) -> Solver {
    let mut solver = Solver::from(method.into())
        .with_relative(0.0)
        .with_absolute(0.0)
        .with_max_steps(STEPS);
    solver.termination.patience = usize::MAX;
    solver
}

/// Rounds in which every case runs once.
const ROUNDS: usize = 60;

/// Prints the cost of each case relative to the first one: the median over the rounds of its time
/// divided by that of the first case, which runs right before it. Criterion measures the cases one
/// after the other, and a machine's speed may change in between. Both figures are reported.
fn in_turn(c: &mut Criterion, group: &str, cases: &[(&str, Box<dyn Fn()>)]) {
    let time = |run: &dyn Fn()| {
        let clock = Instant::now();
        run();
        clock.elapsed().as_secs_f64()
    };
    let bare = &cases[0].1;
    let mut measured = vec![Vec::new(); cases.len()];
    for round in 0..=ROUNDS {
        for ((_, run), measured) in cases.iter().zip(&mut measured) {
            let (first, own) = (time(bare), time(run));
            // The first round warms up.
            if round > 0 {
                measured.push((own / first, own));
            }
        }
    }
    for ((name, _), measured) in cases.iter().zip(&mut measured) {
        let quartiles = |of: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = measured.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            [1, 2, 3].map(|q| all[q * ROUNDS / 4])
        };
        let ([low, ratio, high], [_, own, _]) = (quartiles(|m| m.0), quartiles(|m| m.1));
        println!(
            "{group} | {name:22} | {:7.2} ms | x {ratio:.3} (quartiles {low:.3} to {high:.3})",
            own * 1e3
        );
    }
    let mut group = c.benchmark_group(group);
    for (name, run) in cases {
        group.bench_function(*name, |b| b.iter(run));
    }
    group.finish();
}

fn overhead(c: &mut Criterion) {
    // So slow that no solver reaches rounding error in 30 steps. There, solvers would do different
    // work.
    let ((w, x), z0) = problem(64, 1024, 0.97);
    let x = x * 0.1;
    let bare = {
        let (w, x, z0) = (w.clone(), x.clone(), z0.clone());
        move || {
            let mut z = z0.clone();
            for _ in 0..STEPS {
                z = dense(z, (w.clone(), x.clone()));
            }
            black_box(z);
        }
    };
    let mut cases: Vec<(&str, Box<dyn Fn()>)> = vec![("bare map", Box::new(bare))];
    let anderson = AndersonConfig::new();
    let type_one = anderson.clone().with_kind(AndersonType::I);
    for (name, solver) in [
        ("plain", exhausting(Method::Plain { damping: 1.0 })),
        ("Anderson", exhausting(anderson)),
        ("Anderson, type I", exhausting(type_one)),
        ("Broyden", exhausting(burn_deq::BroydenConfig::new())),
        (
            "Anderson, fixed steps",
            Solver::default().with_fixed_steps(STEPS),
        ),
    ] {
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let (data, z0) = ((w.clone(), x.clone()), z0.clone());
        let run = move || {
            let out = deq.solve_map(&dense, data.clone(), z0.clone());
            assert_eq!(out.forward.evaluations, STEPS);
            black_box(out.state);
        };
        cases.push((name, Box::new(run)));
    }
    in_turn(c, "dense 64 x 1024", &cases);
}

/// z -> slope * tanh(z W + x), one slope per sample: some samples need five steps, some a hundred.
fn uneven(
    z: Tensor<2>,
    (w, x, slope): (burn_deq::Shared<Tensor<2>>, Tensor<2>, Tensor<2>),
) -> Tensor<2> {
    (z.matmul(w.0) + x).tanh() * slope
}

fn freezing(c: &mut Criterion) {
    let ((w, x), z0) = problem(64, 512, 0.9);
    let device = x.device();
    let slopes: Vec<f32> = (0..64)
        .map(|k| 0.1 + 1.0 * (k as f32 / 63.0).powi(2))
        .collect();
    let slope = Tensor::<1>::from_floats(slopes.as_slice(), &device).reshape([64, 1]);
    let map = Declared::new(uneven as fn(_, _) -> _).with_independent_samples(true);
    let mut cases: Vec<(&str, Box<dyn Fn()>)> = Vec::new();
    for (name, solver) in [("plain", Solver::plain()), ("Anderson", Solver::default())] {
        for (suffix, freezing) in [("all", Freezing::Off), ("frozen", Freezing::Declared)] {
            let deq = EquilibriumConfig::new()
                .with_forward(solver.clone().with_relative(1e-5).with_max_steps(300))
                .with_freezing(freezing)
                .init();
            let data = (burn_deq::Shared(w.clone()), x.clone() * 0.1, slope.clone());
            let z0 = z0.clone();
            let run = move || {
                let out = deq.solve_map(&map, data.clone(), z0.clone());
                assert!(out.forward.all_converged());
                black_box(out.state);
            };
            cases.push((
                Box::leak(format!("{name}, {suffix}").into_boxed_str()),
                Box::new(run),
            ));
        }
    }
    in_turn(c, "uneven batch 64 x 512", &cases);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = overhead, freezing
}
criterion_main!(benches);
