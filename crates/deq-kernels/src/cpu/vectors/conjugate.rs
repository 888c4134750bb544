//! A step of conjugate gradients in a few passes over the memory.

use burn::tensor::{DType, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::floats::{Floats, owned, tensor, worth_spreading};
use super::real::{BLOCK, Real};
use crate::vectors::store::ConjugateStep;

/// See [`crate::vectors::conjugate_step`]; `moved` holds p and J p, whose memory the new p and r
/// reuse. Gives them back if the host cannot read all tensors.
#[allow(
    clippy::result_large_err,
    reason = "the tensors go on to the next form"
)]
pub(crate) fn conjugate_step(
    read: [&Tensor<2>; 3],
    within: Option<&Tensor<2>>,
    moved: [Tensor<2>; 2],
) -> Result<ConjugateStep, [Tensor<2>; 2]> {
    let dtype = read[0].dtype();
    let readable = |x: &Tensor<2>| x.dtype() == dtype && Floats::new(x).is_some();
    if !read.into_iter().chain(&moved).chain(within).all(readable) {
        return Err(moved);
    }
    Ok(match dtype {
        DType::F64 => step::<f64>(read, within, moved),
        _ => step::<f32>(read, within, moved),
    })
}

fn step<T: Real>(
    read: [&Tensor<2>; 3],
    within: Option<&Tensor<2>>,
    moved: [Tensor<2>; 2],
) -> ConjugateStep {
    let like = read[0];
    let [batch, width] = like.dims();
    let [u, r, rr] = read.map(Floats::expected);
    let within = within.map(Floats::expected);
    let within = within.as_ref();
    let within: Option<&[T]> = within.map(Floats::elements);
    let rr: &[T] = rr.elements();
    let mut u: Vec<T> = u.elements().to_vec();
    let [mut p, mut product] = moved.map(owned::<T>);
    let mut squares = vec![T::default(); 2 * batch];
    let mut rows: Vec<Row<'_, T>> = Vec::with_capacity(batch);
    let each = u
        .chunks_exact_mut(width)
        .zip(p.chunks_exact_mut(width))
        .zip(product.chunks_exact_mut(width))
        .zip(r.elements::<T>().chunks_exact(width))
        .zip(squares.chunks_exact_mut(2));
    for (i, ((((u, p), product), r), squares)) in each.enumerate() {
        rows.push(Row {
            u,
            p,
            product,
            r,
            within: within.map(|w| &w[i * width..(i + 1) * width]),
            rr: rr[i],
            squares,
        });
    }
    // Four vectors are read and three written.
    if worth_spreading(batch, 7 * batch * width) {
        rows.into_par_iter()
            .for_each(|row| Arch::new().dispatch(row));
    } else {
        rows.into_iter().for_each(|row| Arch::new().dispatch(row));
    }
    let rr = squares.iter().step_by(2).copied().collect();
    ConjugateStep {
        u: tensor(u, width, like),
        r: tensor(product, width, like),
        p: tensor(p, width, like),
        rr: tensor(rr, 1, like),
        squares: tensor(squares, 2, like),
    }
}

/// One sample.
struct Row<'a, T> {
    u: &'a mut [T],
    p: &'a mut [T],
    /// J p, then the new r.
    product: &'a mut [T],
    r: &'a [T],
    within: Option<&'a [T]>,
    rr: T,
    /// |r|^2 and |u + r|^2.
    squares: &'a mut [T],
}

/// a / b, or 0 if b is not positive.
fn ratio<T: Real>(a: T, b: T) -> T {
    if b > T::default() {
        a / b
    } else {
        T::default()
    }
}

impl<T: Real> WithSimd for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            u,
            p,
            product,
            r,
            within,
            rr,
            squares,
        } = self;
        let [mut room, mut images] = [[T::default(); BLOCK]; 2];
        let width = p.len();
        let blocks = || (0..width).step_by(BLOCK).map(|i| i..width.min(i + BLOCK));
        let mut curvature = T::default();
        for block in blocks() {
            let (p, product) = (&p[block.clone()], &product[block.clone()]);
            let q = &mut room[..p.len()];
            for ((q, p), product) in q.iter_mut().zip(p).zip(product) {
                *q = *p - *product;
            }
            counted(q, within.map(|w| &w[block]));
            let [part] = T::dot(simd, p, [&*q]);
            curvature += part;
        }
        let alpha = ratio(rr, curvature);
        for block in blocks() {
            let p = &p[block.clone()];
            let u = &mut u[block.clone()];
            for (u, p) in u.iter_mut().zip(p) {
                *u += alpha * *p;
            }
            let new_r = &mut product[block.clone()];
            for ((new, r), p) in new_r.iter_mut().zip(&r[block.clone()]).zip(p) {
                *new = *r - alpha * (*p - *new);
            }
            let image = &mut images[..new_r.len()];
            for ((image, u), r) in image.iter_mut().zip(&*u).zip(&*new_r) {
                *image = *u + *r;
            }
            for (x, square) in [&*new_r, &*image].into_iter().zip(squares.iter_mut()) {
                let copy = &mut room[..x.len()];
                copy.copy_from_slice(x);
                counted(copy, within.map(|w| &w[block.clone()]));
                let [part] = T::dot(simd, x, [&*copy]);
                *square += part;
            }
        }
        let beta = ratio(squares[0], rr);
        for (p, r) in p.iter_mut().zip(&*product) {
            *p = *r + beta * *p;
        }
    }
}

/// Keeps only the elements selected by `within`.
#[inline(always)]
fn counted<T: Real>(x: &mut [T], within: Option<&[T]>) {
    if let Some(within) = within {
        for (x, w) in x.iter_mut().zip(within) {
            *x = *x * *w;
        }
    }
}
