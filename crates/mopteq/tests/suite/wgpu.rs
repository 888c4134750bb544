//! The same network on wgpu as on Flex, in f32. Run by name if there is a Vulkan driver.
#![cfg(feature = "wgpu")]

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::fast::Batching;
use burn_deq::{EquilibriumConfig, FixedPointMap, Jacobian, Solver};
use mopteq::{Branches, Context, Family, MOptEqs};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::native::Case;
use crate::support::{Numbers, gradients_of, leaves, parameter_gradients, relative, tiny, values};

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_solve_and_gradients_equal_those_of_flex() {
    for family in [Family::S, Family::P] {
        let solver = Solver::default().with_relative(1e-6).with_max_steps(100);
        let config = tiny(family)
            .map_core(|c| c.with_equilibrium(EquilibriumConfig::new().with_forward(solver)));
        let model = config.init(&Device::flex()).unwrap().train();
        let run = |model: MOptEqs, device: &Device| {
            let images = Numbers::new(3).tensor([3, 2, 8, 8], DType::F32);
            let images = Tensor::<4>::from_data(images.into_data(), device).autodiff();
            let out = model.forward(images);
            assert!(out.forward.all_converged(), "{:?}", out.forward);
            let logits = values(out.logits.clone());
            let grads = out.logits.sin().sum().backward();
            assert!(out.adjoint.report().unwrap().all_converged());
            (logits, parameter_gradients(&model, &grads))
        };
        let gpu = Device::wgpu(Default::default());
        // Clones share their running states, so the copy must be a separate model.
        let copy = config
            .init(&gpu)
            .unwrap()
            .load_record(model.clone().into_record())
            .train();
        let (logits, gradients) = run(model, &Device::flex());
        let (gpu_logits, gpu_gradients) = run(copy, &gpu);
        let error = relative(&gpu_logits, &logits);
        assert!(error <= 1e-4, "{family:?} logits: {error:e}");
        assert_eq!(gradients.len(), gpu_gradients.len());
        for (k, (a, b)) in gpu_gradients.iter().zip(&gradients).enumerate() {
            let error = relative(a, b);
            assert!(error <= 1e-4, "{family:?} parameter {k}: {error:e}");
        }
    }
}

/// The branches side by side, `[batch, n]`.
fn packed(z: &Branches) -> Tensor<2> {
    Tensor::cat(z.iter().map(|z| z.clone().flatten(1, 3)).collect(), 1)
}

fn agree(what: &str, case: &Case, ours: Tensor<2>, theirs: &Branches) {
    let (ours, theirs) = (values(ours), values(packed(theirs)));
    let scale = theirs.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!(
            (a - b).abs() <= 1e-5 * scale,
            "{what} {i}: {a} and {b} in {case:?}"
        );
    }
}

/// The kernels of a step, its linearisation and its gradients, on random shapes, activations,
/// constraints and couplings.
#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_kernels_equal_the_terms_on_flex() {
    let gpu = Device::wgpu(Default::default());
    let there =
        |z: &Branches| -> Branches { z.iter().map(|z| z.clone().to_device(&gpu)).collect() };
    let mut runner = TestRunner::deterministic();
    for _ in 0..8 {
        let case = Case::any().new_tree(&mut runner).unwrap().current();
        let (z, x, u) = case.data();
        // Exact numbers meet kinks, where gradients differ: an offset keeps them away.
        let offset = if case.exact { 1.0 / 512.0 } else { 0.0 };
        let injection: Branches = x.injection().iter().map(|c| c.clone() + offset).collect();
        let x = Context::new(x.kernels().clone(), injection);
        let objective = case.objective();
        let portable = objective.clone().portable();
        let gx = Context::new(there(x.kernels()), there(x.injection()));
        let fast = FixedPointMap::fast(&objective).expect("a formula");
        assert_eq!(fast.batching(&there(&z), &gx), Batching::Whole, "{case:?}");

        let (gz, gu) = (packed(&there(&z)), packed(&there(&u)));
        let value = fast.apply_packed(&gz, &gx).expect("the kernels apply");
        agree(
            "step",
            &case,
            value.clone(),
            &portable.apply(z.clone(), x.clone()),
        );
        let exact = portable.linearise(&z, &x);
        for value in [None, Some(&value)] {
            let jacobian = fast
                .jacobian_packed(&gz, &gx, value)
                .expect("the kernels apply");
            agree("vjp", &case, jacobian.vjp(&gu), &exact.vjp(u.clone()));
            agree(
                "jvp",
                &case,
                jacobian.jvp(&gu),
                &exact.jvp(u.clone()).unwrap(),
            );
            let mask = jacobian.mask().map(values);
            assert_eq!(mask, exact.mask().map(|m| values(packed(&m))), "{case:?}");
        }

        let (tracked, ours) = leaves(&gx);
        let attached = fast
            .attach_packed(&gz, &tracked, &value)
            .expect("the kernels apply");
        let loss = (attached * gu.autodiff()).sum();
        let ours = gradients_of(&ours, loss);
        let (tracked, theirs) = leaves(&x);
        let step = portable.apply(z, tracked);
        let parts = step
            .into_iter()
            .zip(&u)
            .map(|(z, u)| (z * u.clone().autodiff()).sum());
        let theirs = gradients_of(&theirs, parts.reduce(|a, b| a + b).unwrap());
        assert_eq!(ours.len(), theirs.len());
        for (k, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let error = relative(a, b);
            assert!(error <= 1e-5, "gradient {k}: {error:e} in {case:?}");
        }
    }
}
