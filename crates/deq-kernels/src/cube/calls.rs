//! Calls of the kernels on Burn's tensors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::launch::{CubeKernels, CubeStep, Setup};
use super::plan::Plan;

/// Largest number of groups of samples. One cube adds up the kernel gradients of a group.
const GROUPS: usize = 256;

impl CubeStep {
    pub(super) fn lay_out(natural: Tensor<1>, plan: &Arc<Plan>) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as CubeKernels>::lay_out(
            natural.into_dispatch(),
            plan.clone(),
        ))
    }

    pub(super) fn step(
        x: &Tensor<2>,
        c: &Tensor<2>,
        [before, after]: [&Tensor<2>; 2],
        weights: &Tensor<1>,
        setup: Setup,
    ) -> Tensor<2> {
        let [x, c, before, after] = [x, c, before, after].map(|t| t.clone().into_dispatch());
        let weights = weights.clone().into_dispatch();
        Tensor::from_dispatch(<Dispatch as CubeKernels>::step(
            x, c, before, after, weights, setup,
        ))
    }

    /// The sum of the correlations of one or two pairs of an image and a state: `[kernels]`.
    pub(super) fn correlate(pairs: &[[&Tensor<2>; 2]], plan: &Arc<Plan>) -> Tensor<1> {
        let [a1, z1] = pairs[0].map(|t| t.clone().into_dispatch());
        let [a2, z2] = pairs[pairs.len() - 1].map(|t| t.clone().into_dispatch());
        let group = pairs[0][0].dims()[0].div_ceil(GROUPS);
        let (count, plan) = (pairs.len(), plan.clone());
        let sums = Tensor::<2>::from_dispatch(<Dispatch as CubeKernels>::correlate(
            a1, z1, a2, z2, group, count, plan,
        ));
        match sums.dims()[0] {
            1 => sums.squeeze_dim(0),
            _ => sums.sum_dim(0).squeeze_dim(0),
        }
    }

    pub(super) fn normalise(x: Tensor<2>, plan: &Arc<Plan>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as CubeKernels>::normalise(
            x.into_dispatch(),
            plan.clone(),
        ))
    }

    pub(super) fn bound(
        kernels: &Tensor<1>,
        image: &Tensor<2>,
        bounds: &[u32],
        plan: &Arc<Plan>,
    ) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as CubeKernels>::bound(
            kernels.clone().into_dispatch(),
            image.clone().into_dispatch(),
            bounds.to_vec(),
            plan.clone(),
        ))
    }

    pub(super) fn unbound(
        [gradient, kernels]: [&Tensor<1>; 2],
        image: &Tensor<2>,
        correlation: &Tensor<1>,
        bounds: &[u32],
        plan: &Arc<Plan>,
    ) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as CubeKernels>::unbound(
            gradient.clone().into_dispatch(),
            kernels.clone().into_dispatch(),
            image.clone().into_dispatch(),
            correlation.clone().into_dispatch(),
            bounds.to_vec(),
            plan.clone(),
        ))
    }
}
