//! The solvers' work on vectors.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor};

use super::kernels::vectors::POINTS;
use super::launch::CubeKernels;
use super::{limits, plan};
use crate::vectors::{ConjugateStep, Points};

/// Units of a cube that works on a vector, at most.
const VECTOR_UNITS: usize = 512;

/// Units of a cube that works on a vector, and the vectors that fit the device's bindings; `None`
/// unless all are plain `f32` tensors of one shape on one of CubeCL's devices.
fn vectors_of(x: &[&Tensor<2>]) -> Option<usize> {
    let first = x.first()?;
    let same =
        |x: &&Tensor<2>| x.dims() == first.dims() && x.dtype() == DType::F32 && !x.is_autodiff();
    let [batch, width] = first.dims();
    if !x.iter().all(same) || batch == 0 || width == 0 || batch > usize::from(u16::MAX) {
        return None;
    }
    let [_, units] = limits(&first.device())?;
    Some(plan::power_of_two(units.min(VECTOR_UNITS)))
}

/// The points that [`products`] takes; 0 where it does not apply.
pub(crate) fn most_points(like: &Tensor<2>) -> usize {
    let Some(units) = vectors_of(&[like]) else {
        return 0;
    };
    let device = like.device();
    let DispatchDevice::Cube(device) = device.as_dispatch() else {
        return 0;
    };
    let client = device.client();
    let hardware = &client.properties().hardware;
    // z and f of each point and the result are bound; every unit has two sums a difference.
    let bound = (hardware.max_bindings as usize).saturating_sub(1) / 2;
    let enough =
        bound >= POINTS && units * 2 * POINTS * size_of::<f32>() <= hardware.max_shared_memory_size;
    if enough { POINTS } else { 0 }
}

/// See [`crate::vectors::Points::products`].
pub(crate) fn products(of: &Points<'_>) -> Option<Tensor<2>> {
    let all: Vec<&Tensor<2>> = of.points.iter().flatten().collect();
    let units = vectors_of(&all)?;
    let count = of.points.len();
    if count > most_points(all[0]) || of.slots.len() + 1 != count {
        return None;
    }
    // What is not there is not looked at.
    let mut at = (0..POINTS).flat_map(|k| of.points[k.min(count - 1)].clone());
    let mut next = || at.next().expect("two tensors a point").into_dispatch();
    Some(Tensor::from_dispatch(<Dispatch as CubeKernels>::gram(
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        of.slots.to_vec(),
        of.width,
        units,
    )))
}

/// See [`crate::vectors::combine`].
pub(crate) fn combine(weights: &Tensor<2>, x: &[Tensor<2>]) -> Option<Tensor<2>> {
    let units = vectors_of(&x.iter().collect::<Vec<_>>())?;
    let fits = weights.dims() == [x[0].dims()[0], x.len()] && weights.dtype() == DType::F32;
    if x.len() > most_points(&x[0]) || !fits {
        return None;
    }
    let mut next = (0..POINTS).map(|k| x[k.min(x.len() - 1)].clone().into_dispatch());
    let mut next = || next.next().expect("one for each argument");
    Some(Tensor::from_dispatch(<Dispatch as CubeKernels>::combine(
        weights.clone().into_dispatch(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        units.min(256),
    )))
}

/// See [`crate::vectors::conjugate_step`].
pub(crate) fn conjugate_step(
    [u, r, p, product]: [&Tensor<2>; 4],
    rr: &Tensor<2>,
    within: Option<&Tensor<2>>,
) -> Option<ConjugateStep> {
    let mask = within.unwrap_or(u);
    let units = vectors_of(&[u, r, p, product, mask])?;
    if most_points(u) == 0 || rr.dims() != [u.dims()[0], 1] {
        return None;
    }
    let [u, r, p, product, mask] = [u, r, p, product, mask].map(|t| t.clone().into_dispatch());
    let rr = rr.clone().into_dispatch();
    let masked = within.is_some();
    let made = <Dispatch as CubeKernels>::conjugate(u, r, p, product, mask, rr, masked, units);
    Some(ConjugateStep {
        u: Tensor::from_dispatch(made.0),
        r: Tensor::from_dispatch(made.1),
        p: Tensor::from_dispatch(made.2),
        squares: Tensor::from_dispatch(made.3),
    })
}
