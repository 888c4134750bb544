//! The solvers' work on vectors.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::kernels::vectors::POINTS;
use super::launch::CubeKernels;
use super::plan;
use super::tensors::limits;
use crate::vectors::store::ConjugateStep;

/// Largest number of units of a cube that works on a vector.
const VECTOR_UNITS: usize = 512;

/// Units of a cube that works on these vectors; `None` unless all are plain `f32` tensors of one
/// shape, on a device that can take all the points of [`products`].
fn units_for(x: &[&Tensor<2>]) -> Option<usize> {
    let first = x.first()?;
    let same =
        |x: &&Tensor<2>| x.dims() == first.dims() && x.dtype() == DType::F32 && !x.is_autodiff();
    let [batch, width] = first.dims();
    if !x.iter().all(same) || batch == 0 || width == 0 || batch > usize::from(u16::MAX) {
        return None;
    }
    let limits = limits(&first.device())?;
    let units = plan::power_of_two(limits.units.min(VECTOR_UNITS));
    // z and f of each point and the result are buffers; every unit has two sums per difference.
    let enough = limits.buffers > 2 * POINTS && units * 2 * POINTS <= limits.shared;
    enough.then_some(units)
}

/// The points that [`products`] takes; 0 if it does not apply.
pub(crate) fn most_points(like: &Tensor<2>) -> usize {
    units_for(&[like]).map_or(0, |_| POINTS)
}

/// Squares and inner products of points (z, f), the oldest first. With r = f - z and
/// d_k = r_(k+1) - r_k, and with r, f and d of the newest point, the result is
/// `[batch, 2 + 2 width]`: |r|^2, |f|^2, then <d, d_k> by slot, then <r, d_k> by slot. `slots[k]`
/// is the slot of d_k. A slot without a difference holds zeros.
pub(crate) fn products(
    points: &[[Tensor<2>; 2]],
    slots: &[usize],
    width: usize,
) -> Option<Tensor<2>> {
    let all: Vec<&Tensor<2>> = points.iter().flatten().collect();
    let units = units_for(&all)?;
    let count = points.len();
    if count > POINTS || slots.len() + 1 != count {
        return None;
    }
    // The last point fills the missing arguments, which the kernel does not read.
    let mut at = (0..POINTS).flat_map(|k| points[k.min(count - 1)].clone());
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
        slots.to_vec(),
        width,
        units,
    )))
}

/// The sum of `x` with these weights, `[batch, k]`; a vector of weight zero does not count,
/// whatever it holds.
pub(crate) fn combine(weights: &Tensor<2>, x: &[Tensor<2>]) -> Option<Tensor<2>> {
    let units = units_for(&x.iter().collect::<Vec<_>>())?;
    let fits = weights.dims() == [x[0].dims()[0], x.len()] && weights.dtype() == DType::F32;
    if x.len() > POINTS || !fits {
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
    let units = units_for(&[u, r, p, product, mask])?;
    if rr.dims() != [u.dims()[0], 1] {
        return None;
    }
    let [u, r, p, product, mask] = [u, r, p, product, mask].map(|t| t.clone().into_dispatch());
    let rr = rr.clone().into_dispatch();
    let masked = within.is_some();
    let made = <Dispatch as CubeKernels>::conjugate(u, r, p, product, mask, rr, masked, units);
    let squares = Tensor::<2>::from_dispatch(made.3);
    Some(ConjugateStep {
        u: Tensor::from_dispatch(made.0),
        r: Tensor::from_dispatch(made.1),
        p: Tensor::from_dispatch(made.2),
        rr: squares.clone().narrow(1, 0, 1),
        squares,
    })
}
