//! Convolutions that keep the resolution.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::launch::{CubeStep, Setup};
use super::plan::{Formula, Job, Plan};
use super::tensors::limits;
use crate::gradient::custom_gradient;

/// The convolution with a kernel `[out, in, k, k]` that keeps the resolution, with gradients for
/// both.
pub(crate) fn convolve(
    x: &Tensor<4>,
    kernel: &Tensor<4>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<4>> {
    let limits = limits(&x.device().without_autodiff())?;
    let [batch, channels, height, width] = x.dims();
    let dims = kernel.dims();
    let [out, inner, ..] = dims;
    let counted = (1..=usize::from(u16::MAX)).contains(&batch);
    if x.dtype() != DType::F32 || kernel.dtype() != DType::F32 || inner != channels || !counted {
        return None;
    }
    let plan = Arc::new(Plan::new(&[dims], &[[height, width]], &limits)?);
    let (kernel, x) = (kernel.clone(), x.clone());
    let natural = kernel.clone().without_autodiff().reshape([plan.natural]);
    let weights = CubeStep::lay_out(natural, &plan);
    let image = |plan: &Arc<Plan>| Setup {
        formula: Arc::new(Formula::square()),
        plan: plan.clone(),
        job: Job::Image,
    };
    let z = x.clone().without_autodiff().reshape([batch, plan.state]);
    let y = CubeStep::step(&z, &z, [&z, &z], &weights, image(&plan));
    let mut y = y.reshape([batch, out, height, width]);
    if kernel.is_autodiff() || x.is_autodiff() {
        let constant = Tensor::<1>::zeros([1], &y.device());
        y = custom_gradient((kernel, x, constant), y, move |g: Tensor<4>, wanted| {
            let g = g.reshape([batch, plan.image]);
            let gradient = wanted[0].then(|| CubeStep::correlate(&[[&g, &z]], &plan).reshape(dims));
            let state = wanted[1].then(|| {
                let plan = Arc::new(plan.transposed());
                let x = CubeStep::step(&g, &g, [&g, &g], &weights, image(&plan));
                x.reshape([batch, channels, height, width])
            });
            (gradient, state, None)
        });
    }
    Some(match bias {
        Some(bias) => y + bias.clone().reshape([1, out, 1, 1]),
        None => y,
    })
}
