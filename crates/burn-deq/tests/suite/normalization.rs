//! Weight norm, spectral norm and dropout masks.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use burn_deq::{
    EquilibriumConfig, Solver, SpectralNormConfig, SpectralOperator, WeightNormConfig, dropout_mask,
};

use crate::support::{Numbers, f64_tensor, relative, values};

/// Largest singular value of a matrix given by its columns, by brute force: power iteration in f64
/// on the dense matrix.
fn dense_norm(columns: Vec<Vec<f64>>) -> f64 {
    let n = columns.len();
    let gram: Vec<f64> = (0..n * n)
        .map(|k| {
            let (a, b) = (&columns[k / n], &columns[k % n]);
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        })
        .collect();
    let mut v = Numbers::new(1).vec(n);
    let mut norm = 0.0;
    for _ in 0..3000 {
        let w: Vec<f64> = (0..n)
            .map(|i| (0..n).map(|j| gram[i * n + j] * v[j]).sum())
            .collect();
        norm = w.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = w.into_iter().map(|x| x / norm).collect();
    }
    norm.sqrt()
}

#[test]
fn spectral_norm_is_that_of_the_real_operator() {
    for (size, stride, padding, k) in [
        ([5, 6], [1, 1], [1, 1], 3),
        ([6, 5], [2, 1], [0, 1], 3),
        ([7, 7], [3, 2], [1, 0], 2),
        ([4, 4], [1, 1], [0, 0], 1),
    ] {
        let operator = SpectralOperator::Convolution {
            size,
            stride,
            padding,
        };
        let weight = Numbers::new(6).tensor([3, 2, k, k], 1.0);
        let inputs = 2 * size[0] * size[1];
        let columns = (0..inputs)
            .map(|i| {
                let mut v = vec![0.0; inputs];
                v[i] = 1.0;
                let x = f64_tensor(v, [1, 2, size[0], size[1]]);
                let options = ConvOptions::new(stride, padding, [1, 1], 1);
                values(conv2d(x, weight.clone(), None, options))
            })
            .collect();
        let exact = dense_norm(columns);
        let norm = SpectralNormConfig::norm(operator, weight, 2000);
        assert!(
            (norm / exact - 1.0).abs() < 1e-6,
            "{operator:?}: {norm} for {exact}"
        );
    }
    let weight = Numbers::new(6).tensor([4, 7], 1.0);
    let rows = values(weight.clone())
        .chunks(7)
        .map(<[f64]>::to_vec)
        .collect();
    let norm = SpectralNormConfig::norm(SpectralOperator::Matrix, weight, 2000);
    assert!((norm / dense_norm(rows) - 1.0).abs() < 1e-9);
}

#[derive(Module, Debug)]
struct Net {
    linear: Linear,
    conv: Conv2d,
}

fn net(device: &Device) -> Net {
    Net {
        linear: LinearConfig::new(5, 4).init(device),
        conv: Conv2dConfig::new([2, 3], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(device),
    }
}

#[test]
fn normalisation_bounds_and_gradients() {
    let device = Device::flex();
    device.seed(5);
    let scaled = |n: Net| {
        let big = |w: Param<Tensor<2>>| w.map(|w| w * 10.0);
        Net {
            linear: Linear {
                weight: big(n.linear.weight),
                ..n.linear
            },
            conv: n.conv,
        }
    };
    // Spectral norm: the bound holds, for linear layers and convolutions separately.
    let bounded = scaled(net(&device)).apply_reparameterization(
        SpectralNormConfig::new(SpectralOperator::Matrix, 0.9).with_iterations(500),
    );
    let norm = SpectralNormConfig::norm(SpectralOperator::Matrix, bounded.linear.weight.val(), 500);
    assert!((norm - 0.9).abs() < 1e-4, "{norm}");
    // A folded module has the same weight and no reparameterisation.
    let folded = bounded.clone().materialize();
    assert_eq!(
        values(folded.linear.weight.val()),
        values(bounded.linear.weight.val())
    );
    // A weight below its bound is unchanged.
    let small = net(&device)
        .apply_reparameterization(SpectralNormConfig::new(SpectralOperator::Matrix, 1e3));
    assert_eq!(
        values(small.linear.weight.val()),
        values(small.linear.weight.base())
    );

    // The gradient of the bounded weight: <G, W b / s(W)>, where s is the largest singular value,
    // by central differences of the whole expression.
    let g = Numbers::new(8).tensor([5, 4], 1.0);
    let value = |w: Tensor<2>| {
        let s = SpectralNormConfig::norm(SpectralOperator::Matrix, w.clone(), 3000);
        values((w * g.clone()).sum())[0] * 0.9 / s
    };
    let w = Numbers::new(9).tensor([5, 4], 1.0);
    let mut linear = LinearConfig::new(5, 4).with_bias(false).init(&device);
    linear.weight = Param::from_tensor(w.clone());
    let linear = linear
        .apply_reparameterization(
            SpectralNormConfig::new(SpectralOperator::Matrix, 0.9).with_iterations(3000),
        )
        .train();
    let gradients = (linear.weight.val() * g.clone()).sum().backward();
    let exact = values(
        linear
            .weight
            .base()
            .grad(&gradients)
            .expect("a gradient for the base"),
    );
    let h = 1e-5;
    let differences: Vec<f64> = (0..20)
        .map(|i| {
            let at = |h: f64| {
                let mut v = values(w.clone());
                v[i] += h;
                value(f64_tensor(v, [5, 4]))
            };
            (at(h) - at(-h)) / (2.0 * h)
        })
        .collect();
    let error = relative(&exact, &differences);
    assert!(error < 1e-6, "{error:e}");

    // Weight norm: the length of every output unit is a separate parameter.
    let normed = net(&device)
        .apply_reparameterization(WeightNormConfig::new())
        .train();
    let loss = normed.linear.weight.val().powi_scalar(2).sum()
        + normed.conv.weight.val().powi_scalar(2).sum();
    let gradients = loss.backward();
    // d|w|^2 / dv = 0: v is a direction.
    let dv = values(normed.linear.weight.base().grad(&gradients).unwrap());
    assert!(dv.iter().all(|d| d.abs() < 1e-6), "{dv:?}");
    let count = |n: &Net| n.num_params();
    assert_eq!(count(&normed), count(&net(&device)) + 4 + 3);
}

#[test]
fn a_normalised_module_is_folded_once_a_solve_and_trained_through() {
    let device = Device::flex();
    device.seed(3);
    let cell = LinearConfig::new(6, 6)
        .init(&device)
        .apply_reparameterization(SpectralNormConfig::new(SpectralOperator::Matrix, 0.8))
        .train();
    let f = |cell: &Linear, z: Tensor<2>, x: Tensor<2>| (cell.forward(z) + x).tanh();
    let x = Tensor::<2>::ones([3, 6], &device);
    let deq = EquilibriumConfig::new()
        .with_forward(Solver::default().with_relative(1e-6))
        .init();
    let out = deq.solve(&cell, f, x.clone(), x.zeros_like());
    assert!(out.forward.all_converged());
    let gradients = out.state.sum().backward();
    assert!(out.adjoint.report().unwrap().all_converged());
    let g = cell
        .weight
        .base()
        .grad(&gradients)
        .expect("a gradient behind the norm");
    assert!(values(g).iter().any(|g| *g != 0.0));
}

#[test]
fn dropout_masks_keep_the_mean() {
    let device = Device::flex();
    device.seed(1);
    let mask = dropout_mask([100, 100], 0.25, &device);
    let v = values(mask);
    let kept = v.iter().filter(|m| **m != 0.0).count() as f64 / 1e4;
    assert!((kept - 0.75).abs() < 0.03, "{kept}");
    assert!(v.iter().all(|m| *m == 0.0 || (m - 4.0 / 3.0).abs() < 1e-6));
    assert!(
        values(dropout_mask([4, 4], 1.5, &device))
            .iter()
            .all(|m| *m == 0.0)
    );
    assert!(
        values(dropout_mask([4, 4], -1.0, &device))
            .iter()
            .all(|m| *m == 1.0)
    );
}
