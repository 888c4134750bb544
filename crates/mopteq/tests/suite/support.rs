//! Small models and helpers shared by the tests.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{EquilibriumConfig, Gradient, Solver};
use mopteq::perturbation::Perturbation;
use mopteq::{Branches, Context, Family, HeadConfig, MOptEqs, MOptEqsConfig};

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

pub fn flat(z: &Branches) -> Vec<f64> {
    z.iter().flat_map(|z| values(z.clone())).collect()
}

/// The gradient of the sum of `value` over the batch by autodiff.
pub fn autodiff(z: &Branches, value: impl Fn(&Branches) -> Tensor<1>) -> Vec<f64> {
    let z: Branches = z
        .iter()
        .map(|z| z.clone().autodiff().require_grad())
        .collect();
    let grads = value(&z).sum().backward();
    z.iter()
        .flat_map(|z| match z.grad(&grads) {
            Some(g) => values(g),
            None => vec![0.0; z.dims().iter().product()],
        })
        .collect()
}

/// A random state of the shape of z.
pub fn random_like(z: &Branches, seed: u64) -> Branches {
    let mut numbers = Numbers::new(seed);
    z.iter()
        .map(|z| numbers.tensor(z.dims(), z.dtype()))
        .collect()
}

/// Sum of the elementwise products.
pub fn dot(a: &Branches, b: &Branches) -> f64 {
    flat(a).iter().zip(flat(b)).map(|(a, b)| a * b).sum()
}

/// The same context with all kernels and injections as leaves of the tape, and these leaves.
pub fn leaves(x: &Context) -> (Context, Branches) {
    let mut all = Branches::new();
    let mut leaf = |t: &Tensor<4>| {
        let t = t.clone().without_autodiff().autodiff().require_grad();
        all.push(t.clone());
        t
    };
    let kernels = x.kernels().iter().map(&mut leaf).collect();
    let injection = x.injection().iter().map(&mut leaf).collect();
    let mut cross = x.cross();
    for block in &mut cross {
        block.kernel = leaf(&block.kernel);
    }
    (Context::new(kernels, injection).with_cross(cross), all)
}

/// Gradients of a loss with respect to leaves.
pub fn gradients_of(leaves: &Branches, loss: Tensor<1>) -> Vec<Vec<f64>> {
    let grads = loss.backward();
    let gradient = |t: &Tensor<4>| values(t.grad(&grads).expect("a gradient"));
    leaves.iter().map(gradient).collect()
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
        .map_core(|c| {
            c.with_channels(3)
                .with_hidden(4)
                .with_family(family)
                .with_coupling(0.05)
                .with_equilibrium(
                    EquilibriumConfig::new()
                        .with_forward(exact(Solver::anderson(6)))
                        .with_gradient(Gradient::default()),
                )
        })
        .with_head(HeadConfig::new().with_grid(2))
        .with_perturbation(Perturbation::off())
}

/// Casts every float parameter with a function of its values, in the order of the visit.
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

/// The same module in a different type.
pub fn cast<M: Module>(model: M, dtype: DType) -> M {
    model.map(&mut Cast(dtype, |v: Vec<f64>| v))
}

/// Any module with reproducible random weights of the given type. Zeros and ones, the initial
/// biases and norms, stay.
pub fn randomised<M: Module>(model: M, dtype: DType, scale: f64) -> M {
    let mut numbers = Numbers::new(17);
    model.map(&mut Cast(dtype, |v: Vec<f64>| {
        // Biases and factors stay. A weight that is drawn as zero by chance does not.
        if v.iter().all(|x| *x == 0.0 || *x == 1.0) {
            return v;
        }
        v.iter().map(|_| scale * numbers.next()).collect()
    }))
}

/// A model in f32 whose batch norms differ from the identity, too.
pub fn varied<M: Module>(model: M) -> M {
    let mut numbers = Numbers::new(23);
    model.map(&mut Cast(DType::F32, |v: Vec<f64>| {
        let all = |value: f64| v.iter().all(|x| *x == value);
        // Factors and variances stay positive.
        let (base, scale) = if all(1.0) {
            (1.0, 0.3)
        } else if all(0.0) {
            (0.0, 0.3)
        } else {
            (0.0, 0.5)
        };
        v.iter().map(|_| base + scale * numbers.next()).collect()
    }))
}

/// A model in f64 with reproducible weights and close estimates of the norms.
pub fn model_f64(config: &MOptEqsConfig) -> MOptEqs {
    let model = randomised(config.init(&Device::flex()).unwrap(), DType::F64, 0.5);
    settle(model.train(), 200).valid()
}

/// The same with converged estimates: using the kernels again does not change them.
pub fn settled_f64(config: &MOptEqsConfig) -> MOptEqs {
    model(config, DType::F64)
}

pub fn model(config: &MOptEqsConfig, dtype: DType) -> MOptEqs {
    let model = config.init(&Device::flex()).unwrap();
    let model = randomised(model, dtype, 0.5);
    settle(model.train(), 2000).valid()
}

/// Lets the power iterations of a training model converge, in at most `iterations` steps.
pub fn settle(model: MOptEqs, iterations: usize) -> MOptEqs {
    let kernels = || flat(model.core().context(Vec::new()).kernels());
    let mut before = kernels();
    for k in 1..=iterations {
        let now = model.core().context(Vec::new());
        if k % 50 == 0 {
            let now = flat(now.kernels());
            if relative(&now, &before) <= 1e-14 {
                break;
            }
            before = now;
        }
    }
    model
}

pub fn images(batch: usize) -> Tensor<4> {
    images_of(batch, DType::F64)
}

pub fn images_of(batch: usize, dtype: DType) -> Tensor<4> {
    Numbers::new(3).tensor([batch, 2, 8, 8], dtype)
}

pub fn dtype_of<M: Module>(model: &M) -> DType {
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
pub fn parameter_gradients<M: Module>(model: &M, grads: &burn::tensor::Gradients) -> Vec<Vec<f64>> {
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
pub fn nudged<M: Module>(model: &M, which: usize, direction: &[f64], h: f64) -> M {
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
        .map(|i| numbers.tensor([batch, config.core.channels, 8 >> i, 8 >> i], DType::F64))
        .collect();
    (z, context)
}
