//! Tests on wgpu that do not need f64. Run by name if there is a Vulkan driver.
#![cfg(feature = "wgpu")]

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, LinearSolver, Solver};

use crate::problems::Place;
use crate::support::{Numbers, Tanh, relative_error};

fn place() -> Place {
    Place::f32_on(Device::wgpu(Default::default()))
}

/// Every size of the state and of the batch costs seconds of kernel compilation. So only a
/// selection of each test runs by default, and all of it if this variable is set.
fn all() -> bool {
    std::env::var_os("BURN_DEQ_WGPU_ALL").is_some()
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_solves_the_catalogue() {
    crate::solvers::check_table(&place(), |p| all() || [1, 200].contains(&p.solution.len()));
    if all() {
        crate::solvers::check_nested_state(&place());
    }
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_krylov_solvers_agree() {
    crate::solvers::check_krylov(&place(), |name| all() || name == "slow affine");
    crate::jacobian::check_masked_adjoint(&place());
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_survives_degenerate_settings() {
    let mut solvers = vec![Solver::anderson(6)];
    let mut linear = vec![LinearSolver::conjugate_gradients()];
    if all() {
        solvers.extend([Solver::plain(), Solver::anderson(1), Solver::broyden(20)]);
        linear.extend([LinearSolver::minres(), Solver::broyden(20).into()]);
    }
    crate::robustness::check_degenerate_limits(&place(), &solvers);
    crate::robustness::check_degenerate_backward_solves(&place(), &linear);
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_freezes_and_counts_read_backs() {
    if all() {
        crate::freezing::check_freezing(&place(), 48, &crate::freezing::every_kind());
    } else {
        crate::freezing::check_freezing(&place(), 4, &[Solver::plain()]);
    }
    crate::termination::check_read_backs(&place());
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_gradients_equal_those_of_flex() {
    let run = |device: &Device| {
        let cell = Tanh::new(16, 9, device, DType::F32).train();
        let x = Numbers::new(1).tensor([5, 9], 1.0);
        let x = Tensor::<2>::from_data(x.into_data(), (device, DType::F32))
            .autodiff()
            .require_grad();
        let z0 = Tensor::zeros([5, 16], (device, DType::F32));
        let deq = EquilibriumConfig::new()
            .with_forward(Solver::default().with_relative(1e-6))
            .init();
        let out = deq.solve(&cell, Tanh::forward, x.clone(), z0);
        assert!(out.forward.all_converged(), "{:?}", out.forward);
        let grads = out.state.clone().cos().sum().backward();
        assert!(out.adjoint.report().unwrap().all_converged());
        let flex = Device::flex();
        let here = |t: Tensor<2>| Tensor::<2>::from_data(t.into_data(), &flex);
        [
            here(out.state.without_autodiff()),
            here(cell.w.val().grad(&grads).unwrap()),
            here(cell.u.val().grad(&grads).unwrap()),
            here(x.grad(&grads).unwrap()),
        ]
    };
    let flex = run(&Device::flex());
    let wgpu = run(&Device::wgpu(Default::default()));
    for (name, (a, b)) in ["z", "dW", "dU", "dx"]
        .iter()
        .zip(wgpu.into_iter().zip(flex))
    {
        let error = relative_error(a, b);
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}
