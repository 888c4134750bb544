//! MDEQ: gradients, variational dropout.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::MdeqConfig;

use crate::support::{Numbers, images, nudged, parameter_gradients, randomised, values};

/// A small MDEQ in f64 whose map contracts, because its last norms mostly add a constant.
fn tiny_mdeq(dropout: f64) -> mopteq::Mdeq {
    let solver = Solver::anderson(6)
        .with_relative(1e-13)
        .with_absolute(1e-14)
        .with_max_steps(400);
    let config = MdeqConfig::new(3, 2, [8, 8], vec![4, 4], vec![2, 2], 6)
        .with_expansion(2)
        .with_groups(2)
        .with_dropout(dropout)
        .with_equilibrium(EquilibriumConfig::new().with_forward(solver));
    let model = randomised(config.init(&Device::flex()).unwrap(), DType::F64, 0.5);
    struct Calm(Vec<String>, Numbers);
    impl burn::module::ModuleMapper for Calm {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            let path = self.0.join(".");
            if !path.contains("post_fuse_layers") || !path.contains("gnorm") {
                return param;
            }
            let gamma = path.ends_with("gamma");
            let numbers = &mut self.1;
            param.map(|t| {
                if gamma {
                    t * 0.03
                } else {
                    numbers.tensor(t.dims(), DType::F64)
                }
            })
        }
    }
    model.map(&mut Calm(Vec::new(), Numbers::new(6)))
}

#[test]
fn mdeqs_gradients_match_central_differences() {
    let model = tiny_mdeq(0.0).train();
    let value = |m: &mopteq::Mdeq| {
        let out = m.forward(images(3).autodiff());
        assert!(out.forward.all_converged(), "{:?}", out.forward);
        let c = Numbers::new(5).tensor(out.logits.dims(), DType::F64);
        (out.logits.sin() * c).sum()
    };
    let exact = parameter_gradients(&model, &value(&model).backward());
    // Weights and norms of the stem, two blocks, two fusions, two post-fusions, two bottlenecks
    // with projections, one down-sampling, the last layer and the classifier.
    assert_eq!(
        exact.len(),
        2 * 3 + 2 * 10 + 2 * 4 + 2 * 4 + 2 * (3 + 3) + 4 + 4 + 2
    );
    let h = 1e-6;
    for (k, gradient) in exact.iter().enumerate() {
        let mut numbers = Numbers::new(100 + k as u64);
        let direction: Vec<f64> = gradient.iter().map(|_| numbers.next()).collect();
        let at = |h: f64| values(value(&nudged(&model, k, &direction, h)))[0];
        let difference = (at(h) - at(-h)) / (2.0 * h);
        let dot: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (difference - dot).abs() <= 2e-6 * size.max(dot.abs()).max(1e-2),
            "parameter {k}: {difference} {dot}"
        );
    }
}

#[test]
fn variational_dropout_draws_once_a_solve_and_not_in_evaluation() {
    let model = tiny_mdeq(0.3);
    let calm = |m: &mopteq::Mdeq| values(m.forward(images(2)).logits);
    assert_eq!(calm(&model), calm(&model));
    assert_eq!(calm(&model), calm(&tiny_mdeq(0.0)));
    let training = model.train();
    let draw = || {
        let out = training.forward(images(2).autodiff());
        // With a mask that changed from step to step, there would be no fixed point.
        assert!(out.forward.all_converged(), "{:?}", out.forward);
        values(out.logits)
    };
    assert_ne!(draw(), draw());
}
