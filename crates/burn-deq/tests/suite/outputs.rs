//! Outputs beside the state.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{EquilibriumConfig, Solver};

use crate::support::{Numbers, Tanh, f64_tensor, relative, relative_error, values};

/// What f returns beside the state is that of the fixed point, and its gradients are those of central
/// differences: through the module, through x, and through z*.
#[test]
fn outputs_beside_the_state_have_gradients() {
    let device = Device::flex();
    let cell = Tanh::new(6, 4, &device, DType::F64).train();
    let f = |cell: &Tanh, z: Tensor<2>, x: Tensor<2>| {
        let product = (z.clone() * z.clone()).sum_dim(1) + x.clone().sin().sum_dim(1);
        let product = product + cell.b.val().sum().reshape([1, 1]);
        (cell.forward(z, x), product)
    };
    let solver = Solver::default().with_relative(1e-13).with_max_steps(300);
    let deq = EquilibriumConfig::new().with_forward(solver).init();
    let z0 = || f64_tensor(vec![0.0; 18], [3, 6]);
    let x = Numbers::new(2).vec(12);

    let tracked: Tensor<2> = f64_tensor(x.clone(), [3, 4]).autodiff().require_grad();
    let (out, extra) = deq.solve_with_output(&cell, f, tracked.clone(), z0());
    let (plain, expected) = f(
        &cell.valid(),
        out.state.clone().without_autodiff(),
        f64_tensor(x.clone(), [3, 4]),
    );
    assert!(relative_error(extra.clone(), expected) < 1e-12);
    assert!(relative_error(plain, out.state.clone()) < 1e-10);
    let gradients = (extra.powi_scalar(2).sum() + out.state.sum()).backward();
    let found = values(tracked.grad(&gradients).unwrap());
    assert!(cell.b.val().grad(&gradients).is_some());

    let loss = |x: Vec<f64>| {
        let (out, extra) = deq.solve_with_output(&cell.valid(), f, f64_tensor(x, [3, 4]), z0());
        values(extra.powi_scalar(2).sum() + out.state.sum())[0]
    };
    let h = 1e-5;
    let at = |k: usize, h: f64| {
        let mut x = x.clone();
        x[k] += h;
        loss(x)
    };
    let differences: Vec<f64> = (0..12)
        .map(|k| (at(k, h) - at(k, -h)) / (2.0 * h))
        .collect();
    let error = relative(&found, &differences);
    assert!(error < 1e-7, "{error:e}");
}
