//! Terms, objective, resampling and norms against their definitions.

use burn::tensor::{DType, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Solver, State, Status};
use mopteq::norm::{BoundedKernel, convolution_norm};
use mopteq::{Branches, Context, Family, HiddenObjective, scaled_pool, scaled_upsample};

use crate::support::{Numbers, autodiff, flat, model_f64, point, relative, tiny, values};

#[test]
fn algorithm_2_is_z_minus_the_gradient_of_the_objective() {
    for family in [Family::S, Family::P] {
        let config = tiny(family);
        let objective = config.objective().unwrap();
        let (z, x) = point(&config, 2);
        // Family P's constraint holds inside the cone, where G is smooth.
        let z: Branches = z.into_iter().map(|z| z.abs() + 0.1).collect();
        let gradient = autodiff(&z, |z| objective.value(z, &x));
        for step in [1.0, objective.step()] {
            let t = flat(&objective.descend(&z, &x, step));
            for ((t, z), g) in t.iter().zip(flat(&z)).zip(&gradient) {
                assert!((t - (z - step * g)).abs() <= 1e-10);
            }
        }
    }
}

#[test]
fn the_closed_form_jacobian_matches_autodiff_of_the_map() {
    for family in [Family::S, Family::P] {
        let config = tiny(family);
        let objective = config.objective().unwrap();
        let (z, x) = point(&config, 2);
        let mut numbers = Numbers::new(43);
        let u: Branches = z
            .iter()
            .map(|z| numbers.tensor(z.dims(), DType::F64))
            .collect();
        let exact = objective
            .jacobian(z.clone(), x.clone())
            .expect("closed form")
            .vjp(u.clone());
        let by_autodiff = autodiff(&z, |z| {
            let f = objective.apply(z.clone(), x.clone());
            f.into_iter()
                .zip(&u)
                .map(|(f, u)| (f * u.clone()).sum())
                .reduce(|a, b| a + b)
                .unwrap()
        });
        let error = relative(&flat(&exact), &by_autodiff);
        assert!(error <= 1e-10, "{family:?}: {error:e}");
    }
}

/// Values of the objective, summed over the batch, along plain iteration from zero.
fn descent(objective: &HiddenObjective, x: &Context, z: Branches, steps: usize) -> Vec<Vec<f64>> {
    let mut z: Branches = z.iter().map(|z| z.zeros_like()).collect();
    (0..steps)
        .map(|_| {
            let value = values(objective.value(&z, x));
            z = objective.apply(z.clone(), x.clone());
            value
        })
        .collect()
}

#[test]
fn the_objective_falls_at_every_plain_step() {
    for family in [Family::S, Family::P] {
        let config = tiny(family);
        let (z, x) = point(&config, 3);
        let path = descent(&config.objective().unwrap(), &x, z, 60);
        for (k, pair) in path.windows(2).enumerate() {
            for (before, after) in pair[0].iter().zip(&pair[1]) {
                let slack = 1e-12 * before.abs().max(1.0);
                assert!(
                    after <= &(before + slack),
                    "{family:?}, step {k}: {before} -> {after}"
                );
            }
        }
        let (first, last) = (&path[0], &path[59]);
        assert!(
            first.iter().zip(last).all(|(a, b)| b < a),
            "the objective falls"
        );
    }
}

#[test]
fn twenty_starts_reach_the_same_equilibrium() {
    for family in [Family::S, Family::P] {
        let config = tiny(family);
        let objective = config.objective().unwrap();
        assert!(objective.is_strongly_convex());
        let (z, x) = point(&config, 2);
        let deq = EquilibriumConfig::new()
            .with_forward(Solver::default().with_relative(1e-10).with_max_steps(300))
            .init();
        let mut reference: Option<Vec<f64>> = None;
        for seed in 0..20 {
            let mut numbers = Numbers::new(seed);
            let start: Branches = z
                .iter()
                .map(|z| numbers.tensor(z.dims(), DType::F64) * 3.0)
                .collect();
            let out = deq.solve_map(&objective, x.clone(), start);
            assert!(out.forward.all_converged());
            let found = flat(&out.state);
            let reference = reference.get_or_insert_with(|| found.clone());
            assert!(relative(&found, reference) <= 1e-6);
        }
    }
}

#[test]
fn a_nan_picture_leaves_the_others_alone() {
    let config = tiny(Family::S).map_core(|c| {
        c.with_equilibrium(
            EquilibriumConfig::new()
                .with_forward(Solver::plain().with_relative(1e-8).with_max_steps(300)),
        )
    });
    let model = model_f64(&config);
    let images = crate::support::images(3);
    let calm = model.equilibrium(&model.context(images.clone()));
    let nan = Tensor::full([1, 2, 8, 8], f64::NAN, (&images.device(), images.dtype()));
    let bad = Tensor::cat(
        vec![images.clone().narrow(0, 0, 1), nan, images.narrow(0, 1, 2)],
        0,
    );
    let mixed = model.equilibrium(&model.context(bad));
    let expected = [
        Status::Converged,
        Status::NotFinite,
        Status::Converged,
        Status::Converged,
    ];
    assert_eq!(mixed.forward.status, expected);
    for (a, b) in calm.state.into_iter().zip(mixed.state) {
        for (i, j) in [(0, 0), (1, 2), (2, 3)] {
            let (a, b) = (a.clone().narrow(0, i, 1), b.clone().narrow(0, j, 1));
            let same = values(a)
                .iter()
                .zip(values(b))
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "sample {i}");
        }
    }
}

#[test]
fn scaled_pooling_and_its_transpose_are_adjoint_and_of_norm_one() {
    let mut numbers = Numbers::new(7);
    for s in [1, 2, 4] {
        let x: Tensor<4> = numbers.tensor([2, 3, 8, 12], DType::F64);
        let y: Tensor<4> = numbers.tensor([2, 3, 8 / s, 12 / s], DType::F64);
        let left = values((scaled_pool(x.clone(), s) * y.clone()).sum())[0];
        let right = values((x * scaled_upsample(y.clone(), s)).sum())[0];
        assert!(
            (left - right).abs() <= 1e-12 * left.abs().max(1.0),
            "{s}: {left} {right}"
        );
        // Q Q' = I.
        let round = values(scaled_pool(scaled_upsample(y.clone(), s), s));
        assert!(
            round
                .iter()
                .zip(values(y))
                .all(|(a, b)| (a - b).abs() <= 1e-14)
        );
    }
}

#[test]
fn the_norm_estimate_matches_the_dense_operator() {
    // The operator of a 2 -> 3 channel convolution on 4 x 5 pixels as a dense matrix A, and its
    // norm from A'A by repeated squaring on the host.
    let kernel: Tensor<4> = Numbers::new(9).tensor([3, 2, 3, 3], DType::F64);
    let (h, w) = (4, 5);
    let n = 2 * h * w;
    let identity = Tensor::<2>::eye(n, &kernel.device())
        .cast(DType::F64)
        .reshape([n, 2, h, w]);
    let options = burn::tensor::ops::ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
    let images = burn::tensor::module::conv2d(identity, kernel.clone(), None, options);
    let a = images.reshape([n, 3 * h * w]);
    let mut power = a.clone().matmul(a.transpose());
    let mut log = 0.0;
    for _ in 0..12 {
        let size = values(power.clone().powf_scalar(2.0).sum())[0].sqrt();
        power = power / size;
        power = power.clone().matmul(power);
        log = 2.0 * (log + f64::ln(size));
    }
    let exact = (log / 4096.0).exp().sqrt();
    let estimate = convolution_norm(kernel, [h, w], 2000);
    assert!(
        (estimate - exact).abs() <= 2e-3 * exact,
        "{estimate} {exact}"
    );
}

#[test]
fn bounded_kernels_respect_their_bound() {
    let device = burn::tensor::Device::flex();
    for bound in [0.3, 0.95] {
        let kernel = BoundedKernel::new([8, 8, 3], [8, 8], bound, &device);
        let norm = convolution_norm(kernel.kernel(), [8, 8], 300);
        assert!(
            norm <= bound * 1.05 && norm > 0.9 * bound,
            "{norm} for {bound}"
        );
    }
}

#[test]
fn states_of_branches_pack_in_order() {
    let (z, _) = point(&tiny(Family::S), 2);
    let mut parts = Vec::new();
    let layout = z.clone().disassemble(&mut parts);
    let back = Branches::assemble(&mut parts.into_iter(), &layout);
    assert_eq!(flat(&z), flat(&back));
}
