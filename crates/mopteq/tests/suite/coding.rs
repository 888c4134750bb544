//! Terms in which branches explain a picture together, the layer built on them, and stacks of it.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Solver};
use mopteq::terms::{JointReconstruction, PatchReconstruction, Term};
use mopteq::{
    Branches, CodingConfig, CodingForm, Context, CoreConfig, Deep, DeepConfig, LayerConfig,
    StageConfig,
};

use crate::support::{
    Numbers, autodiff, cast, dot, flat, leaves, nudged, parameter_gradients, random_like,
    randomised, relative, values,
};

const SIZES: [[usize; 2]; 3] = [[8, 12], [4, 6], [4, 3]];
const CHANNELS: [usize; 3] = [3, 2, 1];

fn states(numbers: &mut Numbers, batch: usize, dtype: DType) -> Branches {
    let shapes = SIZES.iter().zip(CHANNELS);
    shapes
        .map(|([h, w], c)| numbers.tensor([batch, c, *h, *w], dtype))
        .collect()
}

/// Three branches that explain a picture of two channels.
fn joint() -> (Arc<dyn Term>, Branches, Context) {
    let mut numbers = Numbers::new(7);
    let z = states(&mut numbers, 2, DType::F64);
    let kernels = CHANNELS.map(|c| numbers.tensor([2, c, 3, 3], DType::F64));
    let picture = numbers.tensor([2, 2, 8, 12], DType::F64);
    let x = Context::new(kernels.to_vec(), vec![picture]);
    (Arc::new(JointReconstruction), z, x)
}

/// Three branches that explain patches of 18 numbers.
fn patches(dtype: DType) -> (Arc<dyn Term>, Branches, Context) {
    let mut numbers = Numbers::new(8);
    let z = states(&mut numbers, 2, dtype);
    let injection = states(&mut numbers, 2, dtype);
    let dictionary: Tensor<2> = numbers.tensor([6, 18], dtype);
    let gram = dictionary.clone().matmul(dictionary.transpose()) / 40.0;
    let x = Context::new(vec![gram.reshape([6, 6, 1, 1])], injection);
    (Arc::new(PatchReconstruction), z, x)
}

#[test]
fn gradients_and_hessians_match_central_differences_and_autodiff() {
    for (term, z, x) in [joint(), patches(DType::F64)] {
        let gradient = term.gradient(&z, &x);
        let exact = autodiff(&z, |z| {
            let x = leaves(&x).0;
            term.value(z, &x)
        });
        let apart = relative(&flat(&gradient), &exact);
        assert!(apart <= 1e-12, "{}: {apart:e}", term.name());
        let u = random_like(&z, 3);
        let at = |h: f64| -> Branches {
            z.iter()
                .zip(&u)
                .map(|(z, u)| z.clone() + u.clone() * h)
                .collect()
        };
        let value = |h: f64| values(term.value(&at(h), &x)).iter().sum::<f64>();
        // Exact for a quadratic but for rounding.
        let difference = (value(0.5) - value(-0.5)) / 1.0;
        let slope = dot(&gradient, &u);
        assert!(
            (difference - slope).abs() <= 1e-10 * slope.abs().max(1.0),
            "{}",
            term.name()
        );
        let hessian = term.hessian(&z, &x).expect("a closed form");
        let change: Vec<f64> = flat(&term.gradient(&at(1.0), &x))
            .iter()
            .zip(flat(&gradient))
            .map(|(a, b)| a - b)
            .collect();
        assert!(
            relative(&flat(&hessian(&u)), &change) <= 1e-12,
            "{}",
            term.name()
        );
        let v = random_like(&z, 4);
        let [a, b] = [dot(&v, &hessian(&u)), dot(&u, &hessian(&v))];
        assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{}", term.name());
    }
}

#[test]
fn dictionary_and_transpose_are_adjoint() {
    let (term, z, x) = joint();
    // <D z, g> from the value, <z, D'g> from the gradient at 0.
    let nothing = Context::new(x.kernels().clone(), vec![x.injection()[0].zeros_like()]);
    let [with, without] = [&x, &nothing].map(|x| values(term.value(&z, x)).iter().sum::<f64>());
    let square = dot(x.injection(), x.injection());
    let zero = z.iter().map(Tensor::zeros_like).collect();
    let codes = term.gradient(&zero, &x);
    let [a, b] = [without - with + square / 2.0, -dot(&z, &codes)];
    assert!((a - b).abs() <= 1e-12 * a.abs(), "{a} and {b}");
}

#[test]
fn patches_are_the_joint_reconstruction_of_kernels_of_one_pixel() {
    // With D of 1 x 1 pixels, a patch is a pixel.
    let mut numbers = Numbers::new(9);
    let z = states(&mut numbers, 2, DType::F64);
    let kernels = CHANNELS.map(|c| numbers.tensor::<4>([5, c, 1, 1], DType::F64));
    let picture: Tensor<4> = numbers.tensor([2, 5, 8, 12], DType::F64);
    let joint = Context::new(kernels.to_vec(), vec![picture.clone()]);
    let rows: Tensor<4> = Tensor::cat(kernels.to_vec(), 1);
    let rows = rows.reshape([5, 6]);
    let gram = rows.clone().transpose().matmul(rows).reshape([6, 6, 1, 1]);
    let zero = z.iter().map(Tensor::zeros_like).collect();
    let codes = JointReconstruction.gradient(&zero, &joint);
    let injection = codes.into_iter().map(Tensor::neg).collect();
    let patches = Context::new(vec![gram], injection);
    let [a, b] = [
        JointReconstruction.gradient(&z, &joint),
        PatchReconstruction.gradient(&z, &patches),
    ];
    assert!(relative(&flat(&b), &flat(&a)) <= 1e-12);
    let constant = dot(&vec![picture.clone()], &vec![picture]) / 2.0;
    let [a, b] = [
        values(JointReconstruction.value(&z, &joint))
            .iter()
            .sum::<f64>(),
        values(PatchReconstruction.value(&z, &patches))
            .iter()
            .sum::<f64>()
            + constant,
    ];
    assert!((a - b).abs() <= 1e-12 * a.abs(), "{a} and {b}");
}

fn exact() -> EquilibriumConfig {
    let solver = Solver::accelerated()
        .with_relative(1e-13)
        .with_absolute(1e-14)
        .with_max_steps(300);
    EquilibriumConfig::new().with_forward(solver)
}

/// A stack of all kinds of layers on pictures of 8 x 8 pixels.
fn stack(last: LayerConfig) -> DeepConfig {
    let coding = || CodingConfig::new().with_equilibrium(exact()).with_mu(0.3);
    let stages = vec![
        StageConfig::coding(5, 2, false, coding()),
        StageConfig {
            channels: 4,
            layers: 2,
            pool: true,
            layer: last,
        },
    ];
    DeepConfig::new(3, 2, [8, 8], 3, stages).with_head_grid(2)
}

fn last_layers() -> Vec<LayerConfig> {
    let coding = CodingConfig::new().with_equilibrium(exact()).with_mu(0.3);
    vec![
        LayerConfig::Coding(coding.clone().with_coarse(0.5)),
        LayerConfig::Coding(coding.with_form(CodingForm::Convolution).with_l1(0.02)),
        LayerConfig::Core {
            branches: 2,
            core: CoreConfig::new()
                .with_channels(2)
                .with_hidden(3)
                .with_equilibrium(exact()),
        },
    ]
}

/// The power iterations of a training model converge. They need no solves.
fn settle(model: Deep, iterations: usize) -> Deep {
    let mut short = model.config().clone();
    for stage in &mut short.stages {
        let forward = &mut stage.layer.equilibrium_mut().forward;
        *forward = Solver::plain().with_max_steps(1);
    }
    let twin = short.init(&burn::tensor::Device::flex()).unwrap();
    let twin = cast(twin, DType::F64)
        .train()
        .load_record(model.clone().into_record());
    let picture = Numbers::new(4).tensor([1, 2, 8, 8], DType::F64).autodiff();
    for _ in 0..iterations {
        twin.forward(picture.clone());
    }
    model.load_record(twin.into_record())
}

fn pictures() -> Tensor<4> {
    Numbers::new(3).tensor([3, 2, 8, 8], DType::F64)
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn loss(model: &Deep, images: Tensor<4>) -> Tensor<1> {
    let out = model.forward(images);
    let c = Numbers::new(5)
        .tensor(out.logits.dims(), DType::F64)
        .autodiff();
    (out.logits.sin() * c).sum()
}

#[test]
fn gradients_of_a_stack_match_unrolled_autodiff_and_central_differences() {
    for last in last_layers() {
        let name = format!("{last:?}");
        let config = stack(last);
        let model = config.init(&burn::tensor::Device::flex()).unwrap();
        let model = settle(randomised(model, DType::F64, 0.5).train(), 600);
        let gradients = |model: &Deep| {
            let x = pictures().autodiff().require_grad();
            let grads = loss(model, x.clone()).backward();
            let mut all = parameter_gradients(model, &grads);
            all.push(values(x.grad(&grads).expect("dx")));
            all
        };
        let implicit = gradients(&model);
        // Plain iteration on the tape, with the same parameters.
        let mut unrolled = config.clone();
        for stage in &mut unrolled.stages {
            let equilibrium = stage.layer.equilibrium_mut();
            equilibrium.gradient = burn_deq::Gradient::Unrolled {
                steps: 130,
                damping: 1.0,
            };
        }
        let twin = unrolled.init(&burn::tensor::Device::flex()).unwrap();
        let twin = cast(twin, DType::F64)
            .train()
            .load_record(model.clone().into_record());
        let reference = gradients(&twin);
        assert_eq!(implicit.len(), reference.len());
        let total = norm(&reference.concat());
        for (k, (a, b)) in implicit.iter().zip(&reference).enumerate() {
            // A shift before the head's norm has no gradient.
            let apart = norm(&difference(a, b)) / norm(b).max(1e-6 * total);
            assert!(apart <= 1e-8, "{name}: parameter {k}: {apart:e}");
        }
        let h = 1e-6;
        for (k, gradient) in implicit.iter().enumerate().take(implicit.len() - 1) {
            let mut numbers = Numbers::new(100 + k as u64);
            let direction: Vec<f64> = gradient.iter().map(|_| numbers.next()).collect();
            let at = |h: f64| {
                // The eigenvectors hardly move, and the norms depend on that in the second order.
                let nudged = settle(nudged(&model, k, &direction, h), 5);
                values(loss(&nudged, pictures().autodiff()))[0]
            };
            let difference = (at(h) - at(-h)) / (2.0 * h);
            let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = norm(gradient).max(1e-3 * total);
            let error = (difference - slope).abs() / size;
            assert!(error <= 1e-5, "{name}: parameter {k}: {error:e}");
        }
    }
}

#[test]
fn a_stack_reports_every_layer() {
    let config = stack(last_layers().remove(2));
    let model = config.init(&burn::tensor::Device::flex()).unwrap().train();
    let images = pictures().cast(DType::F32);
    let out = model.forward(images.clone().autodiff());
    let names: Vec<&str> = out.layers.iter().map(|layer| layer.name.as_str()).collect();
    let expected = [
        "stage 1, layer 1",
        "stage 1, layer 2",
        "stage 2, layer 1",
        "stage 2, layer 2",
    ];
    assert_eq!(names, expected);
    assert!(out.adjoint.report().is_none(), "no backward pass has run");
    out.logits.sum().backward();
    let worst = out.adjoint.report().expect("the backward pass has run");
    for layer in &out.layers {
        let backward = layer.adjoint.report().expect("the backward pass has run");
        for (i, steps) in backward.steps.iter().enumerate() {
            assert!(*steps <= worst.steps[i]);
            assert!(layer.forward.steps[i] <= out.forward.steps[i]);
        }
    }
    let seen = model.valid().layers(images);
    assert_eq!(seen.len(), 4);
    let picture = seen[0].reconstruction.as_ref().expect("a coding decodes");
    assert_eq!(picture.dims(), seen[0].input.dims());
    assert!(seen[3].reconstruction.is_none());
}

#[test]
fn a_reconstruction_of_patches_is_what_their_codes_say() {
    // An orthonormal dictionary of all patches and hardly any penalty: the codes of a picture that
    // needs no negative ones return it, except at the border, where patches are cut off.
    let config = CodingConfig::new()
        .with_branches(1)
        .with_mu(1e-6)
        .with_l1(0.0)
        .with_equilibrium(exact());
    let device = burn::tensor::Device::flex();
    let layer = config.init([1, 9], [6, 6], &device).unwrap();
    struct Identity;
    impl burn::module::ModuleMapper for Identity {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            if D != 4 {
                return param;
            }
            param.map(|t| {
                let rows = Tensor::<2>::eye(9, &t.device());
                rows.reshape(t.shape())
            })
        }
    }
    let layer = layer.map(&mut Identity);
    let picture = Numbers::new(2).tensor::<4>([1, 1, 6, 6], DType::F32).abs();
    let codes = layer.equilibrium(picture.clone()).state;
    let seen = layer.reconstruction(&codes);
    let inner = |t: Tensor<4>| values(t.slice([0..1, 0..1, 1..5, 1..5]));
    assert!(relative(&inner(seen), &inner(picture)) <= 1e-4);
}

#[test]
fn a_fixed_number_of_steps_is_the_same_in_training_and_evaluation() {
    let device = burn::tensor::Device::flex();
    let config = CodingConfig::new().unrolled(3);
    let layer = config.init([2, 6], [8, 8], &device).unwrap();
    let picture = Numbers::new(6).tensor([2, 2, 8, 8], DType::F32);
    let evaluated = layer.valid().equilibrium(picture.clone());
    let trained = layer.clone().train().equilibrium(picture.autodiff());
    let trained: Vec<f64> = flat(&trained.state);
    // Training improves the estimate of the norm first.
    assert!(relative(&trained, &flat(&evaluated.state)) <= 1e-3);
    let mut z = layer.start(&Numbers::new(6).tensor([2, 2, 8, 8], DType::F32));
    let x = layer.context(Numbers::new(6).tensor([2, 2, 8, 8], DType::F32));
    for _ in 0..3 {
        z = layer.objective().apply(z, x.clone());
    }
    assert!(relative(&flat(&evaluated.state), &flat(&z)) <= 1e-6);
}
