//! Kernels bounded by their norms.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::launch::{CubeStep, Setup};
use super::plan::{Formula, Job, Plan};
use super::tensors::{elements, flat, limits, rows};
use crate::gradient::custom_gradient;

/// Kernels bounded at their directions, and the directions, after a power iteration if requested;
/// see [`crate::bounded`].
pub(crate) fn bounded(
    kernels: &[Tensor<4>],
    directions: &[Tensor<4>],
    bounds: &[f64],
    iterate: bool,
) -> Option<(Vec<Tensor<4>>, Vec<Tensor<4>>)> {
    let limits = limits(&kernels.first()?.device().without_autodiff())?;
    let mut all = kernels.iter().chain(directions);
    if all.any(|t| t.dtype() != DType::F32) || directions.iter().any(|v| v.dims()[0] != 1) {
        return None;
    }
    let dims: Vec<_> = kernels.iter().map(Tensor::dims).collect();
    let sizes: Vec<_> = directions
        .iter()
        .map(|v| [v.dims()[2], v.dims()[3]])
        .collect();
    let plan = Arc::new(Plan::new(&dims, &sizes, &limits)?);
    let natural = flat(kernels, elements, 0);
    let plain = natural.clone().without_autodiff();
    let weights = CubeStep::lay_out(plain.clone(), &plan);
    let setup = |job| Setup {
        formula: Arc::new(Formula::square()),
        plan: plan.clone(),
        job,
    };
    let mut v = flat(directions, rows, 1);
    if iterate {
        let square = Job::Product {
            before: false,
            after: false,
        };
        v = CubeStep::normalise(
            CubeStep::step(&v, &v, [&v, &v], &weights, setup(square)),
            &plan,
        );
    }
    let image = CubeStep::step(&v, &v, [&v, &v], &weights, setup(Job::Image));
    let bounds: Vec<u32> = bounds
        .iter()
        .map(|bound| (*bound as f32).to_bits())
        .collect();
    let scaled = CubeStep::bound(&plain, &image, &bounds, &plan);
    let constant = Tensor::<1>::zeros([1], &plain.device());
    let inputs = (natural, constant.clone(), constant);
    let (of, direction) = (plan.clone(), v.clone());
    let scaled = custom_gradient(inputs, scaled, move |g: Tensor<1>, _wanted| {
        let correlation = CubeStep::correlate(&[[&image, &direction]], &of);
        let gradient = CubeStep::unbound([&g, &plain], &image, &correlation, &bounds, &of);
        (Some(gradient), None, None)
    });
    let lengths = plan.branches.iter().map(|b| b.weights_len(plan.kernel));
    let scaled = scaled.split_with_sizes(lengths.collect(), 0);
    let scaled = scaled
        .into_iter()
        .zip(&dims)
        .map(|(k, dims)| k.reshape(*dims));
    let lengths = plan.branches.iter().map(|b| b.channels * b.pixels());
    let parts = v.split_with_sizes(lengths.collect(), 1);
    let parts = parts
        .into_iter()
        .zip(directions)
        .map(|(v, like)| v.reshape(like.dims()));
    Some((scaled.collect(), parts.collect()))
}
