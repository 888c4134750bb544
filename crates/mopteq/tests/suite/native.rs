//! The native CPU path against the portable one. The native path supports `f32` only: `f64` always
//! takes the portable path.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use burn_deq::fast::Batching;
use burn_deq::{FixedPointMap, Jacobian, Status};
use mopteq::terms::{
    ActivationConfig, ActivationPotential, Coupling, KernelEnergy, Pairs, Proximity, Quadratic,
    Reconstruction, Setting, Term,
};
use mopteq::{Branches, Constraint, Context, Family, HiddenObjective, MOptEqsConfig, Step};
use proptest::prelude::*;

use crate::support::{
    Numbers, cast, flat, gradients_of, leaves, parameter_gradients, randomised, relative, values,
};

/// Sizes and kinds of a random objective.
#[derive(Clone, Debug)]
pub struct Case {
    batch: usize,
    channels: usize,
    hidden: usize,
    kernel: usize,
    coarsest: [usize; 2],
    /// Ratios of the sides of each further branch to those of the previous one.
    ratios: Vec<[usize; 2]>,
    kind: usize,
    pairs: Pairs,
    seed: u64,
    /// Whether to use numbers for which no operation rounds, except for filtering. Ties at a kink
    /// then have the same result, too.
    pub exact: bool,
}

/// Families S and P with all activations and constraints, and sparse coding.
const KINDS: usize = 8;

impl Case {
    pub fn any() -> impl Strategy<Value = Self> {
        let sizes = (1..4usize, 1..7usize, 1..7usize, 0..3usize);
        let grid = ([1..5usize, 1..5usize], 0..3usize, any::<u64>());
        let kinds = (0..KINDS, any::<bool>(), any::<bool>(), any::<u64>());
        (sizes, grid, kinds).prop_map(
            |((batch, channels, hidden, half), (coarsest, more, r), (kind, all, exact, seed))| {
                let ratio = |k: usize| {
                    let bits = (r >> (4 * k)) as usize;
                    match (exact, bits % 4) {
                        (true, bits) => [1 + bits % 2; 2],
                        (false, bits) => [1 + bits % 2, 1 + (bits / 2 + k) % 3],
                    }
                };
                Self {
                    batch,
                    channels,
                    hidden,
                    kernel: 2 * half + 1,
                    coarsest,
                    ratios: (0..more).map(ratio).collect(),
                    kind,
                    pairs: if all { Pairs::All } else { Pairs::Neighbours },
                    seed,
                    exact,
                }
            },
        )
    }

    fn smooth(&self) -> bool {
        matches!(self.kind, 2 | 3)
    }

    pub fn objective(&self) -> HiddenObjective {
        let s = |a| -> (Vec<Arc<dyn Term>>, _) {
            let potential = ActivationPotential::new(a);
            (
                vec![Arc::new(Quadratic::default()), Arc::new(potential)],
                None,
            )
        };
        let p = |c: Constraint| -> (Vec<Arc<dyn Term>>, _) {
            (
                vec![Arc::new(Proximity), Arc::new(KernelEnergy)],
                Some(c.shared()),
            )
        };
        let (mut terms, constraint) = match self.kind {
            0 => s(ActivationConfig::Relu),
            1 => s(ActivationConfig::LeakyRelu { slope: 0.25 }),
            2 => s(ActivationConfig::Softplus),
            3 => s(ActivationConfig::Tanh),
            4 => p(Constraint::NonNegative),
            5 => p(Constraint::Interval {
                low: -0.5,
                high: 0.25,
            }),
            6 => p(Constraint::L1 { weight: 0.5 }),
            _ => (
                vec![
                    Arc::new(Quadratic { weight: 0.25 }) as Arc<dyn Term>,
                    Arc::new(Reconstruction),
                ],
                // Exact numbers do not meet a threshold of 0.075, where gradients would differ.
                Some(Constraint::Sparse { weight: 0.3 }.shared()),
            ),
        };
        terms.push(Arc::new(Coupling {
            strength: 0.25,
            pairs: self.pairs,
        }));
        let setting = Setting {
            branches: 1 + self.ratios.len(),
            kernel_norm: 1.0,
        };
        HiddenObjective::new(terms, constraint, Step::Fixed(0.25), &setting).unwrap()
    }

    /// A state, a context and a vector.
    pub fn data(&self) -> (Branches, Context, Branches) {
        let mut numbers = Numbers::new(self.seed);
        let mut tensor = |shape: [usize; 4]| {
            let t: Tensor<4> = numbers.tensor(shape, DType::F32);
            if self.exact {
                (t * 2.0).round() / 2.0
            } else {
                t
            }
        };
        let mut sizes = vec![self.coarsest];
        for [y, x] in &self.ratios {
            let [h, w] = sizes[sizes.len() - 1];
            sizes.push([h * y, w * x]);
        }
        // The finest first.
        sizes.reverse();
        let (c, h, k) = (self.channels, self.hidden, self.kernel);
        let injected = if self.kind < 4 || self.kind == 7 {
            h
        } else {
            c
        };
        let mut branches = |channels: usize| -> Branches {
            let shape = |[y, x]: &[usize; 2]| [self.batch, channels, *y, *x];
            sizes.iter().map(|size| tensor(shape(size))).collect()
        };
        let (z, u, injection) = (branches(c), branches(c), branches(injected));
        let kernels = sizes.iter().map(|_| tensor([h, c, k, k])).collect();
        (z, Context::new(kernels, injection), u)
    }
}

fn agree(what: &str, native: &Branches, portable: &Branches) -> Result<(), TestCaseError> {
    let (native, portable) = (flat(native), flat(portable));
    let scale = portable.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    for (n, p) in native.iter().zip(&portable) {
        prop_assert!((n - p).abs() <= 1e-5 * scale, "{what}: {n} and {p}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn steps_and_products_are_those_of_the_portable_path(case in Case::any()) {
        let (z, x, u) = case.data();
        let native = case.objective();
        let fast = FixedPointMap::fast(&native).expect("a formula");
        prop_assert_eq!(fast.batching(&z, &x), Batching::Single, "the native path applies");
        let portable = native.clone().portable();
        prop_assert!(FixedPointMap::fast(&portable).is_none());
        let [a, b] = [&native, &portable].map(|o| o.apply(z.clone(), x.clone()));
        agree("step", &a, &b)?;
        if case.exact || case.smooth() {
            // Filtering has sixths in its weights, so it rounds. An offset keeps exact numbers away
            // from kinks.
            let offset = if case.exact { 1.0 / 512.0 } else { 0.0 };
            let injection = x.injection().iter().map(|c| c.clone() + offset).collect();
            let shifted = Context::new(x.kernels().clone(), injection);
            let x = if case.kernel == 3 { shifted.clone() } else { x };
            let [a, b] = [&native, &portable].map(|o| o.linearise(&z, &x));
            agree("vjp", &a.vjp(u.clone()), &b.vjp(u.clone()))?;
            agree("jvp", &a.jvp(u.clone()).unwrap(), &b.jvp(u.clone()).unwrap())?;
            agree("similar", &a.similar(u.clone()), &b.similar(u.clone()))?;
            prop_assert_eq!(a.mask().map(|m| flat(&m)), b.mask().map(|m| flat(&m)));
            // Gradients of kernels and injections through a step from a constant z. At a kink,
            // autodiff takes the other one-sided derivative.
            let gradients = |o: &HiddenObjective| {
                let (x, leaves) = leaves(&shifted);
                let step = o.apply(z.clone(), x);
                let parts = step.into_iter().zip(&u).map(|(z, u)| (z * u.clone().autodiff()).sum());
                gradients_of(&leaves, parts.reduce(|a, b| a + b).unwrap())
            };
            for (a, b) in gradients(&native).iter().zip(gradients(&portable)) {
                let scale = b.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
                for (a, b) in a.iter().zip(&b) {
                    prop_assert!((a - b).abs() <= 1e-5 * scale, "gradient: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn convolutions_and_their_gradients_are_those_of_the_portable_path(
        case in Case::any(),
        tracked in 0..4usize,
    ) {
        let (z, x, _) = case.data();
        let run = |dtype| {
            let leaf = |t: &Tensor<4>, track: bool| {
                let t = t.clone().cast(dtype);
                if track { t.autodiff().require_grad() } else { t }
            };
            let z = leaf(&z[0], tracked & 1 > 0);
            let kernel = leaf(&x.kernels()[0], tracked & 2 > 0);
            // The convolution does not use the injections.
            let context = Context::new(vec![kernel.clone()], Branches::new());
            let y = context.w(&vec![z.clone()]).remove(0);
            let weights = Numbers::new(3).tensor(y.dims(), dtype);
            let mut results = vec![values(y.clone())];
            if tracked > 0 {
                let weights: Tensor<4> = weights.autodiff();
                let gradients = (y * weights).sum().backward();
                let leaves = [z, kernel].into_iter().filter(Tensor::is_autodiff);
                results.extend(leaves.map(|t| values(t.grad(&gradients).unwrap())));
            }
            results
        };
        for (native, portable) in run(DType::F32).iter().zip(run(DType::F64)) {
            let scale = portable.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
            for (n, p) in native.iter().zip(&portable) {
                prop_assert!((n - p).abs() <= 1e-5 * scale, "{n} and {p}");
            }
        }
    }
}

/// Planes and channels that are large enough for bands of rows.
#[test]
fn large_convolutions_are_those_of_the_portable_path() {
    for (channels, out, [h, w], batch) in [
        (8, 5, [12, 12], 2),
        (1, 1, [8, 8], 1),
        (3, 9, [8, 7], 9),
        (2, 17, [5, 48], 1),
        (32, 32, [32, 32], 1),
        (9, 8, [13, 17], 3),
        (16, 3, [1, 40], 1),
        (11, 33, [30, 14], 2),
    ] {
        let run = |dtype| {
            let mut numbers = Numbers::new(11);
            let z: Tensor<4> = numbers.tensor([batch, channels, h, w], dtype);
            let kernel: Tensor<4> = numbers.tensor([out, channels, 3, 3], dtype);
            let u: Tensor<4> = numbers.tensor([batch, out, h, w], dtype);
            let [z, kernel] = [z, kernel].map(|t| t.autodiff().require_grad());
            let x = Context::new(vec![kernel.clone()], Branches::new());
            let y = x.w(&vec![z.clone()]).remove(0);
            let plain = Context::new(vec![kernel.clone().without_autodiff()], Branches::new());
            let back = plain
                .w_transposed(&vec![y.clone().without_autodiff()])
                .remove(0);
            let gradients = (y.clone() * u.autodiff()).sum().backward();
            let [dz, dk] = [z, kernel].map(|t| values(t.grad(&gradients).unwrap()));
            [values(y), values(back), dz, dk]
        };
        for (native, portable) in run(DType::F32).iter().zip(run(DType::F64)) {
            let scale = portable.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let errors = native.iter().zip(&portable).map(|(n, p)| (n - p).abs());
            let error = errors.fold(0.0, f64::max) / scale;
            assert!(error <= 1e-5, "{channels} {out} {h} x {w}: {error:.1e}");
        }
    }
}

/// The stem, batch norm, pools and injections of a training step, and then those of inference with
/// the running statistics. In f32, a running sum over a hundred thousand pixels would have a larger
/// error.
#[test]
fn injections_and_their_gradients_are_those_of_the_portable_path() {
    for (batch, side, offset) in [(3, 12, 0.0), (1, 8, 2.0), (24, 64, 3.0)] {
        let run = |dtype| {
            let config = MOptEqsConfig::small(2, 1, [side; 2])
                .map_core(|c| c.with_channels(3).with_hidden(2));
            let model = config.init(&burn::tensor::Device::flex()).unwrap();
            let model = cast(randomised(model, DType::F64, 0.5), dtype).train();
            let mut numbers = Numbers::new(side as u64);
            let images: Tensor<4> = numbers.tensor([batch, 1, side, side], dtype) + offset;
            let x = model.context(images.clone().autodiff());
            let parts = x.injection().iter().map(|c| {
                let weights: Tensor<4> = numbers.tensor(c.dims(), dtype) + 0.5;
                (c.clone() * weights.autodiff()).sum()
            });
            let loss = parts.reduce(|a, b| a + b).unwrap();
            let mut results = parameter_gradients(&model, &loss.backward());
            results.push(flat(x.injection()));
            results.push(flat(model.valid().context(images).injection()));
            results
        };
        let (native, exact) = (run(DType::F32), run(DType::F64));
        assert_eq!(native.len(), exact.len());
        for (k, (native, exact)) in native.iter().zip(&exact).enumerate() {
            let error = relative(native, exact);
            assert!(error <= 3e-6, "{k} of {batch} x {side}: {error:.1e}");
        }
    }
}

fn model(family: Family) -> mopteq::MOptEqs {
    let config = MOptEqsConfig::small(10, 1, [16, 16])
        .map_core(|c| c.with_channels(8).with_hidden(6).with_family(family));
    let model = config.init(&burn::tensor::Device::flex()).unwrap();
    cast(randomised(model, DType::F64, 0.3), DType::F32)
}

#[test]
fn equilibria_are_those_of_the_portable_path() {
    for family in [Family::S, Family::P] {
        let model = model(family);
        let portable = model.core().objective().clone().portable();
        let portable = model.clone().with_objective(portable);
        let images = Numbers::new(5).tensor([5, 1, 16, 16], DType::F32);
        let [a, b] = [&model, &portable].map(|m| m.equilibrium(&m.context(images.clone())));
        assert!(a.forward.all_converged() && b.forward.all_converged());
        // The same number of steps gives the same accuracy, up to one step if rounding decides.
        for (a, b) in a.forward.steps.iter().zip(&b.forward.steps) {
            assert!(a.abs_diff(*b) <= 1, "{family:?}: {a} and {b} steps");
        }
        let error = relative(&flat(&a.state), &flat(&b.state));
        assert!(error < 2e-3, "{family:?}: {error:.1e}");
    }
}

#[test]
fn a_sample_does_not_know_its_batch() {
    for family in [Family::S, Family::P] {
        let model = model(family);
        let images: Tensor<4> = Numbers::new(6).tensor([4, 1, 16, 16], DType::F32);
        // Outside training, batch norm does not mix samples either.
        let all = model.equilibrium(&model.context(images.clone()));
        for i in 0..4 {
            let alone = images.clone().narrow(0, i, 1);
            let alone = model.equilibrium(&model.context(alone));
            assert_eq!(alone.forward.steps[0], all.forward.steps[i]);
            for (alone, all) in alone.state.into_iter().zip(&all.state) {
                assert_eq!(values(alone), values(all.clone().narrow(0, i, 1)));
            }
        }
    }
}

#[test]
fn a_bad_sample_is_seen_and_leaves_the_others_alone() {
    for family in [Family::S, Family::P] {
        let model = model(family);
        let images: Tensor<4> = Numbers::new(7).tensor([3, 1, 16, 16], DType::F32);
        let good = model.context(images.clone());
        let spoil = |c: &Tensor<4>| {
            let nan = c.clone().narrow(0, 1, 1) * f32::NAN;
            let parts = [c.clone().narrow(0, 0, 1), nan, c.clone().narrow(0, 2, 1)];
            Tensor::cat(parts.to_vec(), 0)
        };
        let injection = good.injection().iter().map(spoil).collect();
        let bad = Context::new(good.kernels().clone(), injection);
        let [good, bad] = [good, bad].map(|x| model.equilibrium(&x));
        assert_eq!(bad.forward.status[1], Status::NotFinite, "{family:?}");
        for i in [0, 2] {
            assert_eq!(bad.forward.status[i], Status::Converged);
            for (good, bad) in good.state.iter().zip(&bad.state) {
                let of = |t: &Tensor<4>| values(t.clone().narrow(0, i, 1));
                assert_eq!(of(good), of(bad));
            }
        }
    }
}
