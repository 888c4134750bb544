//! The same network on wgpu as on Flex, in f32. Run by name if there is a Vulkan driver.
#![cfg(feature = "wgpu")]

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, Solver};
use mopteq::{Family, MOptEqs};

use crate::support::{Numbers, parameter_gradients, relative, tiny, values};

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_solve_and_gradients_equal_those_of_flex() {
    for family in [Family::S, Family::P] {
        let solver = Solver::default().with_relative(1e-6).with_max_steps(100);
        let config = tiny(family).with_equilibrium(EquilibriumConfig::new().with_forward(solver));
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
