//! Every term against its definition: gradient, Hessian, guarantees.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use mopteq::norm::convolution_norm;
use mopteq::posedness::extreme_eigenvalues;
use mopteq::terms::hessian;
use mopteq::terms::{
    Activation, ActivationConfig, ActivationPotential, ByValue, Coupling, Curvature, Diversity,
    Energy, KernelEnergy, Pairs, Proximity, Quadratic, Reconstruction, Setting, Smoothness, Sum,
    Term,
};
use mopteq::{Branches, Context, CrossKernel, Family, HiddenObjective, Step};

use crate::support::{Numbers, autodiff, dot, flat, random_like, relative, values};

/// A custom activation: a / sqrt(1 + a^2), s(a) = sqrt(1 + a^2).
#[derive(Debug)]
struct InverseRoot;

impl Activation for InverseRoot {
    fn name(&self) -> &str {
        "inverse root"
    }

    fn potential(&self, a: Tensor<4>) -> Tensor<4> {
        (a.clone() * a + 1.0).sqrt()
    }

    fn activate(&self, a: Tensor<4>) -> Tensor<4> {
        a.clone() / (a.clone() * a + 1.0).sqrt()
    }

    fn slope(&self, a: Tensor<4>) -> Tensor<4> {
        (a.clone() * a + 1.0).powf_scalar(-1.5)
    }
}

fn per_sample(z: Tensor<4>) -> Tensor<1> {
    z.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1)
}

/// Sum of sin(z), given only by its value.
#[derive(Debug)]
struct Sine;

impl Energy for Sine {
    fn name(&self) -> &str {
        "sine"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let parts = z.iter().map(|z| per_sample(z.clone().sin()));
        parts.reduce(|a, b| a + b).unwrap()
    }

    fn curvature(&self, _setting: &Setting) -> Curvature {
        Curvature::new(-1.0, 1.0)
    }
}

/// The same with its gradient, but without its Hessian.
#[derive(Debug)]
struct SineWithGradient;

impl Term for SineWithGradient {
    fn name(&self) -> &str {
        "sine with gradient"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        Sine.value(z, x)
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        z.iter().map(|z| z.clone().cos()).collect()
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        Sine.curvature(setting)
    }
}

/// A kernel `[to, from, 3, 3]` of the given norm on a square picture of this side.
fn kernel(numbers: &mut Numbers, [to, from]: [usize; 2], side: usize, norm: f64) -> Tensor<4> {
    let kernel: Tensor<4> = numbers.tensor([to, from, 3, 3], DType::F64);
    // The start is random. This many iterations keep the error far below the slack of the tests.
    let own = convolution_norm(kernel.clone(), [side, side], 2000);
    kernel * (norm / own)
}

/// A state of three branches of three channels and a context whose W has a norm of at most 0.9 and,
/// if `cross`, blocks between the branches.
fn setting(cross: bool, family: Family) -> (Branches, Context, Setting) {
    let mut numbers = Numbers::new(29);
    let (hidden, injected) = match family {
        Family::S => (4, 4),
        Family::P => (4, 3),
    };
    let norm = if cross { 0.3 } else { 0.9 };
    let side = |i: usize| 8 >> i;
    let shape = |i: usize, channels| [2, channels, side(i), side(i)];
    let kernels = (0..3).map(|i| kernel(&mut numbers, [hidden, 3], side(i), norm));
    let kernels = kernels.collect();
    let injection = (0..3).map(|i| numbers.tensor(shape(i, injected), DType::F64));
    let mut x = Context::new(kernels, injection.collect());
    if cross {
        let pairs = (0..3).flat_map(|to| (0..3).map(move |from| (to, from)));
        let blocks = pairs
            .filter(|(to, from)| to != from)
            .map(|(to, from)| CrossKernel {
                to,
                from,
                kernel: kernel(&mut numbers, [hidden, 3], side(from), norm),
            });
        x = x.with_cross(blocks.collect());
    }
    let z = (0..3).map(|i| numbers.tensor(shape(i, 3), DType::F64));
    let setting = Setting {
        branches: 3,
        kernel_norm: 0.9,
    };
    (z.collect(), x, setting)
}

fn injected_into_image() -> Vec<Arc<dyn Term>> {
    let own = [
        ActivationConfig::Relu,
        ActivationConfig::LeakyRelu { slope: 0.2 },
        ActivationConfig::Softplus,
        ActivationConfig::Tanh,
    ];
    let own = own.map(|a| Arc::new(ActivationPotential::new(a)) as Arc<dyn Term>);
    let mut all = own.to_vec();
    all.push(Arc::new(ActivationPotential::new(InverseRoot)));
    all.push(Arc::new(Reconstruction));
    all
}

fn others() -> Vec<Arc<dyn Term>> {
    vec![
        Arc::new(Quadratic { weight: 0.7 }),
        Arc::new(Proximity),
        Arc::new(KernelEnergy),
        Arc::new(Coupling::new(0.3)),
        Arc::new(Coupling {
            strength: 0.3,
            pairs: Pairs::Neighbours,
        }),
        Arc::new(Smoothness { strength: 0.4 }),
        Arc::new(Diversity { strength: 0.6 }),
        Arc::new(ByValue::new(Sine)),
        Arc::new(SineWithGradient),
        Arc::new(Sum::new(vec![
            Arc::new(KernelEnergy),
            Arc::new(Smoothness { strength: 0.1 }),
            Arc::new(SineWithGradient),
        ])),
    ]
}

/// Every term with a matching context: activations and the reconstruction inject into W z, the
/// others into z.
fn cases() -> Vec<(Arc<dyn Term>, Branches, Context, Setting)> {
    let mut all = Vec::new();
    for cross in [false, true] {
        for (family, terms) in [(Family::S, injected_into_image()), (Family::P, others())] {
            let (z, x, setting) = setting(cross, family);
            for term in terms {
                all.push((term, z.clone(), x.clone(), setting));
            }
        }
    }
    all
}

#[test]
fn gradients_match_autodiff_and_central_differences() {
    for (term, z, x, _) in cases() {
        let name = term.name();
        let exact = term.gradient(&z, &x);
        let by_autodiff = autodiff(&z, |z| term.value(z, &x));
        let error = relative(&flat(&exact), &by_autodiff);
        assert!(error <= 1e-8, "{name}, autodiff: {error:e}");

        let u = random_like(&z, 51);
        let at = |h: f64| -> f64 {
            let moved = z.iter().zip(&u).map(|(z, u)| z.clone() + u.clone() * h);
            values(term.value(&moved.collect(), &x).sum())[0]
        };
        let h = 1e-5;
        let (slope, exact_slope) = ((at(h) - at(-h)) / (2.0 * h), dot(&exact, &u));
        let size = (dot(&exact, &exact) * dot(&u, &u)).sqrt();
        assert!(
            (slope - exact_slope).abs() <= 1e-8 * size,
            "{name}, differences: {slope} {exact_slope}"
        );
    }
}

#[test]
fn hessians_match_autodiff_of_the_gradient_and_are_symmetric() {
    for (term, z, x, _) in cases() {
        let name = term.name();
        let (u, v) = (random_like(&z, 41), random_like(&z, 42));
        let h = hessian(&term, &z, &x);
        let (hu, hv) = (h(&u), h(&v));
        // H u is the derivative of <dG/dz, u>.
        let by_autodiff = autodiff(&z, |z| {
            let g = term.gradient(z, &x);
            let parts = g.into_iter().zip(&u).map(|(g, u)| (g * u.clone()).sum());
            // A linear gradient may be untracked, because z is a constant for it.
            parts.reduce(|a, b| a + b).unwrap() + (z[0].clone() * 0.0).sum()
        });
        let error = relative(&flat(&hu), &by_autodiff);
        assert!(error <= 1e-8, "{name}: {error:e}");
        // A central difference of the gradient is symmetric only up to its own error.
        let tolerance = if name == "sine" { 1e-8 } else { 1e-10 };
        let (uhv, vhu) = (dot(&u, &hv), dot(&v, &hu));
        let size = (dot(&hu, &hu) * dot(&v, &v)).sqrt();
        assert!((uhv - vhu).abs() <= tolerance * size, "{name}: {uhv} {vhu}");
    }
}

#[test]
fn eigenvalues_stay_within_the_guarantees() {
    for (term, z, x, setting) in cases() {
        let claimed = term.curvature(&setting);
        // The norm of W was estimated from below.
        let slack = 2e-3;
        for seed in 0..2 {
            let z: Branches = random_like(&z, 60 + seed)
                .into_iter()
                .map(|z| z * 3.0)
                .collect();
            let h = hessian(&term, &z, &x);
            for (low, high) in extreme_eigenvalues(|u| h(&u), &z, 25) {
                let inside = low >= claimed.lower - slack && high <= claimed.upper + slack;
                assert!(
                    inside,
                    "{}: {low} to {high}, claimed {claimed:?}",
                    term.name()
                );
            }
        }
        assert!(claimed.lower <= claimed.upper);
    }
}

#[test]
fn guarantees_of_quadratic_terms_are_tight() {
    // The largest eigenvalue attains the bound.
    let (z, x, setting) = setting(false, Family::P);
    let tight: [(Arc<dyn Term>, f64); 4] = [
        (Arc::new(Quadratic { weight: 0.7 }), 0.999),
        (Arc::new(Coupling::new(0.3)), 0.999),
        (
            Arc::new(Coupling {
                strength: 0.3,
                pairs: Pairs::Neighbours,
            }),
            0.999,
        ),
        // W is scaled to its bound; 4 sin^2 stays below 4 on eight pixels.
        (Arc::new(Smoothness { strength: 0.4 }), 0.9),
    ];
    for (term, share) in tight {
        let h = hessian(&term, &z, &x);
        let largest = extreme_eigenvalues(|u| h(&u), &z, 120)[0].1;
        let claimed = term.curvature(&setting).upper;
        assert!(
            largest >= share * claimed,
            "{}: {largest} of {claimed}",
            term.name()
        );
    }
    let c = Coupling::new(0.3).curvature(&setting);
    assert!(c.is_convex() && c.strong_convexity().is_none() && c.smoothness() == Some(0.3 * 3.0));
    assert!(
        Diversity { strength: 1.0 }
            .curvature(&setting)
            .smoothness()
            .is_none()
    );
}

#[test]
fn a_term_of_ones_own_can_be_known_by_its_value_alone() {
    let (z, x, setting) = setting(false, Family::P);
    let objective = |term: Arc<dyn Term>| {
        let terms: Vec<Arc<dyn Term>> = vec![Arc::new(Quadratic { weight: 2.0 }), term];
        HiddenObjective::new(terms, None, Step::Guaranteed, &setting).unwrap()
    };
    let by_value = objective(Arc::new(ByValue::new(Sine)));
    let exact = objective(Arc::new(SineWithGradient));
    assert!(by_value.is_strongly_convex());
    assert_eq!(by_value.step(), exact.step());
    // One tracked step from a tracked state: the derivative of a gradient computed by autodiff.
    let u = random_like(&z, 77);
    let through = |objective: &HiddenObjective| {
        autodiff(&z, |z| {
            let t = objective.descend(z, &x, objective.step());
            let parts = t.into_iter().zip(&u).map(|(t, u)| (t * u.clone()).sum());
            parts.reduce(|a, b| a + b).unwrap()
        })
    };
    let error = relative(&through(&by_value), &through(&exact));
    assert!(error <= 1e-8, "{error:e}");
}

/// |Wz|^2, given only by its value, which depends on parameters.
#[derive(Debug)]
struct Reaching;

impl Energy for Reaching {
    fn name(&self) -> &str {
        "reaching"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        let parts = x.w(z).into_iter().map(|a| per_sample(a.clone() * a));
        parts.reduce(|a, b| a + b).unwrap()
    }
}

#[test]
#[should_panic(expected = "depends on parameters")]
fn parameters_that_would_get_no_gradient_are_refused() {
    let (z, x, _) = setting(false, Family::P);
    let kernels = x.kernels().iter();
    let tracked = kernels
        .map(|k| k.clone().autodiff().require_grad())
        .collect();
    let x = Context::new(tracked, x.injection().clone());
    ByValue::new(Reaching).gradient(&z, &x);
}

#[test]
fn potentials_are_antiderivatives_over_a_wide_range() {
    let all: [&dyn Activation; 5] = [
        &ActivationConfig::Relu,
        &ActivationConfig::LeakyRelu { slope: 0.2 },
        &ActivationConfig::Softplus,
        &ActivationConfig::Tanh,
        &InverseRoot,
    ];
    let grid: Vec<f64> = (-400..=400).map(|i| f64::from(i) * 0.1 + 0.013).collect();
    let n = grid.len();
    let device = burn::tensor::Device::flex();
    let data = burn::tensor::TensorData::new(grid, [1, 1, 1, n]);
    let a = Tensor::<4>::from_data(data, (&device, DType::F64));
    for activation in all {
        let once = vec![a.clone()];
        let slope = autodiff(&once, |a| per_sample(activation.potential(a[0].clone())));
        let exact = values(activation.activate(a.clone()));
        let error = relative(&slope, &exact);
        assert!(error <= 1e-9, "{}: s' {error:e}", activation.name());
        let curvature = autodiff(&once, |a| per_sample(activation.activate(a[0].clone())));
        let error = relative(&values(activation.slope(a.clone())), &curvature);
        assert!(error <= 1e-9, "{}: s'' {error:e}", activation.name());
        // Non-decreasing and 1-Lipschitz.
        let slopes = values(activation.slope(a.clone()));
        assert!(
            slopes.iter().all(|s| (0.0..=1.0).contains(s)),
            "{}",
            activation.name()
        );
    }
    // s(0) of softplus is pi^2/12.
    let zero = Tensor::<4>::zeros([1, 1, 1, 1], (&device, DType::F64));
    let at_zero = values(ActivationConfig::Softplus.potential(zero))[0];
    let exact = std::f64::consts::PI.powi(2) / 12.0;
    assert!((at_zero - exact).abs() <= 1e-14, "{at_zero} {exact}");
}

#[test]
fn the_block_operator_and_its_transpose_are_adjoint() {
    let (z, x, _) = setting(true, Family::S);
    let w = x.w(&z);
    let h = random_like(&w, 5);
    let (left, right) = (dot(&w, &h), dot(&z, &x.w_transposed(&h)));
    assert!((left - right).abs() <= 1e-12 * left.abs(), "{left} {right}");

    // One block by hand: from the coarsest branch to the finest.
    let mut numbers = Numbers::new(8);
    let kernel: Tensor<4> = numbers.tensor([4, 3, 3, 3], DType::F64);
    let block = CrossKernel {
        to: 0,
        from: 2,
        kernel: kernel.clone(),
    };
    let plain = Context::new(x.kernels().clone(), x.injection().clone());
    let with = plain.clone().with_cross(vec![block]);
    let options = burn::tensor::ops::ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
    let message = burn::tensor::module::conv2d(z[2].clone(), kernel, None, options);
    let message = mopteq::scaled_upsample(message, 4);
    let expected = plain.w(&z)[0].clone() + message;
    let error = relative(&values(with.w(&z)[0].clone()), &values(expected));
    assert!(error <= 1e-14, "{error:e}");
}

#[test]
fn the_norm_of_a_cross_branch_operator_keeps_its_bound() {
    let (z, x, _) = setting(true, Family::P);
    let energy: Arc<dyn Term> = Arc::new(KernelEnergy);
    let h = hessian(&energy, &z, &x);
    for (_, largest) in extreme_eigenvalues(|u| h(&u), &z, 100) {
        assert!(largest.sqrt() <= 0.9 * 1.001, "{}", largest.sqrt());
    }
}
