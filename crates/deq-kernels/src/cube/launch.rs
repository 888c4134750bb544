//! The kernels as operations of Burn's backends.

// A kernel's parameters are its buffers, and one of Burn's operations takes them one by one.
#![allow(clippy::too_many_arguments)]

use std::sync::Arc;

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernels::{correlate, norm, step, vectors};
use super::plan::{Formula, Job, Plan};

/// Namespace of the calls.
pub(super) struct CubeStep;

/// The parameters that a step is compiled for.
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
    [z[0].div_ceil(*group) * plan.gradient_parts, plan.natural].into()
}

fn products(z: &Shape, width: &usize) -> Shape {
    [z[0], 2 + 2 * width].into()
}

#[cfg(feature = "fusion")]
fn conjugated(
    u: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    _: &bool,
    _: &usize,
) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
    let squares = TensorSpec::new([u.shape[0], 2].into(), u.dtype);
    (u.clone(), u.clone(), u.clone(), squares)
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
        pairs: usize,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = z0, shape = products(z0, width))]
    fn gram(
        z0: FloatTensor<Self>,
        f0: FloatTensor<Self>,
        z1: FloatTensor<Self>,
        f1: FloatTensor<Self>,
        z2: FloatTensor<Self>,
        f2: FloatTensor<Self>,
        z3: FloatTensor<Self>,
        f3: FloatTensor<Self>,
        z4: FloatTensor<Self>,
        f4: FloatTensor<Self>,
        z5: FloatTensor<Self>,
        f5: FloatTensor<Self>,
        z6: FloatTensor<Self>,
        f6: FloatTensor<Self>,
        slots: Vec<usize>,
        width: usize,
        units: usize,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = x0, shape = x0)]
    fn combine(
        weights: FloatTensor<Self>,
        x0: FloatTensor<Self>,
        x1: FloatTensor<Self>,
        x2: FloatTensor<Self>,
        x3: FloatTensor<Self>,
        x4: FloatTensor<Self>,
        x5: FloatTensor<Self>,
        x6: FloatTensor<Self>,
        units: usize,
    ) -> FloatTensor<Self>;

    #[fusion(meta = conjugated)]
    fn conjugate(
        u: FloatTensor<Self>,
        r: FloatTensor<Self>,
        p: FloatTensor<Self>,
        product: FloatTensor<Self>,
        within: FloatTensor<Self>,
        rr: FloatTensor<Self>,
        masked: bool,
        units: usize,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

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
            step::lay_out::launch_unchecked(
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
        // SAFETY: every index follows from the plan, and the caller has compared the shapes with
        // it.
        unsafe {
            step::step::launch_unchecked(
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
        pairs: usize,
        plan: Arc<Plan>,
    ) -> CubeTensor {
        let [a1, z1, a2, z2] = [a1, z1, a2, z2].map(into_contiguous);
        let out = empty(&z1, correlated(z1.meta.shape(), &group, &plan));
        let batch = z1.meta.shape()[0];
        let groups = batch.div_ceil(group) as u32;
        let client = z1.client.clone();
        // SAFETY: as above.
        unsafe {
            correlate::correlate::launch_unchecked(
                &client,
                CubeCount::Static(
                    plan.gradient_cubes as u32,
                    groups,
                    plan.gradient_parts as u32,
                ),
                CubeDim::new_1d(plan.gradient_units as u32),
                a1.into_buffer_arg(),
                z1.into_buffer_arg(),
                a2.into_buffer_arg(),
                z2.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                batch,
                group,
                pairs,
                (*plan).clone(),
            );
        }
        out
    }

    fn gram(
        z0: CubeTensor,
        f0: CubeTensor,
        z1: CubeTensor,
        f1: CubeTensor,
        z2: CubeTensor,
        f2: CubeTensor,
        z3: CubeTensor,
        f3: CubeTensor,
        z4: CubeTensor,
        f4: CubeTensor,
        z5: CubeTensor,
        f5: CubeTensor,
        z6: CubeTensor,
        f6: CubeTensor,
        slots: Vec<usize>,
        width: usize,
        units: usize,
    ) -> CubeTensor {
        let all = [z0, f0, z1, f1, z2, f2, z3, f3, z4, f4, z5, f5, z6, f6].map(into_contiguous);
        let [z0, f0, z1, f1, z2, f2, z3, f3, z4, f4, z5, f5, z6, f6] = all;
        let [batch, length] = [0, 1].map(|d: usize| z0.meta.shape()[d]);
        let out = empty(&z0, products(z0.meta.shape(), &width));
        let client = z0.client.clone();
        // SAFETY: the caller has compared the shapes.
        unsafe {
            vectors::gram::launch_unchecked(
                &client,
                CubeCount::Static(batch as u32, 1, 1),
                CubeDim::new_1d(units as u32),
                z0.into_buffer_arg(),
                f0.into_buffer_arg(),
                z1.into_buffer_arg(),
                f1.into_buffer_arg(),
                z2.into_buffer_arg(),
                f2.into_buffer_arg(),
                z3.into_buffer_arg(),
                f3.into_buffer_arg(),
                z4.into_buffer_arg(),
                f4.into_buffer_arg(),
                z5.into_buffer_arg(),
                f5.into_buffer_arg(),
                z6.into_buffer_arg(),
                f6.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                length,
                slots,
                width,
                units,
            );
        }
        out
    }

    fn combine(
        weights: CubeTensor,
        x0: CubeTensor,
        x1: CubeTensor,
        x2: CubeTensor,
        x3: CubeTensor,
        x4: CubeTensor,
        x5: CubeTensor,
        x6: CubeTensor,
        units: usize,
    ) -> CubeTensor {
        let all = [weights, x0, x1, x2, x3, x4, x5, x6].map(into_contiguous);
        let [weights, x0, x1, x2, x3, x4, x5, x6] = all;
        let [batch, length] = [0, 1].map(|d: usize| x0.meta.shape()[d]);
        let count = weights.meta.shape()[1];
        let out = empty(&x0, x0.meta.shape().clone());
        let client = x0.client.clone();
        // SAFETY: as above.
        unsafe {
            vectors::combine::launch_unchecked(
                &client,
                CubeCount::Static(length.div_ceil(units) as u32, batch as u32, 1),
                CubeDim::new_1d(units as u32),
                weights.into_buffer_arg(),
                x0.into_buffer_arg(),
                x1.into_buffer_arg(),
                x2.into_buffer_arg(),
                x3.into_buffer_arg(),
                x4.into_buffer_arg(),
                x5.into_buffer_arg(),
                x6.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                length,
                count,
            );
        }
        out
    }

    fn conjugate(
        u: CubeTensor,
        r: CubeTensor,
        p: CubeTensor,
        product: CubeTensor,
        within: CubeTensor,
        rr: CubeTensor,
        masked: bool,
        units: usize,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let all = [u, r, p, product, within, rr].map(into_contiguous);
        let [u, r, p, product, within, rr] = all;
        let [batch, length] = [0, 1].map(|d: usize| u.meta.shape()[d]);
        let [new_u, new_r, new_p] = [0; 3].map(|_| empty(&u, u.meta.shape().clone()));
        let squares = empty(&u, [batch, 2].into());
        let client = u.client.clone();
        // SAFETY: as above.
        unsafe {
            vectors::conjugate::launch_unchecked(
                &client,
                CubeCount::Static(batch as u32, 1, 1),
                CubeDim::new_1d(units as u32),
                u.into_buffer_arg(),
                r.into_buffer_arg(),
                p.into_buffer_arg(),
                product.into_buffer_arg(),
                within.into_buffer_arg(),
                rr.into_buffer_arg(),
                new_u.clone().into_buffer_arg(),
                new_r.clone().into_buffer_arg(),
                new_p.clone().into_buffer_arg(),
                squares.clone().into_buffer_arg(),
                length,
                masked,
                units,
            );
        }
        (new_u, new_r, new_p, squares)
    }

    fn normalise(x: CubeTensor, plan: Arc<Plan>) -> CubeTensor {
        let x = into_contiguous(x);
        let out = empty(&x, x.meta.shape().clone());
        let client = x.client.clone();
        // SAFETY: as above.
        unsafe {
            norm::normalise::launch_unchecked(
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
            norm::bound::launch_unchecked(
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
            norm::unbound::launch_unchecked(
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
