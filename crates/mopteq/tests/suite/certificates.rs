//! Lipschitz constants are never too small, and certificates hold.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::lipschitz::{LipschitzError, coding_gain};
use mopteq::norm::convolution_norm;
use mopteq::norm_bound::{convolution_norm_bound, matrix_norm_bound};
use mopteq::{
    Branches, CodingConfig, CodingForm, CoreConfig, DeepConfig, Family, Fusion, HeadConfig,
    LayerConfig, MOptEqsConfig, MdeqConfig, Network, NetworkConfig, ResidualConfig, StageConfig,
    StemConfig,
};

use crate::support::{Numbers, cast, flat, images, tiny, values};

/// Factors of the normalisation, one per channel of the pictures.
const SCALE: [f64; 2] = [3.0, 1.5];

fn exact() -> EquilibriumConfig {
    let solver = Solver::accelerated()
        .with_relative(1e-13)
        .with_absolute(1e-14)
        .with_max_steps(2000);
    EquilibriumConfig::new().with_forward(solver)
}

fn coding() -> CodingConfig {
    CodingConfig::new().with_mu(0.3).with_equilibrium(exact())
}

fn stack(last: LayerConfig) -> NetworkConfig {
    let stages = vec![
        StageConfig::coding(5, 2, false, coding()),
        StageConfig {
            channels: 4,
            layers: 2,
            pool: true,
            layer: last,
        },
    ];
    NetworkConfig::Deep(DeepConfig::new(3, 2, [8, 8], 3, stages).with_head_grid(2))
}

fn paper(family: Family) -> MOptEqsConfig {
    tiny(family).map_core(|c| c.with_equilibrium(exact()))
}

/// Every kind of network that has a constant.
fn networks() -> Vec<NetworkConfig> {
    let core = CoreConfig::new()
        .with_channels(2)
        .with_hidden(3)
        .with_equilibrium(exact());
    let convolution = coding().with_form(CodingForm::Convolution).with_l1(0.02);
    vec![
        stack(LayerConfig::Coding(coding().with_coarse(0.5))),
        stack(LayerConfig::Coding(convolution)),
        stack(LayerConfig::Core { branches: 2, core }),
        NetworkConfig::MOptEqs(paper(Family::P)),
        NetworkConfig::MOptEqs(paper(Family::S).map_core(|c| c.with_norm_bound(0.4))),
        NetworkConfig::MOptEqs(
            paper(Family::P)
                .map_core(|c| c.with_cross_branch(true).with_smoothness(0.1))
                .with_head(HeadConfig::new().with_grid(2).with_fusion(Fusion::Average)),
        ),
        // A grid of cells that overlap, and a stem with a stride.
        NetworkConfig::OptEq(
            paper(Family::P)
                .with_branches(1)
                .with_stem(StemConfig::new().with_stride(2).with_padding(3))
                .with_head(HeadConfig::new().with_grid(4)),
        ),
        NetworkConfig::Residual(
            ResidualConfig::new(3, 2, [8, 8])
                .with_branches(2)
                .with_channels(3)
                .with_head_grid(2),
        ),
    ]
}

/// A network in f64 whose batch norms are no identities.
fn network(config: &NetworkConfig) -> Network {
    struct Norms(Numbers);
    impl ModuleMapper for Norms {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| {
                let (shape, mut v) = (t.dims(), values(t));
                let all = |value: f64| v.iter().all(|x| *x == value);
                if D == 1 && (all(0.0) || all(1.0)) {
                    v.iter_mut().for_each(|x| *x += 0.4 * self.0.next());
                }
                let data = TensorData::new(v, shape);
                Tensor::from_data(data, (&Device::flex(), DType::F64))
            })
        }
    }
    let network = config
        .init(&Device::flex())
        .expect("a configuration that works");
    cast(network, DType::F64).map(&mut Norms(Numbers::new(31)))
}

/// Pictures behind their normalisation.
fn normalised(x: &Tensor<4>) -> Tensor<4> {
    let data = TensorData::new(SCALE.to_vec(), [1, SCALE.len(), 1, 1]);
    x.clone() * Tensor::<4>::from_data(data, (&x.device(), DType::F64))
}

/// Class scores of each picture.
fn logits(network: &Network, x: &Tensor<4>) -> Vec<Vec<f64>> {
    let scores = network.solved(normalised(x)).logits;
    let [_, classes] = scores.dims();
    values(scores)
        .chunks(classes)
        .map(<[f64]>::to_vec)
        .collect()
}

/// The gradients of the class scores at one picture by central differences: `[class][pixel]`.
fn gradients(f: impl Fn(&Tensor<4>) -> Vec<Vec<f64>>, x: &Tensor<4>) -> Vec<Vec<f64>> {
    let h = 1e-5;
    let [_, c, height, width] = x.dims();
    let n = c * height * width;
    let eye = Tensor::<2>::eye(n, &x.device()).cast(DType::F64) * h;
    let steps = eye.reshape([n, c, height, width]);
    let [ahead, behind] = [x.clone() + steps.clone(), x.clone() - steps].map(|x| f(&x));
    let outputs = ahead.first().map_or(0, Vec::len);
    let slope = |k: usize, i: usize| (ahead[i][k] - behind[i][k]) / (2.0 * h);
    (0..outputs)
        .map(|k| (0..n).map(|i| slope(k, i)).collect())
        .collect()
}

fn length(v: impl IntoIterator<Item = f64>) -> f64 {
    v.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The spectral norm of a matrix by power iteration, from below.
fn spectral(rows: &[Vec<f64>]) -> f64 {
    let mut v: Vec<f64> = {
        let mut numbers = Numbers::new(1);
        rows[0].iter().map(|_| numbers.next()).collect()
    };
    let mut norm = 0.0;
    for _ in 0..300 {
        let size = length(v.iter().copied());
        let image: Vec<f64> = rows
            .iter()
            .map(|row| row.iter().zip(&v).map(|(a, b)| a * b / size).sum())
            .collect();
        norm = length(image.iter().copied());
        let back = |i: usize| rows.iter().zip(&image).map(|(row, y)| row[i] * y).sum();
        v = (0..v.len()).map(back).collect();
    }
    norm
}

fn picture(seed: u64) -> Tensor<4> {
    Numbers::new(seed).tensor([1, 2, 8, 8], DType::F64)
}

#[test]
fn bounds_on_norms_are_close_and_never_too_small() {
    let mut numbers = Numbers::new(2);
    for [rows, columns] in [[5, 40], [12, 12], [30, 3]] {
        let matrix: Tensor<2> = numbers.tensor([rows, columns], DType::F32);
        let all = values(matrix.clone());
        let rows: Vec<Vec<f64>> = all.chunks(columns).map(<[f64]>::to_vec).collect();
        let (bound, norm) = (matrix_norm_bound(matrix), spectral(&rows));
        assert!(bound >= norm && bound <= 1.002 * norm, "{bound} and {norm}");
    }
    for (out, k) in [(2, 3), (6, 5), (3, 1)] {
        let kernel: Tensor<4> = numbers.tensor([out, 3, k, k], DType::F64);
        let bound = convolution_norm_bound(kernel.clone(), [16, 12], [1, 1]);
        let norm = convolution_norm(kernel, [16, 12], 500);
        assert!(bound >= norm && bound <= 1.25 * norm, "{bound} and {norm}");
    }
    // All strides and paddings, against the whole matrix.
    for (stride, padding, k) in [(1, 0, 3), (2, 1, 3), (2, 3, 3), (4, 3, 7), (3, 1, 2)] {
        let kernel: Tensor<4> = numbers.tensor([4, 2, k, k], DType::F64);
        let eye = Tensor::<2>::eye(2 * 9 * 7, &Device::flex()).cast(DType::F64);
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        let image = conv2d(eye.reshape([126, 2, 9, 7]), kernel.clone(), None, options);
        let width = image.dims()[1..].iter().product();
        let rows: Vec<Vec<f64>> = values(image).chunks(width).map(<[f64]>::to_vec).collect();
        let (bound, norm) = (
            convolution_norm_bound(kernel, [9, 7], [stride; 2]),
            spectral(&rows),
        );
        assert!(bound >= norm && bound <= 5.0 * norm, "{bound} and {norm}");
    }
    assert!(matrix_norm_bound(Tensor::<2>::zeros([2, 3], &Device::flex())) < 1e-20);
    let nan = Tensor::<4>::full([1, 1, 3, 3], f32::NAN, &Device::flex());
    assert_eq!(convolution_norm_bound(nan, [4, 4], [1, 1]), f64::INFINITY);
}

#[test]
fn one_code_reaches_the_factor_of_a_coding() {
    // D is used at norm 1, so mu = 1 is the worst case |D|^2 = mu of one code.
    assert_eq!(coding_gain(1.0, 1.0), 0.5);
    assert!((coding_gain(0.1, 1.0) - 0.1 / 1.01).abs() < 1e-15);
    assert_eq!(coding_gain(1.0, 0.25), 1.0);
    let config = coding().with_branches(1).with_kernel(1).with_mu(1.0);
    let layer = config.init([1, 1], [2, 2], &Device::flex()).unwrap();
    let layer = cast(layer, DType::F64);
    let codes = |g: f64| {
        let g = Tensor::<4>::full([1, 1, 2, 2], g, (&Device::flex(), DType::F64));
        flat(&layer.equilibrium(g).state)
    };
    let bound = layer.lipschitz([2, 2]);
    // One sign of g or the other makes the codes positive.
    let slopes = [1.0, -1.0].map(|sign: f64| {
        let change = codes(2.0 * sign).into_iter().zip(codes(sign));
        length(change.map(|(a, b)| a - b)) / 2.0
    });
    let slope = slopes[0].max(slopes[1]);
    let close = slope <= bound * (1.0 + 1e-9) && bound <= 1.01 * slope;
    assert!(close, "{slope} and {bound}");
}

#[test]
fn the_factor_of_a_coding_is_at_least_the_norm_of_its_jacobian() {
    let forms = [CodingForm::Patches, CodingForm::Convolution];
    for (form, mu) in forms
        .into_iter()
        .flat_map(|form| [(form, 0.1), (form, 2.0)])
    {
        let config = coding().with_form(form).with_mu(mu).with_l1(0.01);
        let layer = config.init([2, 8], [8, 8], &Device::flex()).unwrap();
        let layer = cast(layer, DType::F64);
        let codes = |x: &Tensor<4>| -> Vec<Vec<f64>> {
            let state: Branches = layer.equilibrium(x.clone()).state;
            let rows = state.into_iter().map(|z| z.flatten::<2>(1, 3)).collect();
            let rows: Tensor<2> = Tensor::cat(rows, 1);
            let width = rows.dims()[1];
            values(rows).chunks(width).map(<[f64]>::to_vec).collect()
        };
        let bound = layer.lipschitz([8, 8]);
        for seed in [3, 4] {
            let norm = spectral(&gradients(codes, &picture(seed)));
            assert!(norm <= bound, "{form:?}, mu {mu}: {norm} and {bound}");
            assert!(
                norm >= 0.05 * bound,
                "{form:?}, mu {mu}: {norm} and {bound}"
            );
        }
    }
}

#[test]
fn constants_are_at_least_the_local_ones_and_hold_for_pairs_of_pictures() {
    for config in networks() {
        let network = network(&config);
        let constants = network.lipschitz(&SCALE).expect("a constant");
        let x = picture(3);
        let slopes = gradients(|x| logits(&network, x), &x);
        let mut numbers = Numbers::new(9);
        let others: Vec<Tensor<4>> = (0..6)
            .map(|i| {
                let step: Tensor<4> = numbers.tensor([1, 2, 8, 8], DType::F64);
                x.clone() + step * 0.01_f64.powi(i % 3)
            })
            .collect();
        let all = [vec![x.clone()], others.clone()].concat();
        let scores = logits(&network, &Tensor::cat(all, 0));
        let distances = others.iter().map(|o| length(values(o.clone() - x.clone())));
        let distances: Vec<f64> = distances.collect();
        for (j, k) in [(0, 1), (0, 2), (1, 2)] {
            let bound = constants.pair(j, k);
            assert_eq!(bound, constants.pair(k, j));
            let pairs = slopes[j].iter().zip(&slopes[k]);
            let local = length(pairs.map(|(a, b)| a - b));
            assert!(
                local > 0.0 && local <= bound,
                "{config:?}: {local}, {bound}"
            );
            for (y, distance) in scores[1..].iter().zip(&distances) {
                let change = (y[j] - y[k] - scores[0][j] + scores[0][k]).abs();
                assert!(change <= bound * distance, "{config:?}");
            }
        }
        // An equilibrium of two or three factors is not far off.
        if matches!(config, NetworkConfig::MOptEqs(_)) {
            let pairs = slopes[0].iter().zip(&slopes[1]);
            let local = length(pairs.map(|(a, b)| a - b));
            assert!(constants.pair(0, 1) <= 2000.0 * local, "{config:?}");
        }
    }
}

#[test]
fn the_error_of_loose_solves_is_within_its_bound() {
    for mut config in networks() {
        let tight = network(&config);
        let reference = logits(&tight, &images(2));
        if config.equilibria_mut().is_empty() {
            continue;
        }
        for relative in [0.3, 1e-2, 1e-4] {
            for equilibrium in config.equilibria_mut() {
                equilibrium.forward.termination.relative = relative;
            }
            // The same parameters: a solver is none.
            let loose = cast(config.init(&Device::flex()).expect("a network"), DType::F64);
            let loose = loose.load_record(tight.clone().into_record());
            let constants = loose.lipschitz(&SCALE).expect("a constant");
            let solved = loose.solved(normalised(&images(2)));
            let scores = values(solved.logits);
            for (i, (y, exact)) in scores.chunks(3).zip(&reference).enumerate() {
                let residuals: Vec<f64> = solved.residuals.iter().map(|r| r[i]).collect();
                for (j, k) in [(0, 1), (0, 2), (2, 1)] {
                    let error = (y[j] - y[k] - exact[j] + exact[k]).abs();
                    let bound = constants.error(j, k, &residuals);
                    assert!(error <= bound + 1e-10, "{config:?}: {error}, {bound}");
                }
                let found = constants.certificate(y, &residuals);
                assert!(found.error > 0.0 && found.radius >= 0.0);
            }
        }
    }
}

#[test]
fn no_attack_within_the_radius_changes_the_class() {
    let mut config = paper(Family::P);
    config.perturbation.size = 0.0;
    let network = network(&NetworkConfig::MOptEqs(config));
    let constants = network.lipschitz(&SCALE).expect("a constant");
    let f = |x: &Tensor<4>| logits(&network, x);
    for seed in [3, 7] {
        let x = picture(seed);
        let solved = network.solved(normalised(&x));
        let residuals: Vec<f64> = solved.residuals.iter().map(|r| r[0]).collect();
        let found = constants.certificate(&f(&x)[0], &residuals);
        assert!(found.radius > 0.0, "{found:?}");
        let (j, k) = (found.class, found.nearest);
        let attack = |radius: f64| {
            let mut moved = x.clone();
            for _ in 0..6 {
                let slopes = gradients(f, &moved);
                let pairs = slopes[k].iter().zip(&slopes[j]);
                let uphill: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
                let size = length(uphill.iter().copied());
                let data = TensorData::new(uphill, [1, 2, 8, 8]);
                let uphill = Tensor::<4>::from_data(data, (&x.device(), DType::F64));
                // Along the gradient, then back onto the sphere.
                let step = moved.clone() - x.clone() + uphill * (radius / size);
                let size = length(values(step.clone()));
                moved = x.clone() + step * (radius / size);
            }
            let y = &f(&moved)[0];
            y[j] - y[k]
        };
        let left = attack(found.radius);
        assert!(left > 0.0, "{left}");
        // The attack is one: it takes from the margin.
        assert!(left < found.margin, "{left} and {found:?}");
    }
}

#[test]
fn a_certificate_is_the_smallest_margin_over_its_constant() {
    let config = NetworkConfig::MOptEqs(paper(Family::P));
    let constants = network(&config).lipschitz(&SCALE).expect("a constant");
    let found = constants.certificate(&[0.0, 2.0, 1.0], &[0.0]);
    let radii = [0, 2].map(|k| (2.0 - [0.0, 0.0, 1.0][k] - 2e-9) / constants.pair(1, k));
    assert_eq!(found.class, 1);
    assert!((found.radius - radii[0].min(radii[1])).abs() <= 1e-12 * found.radius);
    // Nothing is certain of equal logits, of large residuals, or of numbers that are none.
    let none = |y: &[f64], r: f64| constants.certificate(y, &[r]).radius;
    assert_eq!(none(&[1.0, 1.0, 0.0], 0.0), 0.0);
    assert_eq!(none(&[1.0, 0.0, 0.0], 1e9), 0.0);
    assert_eq!(none(&[1.0, 0.0, 0.0], f64::NAN), 0.0);
    assert_eq!(none(&[f64::NAN, 0.0, 0.0], 0.0), 0.0);
    let names: Vec<&str> = constants.parts().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["stem", "equilibrium"]);
}

#[test]
fn networks_without_a_constant_say_why() {
    let refused = |config: NetworkConfig| {
        let error = network(&config).lipschitz(&SCALE).expect_err("no constant");
        (error.to_string(), error)
    };
    let mdeq = NetworkConfig::Mdeq(MdeqConfig::digits(3, 2, [28, 28]));
    let (text, error) = refused(mdeq);
    assert_eq!(error, LipschitzError::Network { network: "mdeq" });
    assert!(text.contains("mdeq") && text.contains("mopteq"), "{text}");
    let diverse = paper(Family::P).map_core(|c| c.with_diversity(0.1));
    let (text, _) = refused(NetworkConfig::MOptEqs(diverse));
    assert!(
        text.contains("equilibrium: ") && text.contains("diversity"),
        "{text}"
    );
    let NetworkConfig::Deep(deep) = stack(LayerConfig::Coding(coding())) else {
        panic!("a stack");
    };
    let (text, _) = refused(NetworkConfig::Deep(deep.without_iteration()));
    assert!(
        text.contains("stage 1, layer 1: its solver takes a fixed"),
        "{text}"
    );
    let config = NetworkConfig::Residual(ResidualConfig::new(3, 2, [8, 8]));
    let sound = network(&config);
    let short = sound.lipschitz(&[1.0]).expect_err("one factor is missing");
    assert!(short.to_string().contains("1 factors"), "{short}");
    struct Spoil;
    impl ModuleMapper for Spoil {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match D {
                4 => param.map(|t| t * f64::NAN),
                _ => param,
            }
        }
    }
    let spoilt = sound.map(&mut Spoil).lipschitz(&SCALE).expect_err("NaN");
    assert!(
        spoilt.to_string().starts_with("stem: a parameter is not"),
        "{spoilt}"
    );
}
