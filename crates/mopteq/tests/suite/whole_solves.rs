//! Steps and whole solves of patches on the CPU against the terms and the solvers.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Jacobian, Solver, Status};
use mopteq::terms::{PatchReconstruction, Quadratic, Setting, Term};
use mopteq::{Branches, Constraint, Context, HiddenObjective, Step};
use proptest::prelude::*;

use crate::support::{Numbers, flat, gradients_of, leaves, values};

/// An objective of patches with everything that its whole solve depends on.
#[derive(Clone, Debug)]
struct Case {
    channels: Vec<usize>,
    size: [usize; 2],
    batch: usize,
    mu: f64,
    l1: f64,
    seed: u64,
}

impl Case {
    fn any() -> impl Strategy<Value = Self> {
        let channels = prop::collection::vec(1usize..20, 1..4);
        let size = [1usize..6, 1usize..6];
        (
            channels,
            size,
            1usize..5,
            0.05f64..1.0,
            0.0f64..0.2,
            any::<u64>(),
        )
            .prop_map(|(channels, size, batch, mu, l1, seed)| {
                let halvings = 1 << (channels.len() - 1);
                Self {
                    size: size.map(|n| n * halvings),
                    channels,
                    batch,
                    mu,
                    l1,
                    seed,
                }
            })
    }

    fn objective(&self) -> HiddenObjective {
        let terms: Vec<Arc<dyn Term>> = vec![
            Arc::new(PatchReconstruction),
            Arc::new(Quadratic { weight: self.mu }),
        ];
        let constraint = Constraint::Sparse { weight: self.l1 };
        let setting = Setting {
            branches: self.channels.len(),
            kernel_norm: 1.0,
        };
        let step = Step::Fixed(1.0 / (1.0 + self.mu));
        HiddenObjective::new(terms, Some(constraint.shared()), step, &setting).unwrap()
    }

    fn data(&self) -> (Branches, Context, Branches) {
        let mut numbers = Numbers::new(self.seed);
        let all: usize = self.channels.iter().sum();
        let rows: Tensor<2> = numbers.tensor([all, all + 2], DType::F32);
        let gram = rows.clone().matmul(rows.transpose());
        let gram = gram.clone() / gram.abs().sum_dim(1).max().reshape([1, 1]);
        let mut branches = || -> Branches {
            let channels = self.channels.iter().enumerate();
            channels
                .map(|(i, c)| {
                    let [h, w] = self.size.map(|n| n >> i);
                    numbers.tensor([self.batch, *c, h, w], DType::F32)
                })
                .collect()
        };
        let (z, injection, u) = (branches(), branches(), branches());
        (
            z,
            Context::new(vec![gram.reshape([all, all, 1, 1])], injection),
            u,
        )
    }
}

fn agree(what: &str, a: &[f64], b: &[f64], bound: f64) -> Result<(), TestCaseError> {
    let scale = b.iter().fold(0.1, |m: f64, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        prop_assert!((a - b).abs() <= bound * scale, "{what}: {a} and {b}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn steps_and_gradients_are_those_of_the_terms(case in Case::any()) {
        let (z, x, u) = case.data();
        let native = case.objective();
        let portable = native.clone().portable();
        let [a, b] = [&native, &portable].map(|o| flat(&o.apply(z.clone(), x.clone())));
        agree("step", &a, &b, 1e-5)?;
        let [a, b] = [&native, &portable].map(|o| flat(&o.linearise(&z, &x).vjp(u.clone())));
        agree("product", &a, &b, 1e-5)?;
        let gradients = |o: &HiddenObjective| {
            let (x, leaves) = leaves(&x);
            let parts = o.apply(z.clone(), x).into_iter().zip(&u);
            let parts = parts.map(|(z, u)| (z * u.clone().autodiff()).sum());
            gradients_of(&leaves, parts.reduce(|a, b| a + b).unwrap())
        };
        for (a, b) in gradients(&native).iter().zip(gradients(&portable)) {
            agree("gradient", a, &b, 1e-5)?;
        }
    }

    #[test]
    fn whole_solves_are_those_of_the_solvers(case in Case::any()) {
        let (z, x, u) = case.data();
        let native = case.objective();
        let portable = native.clone().portable();
        let start: Branches = z.iter().map(Tensor::zeros_like).collect();
        for (method, start) in [(Solver::accelerated(), start.clone()), (Solver::plain(), z)] {
            let solver = method.with_relative(1e-4).with_max_steps(200);
            let layer = EquilibriumConfig::new().with_forward(solver).init();
            let run = |o: &HiddenObjective| {
                let (x, leaves) = leaves(&x);
                let out = layer.solve_map(o, x, start.clone());
                let parts = out.state.iter().zip(&u);
                let parts = parts.map(|(z, u)| (z.clone() * u.clone().autodiff()).sum());
                let gradients = gradients_of(&leaves, parts.reduce(|a, b| a + b).unwrap());
                (flat(&out.state), gradients, out.forward, out.adjoint.report().unwrap())
            };
            let (a, b) = (run(&native), run(&portable));
            // The states are as far apart as the tolerance and the conditioning allow.
            agree("state", &a.0, &b.0, 1e-2)?;
            for (a, b) in a.1.iter().zip(&b.1) {
                agree("gradient", a, b, 2e-2)?;
            }
            for (a, b) in [(a.2, b.2), (a.3, b.3)] {
                prop_assert!(a.all_converged() && b.all_converged());
                for (i, (a, b)) in a.steps.iter().zip(&b.steps).enumerate() {
                    // Rounding may move a residual over the tolerance, or a restart by a step.
                    prop_assert!(a.abs_diff(*b) <= 1 + b / 8, "sample {i}: {a} and {b} steps");
                }
            }
        }
    }
}

#[test]
fn a_bad_sample_of_a_whole_solve_leaves_the_others_alone() {
    let case = Case {
        channels: vec![5, 3],
        size: [4, 4],
        batch: 3,
        mu: 0.1,
        l1: 0.02,
        seed: 1,
    };
    let (z, x, _) = case.data();
    let objective = case.objective();
    let start: Branches = z.iter().map(Tensor::zeros_like).collect();
    let layer = EquilibriumConfig::new()
        .with_forward(Solver::accelerated())
        .init();
    let good = layer.solve_map(&objective, x.clone(), start.clone());
    assert!(good.forward.all_converged());
    let mut injection = x.injection().clone();
    let nan = injection[1].clone().narrow(0, 1, 1) * f64::NAN;
    let [first, last] = [0, 2].map(|i| injection[1].clone().narrow(0, i, 1));
    injection[1] = Tensor::cat(vec![first, nan, last], 0);
    let bad = Context::new(x.kernels().clone(), injection);
    let out = layer.solve_map(&objective, bad, start);
    assert_eq!(out.forward.status[1], Status::NotFinite);
    for i in [0, 2] {
        assert_eq!(out.forward.status[i], Status::Converged);
        for (a, b) in out.state.iter().zip(&good.state) {
            let row = |t: &Tensor<4>| values(t.clone().narrow(0, i, 1));
            assert_eq!(row(a), row(b), "sample {i}");
        }
    }
}
