//! All networks: sizes, gradients, errors, heads.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Solver};
use mopteq::perturbation::Perturbation;
use mopteq::terms::{ActivationConfig, Pairs, Setting, Smoothness, Term};
use mopteq::{
    Branches, ConfigError, Constraint, Context, Family, Fusion, HeadConfig, HiddenObjective,
    MOptEqs, MOptEqsConfig, MdeqConfig, NetworkConfig, Precision, Residual, ResidualConfig, Step,
};

use crate::support::{
    Numbers, autodiff, flat, gradients_of, images, images_of, leaves, model, model_f64, nudged,
    parameter_gradients, point, random_like, randomised, relative, tiny, values,
};

#[test]
fn presets_have_the_published_sizes() {
    let device = Device::flex();
    let small = MdeqConfig::small(10, 3, [32, 32]);
    // PyTorch's count: benches/peers/mdeq_checkpoint.py prints it.
    assert_eq!(small.init(&device).unwrap().num_parameters(), 159_034);
    let tiny = MdeqConfig::new(10, 3, [8, 8], vec![4, 4], vec![1, 2], 6)
        .with_expansion(2)
        .with_groups(2);
    assert_eq!(tiny.init(&device).unwrap().num_parameters(), 2_321);
    let large = MdeqConfig::large(10, 3, [32, 32])
        .init(&device)
        .unwrap()
        .num_parameters();
    assert_eq!(large, 11_099_998);

    let imagenette = MOptEqsConfig::imagenette(10, 3, [224, 224]);
    assert_eq!((imagenette.finest(), imagenette.branches), ([56, 56], 4));
    assert!(imagenette.validate().is_ok());
    let large = MOptEqsConfig::large(10, 3, [32, 32]);
    assert_eq!((large.branches, large.core.channels), (4, 128));
    assert!(large.validate().is_ok());
}

#[test]
fn controls_are_of_equal_size() {
    let device = Device::flex();
    for family in [Family::S, Family::P] {
        let config = MOptEqsConfig::digits(10, 1, [28, 28]).map_core(|c| c.with_family(family));
        let kernels = |c: &MOptEqsConfig| {
            let (h, c, n) = (c.core.hidden, c.core.channels, c.branches);
            let injected = if family == Family::S { h } else { c };
            n * 9 * c * (h + injected)
        };
        let single = config.clone().single_branch();
        assert_eq!(single.branches, 1);
        assert_eq!(kernels(&single), kernels(&config), "{family:?}");
        let count = |c: MOptEqsConfig| {
            NetworkConfig::from(c)
                .init(&device)
                .unwrap()
                .num_parameters()
        };
        let explicit = ResidualConfig::like(&config)
            .init(&device)
            .unwrap()
            .num_parameters();
        let n = count(config) as f64;
        // Heads and norms differ slightly.
        assert!((count(single) as f64 / n - 1.0).abs() < 0.12, "{family:?}");
        assert!((explicit as f64 / n - 1.0).abs() < 0.05, "{explicit} {n}");
    }
}

#[test]
fn networks_are_told_apart_by_their_tag() {
    use burn::config::Config;
    #[derive(Debug, burn::config::Config)]
    struct Run {
        network: NetworkConfig,
    }
    let base = MOptEqsConfig::digits(10, 1, [28, 28]);
    let all = [
        NetworkConfig::MOptEqs(base.clone()),
        NetworkConfig::OptEq(base.clone().single_branch()),
        NetworkConfig::Mdeq(MdeqConfig::digits(10, 1, [28, 28])),
        NetworkConfig::Residual(ResidualConfig::like(&base)),
    ];
    for network in all {
        let run = Run::new(network.clone());
        let path = std::env::temp_dir().join(format!(
            "mopteq-{}-{}.json",
            network.name(),
            std::process::id()
        ));
        run.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let back = Run::load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(
            text.contains(&format!("\"network\": \"{}\"", network.name())),
            "{text}"
        );
        assert_eq!(back.network, network);
        assert_eq!(network.input_shape(), [1, 28, 28]);
    }
}

#[test]
fn errors_name_the_field() {
    let small = || MOptEqsConfig::small(10, 3, [32, 32]);
    let mdeq = || MdeqConfig::small(10, 3, [32, 32]);
    let residual = || ResidualConfig::new(10, 3, [32, 32]);
    let leaky = ActivationConfig::LeakyRelu { slope: 1.5 };
    let interval = Constraint::Interval {
        low: 1.0,
        high: 0.0,
    };
    let steps = mopteq::perturbation::PerturbationGradient::Steps;
    let cases: Vec<(NetworkConfig, &str)> = vec![
        (
            small().map_core(|c| c.with_coupling(-1e-9)).into(),
            "coupling",
        ),
        (
            small().map_core(|c| c.with_smoothness(-1.0)).into(),
            "smoothness",
        ),
        (
            small().map_core(|c| c.with_diversity(f64::INFINITY)).into(),
            "diversity",
        ),
        (
            small().map_core(|c| c.with_activation(leaky)).into(),
            "activation",
        ),
        (
            small().map_core(|c| c.with_constraint(interval)).into(),
            "constraint",
        ),
        (
            small()
                .with_perturbation(Perturbation::new().with_gradient(steps).with_steps(0))
                .into(),
            "perturbation.steps",
        ),
        (NetworkConfig::OptEq(small()), "branches"),
        (NetworkConfig::Mdeq(mdeq().with_groups(5)), "groups"),
        (NetworkConfig::Mdeq(mdeq().with_dropout(1.0)), "dropout"),
        (NetworkConfig::Mdeq(mdeq().with_halvings(3)), "halvings"),
        (
            NetworkConfig::Mdeq(MdeqConfig::new(10, 3, [32, 32], vec![8; 3], vec![4; 2], 8)),
            "head_channels",
        ),
        (
            NetworkConfig::Mdeq(MdeqConfig::new(10, 3, [32, 32], vec![], vec![], 8)),
            "channels",
        ),
        (
            NetworkConfig::Mdeq(MdeqConfig::small(10, 3, [31, 32])),
            "branches",
        ),
        (NetworkConfig::Residual(residual().with_blocks(0)), "blocks"),
        (
            NetworkConfig::Residual(residual().with_branches(7)),
            "branches",
        ),
    ];
    for (config, field) in cases {
        let error = config.validate().expect_err(field);
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
        assert_eq!(config.init(&Device::flex()).expect_err(field), error);
    }
    let network = NetworkConfig::from(small());
    let error = network.validate_for(7).unwrap_err();
    assert_eq!(
        error,
        ConfigError::Classes {
            found: 10,
            expected: 7
        }
    );
    assert!(error.to_string().contains("`classes`"), "{error}");
    assert!(network.validate_for(10).is_ok());
}

#[test]
fn objectives_that_cannot_be_built_say_why() {
    let setting = Setting {
        branches: 2,
        kernel_norm: 1.0,
    };
    let build = |terms, step| HiddenObjective::new(terms, None, step, &setting);
    assert_eq!(
        build(vec![], Step::Guaranteed).unwrap_err(),
        ConfigError::Zero { field: "terms" }
    );
    let diverse = || -> Vec<std::sync::Arc<dyn Term>> {
        vec![std::sync::Arc::new(mopteq::terms::Diversity {
            strength: 1.0,
        })]
    };
    let error = build(diverse(), Step::Guaranteed).unwrap_err();
    assert!(error.to_string().contains("diversity"), "{error}");
    assert!(build(diverse(), Step::Fixed(0.1)).is_ok());
    assert!(build(diverse(), Step::Fixed(-0.1)).is_err());
}

/// Model options that change the objective.
fn variants() -> Vec<(&'static str, MOptEqsConfig)> {
    let (s, p) = (tiny(Family::S), tiny(Family::P));
    let leaky = ActivationConfig::LeakyRelu { slope: 0.1 };
    let interval = Constraint::Interval {
        low: -0.1,
        high: 0.2,
    };
    vec![
        ("leaky", s.clone().map_core(|c| c.with_activation(leaky))),
        (
            "softplus",
            s.clone()
                .map_core(|c| c.with_activation(ActivationConfig::Softplus)),
        ),
        (
            "tanh",
            s.clone()
                .map_core(|c| c.with_activation(ActivationConfig::Tanh)),
        ),
        ("cross s", s.clone().map_core(|c| c.with_cross_branch(true))),
        (
            "neighbours",
            s.map_core(|c| c.with_pairs(Pairs::Neighbours)),
        ),
        ("cross p", p.clone().map_core(|c| c.with_cross_branch(true))),
        (
            "interval",
            p.clone().map_core(|c| c.with_constraint(interval)),
        ),
        (
            "l1",
            p.clone()
                .map_core(|c| c.with_constraint(Constraint::L1 { weight: 0.1 })),
        ),
        ("smooth", p.clone().map_core(|c| c.with_smoothness(0.1))),
        ("diverse", p.clone().map_core(|c| c.with_diversity(0.5))),
        (
            "average",
            p.with_head(HeadConfig::new().with_grid(2).with_fusion(Fusion::Average)),
        ),
        (
            "monotone",
            tiny(Family::P)
                .with_branches(1)
                .map_core(|c| c.with_norm_bound(3.0)),
        ),
    ]
}

#[test]
fn every_variant_has_the_gradients_of_unrolled_autodiff() {
    for (name, config) in variants() {
        let model = model_f64(&config);
        let plain = model.context(images(2));
        let loss = |state: Branches| {
            let parts = state.into_iter().enumerate().map(|(i, z)| {
                let c = Numbers::new(5 + i as u64).tensor(z.dims(), DType::F64);
                (z.sin() * c).sum()
            });
            parts.reduce(|a, b| a + b).unwrap()
        };
        let (x, all) = leaves(&plain);
        let out = model.equilibrium(&x);
        assert!(out.forward.all_converged(), "{name}: {:?}", out.forward);
        let implicit = gradients_of(&all, loss(out.state));
        let report = out.adjoint.report().expect("a backward solve");
        assert!(report.all_converged(), "{name}: {report:?}");

        let (x, all) = leaves(&plain);
        let mut z = model.core().start(&x);
        let slow = config.core.family == Family::S || config.core.norm_bound > 1.0;
        for _ in 0..if slow { 400 } else { 60 } {
            z = model.core().objective().apply(z, x.clone());
        }
        let unrolled = gradients_of(&all, loss(z));
        for (k, (a, b)) in implicit.iter().zip(&unrolled).enumerate() {
            let error = relative(a, b);
            assert!(error <= 1e-9, "{name}, leaf {k}: {error:e}");
        }
    }
}

#[test]
fn every_variants_objective_and_jacobian_match_autodiff() {
    for (name, config) in variants() {
        let config = config.with_branches(3);
        let objective = config.objective().unwrap();
        let (z, x) = point(&config, 2);
        // Inside every constraint's domain, where G is the sum of its smooth terms.
        let gradient = autodiff(&z, |z| {
            let parts = objective.terms().iter().map(|t| t.value(z, &x));
            parts.reduce(|a, b| a + b).unwrap()
        });
        let t = flat(&objective.descend(&z, &x, 1.0));
        let expected: Vec<f64> = flat(&z).iter().zip(&gradient).map(|(z, g)| z - g).collect();
        assert!(relative(&t, &expected) <= 1e-10, "{name}");

        let u = random_like(&z, 43);
        let exact = objective
            .jacobian(z.clone(), x.clone())
            .expect("closed form")
            .vjp(u.clone());
        let by_autodiff = autodiff(&z, |z| {
            let f = objective.apply(z.clone(), x.clone());
            let parts = f.into_iter().zip(&u).map(|(f, u)| (f * u.clone()).sum());
            parts.reduce(|a, b| a + b).unwrap()
        });
        let error = relative(&flat(&exact), &by_autodiff);
        assert!(error <= 1e-10, "{name}: {error:e}");
    }
}

#[test]
fn every_claim_of_a_contraction_holds() {
    for (name, config) in variants() {
        let objective = config.objective().unwrap();
        let claimed = objective.contraction();
        assert_eq!(claimed.is_none(), name == "diverse", "{name}");
        let Some(claimed) = claimed else { continue };
        let config = config.with_branches(3);
        let objective = config.objective().unwrap();
        let (_, x) = point(&config, 2);
        let z: Branches = x
            .injection()
            .iter()
            .map(|c| {
                let [batch, _, h, w] = c.dims();
                Numbers::new(1).tensor([batch, config.core.channels, h, w], DType::F64)
            })
            .collect();
        let other = random_like(&z, 2);
        let at = |z: &Branches| flat(&objective.apply(z.clone(), x.clone()));
        let length = |a: &[f64], b: &[f64]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let ratio = length(&at(&z), &at(&other)) / length(&flat(&z), &flat(&other));
        let claimed = claimed.max(objective.contraction().unwrap());
        assert!(ratio <= claimed + 1e-12, "{name}: {ratio} {claimed}");
    }
}

#[test]
fn users_terms_enter_a_model() {
    let config = tiny(Family::P);
    let model = model_f64(&config);
    let mut terms = model.core().objective().terms().to_vec();
    terms.push(std::sync::Arc::new(Smoothness { strength: 0.2 }));
    let setting = Setting {
        branches: 3,
        kernel_norm: config.core.norm_bound,
    };
    let constraint = model.core().objective().constraint().cloned();
    let objective = HiddenObjective::new(terms, constraint, Step::Guaranteed, &setting).unwrap();
    let own = model.with_objective(objective).forward(images(2));
    let built_in = model_f64(&config.map_core(|c| c.with_smoothness(0.2))).forward(images(2));
    let error = relative(&values(own.logits), &values(built_in.logits));
    assert!(error <= 1e-10, "{error:e}");
}

#[test]
fn a_dense_head_speaks_for_every_pixel() {
    let model =
        model_f64(&tiny(Family::P).with_head(HeadConfig::new().with_grid(2).with_dense_classes(5)))
            .train();
    let out = model.forward(images(2).autodiff());
    let dense = out.dense.expect("a dense head");
    assert_eq!(dense.dims(), [2, 5, 8, 8]);
    // The gradients of both heads reach the kernels.
    let both = (out.logits.sin().sum() + dense.sin().sum()).backward();
    let one = model
        .forward(images(2).autodiff())
        .logits
        .sin()
        .sum()
        .backward();
    let (both, one) = (
        parameter_gradients(&model, &both),
        parameter_gradients(&model, &one),
    );
    assert_eq!(both.len(), one.len() + 2);
    assert!(relative(&both[3], &one[3]) > 1e-6);
    assert!(
        model_f64(&tiny(Family::P))
            .forward(images(2))
            .dense
            .is_none()
    );
}

#[test]
fn the_explicit_control_has_no_solve_and_right_gradients() {
    let config = ResidualConfig::new(3, 2, [8, 8])
        .with_channels(4)
        .with_branches(2)
        .with_head_grid(2);
    let model = randomised(config.init(&Device::flex()).unwrap(), DType::F64, 0.4).train();
    let value = |m: &Residual| {
        let out = m.forward(images(3).autodiff());
        assert_eq!(out.forward.status.len(), 0);
        out.logits.sin().sum()
    };
    let exact = parameter_gradients(&model, &value(&model).backward());
    assert_eq!(exact.len(), 3 + 2 * 8 + 2 * 2 + 2);
    let h = 1e-6;
    for (k, gradient) in exact.iter().enumerate() {
        let direction: Vec<f64> = gradient.iter().map(|_| 1.0).collect();
        let at = |h: f64| values(value(&nudged(&model, k, &direction, h)))[0];
        let (difference, dot) = ((at(h) - at(-h)) / (2.0 * h), gradient.iter().sum::<f64>());
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (difference - dot).abs() <= 1e-6 * size.max(1e-2),
            "{k}: {difference} {dot}"
        );
    }
}

#[test]
fn networks_display_themselves() {
    let config = NetworkConfig::from(MOptEqsConfig::digits(10, 1, [28, 28]));
    let text = format!("{}", config.init(&Device::flex()).unwrap());
    assert!(text.contains("stem") && text.contains("core"), "{text}");
}

#[test]
fn bf16_rounds_the_applications_of_w_and_nothing_else() {
    let numbers = &mut Numbers::new(8);
    let round = |x: &Tensor<4>| x.clone().cast(DType::BF16).cast(DType::F32);
    let kernel = numbers.tensor([4, 3, 3, 3], DType::F32);
    let z = numbers.tensor([2, 3, 8, 8], DType::F32);
    let c = numbers.tensor([2, 4, 8, 8], DType::F32);
    let rounded = Context::new(vec![round(&kernel)], vec![c.clone()]);
    let half = Context::new(vec![kernel], vec![c]).in_precision(Precision::Bf16);
    let expected = rounded.w(&vec![round(&z)]);
    let seen = half.w(&vec![z]);
    assert_eq!(seen[0].dtype(), DType::F32);
    // A sum in more than 8 bits, rounded once to 8.
    for (seen, expected) in flat(&seen).iter().zip(flat(&expected)) {
        let error = (seen - expected).abs();
        assert!(error <= expected.abs() / 256.0 + 1e-6, "{seen} {expected}");
    }

    for family in [Family::S, Family::P] {
        let full = model(&tiny(family), DType::F32);
        let to = |config: &MOptEqsConfig, relative| {
            let solver = Solver::default().with_relative(relative).with_max_steps(99);
            let config = config.clone();
            let config = config
                .map_core(|c| c.with_equilibrium(EquilibriumConfig::new().with_forward(solver)));
            // Clones share their running states, so this must be a separate model.
            let model = config.init(&Device::flex()).unwrap();
            model.load_record(full.clone().into_record())
        };
        let half = to(
            &tiny(family).map_core(|c| c.with_precision(Precision::Bf16)),
            2e-3,
        );
        let full = to(&tiny(family), 1e-6);
        let kernels = |model: &MOptEqs| model.core().context(Vec::new()).kernels().clone();
        let rounded = kernels(&full).iter().map(round).collect();
        assert_eq!(flat(&kernels(&half)), flat(&rounded), "{family:?}");
        let run = |model: MOptEqs| {
            let model = model.train();
            let images = images_of(3, DType::F32).autodiff();
            let out = model.forward(images.clone());
            assert!(out.forward.all_converged(), "{:?}", out.forward);
            let state = model.equilibrium(&model.context(images)).state;
            assert_eq!(state[0].dtype(), DType::F32);
            let gradients = out.logits.sin().sum().backward();
            let report = out.adjoint.report().unwrap();
            assert!(report.all_converged(), "{report:?}");
            let gradients = parameter_gradients(&model, &gradients);
            (flat(&state), gradients.concat())
        };
        let ((full, full_gradient), (half, half_gradient)) = (run(full), run(half));
        let error = relative(&half, &full);
        assert!(error > 1e-5 && error <= 1e-2, "{family:?} state: {error:e}");
        let error = relative(&half_gradient, &full_gradient);
        assert!(error <= 2e-2, "{family:?} gradient: {error:e}");
    }
}
