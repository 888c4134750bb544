//! Small models and helpers that the tests share.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{EquilibriumConfig, Gradient, Solver};
use mopteq::{Branches, Context, Family, MOptEqs, MOptEqsConfig};

/// A deterministic stream of numbers in [-1, 1).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn tensor<const D: usize>(&mut self, shape: [usize; D], dtype: DType) -> Tensor<D> {
        let data = (0..shape.iter().product()).map(|_| self.next()).collect();
        Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), dtype))
    }
}

pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.without_autodiff().into_data().iter::<f64>().collect()
}

pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let reference = norm(&mut b.iter().copied());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / reference.max(1e-300)
}

/// A three-branch network on 8 x 8 pictures, small enough for f64 checks.
pub fn tiny(family: Family) -> MOptEqsConfig {
    let exact = |s: Solver| {
        s.with_relative(1e-13)
            .with_absolute(1e-14)
            .with_max_steps(500)
    };
    MOptEqsConfig::new(3, 2, [8, 8])
        .with_channels(3)
        .with_hidden(4)
        .with_family(family)
        .with_coupling(0.05)
        .with_head_grid(2)
        .with_perturbation(0.0)
        .with_equilibrium(
            EquilibriumConfig::new()
                .with_forward(exact(Solver::anderson(6)))
                .with_gradient(Gradient::default()),
        )
}

/// Values of every float parameter, replaced in the order of the visit.
struct Cast<F>(DType, F);

impl<F: FnMut(Vec<f64>) -> Vec<f64>> ModuleMapper for Cast<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|t| {
            let shape = t.dims();
            let data = TensorData::new((self.1)(values(t)), shape);
            Tensor::from_data(data, (&Device::flex(), self.0))
        })
    }
}

/// A model in f64 with reproducible weights and converged norm estimates.
pub fn model_f64(config: &MOptEqsConfig) -> MOptEqs {
    model(config, DType::F64)
}

pub fn model(config: &MOptEqsConfig, dtype: DType) -> MOptEqs {
    let model = config.init(&Device::flex()).unwrap();
    let mut numbers = Numbers::new(17);
    let model = model.map(&mut Cast(dtype, |v: Vec<f64>| {
        v.iter()
            .map(|x| {
                if *x == 0.0 || *x == 1.0 {
                    *x
                } else {
                    0.5 * numbers.next()
                }
            })
            .collect()
    }));
    settle(model.train(), 2000).valid()
}

/// Lets the power iterations of a training model converge.
pub fn settle(model: MOptEqs, iterations: usize) -> MOptEqs {
    // The pictures only need the type of the weights.
    let images = images_of(1, dtype_of(&model)).autodiff();
    for _ in 0..iterations {
        model.context(images.clone());
    }
    model
}

pub fn images(batch: usize) -> Tensor<4> {
    images_of(batch, DType::F64)
}

pub fn images_of(batch: usize, dtype: DType) -> Tensor<4> {
    Numbers::new(3).tensor([batch, 2, 8, 8], dtype)
}

pub fn dtype_of(model: &MOptEqs) -> DType {
    struct First(Option<DType>);
    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.get_or_insert(param.val().dtype());
        }
    }
    let mut first = First(None);
    model.visit(&mut first);
    first.0.expect("a model has parameters")
}

/// Gradient of every parameter that has one, in the order of the visit.
pub fn parameter_gradients(model: &MOptEqs, grads: &burn::tensor::Gradients) -> Vec<Vec<f64>> {
    struct Collect<'a>(&'a burn::tensor::Gradients, Vec<Vec<f64>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(g) = param.val().grad(self.0) {
                self.1.push(values(g));
            }
        }
    }
    let mut collect = Collect(grads, Vec::new());
    model.visit(&mut collect);
    collect.1
}

/// The model with h * direction(k) added to its k-th parameter that requires a gradient.
pub fn nudged(model: &MOptEqs, which: usize, direction: &[f64], h: f64) -> MOptEqs {
    struct Nudge<'a>(usize, usize, &'a [f64], f64);
    impl ModuleMapper for Nudge<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.val().is_require_grad() {
                return param;
            }
            let k = self.0;
            self.0 += 1;
            if k != self.1 {
                return param;
            }
            let (direction, h) = (self.2, self.3);
            param.map(|t| {
                let shape = t.dims();
                assert_eq!(direction.len(), shape.iter().product::<usize>());
                let v = values(t)
                    .iter()
                    .zip(direction)
                    .map(|(v, d)| v + h * d)
                    .collect();
                let data = TensorData::new(v, shape);
                Tensor::from_data(data, (&Device::flex(), DType::F64))
                    .autodiff()
                    .require_grad()
            })
        }
    }
    model.clone().map(&mut Nudge(0, which, direction, h))
}

/// A random state and context of the tiny model's shape.
pub fn point(config: &MOptEqsConfig, batch: usize) -> (Branches, Context) {
    let model = model_f64(config);
    let context = model.context(images(batch));
    let mut numbers = Numbers::new(29);
    let z = (0..3)
        .map(|i| numbers.tensor([batch, config.channels, 8 >> i, 8 >> i], DType::F64))
        .collect();
    (z, context)
}
