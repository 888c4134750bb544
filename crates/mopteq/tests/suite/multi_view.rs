//! MOptEqs with a separate input for every branch.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::multi_view::{MultiView, MultiViewConfig, View, ViewInput};
use mopteq::perturbation::Perturbation;
use mopteq::{CoreConfig, Family};

use crate::support::{Numbers, nudged, parameter_gradients, randomised, values};

fn image(channels: usize, size: usize, stride: usize) -> View {
    View::Image {
        channels,
        size: [size, size],
        stride,
        padding: 1,
    }
}

fn config(family: Family) -> MultiViewConfig {
    let solver = Solver::anderson(6)
        .with_relative(1e-13)
        .with_absolute(1e-14)
        .with_max_steps(400);
    let core = CoreConfig::new()
        .with_channels(3)
        .with_hidden(4)
        .with_family(family)
        .with_coupling(0.2)
        .with_equilibrium(EquilibriumConfig::new().with_forward(solver));
    // A coarse picture, a fine one, a vector.
    let views = vec![image(1, 8, 2), image(2, 8, 1), View::Vector { length: 5 }];
    MultiViewConfig::new(3, views)
        .with_core(core)
        .with_perturbation(Perturbation::off())
        .with_head_grid(2)
}

fn inputs(seed: u64) -> Vec<ViewInput> {
    let mut numbers = Numbers::new(seed);
    vec![
        ViewInput::Image(numbers.tensor::<4>([2, 1, 8, 8], DType::F64).autodiff()),
        ViewInput::Image(numbers.tensor::<4>([2, 2, 8, 8], DType::F64).autodiff()),
        ViewInput::Vector(numbers.tensor::<2>([2, 5], DType::F64).autodiff()),
    ]
}

fn model(family: Family) -> MultiView {
    let model = config(family).init(&Device::flex()).unwrap();
    let model = randomised(model, DType::F64, 0.5).train();
    for _ in 0..1000 {
        // Lets the estimates of the norms converge.
        model.context(inputs(3));
    }
    model
}

#[test]
fn gradients_of_all_views_match_central_differences() {
    for family in [Family::S, Family::P] {
        let model = model(family);
        let value = |m: &MultiView, views| {
            let out = m.forward(views, None);
            assert!(out.forward.all_converged(), "{:?}", out.forward);
            out.logits.sin().sum()
        };
        let exact = parameter_gradients(&model, &value(&model, inputs(3)).backward());
        // Two picture readers, one vector reader; per branch a kernel and a norm; the linear layer.
        assert_eq!(exact.len(), 2 * 5 + 2 + 3 + 6 + 2);
        let h = 1e-6;
        for (k, gradient) in exact.iter().enumerate() {
            let mut numbers = Numbers::new(100 + k as u64);
            let direction: Vec<f64> = gradient.iter().map(|_| numbers.next()).collect();
            let at = |h: f64| {
                let nudged = nudged(&model, k, &direction, h);
                for _ in 0..60 {
                    nudged.context(inputs(3));
                }
                values(value(&nudged, inputs(3)))[0]
            };
            let difference = (at(h) - at(-h)) / (2.0 * h);
            let dot: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!(
                (difference - dot).abs() <= 2e-6 * size.max(dot.abs()).max(1e-2),
                "{family:?} {k}: {difference} {dot}"
            );
        }
    }
}

#[test]
fn every_view_is_looked_at() {
    let model = model(Family::P).valid();
    let plain = |views: Vec<ViewInput>| {
        views
            .into_iter()
            .map(|view| match view {
                ViewInput::Image(x) => ViewInput::Image(x.without_autodiff()),
                ViewInput::Vector(x) => ViewInput::Vector(x.without_autodiff()),
            })
            .collect::<Vec<_>>()
    };
    let base = values(model.forward(plain(inputs(3)), None).logits);
    for i in 0..3 {
        let mut views = plain(inputs(3));
        views[i] = plain(inputs(4)).remove(i);
        assert_ne!(values(model.forward(views, None).logits), base, "view {i}");
    }
}

#[test]
fn errors_name_the_field() {
    let with = |views| MultiViewConfig {
        views,
        ..config(Family::P)
    };
    let cases = [
        (with(vec![]), "views"),
        (with(vec![View::Vector { length: 0 }]), "views"),
        (with(vec![image(0, 8, 1)]), "views"),
        (with(vec![image(1, 8, 1), image(1, 6, 1)]), "views"),
    ];
    for (config, field) in cases {
        let error = config.init(&Device::flex()).expect_err(field);
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
    // 8 x 8 and 4 x 4 and 1 x 1 are nested in any order.
    assert!(config(Family::P).validate().is_ok());
    assert_eq!(config(Family::P).views[2].branch_size(), [1, 1]);
    let core = CoreConfig::new().with_coupling(-1.0);
    let error = config(Family::P).with_core(core).validate().unwrap_err();
    assert!(error.to_string().contains("`coupling`"), "{error}");
}

#[test]
#[should_panic(expected = "the model takes 3 views")]
fn a_missing_view_is_refused() {
    let mut views = inputs(3);
    views.pop();
    let _: Tensor<2> = model(Family::P).forward(views, None).logits;
}
