//! The kernels as operations of Burn's backends.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernels;
use super::plan::{Formula, Job, Plan};

/// Namespace of the calls.
pub(super) struct CubeStep;

/// What a step is compiled for.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) formula: Arc<Formula>,
    pub(super) plan: Arc<Plan>,
    pub(super) job: Job,
}

fn laid_out(_natural: &Shape, plan: &Plan) -> Shape {
    [plan.laid_out].into()
}

fn made(x: &Shape, setup: &Setup) -> Shape {
    let plan = &setup.plan;
    [
        x[0],
        if setup.job.makes_image() {
            plan.image
        } else {
            plan.state
        },
    ]
    .into()
}

fn correlated(z: &Shape, group: &usize, plan: &Plan) -> Shape {
    [z[0].div_ceil(*group), plan.natural].into()
}

#[backend_extension(Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait CubeKernels: Backend {
    #[fusion(dtype = natural, shape = laid_out(natural, plan))]
    fn lay_out(natural: FloatTensor<Self>, plan: Arc<Plan>) -> FloatTensor<Self>;

    #[fusion(dtype = x, shape = made(x, setup))]
    fn step(
        x: FloatTensor<Self>,
        c: FloatTensor<Self>,
        before: FloatTensor<Self>,
        after: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        setup: Setup,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = z1, shape = correlated(z1, group, plan))]
    fn correlate(
        a1: FloatTensor<Self>,
        z1: FloatTensor<Self>,
        a2: FloatTensor<Self>,
        z2: FloatTensor<Self>,
        group: usize,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = x, shape = x)]
    fn normalise(x: FloatTensor<Self>, plan: Arc<Plan>) -> FloatTensor<Self>;

    #[fusion(dtype = kernels, shape = kernels)]
    fn bound(
        kernels: FloatTensor<Self>,
        image: FloatTensor<Self>,
        bounds: Vec<u32>,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = kernels, shape = kernels)]
    fn unbound(
        gradient: FloatTensor<Self>,
        kernels: FloatTensor<Self>,
        image: FloatTensor<Self>,
        correlation: FloatTensor<Self>,
        bounds: Vec<u32>,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;
}

fn empty(like: &CubeTensor, shape: Shape) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, like.dtype)
}

#[allow(unsafe_code)]
impl CubeKernels for CubeBackend {
    fn lay_out(natural: CubeTensor, plan: Arc<Plan>) -> CubeTensor {
        let natural = into_contiguous(natural);
        let out = empty(&natural, laid_out(natural.meta.shape(), &plan));
        let cubes = plan.laid_out.div_ceil(plan.units) as u32;
        let client = natural.client.clone();
        // SAFETY: units past the end do nothing; the plan's offsets lie within the tensors, whose
        // shapes follow from it.
        unsafe {
            kernels::lay_out::launch_unchecked(
                &client,
                CubeCount::Static(cubes, 1, 1),
                CubeDim::new_1d(plan.units as u32),
                natural.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                (*plan).clone(),
            );
        }
        out
    }

    fn step(
        x: CubeTensor,
        c: CubeTensor,
        before: CubeTensor,
        after: CubeTensor,
        weights: CubeTensor,
        setup: Setup,
    ) -> CubeTensor {
        let [x, c, before, after] = [x, c, before, after].map(into_contiguous);
        let out = empty(&x, made(x.meta.shape(), &setup));
        let batch = x.meta.shape()[0] as u32;
        let client = x.client.clone();
        let Setup { formula, plan, job } = setup;
        // SAFETY: every index follows from the plan, and the caller has compared the shapes with it.
        unsafe {
            kernels::step::launch_unchecked(
                &client,
                CubeCount::Static(plan.tiles as u32, batch, 1),
                CubeDim::new_1d(plan.units as u32),
                x.into_buffer_arg(),
                c.into_buffer_arg(),
                before.into_buffer_arg(),
                after.into_buffer_arg(),
                weights.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                job,
                (*formula).clone(),
                (*plan).clone(),
            );
        }
        out
    }

    fn correlate(
        a1: CubeTensor,
        z1: CubeTensor,
        a2: CubeTensor,
        z2: CubeTensor,
        group: usize,
        plan: Arc<Plan>,
    ) -> CubeTensor {
        let [a1, z1, a2, z2] = [a1, z1, a2, z2].map(into_contiguous);
        let out = empty(&z1, correlated(z1.meta.shape(), &group, &plan));
        let batch = z1.meta.shape()[0];
        let groups = batch.div_ceil(group) as u32;
        let client = z1.client.clone();
        // SAFETY: as above.
        unsafe {
            kernels::correlate::launch_unchecked(
                &client,
                CubeCount::Static(plan.gradient_cubes as u32, groups, 1),
                CubeDim::new_1d(plan.gradient_units as u32),
                a1.into_buffer_arg(),
                z1.into_buffer_arg(),
                a2.into_buffer_arg(),
                z2.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                batch,
                group,
                (*plan).clone(),
            );
        }
        out
    }

    fn normalise(x: CubeTensor, plan: Arc<Plan>) -> CubeTensor {
        let x = into_contiguous(x);
        let out = empty(&x, x.meta.shape().clone());
        let client = x.client.clone();
        // SAFETY: as above.
        unsafe {
            kernels::normalise::launch_unchecked(
                &client,
                CubeCount::Static(plan.branches.len() as u32, 1, 1),
                CubeDim::new_1d(plan.gradient_units as u32),
                x.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                (*plan).clone(),
            );
        }
        out
    }

    fn bound(
        kernels: CubeTensor,
        image: CubeTensor,
        bounds: Vec<u32>,
        plan: Arc<Plan>,
    ) -> CubeTensor {
        let [kernels, image] = [kernels, image].map(into_contiguous);
        let out = empty(&kernels, kernels.meta.shape().clone());
        let client = kernels.client.clone();
        // SAFETY: as above.
        unsafe {
            kernels::bound::launch_unchecked(
                &client,
                CubeCount::Static(plan.branches.len() as u32, 1, 1),
                CubeDim::new_1d(plan.gradient_units as u32),
                kernels.into_buffer_arg(),
                image.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                bounds,
                (*plan).clone(),
            );
        }
        out
    }

    fn unbound(
        gradient: CubeTensor,
        kernels: CubeTensor,
        image: CubeTensor,
        correlation: CubeTensor,
        bounds: Vec<u32>,
        plan: Arc<Plan>,
    ) -> CubeTensor {
        let all = [gradient, kernels, image, correlation].map(into_contiguous);
        let [gradient, kernels, image, correlation] = all;
        let out = empty(&kernels, kernels.meta.shape().clone());
        let client = kernels.client.clone();
        // SAFETY: as above.
        unsafe {
            kernels::unbound::launch_unchecked(
                &client,
                CubeCount::Static(plan.branches.len() as u32, 1, 1),
                CubeDim::new_1d(plan.gradient_units as u32),
                gradient.into_buffer_arg(),
                kernels.into_buffer_arg(),
                image.into_buffer_arg(),
                correlation.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                bounds,
                (*plan).clone(),
            );
        }
        out
    }
}
