//! The gradient matrix: every forward solver x every exact adjoint solver x four maps, against
//! unrolled autodiff in f64.

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::GroupNormConfig;
use burn::tensor::module::{avg_pool2d, conv2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Device, Gradients, Tensor};
use burn_deq::{
    AdjointStart, AndersonConfig, AndersonType, Declared, EquilibriumConfig, Gradient, Implicit,
    LinearSolver, Method, Solver, Structure, WithModule,
};

use crate::support::{Affine, Numbers, Tanh, relative, values};

/// z_1, z_2: two resolutions.
type Branches = (Tensor<4>, Tensor<4>);

/// Two branches of a convolutional map with GroupNorm that feed each other.
#[derive(Module, Debug)]
struct Conv {
    fine: Param<Tensor<4>>,
    coarse: Param<Tensor<4>>,
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl Conv {
    fn new() -> Self {
        let mut numbers = Numbers::new(31);
        let mut kernel = || Param::from_tensor(numbers.tensor([4, 4, 3, 3], 0.12));
        let (fine, coarse) = (kernel(), kernel());
        Self {
            fine,
            coarse,
            gamma: Param::from_tensor(numbers.tensor([1, 4], 0.3).squeeze_dim::<1>(0) + 0.7),
            beta: Param::from_tensor(numbers.tensor([1, 4], 0.2).squeeze_dim(0)),
        }
    }

    fn norm(&self, x: Tensor<4>) -> Tensor<4> {
        let mut norm = GroupNormConfig::new(2, 4).init(&x.device().without_autodiff());
        norm.gamma = Some(Param::from_tensor(Tensor::ones(
            [4],
            (&x.device(), x.dtype()),
        )));
        norm.beta = Some(Param::from_tensor(Tensor::zeros(
            [4],
            (&x.device(), x.dtype()),
        )));
        let shape = [1, 4, 1, 1];
        norm.forward(x) * self.gamma.val().reshape(shape) + self.beta.val().reshape(shape)
    }

    fn forward(&self, (a, b): Branches, x: Tensor<4>) -> Branches {
        let conv = |z, w: &Param<Tensor<4>>| {
            conv2d(
                z,
                w.val(),
                None,
                ConvOptions::new([1, 1], [1, 1], [1, 1], 1),
            )
        };
        let down = avg_pool2d(a.clone(), AvgPoolOptions::new([2, 2]));
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
        let up = interpolate(b.clone(), nearest.with_scale_factor([2.0, 2.0]));
        let fine = conv(a, &self.fine) * 0.5 + up * 0.1 + x;
        let coarse = self.norm(conv(b, &self.coarse) + down * 0.3) * 0.4;
        (fine.tanh(), coarse.tanh())
    }
}

/// z = tanh(z W + x) W', the gradient of a potential: its Jacobian W D W' is symmetric.
fn potential(z: Tensor<2>, x: WithModule<Affine, Tensor<2>>) -> Tensor<2> {
    let w = x.module.a.val();
    (z.matmul(w.clone()) + x.input).tanh().matmul(w.transpose())
}

fn forward_solvers() -> Vec<Solver> {
    let anderson = AndersonConfig::new();
    [
        Method::Plain { damping: 1.0 },
        Method::Plain { damping: 0.7 },
        anderson.clone().into(),
        anderson.clone().with_kind(AndersonType::I).into(),
        anderson.with_history(3).with_damping(0.8).into(),
        burn_deq::BroydenConfig::new().into(),
    ]
    .map(|m| exact(Solver::from(m)))
    .into()
}

fn exact<M: Default>(solver: burn_deq::SolverOf<M>) -> burn_deq::SolverOf<M> {
    solver
        .with_relative(1e-12)
        .with_absolute(1e-14)
        .with_max_steps(400)
}

/// All gradients of a module's parameters, concatenated.
fn parameter_gradients<M: Module>(module: &M, gradients: &Gradients) -> Vec<f64> {
    struct Visit<'g>(&'g Gradients, Vec<f64>);
    impl ModuleVisitor for Visit<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).expect("every parameter has one");
            self.1.extend(values(gradient));
        }
    }
    let mut visit = Visit(gradients, Vec::new());
    module.visit(&mut visit);
    visit.1
}

/// Runs `gradients_with(config)` for the unrolled reference and for the whole matrix. The symmetric
/// adjoint solvers take part if `symmetric` is set.
fn check_matrix(
    name: &str,
    symmetric: bool,
    gradients_with: impl Fn(EquilibriumConfig) -> Vec<f64>,
) {
    let reference = gradients_with(EquilibriumConfig::new().with_gradient(Gradient::Unrolled {
        steps: 300,
        damping: 1.0,
    }));
    assert!(reference.iter().any(|g| *g != 0.0));
    let mut adjoint: Vec<LinearSolver> = forward_solvers().into_iter().map(Into::into).collect();
    if symmetric {
        adjoint.push(exact(LinearSolver::conjugate_gradients()));
        adjoint.push(exact(LinearSolver::minres()));
    }
    let mut worst: f64 = 0.0;
    for forward in forward_solvers() {
        for adjoint in &adjoint {
            for start in [AdjointStart::Gradient, AdjointStart::BroydenFactors] {
                let gradient = Gradient::Implicit(Implicit {
                    solver: Some(adjoint.clone()),
                    start,
                });
                let config = EquilibriumConfig::new()
                    .with_forward(forward.clone())
                    .with_gradient(gradient);
                let error = relative(&gradients_with(config), &reference);
                worst = worst.max(error);
                assert!(
                    error <= 1e-9,
                    "{name}: {error:e} by {:?} / {:?} / {start:?}",
                    forward.method,
                    adjoint.method
                );
            }
        }
    }
    println!("{name}: worst of all pairs {worst:.1e}");
    // Neumann series and phantom gradients approach the reference.
    for inexact in [
        |k| Gradient::Neumann { terms: k },
        |k| Gradient::Phantom {
            steps: k,
            damping: 1.0,
        },
    ] {
        let mut last = f64::INFINITY;
        for k in [1, 2, 4, 8, 16] {
            let config = EquilibriumConfig::new()
                .with_forward(exact(Solver::default()))
                .with_gradient(inexact(k));
            let error = relative(&gradients_with(config), &reference);
            assert!(
                error < 0.95 * last,
                "{name}, k = {k}: {error:e} after {last:e}"
            );
            last = error;
        }
    }
    let with = |gradient| {
        let config = EquilibriumConfig::new().with_forward(exact(Solver::default()));
        gradients_with(config.with_gradient(gradient))
    };
    let one = with(Gradient::OneStep);
    let phantom = with(Gradient::Phantom {
        steps: 1,
        damping: 1.0,
    });
    assert_eq!(one, phantom, "{name}");
}

#[test]
fn tanh_layer() {
    let device = Device::flex();
    check_matrix("tanh layer", false, |config| {
        let cell = Tanh::new(12, 7, &device, DType::F64).train();
        let x = Numbers::new(1)
            .tensor([4, 7], 1.0)
            .autodiff()
            .require_grad();
        let z0 = Tensor::zeros([4, 12], (&device, DType::F64));
        let out = config.init().solve(&cell, Tanh::forward, x.clone(), z0);
        let gradients = out.state.cos().sum().backward();
        let mut all = parameter_gradients(&cell, &gradients);
        all.extend(values(x.grad(&gradients).unwrap()));
        all
    });
}

#[test]
fn convolutional_two_branch_map() {
    let device = Device::flex();
    check_matrix("convolutional map", false, |config| {
        let cell = Conv::new().train();
        let x = Numbers::new(2)
            .tensor([2, 4, 6, 6], 1.0)
            .autodiff()
            .require_grad();
        let zeros = |n| Tensor::<4>::zeros([2, 4, n, n], (&device, DType::F64));
        let out = config
            .init()
            .solve(&cell, Conv::forward, x.clone(), (zeros(6), zeros(3)));
        let (a, b) = out.state;
        let gradients = (a.cos().sum() + b.powi_scalar(3).sum()).backward();
        let mut all = parameter_gradients(&cell, &gradients);
        all.extend(values(x.grad(&gradients).unwrap()));
        all
    });
}

fn symmetric_problem(
    config: EquilibriumConfig,
    map: fn(Tensor<2>, WithModule<Affine, Tensor<2>>) -> Tensor<2>,
) -> Vec<f64> {
    let spectrum: Vec<f64> = (0..14).map(|k| -0.8 + 1.6 * k as f64 / 13.0).collect();
    let device = Device::flex();
    let module = Affine::symmetric(&spectrum, 3, &device, DType::F64).train();
    let x = Numbers::new(3)
        .tensor([3, 14], 1.0)
        .autodiff()
        .require_grad();
    let z0 = Tensor::zeros([3, 14], (&device, DType::F64));
    let input = WithModule {
        module: module.clone(),
        input: x.clone(),
    };
    let map = Declared::new(map).with_structure(Structure::SymmetricPositiveDefinite);
    let out = config.init().solve_map(&map, input, z0);
    let gradients = out.state.cos().sum().backward();
    let mut all = parameter_gradients(&module, &gradients);
    all.extend(values(x.grad(&gradients).unwrap()));
    all
}

#[test]
fn affine_map() {
    check_matrix("affine map", true, |config| {
        symmetric_problem(config, |z, x| x.module.forward(z, x.input))
    });
}

#[test]
fn symmetric_map() {
    check_matrix("symmetric map", true, |config| {
        symmetric_problem(config, potential)
    });
}
